//! For whom a link waits, and for whom no more.

use futures_util::FutureExt;

use super::*;
use crate::session::SessionActor;

/// What may be due to a session here.
const BYTES_MAX: usize = 1_000;

fn mailbox(due: usize) -> Arc<SessionMailbox> {
    let place: Context<SessionActor> = Context::new();
    let mailbox = SessionMailbox::new(place.address(), BYTES_MAX);
    mailbox.unwritten(due);
    Arc::new(mailbox)
}

/// How many of these are slow, where their account has so many turns left; `None`: the link waits.
#[track_caller]
fn check(due: &[usize], turns: usize, expect: Option<usize>) {
    let left = std::cell::Cell::new(turns);
    let has_turn = |_: &SessionMailbox| {
        let has = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        has
    };
    let crowded = due.iter().map(|due| mailbox(*due)).collect();
    let slow = wait_for(crowded, has_turn).now_or_never();
    assert_eq!(slow.map(|slow| slow.len()), expect, "{due:?} {turns}");
}

/// Whoever logged in again made the link wait again.
#[actix::test]
async fn a_session_whose_account_has_no_turns_left_is_slow_at_once() {
    check(&[], 0, Some(0));
    check(&[1_001], 0, Some(1));
    check(&[1_001, 5_000], 0, Some(2));
    check(&[1_001], 1, None);
    // It waits for the one that has a turn.
    check(&[1_001, 1_001], 1, None);
    // Whoever has taken enough meanwhile needs none.
    check(&[500], 0, None);
}

#[actix::test]
async fn a_link_waits_turn_by_turn_until_the_account_has_no_more() {
    let turns = std::cell::Cell::new(0);
    let has_turn = |_: &SessionMailbox| {
        turns.set(turns.get() + 1);
        turns.get() <= 3
    };
    let slow = wait_for(vec![mailbox(1_001)], has_turn).await;
    assert_eq!(slow.len(), 1);
    assert_eq!(turns.get(), 4);
}
