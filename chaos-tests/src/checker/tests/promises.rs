//! The promises about sessions, reads, owners, affiliations, bans, secrets, presence, replicas, answers and healing.

use super::*;
use crate::history::{affiliation, block};

const SECOND: u64 = 1_000_000_000;

impl Story {
    /// The next event comes so many seconds after the last.
    fn after(mut self, seconds: u64, what: What) -> Story {
        let last = self.0.last().map_or(0, |event| event.at);
        let at = last + seconds * SECOND;
        self.0.push(Event { at, what });
        self
    }

    fn now(self, what: What) -> Story {
        self.after(0, what)
    }

    fn resumed(self, h: u32, acked: u32, sent: u32, open: &str) -> Story {
        self.then(What::Resumed {
            session: 1,
            node: 2,
            h,
            acked,
            sent,
            open: open.split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn read(self, began: u64, whole: bool, rows: &str) -> Story {
        self.then(What::Read {
            reader: "reader".into(),
            log: ROOM.into(),
            began,
            whole,
            rows: rows.split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn call(self, call: u64, register: &str, set: Option<&str>) -> Story {
        self.then(What::Call {
            call,
            node: 1,
            register: register.into(),
            set: set.map(str::to_owned),
        })
    }

    fn answered(self, call: u64, value: Option<&str>) -> Story {
        let value = value.map(str::to_owned);
        self.then(What::Answered { call, value })
    }

    fn sets(self, call: u64, register: &str, value: &str) -> Story {
        self.call(call, register, Some(value)).answered(call, None)
    }

    fn named(self, session: u32, user: &str) -> Story {
        let user = user.into();
        self.then(What::Named { session, user })
    }

    fn owner(self, via: u64, epoch: u64, owner: u64) -> Story {
        self.then(What::Owner {
            via,
            life: 1,
            partition: 7,
            targeted: true,
            epoch,
            owner,
        })
    }
}

fn judgement(story: &Story, promise: Promise) -> Judgement {
    check(&story.0).of(promise)
}

#[test]
fn what_no_history_shows_is_unknown_and_no_pass() {
    let nothing = check(&[]);
    for promise in Promise::ALL {
        assert_eq!(nothing.of(promise), Judgement::Unknown, "{promise:?}");
        nothing
            .require_kept(&[promise])
            .expect_err("nothing shows it");
    }
    let calm = calm().archive("a b").archive("a b");
    let verdict = check(&calm.0);
    verdict
        .require_kept(&[Promise::AckedIsArchived, Promise::SameArchive])
        .expect("these are shown");
    verdict
        .require_kept(&[Promise::AckedIsArchived, Promise::OneOwner])
        .expect_err("nobody asked for owners");
    assert_eq!(verdict.of(Promise::AckedIsArchived), Judgement::Pass(2));
    let numbers: Vec<usize> = Promise::ALL
        .iter()
        .map(|promise| promise.number())
        .collect();
    assert_eq!(numbers, (1..=18).collect::<Vec<_>>());
}

/// P7. Session 1 sends b again, which the user's session before had sent, and gets it in its place right after a resumption.
#[test]
fn resumptions_with_what_an_earlier_session_sent() {
    let story = |comes: bool| {
        let begin = story().joined(2).joined(3).invoke(3, "b").info("b");
        let begin = begin.left(3).joined(1).invoke(2, "a").received(1, "a");
        let begin = begin.received(2, "a").ok("a").resend(1, "b");
        let resumed = begin.resumed(1, 0, 1, "").ok("b").received(2, "b");
        let resumed = match comes {
            true => resumed.received(1, "b"),
            false => resumed,
        };
        let end = resumed.invoke(2, "c").received(1, "c").received(2, "c");
        end.ok("c").archive("a b c")
    };
    story(true).breaks(&[]);
    story(false).breaks(&[(Promise::NoHoles, 1), (Promise::ResumptionIsExact, 1)]);
}

/// P7. Session 1 has sent a, b and c; a is acknowledged.
#[test]
fn resumptions() {
    let sent = || {
        let begin = story()
            .joined(1)
            .joined(2)
            .invoke(1, "a")
            .invoke(1, "b")
            .invoke(1, "c");
        begin.received(1, "a").ok("a").received(2, "a")
    };
    let again = |story: Story| {
        let story = story.resend(1, "b").resend(1, "c").received(1, "b").ok("b");
        let story = story.received(1, "c").ok("c");
        story.received(2, "b").received(2, "c").archive("a b c")
    };
    let good = again(sent().resumed(1, 1, 3, "b c"));
    good.breaks(&[]);
    assert_eq!(
        judgement(&good, Promise::ResumptionIsExact),
        Judgement::Pass(1)
    );
    // Less than what was acknowledged, and more than was sent.
    let fails = &[(Promise::ResumptionIsExact, 1)];
    again(sent().resumed(0, 1, 3, "b c")).breaks(fails);
    again(sent().resumed(4, 1, 3, "b c")).breaks(fails);
    // b was delivered to somebody before the resumption that does not count it.
    let late = sent().received(2, "b").resumed(1, 1, 3, "b c");
    let late = late.resend(1, "b").resend(1, "c").received(1, "b").ok("b");
    let late = late.received(1, "c").ok("c").received(2, "c");
    late.archive("a b c").breaks(fails);
    // What session 1 alone has sent comes to it twice.
    let twice = sent().resumed(1, 1, 3, "b c").resend(1, "b").resend(1, "c");
    let twice = twice
        .received(1, "b")
        .received(1, "b")
        .ok("b")
        .received(1, "c")
        .ok("c");
    let twice = twice.received(2, "b").received(2, "c");
    twice.archive("a b c").breaks(fails);
    // It goes on with another message than the next.
    let hole = sent()
        .received(2, "b")
        .ok("b")
        .resumed(2, 1, 3, "c")
        .resend(1, "c");
    let hole = hole
        .received(1, "c")
        .ok("c")
        .received(2, "c")
        .archive("a b c");
    hole.breaks(&[(Promise::NoHoles, 1), (Promise::ResumptionIsExact, 1)]);
    // A crash.
    let lost = |h: Option<u32>| {
        sent().then(What::Lost {
            session: 1,
            h,
            acked: 1,
            sent: 3,
        })
    };
    let end = |story: Story| story.left(1).left(2).archive("a");
    // Something was acknowledged, so there was a count; unless its node has ended it, and goes on itself.
    end(lost(None)).breaks(&[]);
    let dead = sent().then(What::Died { node: 1 }).then(What::Lost {
        session: 1,
        h: None,
        acked: 1,
        sent: 3,
    });
    end(dead).breaks(fails);
    end(lost(Some(2))).breaks(&[]);
    end(lost(Some(0))).breaks(fails);
    end(lost(Some(4))).breaks(fails);
}

/// P7. A session whose node dies before anything of it was acknowledged.
#[test]
fn sessions_without_a_count() {
    let fault = || What::Fault {
        what: "kill".into(),
    };
    let lost = |story: Story, h| {
        let lost = story.then(What::Died { node: 1 }).then(What::Lost {
            session: 1,
            h,
            acked: 0,
            sent: 2,
        });
        lost.left(1).archive("")
    };
    let dropped = |seconds| {
        let story = story().joined(1).invoke(1, "a");
        story.after(seconds, What::Dropped { session: 1 })
    };
    let fails = &[(Promise::ResumptionIsExact, 1)];
    // It had seconds for a first count, or had not.
    lost(dropped(6).now(fault()).info("a"), None).breaks(fails);
    lost(dropped(6).now(fault()).info("a"), Some(0)).breaks(&[]);
    lost(dropped(2).now(fault()).info("a"), None).breaks(&[]);
    lost(dropped(2).after(6, fault()).info("a"), None).breaks(&[]);
    // There was trouble from the beginning.
    let trouble = story().then(fault()).joined(1).invoke(1, "a").info("a");
    let trouble = trouble.after(6, What::Dropped { session: 1 });
    lost(trouble.clone(), None).breaks(&[]);
    assert_eq!(
        judgement(&lost(trouble, None), Promise::ResumptionIsExact),
        Judgement::Pass(1)
    );
}

/// P9. a and b are acknowledged at the times 5 and 9.
#[test]
fn readings_under_load() {
    let fails = &[(Promise::ReadsAreCurrent, 1)];
    let end = |story: Story| story.archive("a b").archive("a b");
    let good = end(calm().read(10, true, "a b").read(11, false, "b"));
    good.breaks(&[]);
    assert_eq!(
        judgement(&good, Promise::ReadsAreCurrent),
        Judgement::Pass(2)
    );
    // Began before b was acknowledged: either.
    end(calm().read(7, true, "a")).breaks(&[]);
    end(calm().read(7, true, "a b")).breaks(&[]);
    // A reading of an old state.
    end(calm().read(10, true, "a")).breaks(fails);
    end(calm().read(10, true, "")).breaks(fails);
    // The next reading shows less, though nothing in it was acknowledged.
    let unknown = calm().invoke(1, "c").info("c");
    let shrinks = unknown
        .clone()
        .read(10, true, "a b c")
        .read(20, true, "a b");
    shrinks.archive("a b c").left(1).left(2).breaks(fails);
    // A hole, a beginning that is none, and what is no longer there.
    end(calm().read(10, true, "b")).breaks(fails);
    let hole = calm().invoke(9, "c").ok("c").read(14, true, "a c");
    hole.left(1).left(2).archive("a b c").breaks(fails);
    let gone = unknown.read(14, true, "a b c").left(1).left(2);
    gone.archive("a b").breaks(fails);
}

/// P10.
#[test]
fn reigns() {
    let good = story()
        .owner(1, 5, 1)
        .owner(2, 5, 1)
        .owner(1, 9, 2)
        .owner(2, 5, 1);
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::OneOwner), Judgement::Pass(4));
    assert_eq!(check(&good.0).coverage.leader_changes, 1);
    let fails = &[(Promise::OneOwner, 1)];
    good.clone().owner(3, 9, 3).breaks(fails);
    good.owner(1, 5, 1).breaks(fails);
}

/// P11.
#[test]
fn affiliations_of_many_hands() {
    let register = affiliation(ROOM, "tybalt");
    let first = || story().sets(1, &register, "member");
    let good = first()
        .call(2, &register, Some("outcast"))
        .call(3, &register, None)
        .answered(3, Some("member"))
        .call(4, &register, None)
        .answered(4, Some("outcast"))
        .answered(2, None);
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::Linearizable), Judgement::Pass(2));
    let fails = &[(Promise::Linearizable, 1)];
    // Read as it was before an answer.
    let stale = first()
        .sets(2, &register, "outcast")
        .call(3, &register, None);
    stale.clone().answered(3, Some("member")).breaks(fails);
    stale.clone().answered(3, None).breaks(fails);
    stale.clone().answered(3, Some("outcast")).breaks(&[]);
    // Nobody knows whether it was done; but not twice.
    let unknown = first()
        .call(2, &register, Some("outcast"))
        .then(What::Unanswered { call: 2 });
    let read = |story: Story, call, value| {
        story
            .call(call, &register, None)
            .answered(call, Some(value))
    };
    read(unknown.clone(), 3, "member").breaks(&[]);
    read(read(unknown.clone(), 3, "member"), 4, "outcast").breaks(&[]);
    read(read(unknown, 3, "outcast"), 4, "member").breaks(fails);
    // Refused is surely not done.
    let refused = first()
        .call(2, &register, Some("outcast"))
        .then(What::Refused { call: 2 });
    read(refused.clone(), 3, "member").breaks(&[]);
    read(refused, 3, "outcast").breaks(fails);
    // Two that undo each other, read so by two.
    let both = first()
        .call(2, &register, Some("outcast"))
        .call(3, &register, Some("admin"));
    let both = both.answered(2, None).answered(3, None);
    read(read(both.clone(), 4, "admin"), 5, "admin").breaks(&[]);
    read(read(both, 4, "admin"), 5, "outcast").breaks(fails);
}

/// P12. Session 1 is Tybalt, who is banned; session 2 goes on.
#[test]
fn bans() {
    let register = affiliation(ROOM, "tybalt");
    let begin = || {
        story()
            .named(1, "tybalt")
            .named(2, "romeo")
            .joined(1)
            .joined(2)
    };
    let said = |story: Story, token: &str| story.invoke(2, token).ok(token).received(2, token);
    let before = || {
        let story = begin()
            .invoke(1, "t")
            .ok("t")
            .received(1, "t")
            .received(2, "t");
        said(story, "a")
            .received(1, "a")
            .sets(1, &register, "outcast")
    };
    let good = said(before().left(1), "b").invoke(1, "u").fail("u");
    let good = good.archive("t a b").archive("t a b");
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::BansAreFences), Judgement::Pass(2));
    let fails = &[(Promise::BansAreFences, 1)];
    // He says something, and hears something.
    let says = said(before(), "b")
        .left(1)
        .invoke(1, "u")
        .info("u")
        .received(2, "u");
    says.archive("t a b u").breaks(fails);
    let hears = said(before(), "b").received(1, "b").left(1);
    hears.archive("t a b").breaks(fails);
    // He had said it before, and it stands behind what was said within the ban.
    let late = begin().invoke(1, "t").sets(1, &register, "outcast").left(1);
    let late = said(said(late, "a"), "b").info("t");
    let late = late.left(2).archive("a t b");
    late.breaks(&[(Promise::NoHoles, 1), (Promise::BansAreFences, 1)]);
    // It was lifted, or may have been.
    let lifted = said(before(), "b").sets(2, &register, "none");
    let lifted = said(lifted, "c").left(1).joined(3).named(3, "tybalt");
    lifted
        .invoke(3, "u")
        .ok("u")
        .received(2, "u")
        .received(3, "u")
        .archive("t a b c u")
        .breaks(&[]);
    let maybe = begin()
        .call(7, &register, Some("none"))
        .sets(1, &register, "outcast")
        .left(1);
    let maybe = maybe.invoke(1, "u").info("u").received(2, "u").archive("u");
    maybe.breaks(&[]);
    assert_eq!(
        judgement(&maybe, Promise::BansAreFences),
        Judgement::Unknown
    );
}

