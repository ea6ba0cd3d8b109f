//! A log that is hurt while its node is dead: a bit is flipped, a file is cut short, a write was torn.
//!
//! Each of them has another outcome. A flipped bit and a cut file take what was acknowledged: the node must notice, say so and
//! give no vote until it has caught up. A torn write was acknowledged to nobody: the log ends before it, and nothing is said.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::switch::Dice;

/// How many messages are looked for in the log until one is found.
const LOOKED_FOR: usize = 40;

/// How long a torn write is at most.
const TORN_BYTES_MAX: u64 = 4096;

/// What is done to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// One bit of an entry that was acknowledged long ago.
    Flip,
    /// The newest file ends in the midst of what it had.
    Cut,
    /// Behind the last record stands what a write left that did not end.
    Torn,
}

impl Damage {
    pub(super) const ALL: [Damage; 3] = [Damage::Flip, Damage::Cut, Damage::Torn];

    /// Whether something that was acknowledged is gone.
    pub(super) fn loses(self) -> bool {
        self != Damage::Torn
    }

    /// Does it to the log of a node that does not run. `known`: messages that it wrote before its last write. Gives what was
    /// done, for people.
    pub(super) fn to(self, log: &Path, known: &[String], dice: &mut Dice) -> Result<String> {
        let segments = segments(log)?;
        match self {
            Damage::Flip => flip(&segments, known, dice),
            Damage::Cut => {
                let (path, bytes) = newest(&segments)?;
                let half = bytes.len() as u64 / 2;
                let end = half + dice.roll(bytes.len() as u64 - half);
                OpenOptions::new().write(true).open(path)?.set_len(end)?;
                Ok(format!("{} is cut at byte {end}", name(path)))
            }
            Damage::Torn => {
                let (path, bytes) = newest(&segments)?;
                // Records begin at multiples of eight.
                let end = (bytes.len() as u64).next_multiple_of(8);
                let room = path.metadata()?.len().saturating_sub(end);
                let length = room.min(1 + dice.roll(TORN_BYTES_MAX));
                let torn: Vec<u8> = (0..length)
                    .map(|_| u8::try_from(1 + dice.roll(255)).unwrap_or(1))
                    .collect();
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(&torn, end)?;
                Ok(format!(
                    "{} has {length} bytes of a torn write at byte {end}",
                    name(path)
                ))
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The log's files, oldest first, and what they hold: all up to the last byte that is not zero.
fn segments(log: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(log)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "segment") {
            let mut bytes = std::fs::read(&path)?;
            let used = bytes.iter().rposition(|byte| *byte != 0);
            bytes.truncate(used.map_or(0, |last| last + 1));
            segments.push((path, bytes));
        }
    }
    segments.sort();
    Ok(segments)
}

fn newest(segments: &[(PathBuf, Vec<u8>)]) -> Result<(&PathBuf, &Vec<u8>)> {
    let newest = segments.iter().rev().find(|(_, bytes)| !bytes.is_empty());
    newest
        .map(|(path, bytes)| (path, bytes))
        .context("a log that holds something")
}

/// Flips a bit in the midst of an entry that has one of these messages.
fn flip(segments: &[(PathBuf, Vec<u8>)], known: &[String], dice: &mut Dice) -> Result<String> {
    ensure!(!known.is_empty(), "nothing was acknowledged yet");
    for _ in 0..LOOKED_FOR {
        let at = usize::try_from(dice.roll(known.len() as u64))?;
        let token = known.get(at).context("a message")?.as_bytes();
        for (path, bytes) in segments.iter().rev() {
            let place = bytes.windows(token.len()).position(|here| here == token);
            let Some(place) = place else {
                continue;
            };
            let at = place + usize::try_from(dice.roll(token.len() as u64))?;
            let byte = bytes.get(at).context("a byte of the message")?;
            let flipped = byte ^ (1 << dice.roll(8));
            let file = OpenOptions::new().write(true).open(path)?;
            file.write_all_at(&[flipped], at as u64)?;
            return Ok(format!("{} has another bit in byte {at}", name(path)));
        }
    }
    anyhow::bail!("none of {LOOKED_FOR} messages is in the log")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a full file and one that has room.
    fn log() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = Vec::new();
        for (number, text) in [(1, "yard-1-sm-7 and more"), (2, "yard-2-sm-9")] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(8192, 0);
            let path = folder.path().join(format!("0000000{number}.segment"));
            std::fs::write(path, &bytes).expect("writes");
            files.push(bytes);
        }
        std::fs::write(folder.path().join("1.spare"), "yard-1-sm-7").expect("writes");
        (folder, files)
    }

    fn after(folder: &Path) -> Vec<Vec<u8>> {
        (1..=2)
            .map(|number| std::fs::read(folder.join(format!("0000000{number}.segment"))))
            .map(|read| read.expect("reads"))
            .collect()
    }

    #[test]
    fn each_kind_does_what_it_says_and_a_seed_is_a_place() {
        for seed in 0..20 {
            let known = ["yard-1-sm-7".to_owned(), "gone-1".to_owned()];
            let hurt = |damage: Damage| {
                let (folder, before) = log();
                let said = damage.to(folder.path(), &known, &mut Dice::new(seed));
                (said.expect("hurts"), before, after(folder.path()))
            };
            let (said, before, flipped) = hurt(Damage::Flip);
            assert_eq!(before[1], flipped[1]);
            let bits = before[0].iter().zip(&flipped[0]);
            let bits: u32 = bits.map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1, "{said}");
            assert_eq!(hurt(Damage::Flip).0, said);

            let (said, before, cut) = hurt(Damage::Cut);
            assert_eq!(before[0], cut[0]);
            assert!((5..11).contains(&cut[1].len()), "{said}");

            let (said, before, torn) = hurt(Damage::Torn);
            assert_eq!(before[0], torn[0]);
            assert_eq!(before[1][..16], torn[1][..16], "{said}");
            assert_eq!(torn[1].len(), 8192);
            assert_ne!(torn[1][16], 0);
        }
    }
}
