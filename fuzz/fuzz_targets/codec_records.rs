//! Records on disk: any bytes are refused, or mean what they would be written as.
#![no_main]

use cluster::records::{
    StateRows, decode_archive_row, decode_entry, encode_archive_row, encode_entry,
};
use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use messaging::state::State;

/// Puts the checksum in front that would be there if somebody had written this.
fn stored(version: u8, body: &[u8]) -> Vec<u8> {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[version]), body);
    [&[version][..], &checksum.to_le_bytes(), body].concat()
}

fn entry(bytes: &[u8]) {
    let Ok(first) = decode_entry(bytes) else {
        return;
    };
    let written = encode_entry(first.clone(), 1).expect("what was read can be written");
    let second = decode_entry(&written).expect("what was written can be read");
    assert!(first == second, "read otherwise");
    assert_eq!(encode_entry(second, 1).expect("once more"), written);
}

fn row(bytes: &[u8]) {
    let Ok(first) = decode_archive_row(bytes) else {
        return;
    };
    let written = encode_archive_row(&first).expect("what was read can be written");
    let second = decode_archive_row(&written).expect("what was written can be read");
    assert!(first == second, "read otherwise");
    assert_eq!(encode_archive_row(&second).expect("once more"), written);
}

type Row = (u8, Vec<u8>, Vec<u8>);

fn rows(state: &State) -> Vec<Row> {
    let mut rows = Vec::new();
    state.visit(&StateRows, &mut |table, key, value| {
        rows.push((table, key.to_vec(), value.to_vec()));
    });
    rows
}

fn state_row(table: u8, key: &[u8], value: &[u8]) {
    let mut state = State::default();
    if !matches!(state.load(&StateRows, table, key, value), Ok(true)) {
        return;
    }
    let written = rows(&state);
    assert_eq!(written.len(), 1);
    let mut again = State::default();
    for (table, key, value) in &written {
        let loaded = again.load(&StateRows, *table, key, value);
        assert!(matches!(loaded, Ok(true)), "what was written can be read");
    }
    assert_eq!(rows(&again), written);
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    match choices.byte() % 4 {
        0 => entry(choices.0),
        1 => row(choices.0),
        2 => {
            let version = choices.byte();
            row(&stored(version, choices.0));
        }
        _ => {
            let number = choices.below(State::TABLES.len());
            let table = State::TABLES[number];
            let length = choices.below(1_024);
            let key = choices.bytes(length);
            state_row(table, key, choices.0);
        }
    }
});