/// P12. Juliet has blocked Paris.
#[test]
fn blocks() {
    let log = "paris to juliet@localhost";
    let joined = |session| What::Joined {
        session,
        log: log.into(),
        node: 1,
        home: 1,
        stream_management: true,
        reads_archive: false,
    };
    let invoke = |story: Story, token: &str| {
        story.then(What::Invoke {
            session: 1,
            log: log.into(),
            token: token.into(),
        })
    };
    let came = |story: Story, token: &str| {
        story.then(What::Received {
            session: 2,
            log: log.into(),
            token: token.into(),
            id: format!("id-{token}"),
        })
    };
    let archive = |story: Story, tokens: &str| {
        story.left(2).then(What::Archive {
            reading: "reading".into(),
            log: log.into(),
            rows: rows(tokens),
        })
    };
    let register = block("juliet", "paris");
    let begin = story().named(1, "paris").named(2, "juliet").then(joined(2));
    let before = came(invoke(begin, "p"), "p").ok("p");
    let before = before.sets(1, &register, "blocked");
    let refused = archive(invoke(before.clone(), "q").fail("q"), "p");
    refused.breaks(&[]);
    assert_eq!(
        judgement(&refused, Promise::BansAreFences),
        Judgement::Pass(1)
    );
    archive(came(invoke(before.clone(), "q"), "q"), "p q").breaks(&[(Promise::BansAreFences, 1)]);
    // That nothing of it is acknowledged does not mean that the pool does not serve (P18).
    let shut = before.clone().after(1, What::Mended { from_nothing: true });
    let shut = invoke(shut, "q").fail("q").after(40, What::Healed);
    archive(shut, "p").breaks(&[]);
    let open = before.sets(2, &register, "open");
    archive(came(invoke(open, "q"), "q"), "p q").breaks(&[]);
}

