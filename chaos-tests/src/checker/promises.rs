//! The rules about reads, owners, affiliations, secrets, presence, replicas, answers and healing.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Answer, Call, Change, Read};
use super::fences::bans_are_fences;
use super::index::{Index, Outcome};
use super::linear::{Effect, Found, Operation, PLACES_MAX, search};
use super::rules::{Rule, broken};
use super::sessions::resumption_is_exact;
use super::{Promise, Violation};

/// All of them.
pub(super) const ALL: [(Promise, Rule); 10] = [
    (Promise::ResumptionIsExact, resumption_is_exact),
    (Promise::ReadsAreCurrent, reads_are_current),
    (Promise::OneOwner, one_owner),
    (Promise::Linearizable, linearizable),
    (Promise::BansAreFences, bans_are_fences),
    (Promise::NothingLeaks, nothing_leaks),
    (Promise::PresenceConverges, presence_converges),
    (Promise::ReplicasAgree, replicas_agree),
    (Promise::EverythingIsAnswered, everything_is_answered),
    (Promise::HealsByItself, heals_by_itself),
];

const SECOND: u64 = 1_000_000_000;

/// P14: no view is wrong for longer after a heal.
const CONVERGED: u64 = 10 * SECOND;

/// How long a pool of which nothing ran may take until it serves (the fault table's bound for a kill of all).
const STARTED: u64 = 15 * SECOND;

/// P17: the product gives up after ten seconds; two more are for the machine that the test shares with it.
const ANSWERED: u64 = 12 * SECOND;

/// P18.
const SERVES: u64 = 30 * SECOND;

/// P9. By the rows of the archive as it was read at the end: a reading reaches at least to the newest message that was
/// acknowledged before it began, and as far as any that had ended before; it has no hole, and begins with the first row
/// if it is whole.
fn reads_are_current(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let mut judged = 0;
    let mut by_log: BTreeMap<&str, Vec<&Read<'_>>> = BTreeMap::new();
    for read in &index.facts.reads {
        by_log.entry(read.log).or_default().push(read);
    }
    for (log, mut reads) in by_log {
        let positions = index.positions(log);
        let mut acked: Vec<(u64, usize, &str)> = positions
            .iter()
            .filter_map(|(token, row)| match index.attempts.get(token)?.outcome {
                Outcome::Ok(at) => Some((at, *row, *token)),
                _ => None,
            })
            .collect();
        acked.sort_unstable();
        reads.sort_by_key(|read| read.began);
        let mut ended: Vec<(u64, usize)> = Vec::new();
        let (mut next, mut owed) = (0, None::<(usize, &str)>);
        for read in reads {
            while let Some((_, row, token)) = acked.get(next).filter(|(at, _, _)| *at < read.began)
            {
                owed = owed.max(Some((*row, token)));
                next += 1;
            }
            judged += usize::from(owed.is_some());
            let before = ended.iter().filter(|(end, _)| *end < read.began);
            let before = before.map(|(_, row)| *row).max();
            if let Some(newest) = judge_read(read, positions, owed, before, out) {
                ended.push((read.ended, newest));
            }
        }
    }
    judged
}

/// Judges one reading; gives the newest row it shows.
fn judge_read(
    read: &Read<'_>,
    positions: &super::index::Positions<'_>,
    owed: Option<(usize, &str)>,
    before: Option<usize>,
    out: &mut Vec<Violation>,
) -> Option<usize> {
    let mut say = |what: String| {
        let what = format!("{} in {}: {what}", read.reader, read.log);
        out.push(broken(Promise::ReadsAreCurrent, what));
    };
    let rows: Vec<Option<usize>> = read
        .rows
        .iter()
        .map(|token| positions.get(token.as_str()).copied())
        .collect();
    for (token, row) in read.rows.iter().zip(&rows) {
        if row.is_none() {
            say(format!("{token} was read, and is in no archive at the end"));
        }
    }
    let rows: Vec<usize> = rows.into_iter().flatten().collect();
    for pair in rows.windows(2) {
        if let [a, b] = pair
            && *b != a + 1
        {
            say(format!("row {a} is followed by row {b}"));
        }
    }
    if read.whole && rows.first().is_some_and(|first| *first != 0) {
        say(format!("begins with row {:?}", rows.first()));
    }
    let newest = rows.last().copied();
    if let Some((row, token)) = owed.filter(|(row, _)| newest.is_none_or(|newest| newest < *row)) {
        say(format!(
            "{token} (row {row}) was acknowledged before, and is not there: the newest is {newest:?}"
        ));
    }
    if let Some(before) = before.filter(|before| newest.is_none_or(|newest| newest < *before)) {
        say(format!(
            "row {before} had been read before, the newest is {newest:?}"
        ));
    }
    newest
}

