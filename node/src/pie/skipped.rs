//! What of a user is passed over, and in which line of the file it stands: as much as somebody reads.

/// Lines that are kept of one user; what comes after is counted.
const LINES_MAX: usize = 1000;

/// Characters of one of them: names and addresses in a file may be of any length.
const CHARACTERS_MAX: usize = 300;

/// What was passed over.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    /// Lines of the file, and what was passed over there.
    pub(crate) lines: Vec<(u64, String)>,
    /// How many more there are.
    pub(crate) more: u64,
}

impl Skipped {
    /// Notes something.
    pub(crate) fn note(&mut self, line: u64, what: impl Into<String>) {
        if self.lines.len() >= LINES_MAX {
            self.more += 1;
            return;
        }
        let mut what = what.into();
        if let Some((end, _)) = what.char_indices().nth(CHARACTERS_MAX) {
            what.truncate(end);
            what.push('…');
            what.shrink_to_fit();
        }
        self.lines.push((line, what));
    }

    /// Takes all that others noted.
    pub(crate) fn append(&mut self, other: Skipped) {
        for (line, what) in other.lines {
            self.note(line, what);
        }
        self.more += other.more;
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.lines.len() as u64 + self.more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_kept_as_somebody_reads() {
        let (mut first, mut second) = (Skipped::default(), Skipped::default());
        first.note(1, "ä".repeat(CHARACTERS_MAX + 1));
        first.note(2, "ä".repeat(CHARACTERS_MAX));
        let characters = |at: usize| first.lines[at].1.chars().count();
        assert_eq!(
            (characters(0), characters(1)),
            (CHARACTERS_MAX + 1, CHARACTERS_MAX)
        );
        assert!(first.lines[0].1.ends_with("ä…"));
        for line in 0..1500 {
            second.note(line, "x");
        }
        assert_eq!((second.lines.len(), second.count()), (LINES_MAX, 1500));
        first.append(second);
        assert_eq!((first.lines.len(), first.count()), (LINES_MAX, 1502));
    }
}
