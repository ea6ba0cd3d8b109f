//! P7: sessions that were resumed.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Loss;
use super::index::{Index, Stay};
use super::rules::broken;
use super::{Promise, Violation};

/// P7. `h` is neither below what was acknowledged nor beyond what was sent, and no message beyond it had been done: then
/// exactly the unacknowledged ones are sent again, and come once. What the server sends goes on where it was. After a crash
/// `h` covers all that was acknowledged and no more than was sent. Where it was the node that died, only who had been there
/// too shortly for a first count, and had been acknowledged nothing, may be told none. Whether a session that its node has
/// ended is told one is not judged: most of them take their count with them.
pub(super) fn resumption_is_exact(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let facts = &index.facts;
    let mut say = |what: String| out.push(broken(Promise::ResumptionIsExact, what));
    let seen = first_seen(index);
    for resumption in &facts.resumptions {
        let (session, h) = (resumption.session, resumption.h);
        if h < resumption.acked || h > resumption.sent {
            say(format!(
                "session {session} was resumed with h {h}, after {} acknowledged and {} sent",
                resumption.acked, resumption.sent
            ));
        }
        for token in resumption.open {
            let token = token.as_str();
            let is_own = index.attempts.get(token).is_some_and(|attempt| {
                let again = attempt.resent.iter();
                attempt.session == session
                    && again.clone().all(|(of, _)| *of == session)
                    // Sent again by this session before: the first time was counted or not by an earlier `h`.
                    && again.clone().all(|(_, at)| *at > resumption.at)
            });
            if is_own && seen.get(token).is_some_and(|at| *at < resumption.at) {
                say(format!(
                    "session {session} was resumed with h {h}, which leaves out {token}, though that had been delivered"
                ));
            }
        }
    }
    for loss in &facts.losses {
        if loss.h.is_some_and(|h| h < loss.acked || h > loss.sent) {
            say(format!(
                "session {} was lost with h {:?}, after {} acknowledged and {} sent",
                loss.session, loss.h, loss.acked, loss.sent
            ));
        }
        let is_owed = loss.acked > 0 || had_its_count(index, loss);
        if loss.h.is_none() && is_owed && died_with_its_node(index, loss) {
            say(format!(
                "session {} was lost without h, after {} acknowledged and {} sent",
                loss.session, loss.acked, loss.sent
            ));
        }
    }
    for stay in &index.stays {
        goes_on(index, stay, &mut say);
    }
    facts.resumptions.len() + facts.losses.len()
}

/// How long after it has sent something a session has a count in the log at the latest, where nothing is wrong
/// (docs/adr/0028): then its client is told an `h` even if its node dies.
const COUNTED: u64 = 5_000_000_000;

/// Whether the node that a session was on last died while it was.
fn died_with_its_node(index: &Index<'_>, loss: &Loss) -> bool {
    let moves = index.facts.moved.get(&loss.session).into_iter().flatten();
    let stay = index.stays.iter().find(|stay| stay.session == loss.session);
    let joined = stay.map(|stay| (stay.joined, stay.kind.0));
    let Some((since, node)) = moves.last().copied().or(joined) else {
        return false;
    };
    let died = index.facts.died.get(&node).into_iter().flatten();
    died.copied().any(|at| (since..=loss.at).contains(&at))
}

/// Whether a session had the time for it before its first connection ended.
fn had_its_count(index: &Index<'_>, loss: &Loss) -> bool {
    let stay = index.stays.iter().find(|stay| stay.session == loss.session);
    let dropped = index.facts.dropped.get(&loss.session);
    let first = dropped.and_then(|all| all.first()).copied();
    stay.is_some_and(|stay| {
        let until = stay.joined + COUNTED;
        loss.sent > 0
            && first.is_none_or(|first| first >= until)
            && until <= loss.at
            && index.is_calm(stay.joined, until)
    })
}

/// When each message was first received by anybody.
fn first_seen<'a>(index: &Index<'a>) -> BTreeMap<&'a str, u64> {
    let mut seen = BTreeMap::new();
    for stay in &index.stays {
        for ((token, _), at) in stay.received.iter().zip(&stay.received_at) {
            let first = seen.entry(*token).or_insert(*at);
            *first = (*first).min(*at);
        }
    }
    seen
}

/// The first message in turn after a resumption is the one behind the last before it; and what this session alone has sent,
/// again after a resumption or not, it receives once.
fn goes_on(index: &Index<'_>, stay: &Stay<'_>, say: &mut impl FnMut(String)) {
    let resumed = index.facts.resumptions.iter();
    let resumed = resumed.filter(|resumption| resumption.session == stay.session);
    let times: Vec<u64> = resumed.map(|resumption| resumption.at).collect();
    if times.is_empty() {
        return;
    }
    let positions = index.positions(stay.log);
    let sent_elsewhere = |token: &str| {
        let attempt = index.attempts.get(token);
        attempt.is_none_or(|attempt| {
            attempt.session != stay.session && attempt.resent.contains_key(&stay.session)
        })
    };
    let came = || stay.received.iter().zip(&stay.received_at);
    let has_its_turn = |token: &str| {
        !sent_elsewhere(token) && (!stay.reads_archive || index.is_sent_behind_join(stay, token))
    };
    // What has no turn may come anywhere, also in its place: between two that have one it is no hole.
    let (in_turn, anywhere): (Vec<_>, Vec<_>) = came()
        .filter_map(|((token, _), at)| Some((*positions.get(token)?, *at, *token)))
        .partition(|(_, _, token)| has_its_turn(token));
    let anywhere: BTreeSet<usize> = anywhere.into_iter().map(|(row, _, _)| row).collect();
    for pair in in_turn.windows(2) {
        let [(before, then, earlier), (after, now, later)] = pair else {
            continue;
        };
        let is_over = times.iter().any(|at| (*then..*now).contains(at));
        let lacks = (before + 1..*after).any(|row| !anywhere.contains(&row));
        if is_over && (after <= before || lacks) {
            say(format!(
                "session {} had {earlier} (row {before}) before a resumption and {later} (row {after}) after it",
                stay.session
            ));
        }
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for ((token, _), _) in came() {
        *counts.entry(token).or_default() += 1;
    }
    for (token, times) in counts.into_iter().filter(|(_, times)| *times > 1) {
        let own = index.attempts.get(token).is_some_and(|attempt| {
            attempt.session == stay.session
                && attempt.resent.keys().all(|again| *again == stay.session)
        });
        if own {
            say(format!(
                "session {} received its own {token} {times} times over its resumptions",
                stay.session
            ));
        }
    }
}