/// P10, by what nodes say: a reign has one owner, and no node goes back to an earlier one while it lives.
fn one_owner(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let mut reigns: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut newest: BTreeMap<(u64, u64, u64), u64> = BTreeMap::new();
    for seen in &index.facts.owners {
        let owner = *reigns
            .entry((seen.partition, seen.epoch))
            .or_insert(seen.owner);
        let mut say = |what: String| out.push(broken(Promise::OneOwner, what));
        if owner != seen.owner {
            say(format!(
                "partition {} has the owners {owner} and {} in its reign {}",
                seen.partition, seen.owner, seen.epoch
            ));
        }
        let last = newest
            .entry((seen.via, seen.life, seen.partition))
            .or_default();
        if seen.epoch < *last {
            say(format!(
                "node {} named reign {} of partition {} after {last}",
                seen.via, seen.epoch, seen.partition
            ));
        }
        *last = seen.epoch.max(*last);
    }
    index.facts.owners.len()
}

/// P11.
fn linearizable(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let facts = &index.facts;
    let mut judged = 0;
    let mut by_register: BTreeMap<&str, Vec<&Call<'_>>> = BTreeMap::new();
    for call in &facts.calls {
        by_register.entry(call.register).or_default().push(call);
    }
    for (register, calls) in by_register {
        let operations: Vec<Operation<'_>> =
            calls.iter().filter_map(|call| operation(call)).collect();
        let reads = operations.iter();
        judged += reads
            .filter(|operation| matches!(operation.effect, Effect::Get(_)))
            .count();
        let why = match search(&operations, PLACES_MAX) {
            Found::Order => continue,
            Found::None => "has no order in which every reading is right",
            Found::Unfinished => "was not decided within the bound",
        };
        out.push(broken(
            Promise::Linearizable,
            format!("{register}: {} calls, {why}", operations.len()),
        ));
    }
    if facts.stray_answers > 0 {
        let what = format!("{} answers to no call", facts.stray_answers);
        out.push(broken(Promise::Linearizable, what));
    }
    judged
}

fn operation<'a>(call: &Call<'a>) -> Option<Operation<'a>> {
    let (ended, effect) = match (call.set, call.answer) {
        (Some(value), Answer::Done(at, _)) => (Some(at), Effect::Set(value)),
        (Some(value), Answer::Unknown(_)) => (None, Effect::Set(value)),
        (None, Answer::Done(at, read)) => (Some(at), Effect::Get(read)),
        (_, Answer::Refused(_)) | (None, Answer::Unknown(_)) => return None,
    };
    Some(Operation {
        began: call.began,
        ended,
        effect,
    })
}

/// P13. Searched places have nothing, and sessions receive nothing of logs that are not for their users.
fn nothing_leaks(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let facts = &index.facts;
    let mut say = |what: String| out.push(broken(Promise::NothingLeaks, what));
    for search in &facts.searches {
        for token in search.found {
            say(format!("{token} in {}", search.place));
        }
    }
    let mut judged = 0;
    for stay in &index.stays {
        let Some(user) = facts.users.get(&stay.session) else {
            continue;
        };
        for (token, _) in stay.received.iter().copied().chain(stay.found()) {
            let attempt = index.attempts.get(token);
            let Some((log, audience)) = attempt.and_then(|attempt| {
                let audience = facts.audiences.get(attempt.log)?;
                Some((attempt.log, audience))
            }) else {
                continue;
            };
            judged += 1;
            if !audience.contains(user) {
                say(format!("{user} received {token} of {log}"));
            }
        }
    }
    // Without a search nobody knows about the logs.
    match facts.searches.len() {
        0 => 0,
        searches => judged + searches,
    }
}

/// P14. After each mend that is followed by ten seconds without a fault, and by ten without a change of the user: what is
/// shown at their end is the truth. Where nothing ran, they begin when the pool must serve. A user who was never seen counts
/// as offline.
fn presence_converges(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let facts = &index.facts;
    let mut judged = 0;
    for (number, mend) in index.mends.iter().enumerate() {
        let due = mend.at + CONVERGED + if mend.from_nothing { STARTED } else { 0 };
        let fault = index.faults.iter().find(|fault| **fault > mend.at);
        let again = index.mends.get(number + 1).map(|next| &next.at);
        let over = [fault, again].into_iter().flatten().min();
        if due > over.copied().unwrap_or(facts.end) {
            continue;
        }
        for ((observer, user), views) in &facts.shown {
            let truth = facts.there.get(user).map_or(&[][..], Vec::as_slice);
            let from = due - CONVERGED;
            let is_steady = !truth.iter().any(|change| (from..=due).contains(&change.at));
            if !is_steady {
                continue;
            }
            judged += 1;
            let (shown, is) = (at(views, due), at(truth, due));
            if shown != is {
                out.push(broken(
                    Promise::PresenceConverges,
                    format!(
                        "{observer} is shown {user} as online: {shown}, in truth {is}, {} s after the mend at {} ns",
                        (due - mend.at) / SECOND,
                        mend.at
                    ),
                ));
            }
        }
    }
    judged
}

/// The newest value at a time.
fn at(changes: &[Change], time: u64) -> bool {
    let before = changes.iter().rev().find(|change| change.at <= time);
    before.is_some_and(|change| change.online)
}

