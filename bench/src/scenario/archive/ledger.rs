//! Which rows of an archive a pass has brought: each of this run's messages once, in order, and nothing left out.

/// The way through an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the oldest row on.
    Forwards,
    /// From the newest row back; within a page the order is still the archive's.
    Backwards,
}

/// What passes have brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PagesSum {
    pub(crate) pages: u64,
    /// Rows of this run.
    pub(crate) rows: u64,
    /// Rows that a pass went by.
    pub(crate) missing: u64,
    /// Rows that came again, or out of order.
    pub(crate) doubled: u64,
    /// Rows that other runs left behind.
    pub(crate) foreign: u64,
    /// Queries that were refused or not understood.
    pub(crate) errors: u64,
    /// One of those.
    pub(crate) first_error: Option<String>,
}

impl PagesSum {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: &PagesSum) {
        self.pages += other.pages;
        self.rows += other.rows;
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.foreign += other.foreign;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// A query failed.
    pub(crate) fn error(&mut self, said: String) {
        self.errors += 1;
        self.first_error.get_or_insert(said);
    }
}

/// One pass through an archive of messages 0 to `messages`.
#[derive(Debug)]
pub(crate) struct Pass {
    direction: Direction,
    messages: usize,
    /// How many of them have been passed, from the end where the pass began.
    passed: usize,
}

impl Pass {
    /// At its beginning.
    pub(crate) fn new(direction: Direction, messages: usize) -> Pass {
        Pass {
            direction,
            messages,
            passed: 0,
        }
    }

    /// A page has come, with these rows in this order; `None`: a row of somebody else.
    pub(crate) fn page(&mut self, rows: &[Option<usize>], sum: &mut PagesSum) {
        sum.pages += 1;
        sum.foreign += rows.iter().filter(|row| row.is_none()).count() as u64;
        let own = rows.iter().flatten().copied();
        match self.direction {
            Direction::Forwards => own.for_each(|row| self.row(row, sum)),
            Direction::Backwards => own.rev().for_each(|row| self.row(row, sum)),
        }
    }

    fn row(&mut self, message: usize, sum: &mut PagesSum) {
        // Counted from the end where the pass began; one that there can't be is as good as a double.
        let place = match self.direction {
            Direction::Forwards => Some(message),
            Direction::Backwards => self.messages.checked_sub(message.saturating_add(1)),
        };
        match place.filter(|place| (self.passed..self.messages).contains(place)) {
            Some(place) => {
                sum.rows += 1;
                sum.missing += (place - self.passed) as u64;
                self.passed = place + 1;
            }
            None => sum.doubled += 1,
        }
    }

    /// The server said that there is nothing more.
    pub(crate) fn complete(&mut self, sum: &mut PagesSum) {
        sum.missing += (self.messages - self.passed) as u64;
        self.passed = self.messages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Backwards, Forwards};

    fn check(direction: Direction, pages: &[&[usize]], expect: (u64, u64, u64)) {
        let (mut pass, mut sum) = (Pass::new(direction, 5), PagesSum::default());
        for page in pages {
            let rows: Vec<Option<usize>> = page.iter().copied().map(Some).collect();
            pass.page(&rows, &mut sum);
        }
        pass.complete(&mut sum);
        let found = (sum.rows, sum.missing, sum.doubled);
        assert_eq!(found, expect, "{direction:?} {pages:?}");
        assert_eq!(sum.pages, pages.len() as u64);
    }

    #[test]
    fn each_row_once_and_in_order() {
        check(Forwards, &[&[0, 1], &[2, 3], &[4]], (5, 0, 0));
        check(Forwards, &[&[0, 1], &[3, 4]], (4, 1, 0));
        check(Forwards, &[&[0, 1], &[1, 2], &[3, 4]], (5, 0, 1));
        check(Forwards, &[&[1, 0], &[2, 3, 4]], (4, 1, 1));
        check(Forwards, &[&[0, 1, 2]], (3, 2, 0));
        check(Forwards, &[], (0, 5, 0));
        check(Forwards, &[&[0, 1, 2, 3, 4, 5, usize::MAX]], (5, 0, 2));
        check(Backwards, &[&[3, 4], &[1, 2], &[0]], (5, 0, 0));
        check(Backwards, &[&[4, 3], &[1, 2], &[0]], (4, 1, 1));
        check(Backwards, &[&[3, 4], &[0]], (3, 2, 0));
        check(Backwards, &[&[3, 4], &[usize::MAX, 1, 2], &[0]], (5, 0, 1));
    }

    #[test]
    fn what_others_left_behind_is_no_fault() {
        let (mut pass, mut sum) = (Pass::new(Forwards, 2), PagesSum::default());
        pass.page(&[None, Some(0), None, Some(1)], &mut sum);
        pass.complete(&mut sum);
        assert_eq!((sum.foreign, sum.missing, sum.doubled), (2, 0, 0));
        let mut all = PagesSum::default();
        all.add(&sum);
        all.add(&sum);
        assert_eq!((all.pages, all.rows, all.foreign), (2, 4, 4));
    }
}
