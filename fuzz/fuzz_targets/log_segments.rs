//! The Raft log's start: damaged segments lose nothing in silence, and invent nothing.
#![no_main]

use std::path::Path;

use fuzz::Choices;
use fuzz::disk::{Held, folder, held, is_own, options, segments, write};
use libfuzzer_sys::fuzz_target;
use storage::log::Log;

/// Opens twice: the second start finds what the first has found, and no damage.
fn open_twice(folder: &Path) -> Vec<Held> {
    let (log, _) = Log::open(folder, options()).expect("a log that is hurt opens");
    let found = held(&log);
    log.close();
    let (log, again) = Log::open(folder, options()).expect("what was opened once opens again");
    assert_eq!(again.damage, [], "the log was rewritten");
    let second = held(&log);
    for (first, second) in found.iter().zip(&second) {
        assert_eq!(first.entries, second.entries);
        assert_eq!(first.state.quarantined, second.state.quarantined);
        assert_eq!(first.state.vote, second.state.vote);
    }
    found
}

/// Where in a segment the last byte is that is not zero.
fn used(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// A sound log, hurt in one place of one segment: what was acknowledged is there, or its group is quarantined.
fn hurt(choices: &mut Choices<'_>) {
    let dir = folder();
    let (log, recovered) = Log::open(dir.path(), options()).expect("a new log opens");
    assert!(recovered.fresh);
    write(&log, choices);
    // A start that is hurt finds what a sound one would.
    log.close();
    let (log, recovered) = Log::open(dir.path(), options()).expect("a sound log opens");
    assert!(recovered.damage.is_empty() && recovered.quarantined.is_empty());
    let acked = held(&log);
    log.close();
    let paths = segments(dir.path());
    let path = &paths[choices.below(paths.len())];
    let mut bytes = std::fs::read(path).expect("the segment is there");
    let at = choices.below(used(&bytes).max(1));
    let is_last = paths.last() == Some(path);
    let length = match is_last {
        // The newest write together with the mark behind it looks like a write that never ended (ADR 0002).
        true => 1,
        false => choices.below(600) + 1,
    };
    let mask = choices.byte();
    let whole = bytes.clone();
    for byte in bytes.iter_mut().skip(at).take(length) {
        *byte = if length > 1 { 0 } else { *byte ^ mask };
    }
    let is_hurt = bytes != whole;
    std::fs::write(path, bytes).expect("the segment can be written");
    let found = open_twice(dir.path());
    for (group, (found, acked)) in found.iter().zip(&acked).enumerate() {
        let group = u32::try_from(group).expect("few groups");
        assert!(
            found.entries.iter().all(|entry| is_own(group, entry)),
            "invented"
        );
        if !found.state.quarantined {
            assert_eq!(
                found.entries, acked.entries,
                "group {group} at {at} of {path:?}"
            );
            assert_eq!(found.state.vote, acked.state.vote, "group {group}");
        } else {
            assert!(is_hurt, "quarantined for nothing");
        }
    }
}

fuzz_target!(|data: &[u8]| hurt(&mut Choices(data)));
