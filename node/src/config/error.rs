//! What is wrong with a configuration, in one sentence that names file, key and what is allowed.

use std::io;
use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// There is no file.
    #[error("{}: there is no such file", path.display())]
    Absent { path: PathBuf },
    /// Not TOML.
    #[error("{}: not TOML: {reason}", path.display())]
    Syntax { path: PathBuf, reason: String },
    /// A section that there is not.
    #[error("{}: there is no section [{section}]; {hint}", path.display())]
    UnknownSection {
        path: PathBuf,
        section: String,
        hint: String,
    },
    /// A key that there is not.
    #[error("{}: [{section}] has no key {key:?}; {hint}", path.display())]
    UnknownKey {
        path: PathBuf,
        section: &'static str,
        key: String,
        hint: String,
    },
    /// A key that has to be there.
    #[error("{}: [{section}] needs {key}: {allowed}", path.display())]
    Missing {
        path: PathBuf,
        section: &'static str,
        key: &'static str,
        allowed: &'static str,
    },
    /// A value of another kind.
    #[error("{}: [{section}] {key} is {found}, but must be {allowed}", path.display())]
    Kind {
        path: PathBuf,
        section: &'static str,
        key: &'static str,
        found: String,
        allowed: &'static str,
    },
    /// A value that does not go with others or with the world.
    #[error("{}: [{section}] {key}: {reason}", path.display())]
    Invalid {
        path: PathBuf,
        section: &'static str,
        key: &'static str,
        reason: String,
    },
    /// A file with secrets that others may read.
    #[error("{}: others may read it, and it is secret: chmod {mode} {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: &'static str },
    /// A certificate or its key.
    #[error(transparent)]
    Certificate(#[from] crate::certificate::CertificateError),
}

/// "did you mean …" if one of the known names is near, else all of them.
pub(crate) fn hint(found: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|name| distance(found, name));
    match nearest {
        Some(name) if distance(found, name) <= (name.len() / 3).max(1) => {
            format!("did you mean {name:?}?")
        }
        _ => format!("there is: {}", known.join(", ")),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, to) in row.iter_mut().skip(1).zip(&b) {
            let cell = (diagonal + usize::from(from != *to))
                .min(left + 1)
                .min(*above + 1);
            diagonal = std::mem::replace(above, cell);
            left = cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let check = |a, b, expected| assert_eq!(distance(a, b), expected, "{a} {b}");
        check("", "", 0);
        check("abc", "", 3);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("listen", "lisetn", 2);
        check("same", "same", 0);
    }

    #[test]
    fn near_names_are_suggested() {
        let check = |found, expected| assert_eq!(hint(found, &["listen", "key"]), expected);
        check("listn", "did you mean \"listen\"?");
        check("keys", "did you mean \"key\"?");
        check("colour", "there is: listen, key");
    }
}