/// P13.
#[test]
fn secrets() {
    let audience = || What::Audience {
        log: ROOM.into(),
        users: vec!["romeo".into(), "juliet".into()],
    };
    let search = |found: &[&str]| What::Searched {
        place: "the log of node 1".into(),
        found: found.iter().map(|token| (*token).to_owned()).collect(),
    };
    let begin = || {
        let calm = calm().named(1, "romeo").named(2, "juliet");
        calm.then(audience()).archive("a b")
    };
    // Nobody searched.
    assert_eq!(
        judgement(&begin(), Promise::NothingLeaks),
        Judgement::Unknown
    );
    let good = begin().then(search(&[]));
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::NothingLeaks), Judgement::Pass(5));
    begin()
        .then(search(&["a", "b"]))
        .breaks(&[(Promise::NothingLeaks, 2)]);
    begin()
        .then(search(&[]))
        .named(2, "tybalt")
        .breaks(&[(Promise::NothingLeaks, 2)]);
}

/// P14. Romeo looks at Juliet.
#[test]
fn presence_after_a_heal() {
    let shown = |online| What::Presence {
        observer: "romeo".into(),
        user: "juliet".into(),
        online,
    };
    let there = |online| What::Online {
        user: "juliet".into(),
        online,
    };
    let begin = || story().then(there(true)).then(shown(true));
    let end = |story: Story| story.after(11, What::Healed);
    let good = end(begin()
        .now(shown(false))
        .after(1, What::Healed)
        .after(4, shown(true)));
    good.breaks(&[]);
    assert_eq!(
        judgement(&good, Promise::PresenceConverges),
        Judgement::Pass(1)
    );
    let fails = &[(Promise::PresenceConverges, 1)];
    // A ghost, one who is not shown, and one who is shown too late.
    end(begin().now(there(false)).after(1, What::Healed)).breaks(fails);
    end(begin().now(shown(false)).after(1, What::Healed)).breaks(fails);
    let late = begin().now(shown(false)).after(1, What::Healed);
    end(late.after(11, shown(true))).breaks(fails);
    // Too short a time to tell, or a user who comes and goes.
    let fault = || What::Fault {
        what: "kill".into(),
    };
    let short = begin()
        .now(there(false))
        .after(1, What::Healed)
        .after(5, fault());
    let short = short.after(20, shown(false));
    assert_eq!(
        judgement(&short, Promise::PresenceConverges),
        Judgement::Unknown
    );
    let moves = begin()
        .now(shown(false))
        .after(1, What::Healed)
        .after(9, there(false));
    assert_eq!(
        judgement(&end(moves), Promise::PresenceConverges),
        Judgement::Unknown
    );
}

