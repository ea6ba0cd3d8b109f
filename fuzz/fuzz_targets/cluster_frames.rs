//! What other nodes send: any bytes are refused, or mean what they would be written as.
#![no_main]

use cluster::gossip::message::GossipMessage;
use cluster::link::parked::ParkedSession;
use cluster::link::protocol::{Across, Down, Up};
use cluster::transport::frame::HEADER_BYTES;
use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use storage::codec::{decode_frame, encode_frame};

/// The longest body that a lane takes.
const BODY_MAX: usize = 1 << 20;

macro_rules! twice {
    ($body:ty, $bytes:expr) => {
        if let Ok(first) = <$body>::decode($bytes) {
            let written = first.encode().expect("what was read can be written");
            let second = <$body>::decode(&written).expect("what was written can be read");
            // By bytes: bodies are not shown.
            assert!(second == first, "read otherwise");
            let again = second.encode().expect("what was read can be written");
            assert_eq!(written, again);
        }
    };
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let kind = choices.byte();
    let bytes = choices.0;
    match kind % 9 {
        0 => {
            if let Some(front) = bytes.first_chunk::<HEADER_BYTES>()
                && let Some((length, written)) = cluster::transport::header(front, BODY_MAX)
            {
                assert!(length <= BODY_MAX);
                assert_eq!(written, front);
            }
        }
        1 => twice!(Up, bytes),
        2 => twice!(Down, bytes),
        3 => twice!(Across, bytes),
        4 => {
            if let Some(written) = cluster::transport::hello(bytes)
                && written.len() <= bytes.len()
            {
                assert_eq!(cluster::transport::hello(&written), Some(written));
            }
        }
        5 => {
            if let Ok(first) = decode_frame::<ParkedSession>(bytes, BODY_MAX as u64) {
                let written = encode_frame(&first, BODY_MAX as u64).expect("it can be written");
                let second: ParkedSession =
                    decode_frame(&written, BODY_MAX as u64).expect("it can be read");
                assert!(first == second, "read otherwise");
            }
        }
        6 => {
            let mut choices = Choices(bytes);
            let number = choices.byte();
            if let Some([once, again]) = cluster::raft::read_twice(number, choices.0) {
                assert_eq!(once, again);
                assert_eq!(once, choices.0, "Raft's records have one form");
            }
        }
        8 => {
            let mut choices = Choices(bytes);
            let number = choices.byte();
            if let Some([once, again]) = cluster::raft::transfer::read_twice(number, choices.0) {
                assert_eq!(once, again);
            }
        }
        _ => {
            if let Ok(first) = GossipMessage::decode(bytes) {
                let written = first.encode();
                let second = GossipMessage::decode(&written).expect("what was written can be read");
                assert_eq!(second, first, "read otherwise");
            }
        }
    }
});
