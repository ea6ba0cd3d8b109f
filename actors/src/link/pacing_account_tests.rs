//! For whom a link waits, and for whom no more.

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

/// How many of these are slow, where their account has so many turns left behind the first one, which is free.
async fn check(due: &[usize], turns: usize, expect: usize) {
    let left = std::cell::Cell::new(turns);
    let has_turn = |_: &SessionMailbox| {
        let has = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        has
    };
    let crowded = due.iter().map(|due| mailbox(*due)).collect();
    let slow = wait_for(crowded, has_turn).await;
    assert_eq!(slow.len(), expect, "{due:?} {turns}");
}

/// Whoever logged in again made the link wait again.
#[actix::test]
async fn a_session_whose_account_has_no_turns_left_is_slow_at_once() {
    check(&[], 0, 0).await;
    check(&[1_001], 0, 1).await;
    check(&[1_001, 5_000], 0, 2).await;
    // One waits until it has no turn left, too.
    check(&[1_001, 1_001], 1, 2).await;
    // Whoever has taken enough needs none.
    check(&[500], 0, 0).await;
    check(&[500, 1_001], 0, 1).await;
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
