//! P12: a ban or a block is a fence.
//!
//! A *fence* stands from the answer to the call that bans to the beginning of the next one that may lift it. It is judged
//! only where no other call on the same register was under way when it was put up: then everybody must know it.

use super::facts::{Answer, Call};
use super::index::{Index, Outcome};
use super::rules::broken;
use super::{Promise, Violation};

/// The time in which somebody is surely kept out.
#[derive(Debug, Clone, Copy)]
struct Fence {
    from: u64,
    to: u64,
}

/// P12. What the banned one sends within the fence is not in the room's archive; what others send and have acknowledged
/// within it does not reach the banned one; and between two rows that were surely said within the fence there is none of
/// theirs. What a blocked one sends within the fence does not reach the one who blocked.
pub(super) fn bans_are_fences(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let mut judged = 0;
    let registers: std::collections::BTreeSet<&str> =
        index.facts.calls.iter().map(|call| call.register).collect();
    for register in registers {
        let mut words = register.split(' ');
        let (kind, one, other) = (words.next(), words.next(), words.next());
        let (Some(kind), Some(one), Some(other)) = (kind, one, other) else {
            continue;
        };
        match kind {
            "affiliation" => {
                for fence in fences(index, register, "outcast") {
                    judged += banned(index, one, other, fence, out);
                }
            }
            "block" => {
                for fence in fences(index, register, "blocked") {
                    judged += blocked(index, one, other, fence, out);
                }
            }
            _ => {}
        }
    }
    judged
}

/// The fences that a register shows.
fn fences(index: &Index<'_>, register: &str, shut: &str) -> Vec<Fence> {
    let calls = index.facts.calls.iter();
    let sets: Vec<&Call<'_>> = calls
        .filter(|call| call.register == register && call.set.is_some())
        .collect();
    let opens = |call: &&&Call<'_>| call.set != Some(shut);
    let fence = |ban: &&Call<'_>| {
        let Answer::Done(from, _) = ban.answer else {
            return None;
        };
        let mut to = u64::MAX;
        for other in sets.iter().filter(opens) {
            let is_over = match other.answer {
                Answer::Done(at, _) | Answer::Refused(at) => at < ban.began,
                Answer::Unknown(_) => false,
            };
            match (is_over, other.began > from) {
                (true, _) => {}
                (false, true) => to = to.min(other.began),
                (false, false) => return None,
            }
        }
        Some(Fence { from, to })
    };
    let bans = sets.iter().filter(|call| call.set == Some(shut));
    bans.filter_map(fence).collect()
}

fn banned(
    index: &Index<'_>,
    room: &str,
    user: &str,
    fence: Fence,
    out: &mut Vec<Violation>,
) -> usize {
    let mut say = |what: String| out.push(broken(Promise::BansAreFences, what));
    let positions = index.positions(room);
    let (mut first, mut last) = (usize::MAX, 0);
    let mut judged = 0;
    for (token, attempt) in index.attempts.iter().filter(|(_, a)| a.log == room) {
        let is_by = index.facts.users.get(&attempt.session) == Some(&user);
        let is_within = attempt.sends().all(|(_, at)| fence.holds(at));
        let position = positions.get(token);
        if is_by && is_within {
            judged += 1;
            if let Some(row) = position {
                say(format!(
                    "{user}, banned from {room}, said {token} (row {row})"
                ));
            }
        }
        let Some(&position) = position.filter(|_| !is_by) else {
            continue;
        };
        if attempt.invoked > fence.from {
            first = first.min(position);
        }
        match attempt.outcome {
            Outcome::Ok(at) if at < fence.to => last = last.max(position),
            _ => continue,
        }
        if attempt.invoked > fence.from {
            judged += 1;
            if was_received(index, room, user, token) {
                say(format!("{user}, banned from {room}, received {token}"));
            }
        }
    }
    for (token, row) in positions
        .iter()
        .filter(|(_, row)| (first..last).contains(row))
    {
        let attempt = index.attempts.get(token);
        let by = attempt.and_then(|attempt| index.facts.users.get(&attempt.session));
        if by == Some(&user) {
            say(format!(
                "{token} of {user}, banned from {room}, stands in row {row}, within the ban"
            ));
        }
    }
    judged
}

fn blocked(
    index: &Index<'_>,
    user: &str,
    foe: &str,
    fence: Fence,
    out: &mut Vec<Violation>,
) -> usize {
    let mut judged = 0;
    for (token, attempt) in &index.attempts {
        let is_by = index.facts.users.get(&attempt.session) == Some(&foe);
        let is_to = attempt
            .log
            .split(" to ")
            .nth(1)
            .is_some_and(|to| to.split('@').next() == Some(user));
        if !is_by || !is_to || !attempt.sends().all(|(_, at)| fence.holds(at)) {
            continue;
        }
        judged += 1;
        if was_received(index, attempt.log, user, token) {
            out.push(broken(
                Promise::BansAreFences,
                format!("{user}, who has blocked {foe}, received {token}"),
            ));
        }
    }
    judged
}

/// Whether a session of the user received it.
fn was_received(index: &Index<'_>, log: &str, user: &str, token: &str) -> bool {
    let stays = index.stays.iter().filter(|stay| stay.log == log);
    let own = stays.filter(|stay| index.facts.users.get(&stay.session) == Some(&user));
    own.flat_map(|stay| &stay.received)
        .any(|(received, _)| *received == token)
}

impl Fence {
    fn holds(self, at: u64) -> bool {
        self.from < at && at < self.to
    }
}
