//! Planted violations: each must be caught, and nothing else.

mod promises;

use super::*;
use crate::history::What;

const ROOM: &str = "room";

/// A history in the making: each call is the next event.
#[derive(Default, Clone)]
struct Story(Vec<Event>);

impl Story {
    fn then(mut self, what: What) -> Story {
        let at = self.0.last().map_or(0, |event| event.at) + 1;
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
            reads_archive: false,
        })
    }

    /// A user's session is there.
    fn online(self, session: u32) -> Story {
        self.then(What::Joined {
            session,
            log: ROOM.into(),
            node: 1,
            home: 1,
            stream_management: true,
            reads_archive: true,
        })
    }

    /// It has read in the archive what came behind a message; all if that is empty.
    fn caught_up(self, session: u32, after: &str, tokens: &str) -> Story {
        self.then(What::CaughtUp {
            session,
            log: ROOM.into(),
            after: (!after.is_empty()).then(|| after.to_owned()),
            rows: rows(tokens),
        })
    }

    fn set(self, register: &str, value: &str) -> Story {
        self.then(What::Set {
            register: register.into(),
            value: value.into(),
        })
    }

    fn values(self, values: &[(&str, &str)]) -> Story {
        let owned =
            |(register, value): &(&str, &str)| ((*register).to_owned(), (*value).to_owned());
        self.then(What::Values {
            reading: "reading".into(),
            values: values.iter().map(owned).collect(),
        })
    }

    /// Somebody sends and is told of each.
    fn sent(self, tokens: &str) -> Story {
        tokens
            .split_whitespace()
            .fold(self, |story, token| story.invoke(9, token).ok(token))
    }

    fn all_received(self, session: u32, tokens: &str) -> Story {
        let tokens = tokens.split_whitespace();
        tokens.fold(self, |story, token| story.received(session, token))
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
        self.then(What::Archive {
            reading: "reading".into(),
            log: ROOM.into(),
            rows: rows(tokens),
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

fn rows(tokens: &str) -> Vec<(String, String)> {
    let row = |token: &str| (token.to_owned(), format!("id-{token}"));
    tokens.split_whitespace().map(row).collect()
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
    let dose = check(&behind.0).dose;
    assert_eq!((dose.suppressed, dose.over_faults), (1, 0));
    let fault = What::Fault {
        what: "kill".into(),
    };
    let over = lost()
        .joined(3)
        .received(2, "a")
        .invoke(2, "b")
        .received(2, "b")
        .ok("b")
        .received(3, "b")
        .then(fault)
        .resend(3, "a")
        .received(3, "a")
        .ok("a")
        .archive("a b");
    let dose = check(&over.0).dose;
    assert_eq!((dose.suppressed, dose.over_faults), (1, 1));
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

/// Session 2 is online, finds a and b, is sent c and d, and dies; e comes while nobody is there; session 3 finds what it does
/// not know.
#[test]
fn messages_to_a_user() {
    let first = || story().sent("a b").online(2).caught_up(2, "", "a b");
    let second = || {
        first()
            .sent("c d")
            .all_received(2, "c d")
            .left(2)
            .sent("e")
            .online(3)
    };
    let end = |story: Story| story.sent("f").received(3, "f").archive("a b c d e f");
    end(second().caught_up(3, "d", "e")).breaks(&[]);
    // Nobody's `<a/>` has come for c and d: they may be sent once more, late, and to this session once.
    let late = || second().caught_up(3, "d", "e").sent("f").received(3, "f");
    let again = late().all_received(3, "c d");
    again.clone().archive("a b c d e f").breaks(&[]);
    let had = dose(&again.clone().archive("a b c d e f"));
    assert_eq!((had.direct, had.late, had.found), (5, 2, 3));
    again
        .received(3, "d")
        .archive("a b c d e f")
        .breaks(&[(Promise::NoDoubles, 1)]);
    // Missing between what is known and what is sent: in no reading, and in no message.
    end(second().caught_up(3, "d", "")).breaks(&[(Promise::NoHoles, 1)]);
    end(second().caught_up(3, "b", "c e")).breaks(&[(Promise::NoHoles, 1)]);
    // It begins behind what any session before it had: d is missing in the test's own memory.
    let skips = first().sent("c d").received(2, "c").left(2).online(3);
    let skips = skips.caught_up(3, "d", "").archive("a b c d");
    skips.breaks(&[(Promise::NoHoles, 1)]);
    // Read twice, or in another order.
    end(second().caught_up(3, "d", "e e")).breaks(&[(Promise::NoDoubles, 1)]);
    end(second().caught_up(3, "c", "e d")).breaks(&[(Promise::OneOrder, 1)]);
    // Of another's archive.
    end(second().caught_up(3, "d", "e x"))
        .breaks(&[(Promise::NothingInvented, 1), (Promise::NoHoles, 1)]);
    // Found under an id that it does not have.
    let other_id = |story: Story| {
        story.then(What::CaughtUp {
            session: 3,
            log: ROOM.into(),
            after: Some("d".into()),
            rows: vec![("e".into(), "id-x".into())],
        })
    };
    end(other_id(second())).breaks(&[(Promise::SameArchive, 1)]);
    // Who had no time to look into the archive is owed nothing.
    let brief = second().received(3, "f").left(3).invoke(9, "f").ok("f");
    brief.archive("a b c d e f").breaks(&[]);
}

/// What is written to a user who is online is sent there, whatever the archive has.
#[test]
fn messages_to_a_user_who_is_online() {
    let online = || story().online(2).sent("a b c");
    let end = |story: Story| story.archive("a b c");
    end(online().caught_up(2, "", "a b").all_received(2, "a b c")).breaks(&[]);
    end(online().caught_up(2, "", "a b").all_received(2, "b c")).breaks(&[(Promise::NoHoles, 1)]);
    end(online().caught_up(2, "", "a b c").all_received(2, "a b")).breaks(&[(Promise::NoHoles, 1)]);
    // Up to the last one, of who has left.
    end(online().caught_up(2, "", "a b").received(2, "a").left(2)).breaks(&[]);
    end(online().caught_up(2, "", "a b").received(2, "b").left(2)).breaks(&[(Promise::NoHoles, 1)]);
    end(online().caught_up(2, "", "").all_received(2, "a c b")).breaks(&[(Promise::OneOrder, 1)]);
    end(online().caught_up(2, "", "").all_received(2, "a b b c"))
        .breaks(&[(Promise::NoDoubles, 1)]);
}

/// Several messages are open when the connection ends; all are sent again, in order, and new ones behind them.
#[test]
fn several_in_flight() {
    let open = ["a", "b", "c"];
    let lost = open
        .iter()
        .fold(story(), |story, token| story.invoke(1, token));
    let lost = open.iter().fold(lost, |story, token| story.info(token));
    let again = open
        .iter()
        .fold(lost, |story, token| story.resend(2, token));
    let again = again.invoke(2, "d").ok("a").ok("b").ok("c").ok("d");
    let check =
        |archive: &str, broken: &[(Promise, usize)]| again.clone().archive(archive).breaks(broken);
    check("a b c d", &[]);
    check("a c b d", &[(Promise::SenderOrder, 2)]);
    // d was sent first by the session that sent c again before.
    check("a b d c", &[(Promise::SenderOrder, 1)]);
    check("a b d", &[(Promise::AckedIsArchived, 1)]);
    check(
        "a b b c d",
        &[(Promise::NoDoubles, 1), (Promise::SameArchive, 1)],
    );
    let had = dose(&again.archive("a b c d"));
    assert_eq!((had.in_flight, had.resent_in_order), (4, 1));
}

fn dose(story: &Story) -> Dose {
    check(&story.0).dose
}

#[test]
fn what_is_set_stays() {
    let set = || {
        story()
            .set("subject", "roses")
            .set("name", "den")
            .set("subject", "thorns")
    };
    let good = [("name", "den"), ("subject", "thorns")];
    set().values(&good).breaks(&[]);
    // An old value, a lost one, and one from nowhere.
    set()
        .values(&[("name", "den"), ("subject", "roses")])
        .breaks(&[(Promise::SetStays, 1)]);
    set()
        .values(&[("subject", "thorns")])
        .breaks(&[(Promise::SetStays, 1)]);
    set()
        .values(&[good[0], good[1], ("ban", "tybalt")])
        .breaks(&[(Promise::SetStays, 1)]);
    // Each reading is judged by what was set before it.
    let later = set().values(&good).set("name", "yard");
    later
        .clone()
        .values(&good)
        .breaks(&[(Promise::SetStays, 1)]);
    assert_eq!(dose(&later).values_read, 1);
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
        received: 1,
        readings: 1,
        ..Dose::default()
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