/// P16.
fn replicas_agree(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let mut judged = 0;
    for ((partition, applied), replicas) in &index.facts.replicas {
        let Some((first, others)) = replicas.split_first() else {
            continue;
        };
        judged += others.len();
        for other in others.iter().filter(|other| other.hash != first.hash) {
            out.push(broken(
                Promise::ReplicasAgree,
                format!(
                    "partition {partition} at {applied}: node {} has {}, node {} {}",
                    first.node, first.hash, other.node, other.hash
                ),
            ));
        }
    }
    judged
}

/// A message that waits for its outcome.
struct Waiting {
    session: u32,
    since: u64,
}

/// P17. A message waits until it is acknowledged, refused or given up, or its connection ends. Nodes that were stopped from
/// running can answer nobody.
fn everything_is_answered(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let facts = &index.facts;
    let mut judged = 0;
    let mut say = |what: String| out.push(broken(Promise::EverythingIsAnswered, what));
    for (token, attempt) in &index.attempts {
        for (session, since) in attempt.sends() {
            judged += 1;
            let waiting = Waiting { session, since };
            if let Some(waited) = waiting.too_long(index, attempt.closed_after(since)) {
                say(format!(
                    "{token} of session {session} waited {} ms",
                    waited / (SECOND / 1000)
                ));
            }
        }
    }
    for call in &facts.calls {
        judged += 1;
        let ended = match call.answer {
            Answer::Done(at, _) | Answer::Refused(at) | Answer::Unknown(Some(at)) => at,
            Answer::Unknown(None) => facts.end,
        };
        let waited = ended.saturating_sub(call.began);
        if waited > ANSWERED && !facts.is_frozen(call.node, call.began, ended) {
            say(format!(
                "call {} on {} waited {} ms on node {}",
                call.number,
                call.register,
                waited / (SECOND / 1000),
                call.node
            ));
        }
    }
    judged
}

impl Waiting {
    /// How long it waited, if that was too long and its node could have answered.
    fn too_long(&self, index: &Index<'_>, settled: Option<u64>) -> Option<u64> {
        let facts = &index.facts;
        let drops = facts.dropped.get(&self.session).into_iter().flatten();
        let drops = drops.chain(index.left.get(&self.session));
        let ended = drops
            .copied()
            .chain(settled)
            .filter(|at| *at >= self.since)
            .min()
            .unwrap_or(facts.end);
        let waited = ended.saturating_sub(self.since);
        let moves = facts.moved.get(&self.session).into_iter().flatten();
        let moved = moves.rev().find(|(at, _)| *at <= self.since);
        let joined = index.stays.iter().find(|stay| stay.session == self.session);
        let node = moved.map(|(_, node)| *node);
        let node = node.or(joined.map(|stay| stay.kind.0));
        let frozen = node.is_some_and(|node| facts.is_frozen(node, self.since, ended));
        (waited > ANSWERED && !frozen).then_some(waited)
    }
}

/// P18. After each mend that is followed by thirty seconds without a fault, or by the end of the history: something that was
/// sent after it is acknowledged in time, in each log that is written to. Nodes that were started have read their disks by
/// then, too. What is written to somebody who shuts the writer out at times shows nothing.
fn heals_by_itself(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    let mut judged = 0;
    let shut: Vec<String> = shut_doors(index);
    let logs = index.attempts.values().map(|attempt| attempt.log);
    let logs: BTreeSet<&str> = logs
        .filter(|log| !shut.iter().any(|shut| log.starts_with(shut)))
        .collect();
    for (number, mend) in index.mends.iter().enumerate() {
        let over = index.faults.iter().find(|fault| **fault > mend.at).copied();
        for log in &logs {
            let sent = index
                .attempts
                .values()
                .filter(|attempt| attempt.log == *log);
            let sent: Vec<_> = sent.filter(|attempt| attempt.invoked > mend.at).collect();
            let acked = sent.iter().filter_map(|attempt| match attempt.outcome {
                Outcome::Ok(at) => Some(at),
                _ => None,
            });
            let limit = mend.at + SERVES;
            let is_last = number + 1 == index.mends.len();
            match acked.min() {
                Some(at) if at <= limit => judged += 1,
                // Nobody wrote there any more, or the next fault came first.
                _ if sent.is_empty() || over.is_some_and(|over| over < limit) && !is_last => {}
                first => {
                    out.push(broken(
                        Promise::HealsByItself,
                        format!(
                            "{log}: the first acknowledgement after the mend at {} ns is {first:?}",
                            mend.at
                        ),
                    ));
                }
            }
        }
    }
    judged
}

/// What the logs are called by which a blocked one writes to who blocked.
fn shut_doors(index: &Index<'_>) -> Vec<String> {
    let registers = index.facts.calls.iter().map(|call| call.register);
    let words = registers.filter_map(|register| register.strip_prefix("block "));
    let logs = words.filter_map(|words| {
        let (user, foe) = words.split_once(' ')?;
        Some(format!("{foe} to {user}@"))
    });
    logs.collect()
}
