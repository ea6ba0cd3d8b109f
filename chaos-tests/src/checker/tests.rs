//! Planted violations: each must be caught, and nothing else.

use super::*;
use crate::history::What;

const ROOM: &str = "room";

/// A history in the making: each call is the next event.
#[derive(Default, Clone)]
struct Story(Vec<Event>);

impl Story {
    fn then(mut self, what: What) -> Story {
        let at = self.0.len() as u64 + 1;
        self.0.push(Event { at, what });
        self
    }

    fn invoke(self, session: u32, token: &str) -> Story {
        self.then(What::Invoke {
            session,
            log: ROOM.into(),
            token: token.into(),
        })
    }

    fn resend(self, session: u32, token: &str) -> Story {
        self.then(What::Resend {
            session,
            log: ROOM.into(),
            token: token.into(),
        })
    }

    fn ok(self, token: &str) -> Story {
        self.then(What::Ok {
            token: token.into(),
        })
    }

    fn fail(self, token: &str) -> Story {
        self.then(What::Fail {
            token: token.into(),
        })
    }

    fn info(self, token: &str) -> Story {
        self.then(What::Info {
            token: token.into(),
        })
    }

    fn joined(self, session: u32) -> Story {
        self.then(What::Joined {
            session,
            log: ROOM.into(),
            node: 1,
            home: 1,
            stream_management: false,
        })
    }

    fn left(self, session: u32) -> Story {
        self.then(What::Left { session })
    }

    fn received(self, session: u32, token: &str) -> Story {
        let id = format!("id-{token}");
        self.then(What::Received {
            session,
            log: ROOM.into(),
            token: token.into(),
            id,
        })
    }

    fn archive(self, tokens: &str) -> Story {
        let row = |token: &str| (token.to_owned(), format!("id-{token}"));
        let rows = tokens.split_whitespace().map(row).collect();
        self.then(What::Archive {
            reading: "reading".into(),
            log: ROOM.into(),
            rows,
        })
    }

    /// Exactly these promises are broken, so often.
    fn breaks(&self, expect: &[(Promise, usize)]) {
        let verdict = check(&self.0);
        let mut found: Vec<(Promise, usize)> = Vec::new();
        for violation in &verdict.violations {
            match found.last_mut() {
                Some((promise, count)) if *promise == violation.promise => *count += 1,
                _ => found.push((violation.promise, 1)),
            }
        }
        assert_eq!(found, expect, "{verdict}");
    }
}

fn story() -> Story {
    Story::default()
}

/// Session 1 sends a and b, session 2 listens; everything is acknowledged and received.
fn calm() -> Story {
    let begin = story().joined(1).joined(2);
    ["a", "b"].iter().fold(begin, |story, token| {
        story
            .invoke(1, token)
            .received(1, token)
            .ok(token)
            .received(2, token)
    })
}

#[test]
fn a_calm_history_breaks_nothing() {
    calm().archive("a b").archive("a b").breaks(&[]);
    // Unknown may be there or not.
    calm().invoke(1, "c").info("c").archive("a b").breaks(&[]);
    story()
        .joined(2)
        .invoke(1, "c")
        .info("c")
        .received(2, "c")
        .archive("c")
        .breaks(&[]);
    // Refused and absent.
    calm().invoke(1, "c").fail("c").archive("a b").breaks(&[]);
}

#[test]
fn acked_but_missing() {
    story()
        .invoke(1, "a")
        .ok("a")
        .archive("")
        .breaks(&[(Promise::AckedIsArchived, 1)]);
    // An archive that nobody read proves nothing.
    story()
        .invoke(1, "a")
        .ok("a")
        .breaks(&[(Promise::AckedIsArchived, 1)]);
    // An acknowledgement after the time-out still binds.
    let late = story().invoke(1, "a").info("a").ok("a").archive("");
    late.breaks(&[(Promise::AckedIsArchived, 1)]);
}

