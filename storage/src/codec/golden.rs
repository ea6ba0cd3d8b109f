//! Golden bytes: a sample of every record version, kept as text in the tree, so that no layout changes unseen.
//!
//! A golden file has one line a record version, `name version hex`, with the bytes of [`encode`](super::encode).
//! [`golden!`](crate::golden) checks a sample value against it: the line of the current version must be exactly what is
//! written today, and the lines of all versions must read as that value. Lines of old versions therefore stay for ever.
//! [`golden_layout!`](crate::golden_layout) does the same for bytes that are laid out by hand.

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

/// Checks a sample of what is no record: the [`Layout`], the value, and what reads it back.
///
/// ```text
/// golden_layout!("../tests/goldens/log.txt", Layout { … }, &header, |bytes| SegmentHeader::decode(&bytes));
/// ```
#[macro_export]
macro_rules! golden_layout {
    ($file:literal, $layout:expr, $value:expr, $read:expr) => {
        let checked =
            $crate::codec::golden::check_layout(include_str!($file), &$layout, $value, $read);
        if let Err(complaint) = checked {
            panic!("{}: {complaint}", $file);
        }
    };
}

/// Bytes that are laid out by hand.
pub struct Layout<'a> {
    /// The name in the golden file. It never changes.
    pub name: &'a str,
    /// The version that is written; it rises with every change of the layout.
    pub version: u8,
    /// The sample value as it is written today.
    pub written: &'a [u8],
}

/// Holds `value` against the lines of its record in the text of a golden file.
///
/// # Errors
/// A sentence that says what differs, and for a version without a line the line to add.
pub fn check_golden<T: Record + PartialEq + Debug>(file: &str, value: &T) -> Result<(), String> {
    let layout = Layout {
        name: T::NAME,
        version: T::VERSION,
        written: &encode(value).map_err(|error| error.to_string())?,
    };
    check(file, &layout, value, |bytes| {
        decode(&bytes).map_err(|error| format!(": {error}"))
    })
}

/// Holds `value` against the lines of its layout in the text of a golden file.
///
/// # Errors
/// As [`check_golden`].
pub fn check_layout<T: PartialEq + Debug>(
    file: &str,
    layout: &Layout<'_>,
    value: &T,
    read: impl Fn(Vec<u8>) -> Option<T>,
) -> Result<(), String> {
    check(file, layout, value, |bytes| {
        read(bytes).ok_or_else(String::new)
    })
}

fn check<T: PartialEq + Debug>(
    file: &str,
    layout: &Layout<'_>,
    value: &T,
    read: impl Fn(Vec<u8>) -> Result<T, String>,
) -> Result<(), String> {
    let (name, written) = (layout.name, hex(layout.written));
    let mut current_seen = false;
    for line in file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split(' ');
        let (Some(line_name), Some(version), Some(bytes), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("not `name version hex`: {line}"));
        };
        if line_name != name {
            continue;
        }
        let version: u8 = version
            .parse()
            .map_err(|_| format!("not a version: {line}"))?;
        if version == layout.version {
            current_seen = true;
            if bytes != written {
                return Err(format!(
                    "{name} version {version} is now written as\n{written}\nwhich is not\n{bytes}\na changed layout needs a new version"
                ));
            }
        }
        let bytes = unhex(bytes).ok_or_else(|| format!("not hexadecimal: {line}"))?;
        let read = read(bytes)
            .map_err(|error| format!("{name} version {version} does not read{error}"))?;
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
        "add this line:\n{name} {} {written}",
        layout.version
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

    fn assert_told(file: &str, checked: Result<(), String>, told: &str) {
        let complaint = checked.err().unwrap_or_default();
        assert!(
            complaint.starts_with(told) && complaint.is_empty() == told.is_empty(),
            "{file}: {complaint}"
        );
    }

    #[test]
    fn differences_are_told() {
        let check = |file: &str, told| assert_told(file, check_golden(file, &Pair(1, 2)), told);
        let right = format!("pair 1 {}", hex(&encode(&Pair(1, 2)).unwrap()));
        let other = format!("pair 1 {}", hex(&encode(&Pair(1, 3)).unwrap()));
        check(&right, "");
        check(&format!("# a comment\n\nother 1 00\n{right}\n"), "");
        check("", "add this line:\npair 1 01");
        check(&other, "pair version 1 is now written as");
        check(
            &format!("{right}\npair 9 010000000000"),
            "pair version 9 does not read: ",
        );
        check("pair one 00", "not a version");
        check("pair 1", "not `name version hex`");
    }

    #[test]
    fn differences_of_a_layout_are_told() {
        let layout = Layout {
            name: "number",
            version: 2,
            written: &[0, 7],
        };
        let check = |file: &str, told| {
            let read = |bytes: Vec<u8>| Some(u16::from_be_bytes(bytes.try_into().ok()?));
            assert_told(file, check_layout(file, &layout, &7_u16, read), told);
        };
        check("number 2 0007", "");
        check("number 1 0007\nnumber 2 0007", "");
        check("number 1 0007", "add this line:\nnumber 2 0007");
        check("number 2 0700", "number version 2 is now written as");
        check("number 1 0008\nnumber 2 0007", "number version 1 reads as");
        check(
            "number 1 07\nnumber 2 0007",
            "number version 1 does not read",
        );
    }
}
