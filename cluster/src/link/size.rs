//! How many bytes a command takes on the wire and in the log, without writing them.

use messaging::command::Command;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};

/// The most bytes of a command: with what is added on its way it fits a frame of any lane and a record of the log.
pub const COMMAND_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What [`Record`] needs to be measured: an owned value of a type of this crate.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Measured(Command);

impl Record for Measured {
    const VERSION: u8 = 1;
    const NAME: &'static str = "command";
}

/// The command and its size.
pub(super) fn measure_command(command: Command) -> (Command, u64) {
    let measured = Measured(command);
    let bytes = measure(&measured);
    (measured.0, bytes)
}

/// The size of a record's body.
///
/// The codec says how large a record is that doesn't fit, and nothing fits into no bytes at all; so nothing is written.
pub(super) fn measure<T: Record>(record: &T) -> u64 {
    match codec::encode_frame(record, 0) {
        Err(CodecError::TooLong { bytes, .. }) => bytes,
        // A record without a byte, or one that can't be serialised: encoding it in earnest tells.
        Ok(_) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use xmpp::jid::BareJid;

    #[test]
    fn a_size_is_that_of_the_bytes() {
        let check = |command: Command| {
            let expect = codec::row_bytes(&command).unwrap().len() as u64;
            assert_eq!(measure_command(command.clone()), (command, expect));
        };
        check(Command::Nothing);
        check(Command::SetPrivate {
            user: BareJid::parse("juliet@localhost").unwrap(),
            name: "{urn:x}y".into(),
            element: Bytes::from_static(b"<y xmlns='urn:x'>balcony</y>"),
        });
    }
}