#[test]
fn phantoms() {
    calm()
        .archive("a b x")
        .breaks(&[(Promise::NothingInvented, 1)]);
    let refused = calm()
        .left(1)
        .left(2)
        .invoke(1, "c")
        .fail("c")
        .archive("a b c");
    refused.breaks(&[(Promise::NothingInvented, 1)]);
    let received = calm().received(2, "x").archive("a b");
    received.breaks(&[(Promise::NothingInvented, 1), (Promise::NoHoles, 1)]);
}

#[test]
fn two_orders() {
    let sent = story()
        .joined(3)
        .invoke(1, "a")
        .invoke(2, "b")
        .ok("a")
        .ok("b");
    sent.clone()
        .received(3, "b")
        .received(3, "a")
        .archive("a b")
        .breaks(&[(Promise::OneOrder, 1)]);
    sent.received(3, "b")
        .received(3, "a")
        .archive("b a")
        .breaks(&[]);
}

#[test]
fn holes() {
    let sent = |story: Story| {
        ["a", "b", "c"]
            .iter()
            .fold(story, |story, token| story.invoke(1, token).ok(token))
    };
    let begun = || sent(story().joined(2));
    // In the middle.
    let middle = begun().received(2, "a").received(2, "c").left(2);
    middle.archive("a b c").breaks(&[(Promise::NoHoles, 1)]);
    // At the end, of one who stayed; one who left is owed nothing more.
    let end = begun().received(2, "a").received(2, "b");
    end.clone()
        .archive("a b c")
        .breaks(&[(Promise::NoHoles, 1)]);
    end.left(2).archive("a b c").breaks(&[]);
    // At the beginning, sent after the join.
    begun()
        .received(2, "b")
        .received(2, "c")
        .archive("a b c")
        .breaks(&[(Promise::NoHoles, 1)]);
    // At the beginning, of one who left later.
    let left = begun().received(2, "b").received(2, "c").left(2);
    left.archive("a b c").breaks(&[(Promise::NoHoles, 1)]);
    // Sent before the join: not owed.
    sent(story()).joined(2).archive("a b c").breaks(&[]);
    // Received what no archive has.
    let ghost = story()
        .joined(2)
        .invoke(1, "a")
        .info("a")
        .received(2, "a")
        .archive("");
    ghost.breaks(&[(Promise::NoHoles, 1)]);
}

#[test]
fn order_of_senders_and_of_time() {
    // Acknowledged before the other was sent.
    let sent = story().invoke(1, "a").ok("a").invoke(2, "b").ok("b");
    sent.clone()
        .archive("b a")
        .breaks(&[(Promise::SenderOrder, 1)]);
    sent.archive("a b").breaks(&[]);
    // At the same time: either order.
    let together = story().invoke(1, "a").invoke(2, "b").ok("a").ok("b");
    together.clone().archive("a b").breaks(&[]);
    together.archive("b a").breaks(&[]);
    // One sender's own order, acknowledged or not.
    let own = story().invoke(1, "a").invoke(1, "b").ok("b");
    own.clone()
        .archive("b a")
        .breaks(&[(Promise::SenderOrder, 1)]);
    own.archive("a b").breaks(&[]);
}

#[test]
fn doubles() {
    calm()
        .archive("a a b")
        .breaks(&[(Promise::NoDoubles, 1), (Promise::SameArchive, 1)]);
    calm()
        .received(2, "b")
        .archive("a b")
        .breaks(&[(Promise::NoDoubles, 1)]);
    let after = calm().left(2).received(2, "b").archive("a b");
    after.breaks(&[(Promise::NoDoubles, 1)]);
    let reused = story()
        .invoke(1, "a")
        .ok("a")
        .invoke(2, "a")
        .ok("a")
        .archive("a");
    reused.breaks(&[(Promise::NoDoubles, 1)]);
}