/// P16.
#[test]
fn replicas() {
    let replica = |node, applied, hash: &str| What::Replica {
        partition: 3,
        node,
        applied,
        hash: hash.into(),
    };
    let good = story()
        .then(replica(1, 9, "x"))
        .then(replica(2, 9, "x"))
        .then(replica(3, 8, "y"));
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::ReplicasAgree), Judgement::Pass(1));
    good.then(replica(3, 9, "y"))
        .breaks(&[(Promise::ReplicasAgree, 1)]);
    let alone = story().then(replica(1, 9, "x"));
    assert_eq!(
        judgement(&alone, Promise::ReplicasAgree),
        Judgement::Unknown
    );
}

/// P17.
#[test]
fn answers() {
    let sent = || story().joined(1).invoke(1, "a");
    let ok = || What::Ok { token: "a".into() };
    let fails = &[(Promise::EverythingIsAnswered, 1)];
    let good = sent().after(9, ok()).received(1, "a").archive("a");
    good.breaks(&[]);
    assert_eq!(
        judgement(&good, Promise::EverythingIsAnswered),
        Judgement::Pass(1)
    );
    sent()
        .after(14, ok())
        .received(1, "a")
        .archive("a")
        .breaks(fails);
    // Refused late, given up late, never heard of again.
    let silent = || story().invoke(1, "a");
    silent()
        .after(14, What::Fail { token: "a".into() })
        .breaks(fails);
    silent()
        .after(14, What::Info { token: "a".into() })
        .breaks(fails);
    silent().after(14, What::Healed).breaks(fails);
    // The connection or the session ended in time.
    for end in [What::Dropped { session: 1 }, What::Left { session: 1 }] {
        silent()
            .after(9, end)
            .after(14, What::Info { token: "a".into() })
            .breaks(&[]);
    }
    // The node stood still.
    let frozen = sent()
        .then(What::Frozen { node: 1 })
        .after(14, What::Thawed { node: 1 });
    frozen
        .clone()
        .then(ok())
        .received(1, "a")
        .archive("a")
        .breaks(&[]);
    let other = sent().then(What::Frozen { node: 2 }).after(14, ok());
    other.received(1, "a").archive("a").breaks(fails);
    // Calls.
    let call = || story().call(1, "register", Some("x"));
    call().after(9, What::Refused { call: 1 }).breaks(&[]);
    call().after(14, What::Refused { call: 1 }).breaks(fails);
    call().after(14, What::Healed).breaks(fails);
}

