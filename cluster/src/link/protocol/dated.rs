//! Version 2 of what owners send to nodes: each word has a date, so that nodes see how long such words are on their way.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};

use super::{BODY_BYTES_MAX, Down};

/// A word of an owner with its date.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DatedDown<'a> {
    /// When it was said, by the owner's clock, in ms since 1970.
    said_ms: u64,
    /// The word, as in version 1.
    down: Cow<'a, Down>,
}

impl Record for DatedDown<'_> {
    const VERSION: u8 = 2;
    const NAME: &'static str = <Down as Record>::NAME;
}

pub(super) fn encode(down: &Down, said_ms: u64) -> Result<Bytes, CodecError> {
    let down = Cow::Borrowed(down);
    codec::encode_frame(&DatedDown { said_ms, down }, BODY_BYTES_MAX).map(Bytes::from)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Down, Option<u64>), CodecError> {
    let dated: DatedDown<'static> = codec::decode_frame(bytes, BODY_BYTES_MAX)?;
    Ok((dated.down.into_owned(), Some(dated.said_ms)))
}

#[cfg(test)]
mod tests {
    use storage::codec::golden::Layout;

    use super::*;

    const SAID_MS: u64 = 1_700_000_000_000;

    #[test]
    fn golden_bytes() {
        let down = Down::Taken { number: 6 };
        let layout = Layout {
            name: "link-down-dated",
            version: 2,
            written: &down.encode_as(2, SAID_MS).unwrap(),
        };
        let read = |bytes: Vec<u8>| Down::decode_dated(&bytes).ok();
        let expect = (down, Some(SAID_MS));
        storage::golden_layout!("../../../tests/goldens/versions.txt", layout, &expect, read);
    }

    #[test]
    fn both_versions_are_read() {
        let down = Down::Taken { number: 6 };
        for (version, date) in [(1, None), (2, Some(SAID_MS))] {
            let written = down.encode_as(version, SAID_MS).unwrap();
            assert_eq!(Down::decode_dated(&written).unwrap(), (down.clone(), date));
        }
    }
}