/// A client that lost its connection sends again what it does not know the fate of.
#[test]
fn retries() {
    let lost = || story().joined(1).joined(2).invoke(1, "a").info("a").left(1);
    let again = || lost().received(2, "a").joined(3).resend(3, "a");
    // It had been committed: the reflection comes late, and only to who asks.
    let suppressed = again().received(3, "a").ok("a");
    suppressed.clone().archive("a").breaks(&[]);
    assert_eq!(check(&suppressed.clone().archive("a").0).dose.suppressed, 0);
    let behind = lost()
        .joined(3)
        .received(2, "a")
        .invoke(2, "b")
        .received(2, "b")
        .ok("b")
        .received(3, "b")
        .resend(3, "a")
        .received(3, "a")
        .ok("a")
        .archive("a b");
    behind.breaks(&[]);
    // b was acknowledged before a was sent again, and stands behind it.
    assert_eq!(check(&behind.0).dose.suppressed, 1);
    // In its turn and as a reflection, but no third time.
    let both = again().received(3, "a").received(3, "a").ok("a");
    both.clone().archive("a").breaks(&[]);
    both.received(3, "a")
        .archive("a")
        .breaks(&[(Promise::NoDoubles, 1)]);
    // Not suppressed: a second row, and others receive it twice.
    let twice = again().received(3, "a").ok("a").received(2, "a");
    twice
        .archive("a a")
        .breaks(&[(Promise::NoDoubles, 2), (Promise::SameArchive, 1)]);
    // Acknowledged by the retry, and lost.
    lost()
        .joined(3)
        .resend(3, "a")
        .ok("a")
        .archive("")
        .breaks(&[(Promise::AckedIsArchived, 1)]);
    // The retry was refused; the first may have been done.
    lost()
        .joined(3)
        .resend(3, "a")
        .fail("a")
        .archive("")
        .breaks(&[]);
    let done = lost().received(2, "a").joined(3).resend(3, "a").fail("a");
    done.archive("a").breaks(&[]);
    // Others keep the archive's order whoever sends again.
    let sent = lost()
        .joined(3)
        .resend(3, "a")
        .invoke(2, "b")
        .ok("a")
        .ok("b")
        .received(3, "a")
        .received(3, "b");
    sent.received(2, "b")
        .received(2, "a")
        .archive("a b")
        .breaks(&[(Promise::OneOrder, 1)]);
    // A token that nobody sent before is the test's own fault.
    story()
        .joined(3)
        .resend(3, "x")
        .archive("")
        .breaks(&[(Promise::NoDoubles, 1)]);
}

#[test]
fn archives_that_differ() {
    calm()
        .archive("a b")
        .archive("a")
        .breaks(&[(Promise::SameArchive, 1)]);
    let other_id = |story: Story| {
        let rows = vec![
            ("a".to_owned(), "id-a".to_owned()),
            ("b".to_owned(), "id-x".to_owned()),
        ];
        story.then(What::Archive {
            reading: "reading".into(),
            log: ROOM.into(),
            rows,
        })
    };
    other_id(calm().archive("a b")).breaks(&[(Promise::SameArchive, 1)]);
    // Two sessions received b under the other id.
    other_id(calm()).breaks(&[(Promise::SameArchive, 2)]);
}

#[test]
fn too_little_is_no_pass() {
    let least = Dose {
        faults: 1,
        acked_during_faults: 1,
        kinds_acked: 0,
        moves: 0,
        suppressed: 0,
        received: 1,
        readings: 1,
    };
    let verdict = |story: Story| check(&story.0).require(least);
    let fault = || What::Fault {
        what: "kill".into(),
    };
    verdict(calm().archive("a b")).expect_err("no fault");
    verdict(calm().then(fault()).then(What::Healed).archive("a b")).expect_err("nothing during it");
    let good = story()
        .joined(1)
        .then(fault())
        .invoke(1, "a")
        .ok("a")
        .received(1, "a")
        .then(What::Healed);
    verdict(good.clone()).expect_err("nobody read the archive");
    verdict(good.archive("a")).expect("everything happened");
}
