//! Whom an attachment claims, and who is put out when nobody has claimed them.

use std::time::Duration;

use messaging::room::state::{Affiliation, Role};
use xmpp::stanza::{Stanza, StanzaKind};

use super::*;

const NODE: u64 = 2;
const LIFE: u64 = 7;
const MINUTE: Duration = Duration::from_secs(60);

fn room(name: &str) -> BareJid {
    BareJid::parse(&format!("{name}@conference.localhost")).unwrap()
}

fn session(name: &str) -> FullJid {
    FullJid::parse(&format!("{name}@localhost/pc")).unwrap()
}

/// `"den alice 5"`: somebody who joined a room by this row, in the node's present life; `"den alice 5 6"`: in another.
fn stay(text: &str) -> Stay {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words.get(at).map(|word| word.parse().unwrap());
    Stay {
        room: room(words[0]),
        jid: session(words[1]),
        node: NODE,
        life: number(3).unwrap_or(LIFE),
        joined: number(2).unwrap(),
    }
}

fn stays(texts: &[&str]) -> Vec<Stay> {
    texts.iter().map(|text| stay(text)).collect()
}

/// `("den", 5, "alice bob")`: the node has seen the room's log up to a row and names these sessions.
fn seen(rooms: &[(&str, u64, &str)]) -> Seen {
    let named = rooms.iter().map(|(name, cursor, occupants)| {
        let occupants = occupants.split_whitespace().map(session).collect();
        (room(name), (*cursor, occupants))
    });
    named.collect()
}

#[track_caller]
fn check(
    held: &[&str],
    named: &[(&str, u64, &str)],
    claimed: &[&str],
    unclaimed: &[&str],
    unseen: &[(&str, u64)],
) {
    let unseen = unseen.iter().map(|(name, from)| (room(name), *from));
    let expect = Judgement {
        claimed: stays(claimed),
        unclaimed: stays(unclaimed),
        unseen: unseen.collect(),
    };
    assert_eq!(judge(stays(held), &seen(named), LIFE), expect);
}

#[test]
fn an_attachment_claims_whom_it_names_and_whom_its_node_has_not_heard_of() {
    check(&[], &[], &[], &[], &[]);
    let alice = ["den alice 5"];
    check(&alice, &[("den", 9, "alice")], &alice, &[], &[]);
    // The node has seen the join and does not know the session: it has ended.
    check(&alice, &[("den", 9, "bob")], &[], &alice, &[]);
    check(&alice, &[("den", 5, "")], &[], &alice, &[]);
    // The node has not seen the join yet.
    check(&alice, &[("den", 4, "bob")], &alice, &[], &[]);
    // It has never heard of the room.
    check(&alice, &[("hall", 9, "")], &alice, &[], &[("den", 4)]);
    let two = ["den alice 5", "den bob 3"];
    check(&two, &[], &two, &[], &[("den", 2)]);
    // A former life's sessions are gone, even under an address that is named.
    let former = ["den alice 5 6"];
    check(&former, &[], &[], &former, &[]);
    check(&former, &[("den", 9, "alice")], &[], &former, &[]);
    check(&former, &[("den", 4, "")], &[], &former, &[]);
}

/// A state in which exactly these are in.
fn state(inside: &[&str]) -> State {
    let mut state = State::default();
    for stay in stays(inside) {
        let occupant = Occupant {
            jid: stay.jid.clone(),
            nick: "nick".to_owned(),
            role: Role::Participant,
            affiliation: Affiliation::None,
            presence: Stanza::new(StanzaKind::Presence),
            joined: stay.joined,
            node: stay.node,
            incarnation: stay.life,
            session: 1,
            account: 1,
        };
        state.occupants.insert((stay.room, stay.jid), occupant);
    }
    state
}

/// Who is put out of those that waited, where these are in by then.
#[track_caller]
fn check_put_out(waiting: &[&str], inside: &[&str], expect: &[&str]) {
    let began = Instant::now();
    let mut unclaimed = Unclaimed::default();
    for stay in stays(waiting) {
        unclaimed.push(stay, began + MINUTE);
    }
    let state = state(inside);
    let early = unclaimed.take_due(began + MINUTE - Duration::from_millis(1), |_| true);
    assert!(early.is_empty(), "{early:?}");
    let due = unclaimed.take_due(began + MINUTE, |stay| stay.goes_on(&state));
    assert_eq!(
        due.into_values().flatten().collect::<Vec<_>>(),
        stays(expect)
    );
    // Nobody is judged twice.
    assert!(unclaimed.0.is_empty(), "{unclaimed:?}");
}

#[test]
fn whoever_joined_again_within_the_minute_is_not_put_out_in_place_of_the_former_session() {
    let waiting = ["den alice 5", "den bob 3", "hall alice 8"];
    check_put_out(&waiting, &waiting, &waiting);
    // Left meanwhile.
    check_put_out(&waiting, &["den bob 3"], &["den bob 3"]);
    check_put_out(&waiting, &[], &[]);
    // In again, on the same node in the same life and in another.
    let again = ["den alice 12", "den bob 3", "hall alice 9 8"];
    check_put_out(&waiting, &again, &["den bob 3"]);
    check_put_out(&["den alice 5 6"], &["den alice 5 6"], &["den alice 5 6"]);
}

#[test]
fn a_stay_that_was_claimed_waits_no_longer_however_it_was_claimed() {
    // Named; in by a row that the node has yet to see; in a room that the node has never heard of.
    let held = ["den alice 5", "den bob 12", "hall carol 3", "den dora 4"];
    let began = Instant::now();
    let mut unclaimed = Unclaimed::default();
    for stay in stays(&held) {
        unclaimed.push(stay, began + MINUTE);
    }
    let judgement = judge(stays(&held), &seen(&[("den", 9, "alice")]), LIFE);
    for stay in &judgement.claimed {
        unclaimed.claimed(stay);
    }
    for stay in judgement.unclaimed {
        // It has waited since its node was gone: the attachment that left it out gives it no more time.
        unclaimed.push(stay, began + 2 * MINUTE);
    }
    let due = unclaimed.take_due(began + MINUTE, |_| true);
    let expect = BTreeMap::from([(room("den"), stays(&["den dora 4"]))]);
    assert_eq!(due, expect);
}
