//! The Raft log's start: damaged segments lose nothing in silence, and segments that nobody wrote invent nothing.
#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use fuzz::Choices;
use fuzz::disk::{GROUPS, Held, SEGMENT_BYTES, folder, held, is_own, options, segments, write};
use libfuzzer_sys::fuzz_target;
use storage::log::{GroupId, Log};

/// Opens twice: the second start finds what the first has found, and no damage.
fn open_twice(folder: &Path) -> Option<Vec<Held>> {
    let (log, _) = Log::open(folder, options()).ok()?;
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
    Some(found)
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
    let found = open_twice(dir.path()).expect("a log that is hurt opens");
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

/// Seals frames into a segment as the log would, whatever they say.
struct Forger {
    tag: u32,
    seed: u32,
    bytes: Vec<u8>,
    /// Group, index, term and payload of all entries that are anywhere in it.
    entries: BTreeSet<(u32, u64, u64, Vec<u8>)>,
}

const HEADER_BYTES: usize = 1_024;
const FRAME_HEADER_BYTES: usize = 40;

impl Forger {
    fn new(id: u32, first_number: u64, rewrite: u32) -> Forger {
        const SALT: u64 = 77;
        let mut header = Vec::new();
        for part in [
            &header_magic()[..],
            &id.to_le_bytes(),
            &SALT.to_le_bytes(),
            &first_number.to_le_bytes(),
            &SEGMENT_BYTES.to_le_bytes(),
            &rewrite.to_le_bytes(),
            &[0; 4],
        ] {
            header.extend_from_slice(part);
        }
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        let salt = (SALT ^ u64::from(id)).to_le_bytes();
        let seed = crc32c::crc32c(&salt);
        Forger {
            tag: crc32c::crc32c_append(seed, &salt),
            seed,
            bytes: header,
            entries: BTreeSet::new(),
        }
    }

    fn frame(&mut self, numbers: (u64, u64, u32), kind: u8, group: u32, body: &[u8]) {
        let (number, sequence, place) = numbers;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&self.tag.to_le_bytes());
        self.bytes
            .extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[kind, 0, 0, 0]);
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self.bytes.extend_from_slice(&sequence.to_le_bytes());
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.bytes.extend_from_slice(&place.to_le_bytes());
        self.bytes.extend_from_slice(body);
        let crc = crc32c::crc32c_append(self.seed, &self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(
            start + (FRAME_HEADER_BYTES + body.len()).next_multiple_of(8),
            0,
        );
        if let (1 | 2, Some((head, payload))) = (kind, body.split_first_chunk::<16>()) {
            let number = |at: usize| {
                let bytes = head[at..at + 8].try_into().expect("eight bytes");
                u64::from_le_bytes(bytes)
            };
            let entry = (group, number(0), number(8), payload.to_vec());
            self.entries.insert(entry);
        }
    }

    fn finish(mut self) -> (Vec<u8>, BTreeSet<(u32, u64, u64, Vec<u8>)>) {
        self.bytes.resize(SEGMENT_BYTES as usize, 0);
        (self.bytes, self.entries)
    }
}

/// Magic and version, as a new log of our own has them.
fn header_magic() -> &'static [u8; 12] {
    static MAGIC: std::sync::OnceLock<[u8; 12]> = std::sync::OnceLock::new();
    MAGIC.get_or_init(|| {
        let dir = folder();
        let (log, _) = Log::open(dir.path(), options()).expect("a new log opens");
        log.close();
        let path = segments(dir.path()).into_iter().next().expect("a segment");
        let bytes = std::fs::read(path).expect("the segment is there");
        *bytes.first_chunk().expect("a header")
    })
}

/// The body of a frame of this kind: mostly of the right form.
fn body(kind: u8, choices: &mut Choices<'_>) -> Vec<u8> {
    let index = |choices: &mut Choices<'_>| match choices.byte() {
        0xff => u64::MAX - u64::from(choices.byte()),
        small => u64::from(small) % 16,
    };
    let opaque = |choices: &mut Choices<'_>, out: &mut Vec<u8>| {
        let bytes = choices.bytes(3);
        out.push(u8::from(!bytes.is_empty()));
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    let mut out = Vec::new();
    match kind {
        1 | 2 => {
            out.extend_from_slice(&index(choices).to_le_bytes());
            out.extend_from_slice(&index(choices).to_le_bytes());
            out.extend_from_slice(choices.bytes(4));
        }
        3 | 4 => out.extend_from_slice(choices.bytes(5)),
        5 => {
            out.push(choices.byte() % 2);
            out.extend_from_slice(&index(choices).to_le_bytes());
        }
        6 => {
            out.extend_from_slice(&index(choices).to_le_bytes());
            out.extend_from_slice(choices.bytes(2));
        }
        7 => {
            out.extend_from_slice(&index(choices).to_le_bytes());
            out.extend_from_slice(&index(choices).to_le_bytes());
            out.push(choices.byte() % 2);
            (0..3).for_each(|_| opaque(choices, &mut out));
        }
        8 => {
            out.extend_from_slice(&u32::from(choices.byte() % 5).to_le_bytes());
            out.push(choices.byte() % 2);
        }
        10 => out.extend_from_slice(&u32::from(choices.byte() % 4).to_le_bytes()),
        11 => out.push(choices.byte() % 2),
        9 | 12 | 13 => {}
        _ => out.extend_from_slice(choices.bytes(9)),
    }
    out
}

/// Segments whose checksums are right and whose frames say anything.
fn forged(choices: &mut Choices<'_>) {
    const NODE: u32 = u32::MAX;
    let dir = folder();
    let mut entries = BTreeSet::new();
    let mut number = u64::from(choices.byte() % 2);
    let mut sequences = [1_u64; GROUPS as usize + 1];
    for id in 1..=u32::from(choices.byte() % 3) + 1 {
        let rewrite = if choices.byte() == 1 { id } else { 0 };
        let mut forger = Forger::new(id, number, rewrite);
        while !choices.is_over() && forger.bytes.len() + 200 < SEGMENT_BYTES as usize {
            let kind = choices.byte();
            if kind == 0 {
                break;
            }
            let (kind, odd) = (kind % 16, choices.byte());
            let of = usize::from(odd) % (GROUPS as usize + 1);
            let group = if of == GROUPS as usize {
                NODE
            } else {
                of as u32
            };
            // Now and then a number is left out, or used again.
            match odd >> 4 {
                14 => number += 1,
                15 => sequences[of] += 1,
                13 => number = number.saturating_sub(1),
                _ => {}
            }
            let place = u32::from(odd >> 2 & 3).min(number as u32);
            let body = body(kind, choices);
            forger.frame((number, sequences[of], place), kind, group, &body);
            number += 1;
            sequences[of] += 1;
        }
        let (bytes, own) = forger.finish();
        entries.extend(own);
        std::fs::write(dir.path().join(format!("{id:08x}.segment")), bytes)
            .expect("a segment can be written");
    }
    let Some(found) = open_twice(dir.path()) else {
        return;
    };
    for (group, found) in (0..).zip(&found) {
        for entry in &found.entries {
            let entry = (group, entry.index, entry.term, entry.payload.to_vec());
            assert!(entries.contains(&entry), "invented: {entry:?}");
        }
    }
    let (log, _) = Log::open(dir.path(), options()).expect("it opens a third time");
    let _ = log.state(GroupId(GROUPS + 1));
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    if choices.byte().is_multiple_of(2) {
        hurt(&mut choices);
    } else {
        forged(&mut choices);
    }
});
