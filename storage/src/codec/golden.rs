//! Golden bytes: a sample of every record version, kept as text in the tree, so that no layout changes unseen.
//!
//! A golden file has one line a record version, `name version hex`, with the bytes of [`encode`](super::encode).
//! [`golden!`](crate::golden) checks a sample value against it: the line of the current version must be exactly what is
//! written today, and the lines of all versions must read as that value. Lines of old versions therefore stay for ever.

use std::fmt::{Debug, Write};

use super::{Record, decode, encode};

/// Checks a sample value against the golden file at a path relative to the source file.
///
/// ```text
/// golden!("../tests/goldens/roster.txt", &RosterItem { … });
/// ```
#[macro_export]
macro_rules! golden {
    ($file:literal, $value:expr) => {
        if let Err(complaint) = $crate::codec::golden::check_golden(include_str!($file), $value) {
            panic!("{}: {complaint}", $file);
        }
    };
}

/// Holds `value` against the lines of its record in the text of a golden file.
///
/// # Errors
/// A sentence that says what differs, and for a version without a line the line to add.
pub fn check_golden<T: Record + PartialEq + Debug>(file: &str, value: &T) -> Result<(), String> {
    let written = hex(&encode(value).map_err(|error| error.to_string())?);
    let mut current_seen = false;
    for line in file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split(' ');
        let (Some(name), Some(version), Some(bytes), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("not `name version hex`: {line}"));
        };
        if name != T::NAME {
            continue;
        }
        let version: u8 = version
            .parse()
            .map_err(|_| format!("not a version: {line}"))?;
        if version == T::VERSION {
            current_seen = true;
            if bytes != written {
                return Err(format!(
                    "{name} version {version} is now written as\n{written}\nwhich is not\n{bytes}\na changed layout needs a new version"
                ));
            }
        }
        let bytes = unhex(bytes).ok_or_else(|| format!("not hexadecimal: {line}"))?;
        let read: T = decode(&bytes)
            .map_err(|error| format!("{name} version {version} does not read: {error}"))?;
        if read != *value {
            return Err(format!(
                "{name} version {version} reads as\n{read:?}\nand not as\n{value:?}"
            ));
        }
    }
    if current_seen {
        return Ok(());
    }
    Err(format!(
        "add this line:\n{} {} {written}",
        T::NAME,
        T::VERSION
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u8, u16);

    impl Record for Pair {
        const VERSION: u8 = 1;
        const NAME: &'static str = "pair";
    }

    fn check(file: &str, expect: &str) {
        let complaint = check_golden(file, &Pair(1, 2)).err().unwrap_or_default();
        assert!(
            complaint.starts_with(expect) && complaint.is_empty() == expect.is_empty(),
            "{file}: {complaint}"
        );
    }

    #[test]
    fn differences_are_told() {
        let right = format!("pair 1 {}", hex(&encode(&Pair(1, 2)).unwrap()));
        let other = format!("pair 1 {}", hex(&encode(&Pair(1, 3)).unwrap()));
        check(&right, "");
        check(&format!("# a comment\n\nother 1 00\n{right}\n"), "");
        check("", "add this line:\npair 1 01");
        check(&other, "pair version 1 is now written as");
        check(
            &format!("{right}\npair 9 010000000000"),
            "pair version 9 does not read",
        );
        check("pair one 00", "not a version");
        check("pair 1", "not `name version hex`");
    }
}