/// P18.
#[test]
fn healing() {
    let healed = || {
        story()
            .then(What::Fault {
                what: "kill".into(),
            })
            .after(1, What::Healed)
    };
    let later = |seconds| {
        healed()
            .after(1, What::Healed)
            .invoke(1, "a")
            .after(seconds, What::Ok { token: "a".into() })
    };
    let good = later(9).archive("a");
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::HealsByItself), Judgement::Pass(2));
    let never = healed().invoke(1, "a").info("a").after(40, What::Healed);
    never.breaks(&[(Promise::HealsByItself, 1)]);
    // Another fault came before anybody could tell.
    let again = healed().invoke(1, "a").info("a").after(
        5,
        What::Fault {
            what: "kill".into(),
        },
    );
    let again = again.after(40, What::Healed).invoke(1, "b").ok("b");
    let again = again.archive("b");
    again.breaks(&[]);
    assert_eq!(
        judgement(&again, Promise::HealsByItself),
        Judgement::Pass(1)
    );
}

/// P18 and P14 count from the mend: that everybody is in at last does not begin the time anew.
#[test]
fn a_heal_counts_from_where_the_fault_is_taken_back() {
    let mended = |from_nothing| What::Mended { from_nothing };
    let fault = || What::Fault {
        what: "split".into(),
    };
    let begin = |from_nothing| story().then(fault()).after(1, mended(from_nothing));
    let sent = || What::Invoke {
        session: 1,
        log: ROOM.into(),
        token: "a".into(),
    };
    let ok = || What::Ok { token: "a".into() };
    let acked = |seconds: u64| {
        let story = begin(true).after(seconds - 1, sent()).after(1, ok());
        story.archive("a").after(1, What::Healed)
    };
    let good = acked(29);
    good.breaks(&[]);
    assert_eq!(judgement(&good, Promise::HealsByItself), Judgement::Pass(1));
    acked(40).breaks(&[(Promise::HealsByItself, 1)]);
    // Everybody is in before that: no new time either.
    let late = begin(false).after(38, What::Healed).after(1, sent());
    let late = late.after(1, ok()).archive("a");
    late.breaks(&[(Promise::HealsByItself, 1)]);

    let shown = |online| What::Presence {
        observer: "romeo".into(),
        user: "juliet".into(),
        online,
    };
    let seen = |from_nothing, seconds| {
        let there = What::Online {
            user: "juliet".into(),
            online: true,
        };
        let begin = story().then(there).then(shown(true)).then(shown(false));
        let begin = begin.then(fault()).after(1, mended(from_nothing));
        begin.after(seconds, shown(true)).after(30, What::Healed)
    };
    seen(false, 9).breaks(&[]);
    seen(false, 14).breaks(&[(Promise::PresenceConverges, 1)]);
    // Where nothing ran, nodes have to start before that.
    seen(true, 14).breaks(&[]);
    seen(true, 26).breaks(&[(Promise::PresenceConverges, 1)]);
}

#[test]
fn a_run_that_met_too_little_is_told_what_it_lacks() {
    let had = check(&calm().0).coverage;
    assert_eq!(had.lacks(&Coverage::FULL).len(), 7);
    assert_eq!(Coverage::FULL.lacks(&Coverage::FULL), Vec::<&str>::new());
    let split = |leader| What::Split {
        minority: vec![1],
        leader,
    };
    let story = calm().then(split(1)).then(split(2)).then(split(3));
    let story = story
        .then(What::SnapshotInstalled { node: 2 })
        .resumed(1, 1, 1, "");
    let had = check(&story.0).coverage;
    assert_eq!((had.leader_in_minority, had.leader_in_majority), (1, 2));
    assert_eq!((had.snapshots_installed, had.resumptions), (1, 1));
}
