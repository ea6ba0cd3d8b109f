//! Questions about users.
use crate::query::{Query, Reply};
use crate::state::State;

/// Answers a question about a user.
pub fn answer(state: &State, query: &Query) -> Reply {
    let _ = (state, query);
    Reply::Jids(Vec::new())
}
