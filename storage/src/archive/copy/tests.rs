//! The bytes of a list of keys.

use super::*;

#[test]
fn golden_bytes_of_a_block() {
    let block = KeyListBlock {
        partition: 0x0102,
        number: 3,
        applied: 0x0405,
        is_last: true,
        keys: vec![StoredExtent {
            key: "room@x".to_owned(),
            messages: Some((1, 2)),
            events: None,
        }],
    };
    crate::golden!("../../../tests/goldens/key-list.txt", &block);
}
