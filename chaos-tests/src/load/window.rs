//! The messages of one session whose outcome is open, oldest first: some at a time, as clients have them that do not wait.

use std::collections::VecDeque;

use tokio::time::Instant;

/// A message whose outcome is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) token: String,
    /// Its number among the stanzas sent: what covers it is an `h` that is as high.
    number: u32,
    pub(super) since: Instant,
    /// The room has reflected it, so it is done; with stream management it stays open until `h` says so.
    pub(super) is_reflected: bool,
}

/// What one session has open.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<Open>);

impl Window {
    /// A message is sent, behind all others.
    pub(super) fn push(&mut self, token: String, number: u32, since: Instant) {
        self.0.push_back(Open {
            token,
            number,
            since,
            is_reflected: false,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Since when the oldest has been open.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.front().map(|open| open.since)
    }

    /// `<a h='…'/>` (XEP-0198 §4): what it covers is done.
    pub(super) fn settle(&mut self, h: u32) -> Vec<Open> {
        let covered = self.0.partition_point(|open| open.number <= h);
        self.0.drain(..covered).collect()
    }

    /// The room has reflected a message: when it was sent, if this is news.
    pub(super) fn reflected(&mut self, token: &str) -> Option<Instant> {
        let open = self.0.iter_mut().find(|open| open.token == token)?;
        let news = !std::mem::replace(&mut open.is_reflected, true);
        news.then_some(open.since)
    }

    /// A message is over: it was refused, or nothing more will be heard of it.
    pub(super) fn close(&mut self, token: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|open| open.token != token);
        self.0.len() < before
    }

    /// How many are committed for certain: something that stands behind them is acknowledged.
    pub(super) fn committed(&self) -> usize {
        let reflected = self.0.iter().rposition(|open| open.is_reflected);
        reflected.unwrap_or(0)
    }

    /// The session goes on over a new connection, and what is open is sent again behind `h` stanzas: its tokens, in order.
    pub(super) fn again(&mut self, h: u32, now: Instant) -> Vec<String> {
        let mut number = h;
        let mut tokens = Vec::new();
        for open in &mut self.0 {
            number = number.wrapping_add(1);
            (open.number, open.since) = (number, now);
            tokens.push(open.token.clone());
        }
        tokens
    }

    /// The session is over, and so is the wait: what is to be sent again, in the order in which it was sent.
    pub(super) fn give_up(&mut self) -> Vec<Open> {
        self.0.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        let mut window = Window::default();
        for (token, number) in [("a", 2), ("b", 3), ("c", 5)] {
            window.push(token.into(), number, Instant::now());
        }
        window
    }

    fn tokens(open: Vec<Open>) -> Vec<String> {
        open.into_iter().map(|open| open.token).collect()
    }

    #[test]
    fn h_settles_all_that_it_covers_and_nothing_else() {
        let check = |h: u32, settled: &[&str], left: &[&str]| {
            let mut window = window();
            assert_eq!(tokens(window.settle(h)), settled, "h is {h}");
            assert_eq!(tokens(window.give_up()), left, "h is {h}");
        };
        check(1, &[], &["a", "b", "c"]);
        check(2, &["a"], &["b", "c"]);
        check(4, &["a", "b"], &["c"]);
        check(5, &["a", "b", "c"], &[]);
    }

    #[test]
    fn what_is_open_is_sent_again_under_new_numbers() {
        let mut window = window();
        assert_eq!(tokens(window.settle(2)), ["a"]);
        assert_eq!(window.again(2, Instant::now()), ["b", "c"]);
        assert_eq!(tokens(window.settle(3)), ["b"]);
        assert_eq!(tokens(window.settle(4)), ["c"]);
    }

    #[test]
    fn a_reflection_is_news_once_and_settles_nothing() {
        let mut window = window();
        assert!(window.reflected("b").is_some());
        assert!(window.reflected("b").is_none());
        assert!(window.reflected("x").is_none());
        assert!(window.close("a") && !window.close("a"));
        assert_eq!((window.len(), window.committed()), (2, 0));
        window.push("d".into(), 6, Instant::now());
        assert!(window.reflected("d").is_some());
        assert_eq!(window.committed(), 2, "b and c stand before d");
        assert!(window.close("d"));
        let left = window.give_up();
        assert_eq!(
            left.iter()
                .map(|open| open.is_reflected)
                .collect::<Vec<_>>(),
            [true, false]
        );
        assert!(window.is_empty() && window.oldest().is_none());
    }
}
