//! One function a promise.

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Index, Outcome, Stay};
use super::{Promise, Violation};

type Rule = fn(&Index<'_>, &mut Vec<Violation>);

/// All rules.
pub(super) const ALL: [Rule; 7] = [
    acked_is_archived,
    nothing_invented,
    one_order,
    no_holes,
    sender_order,
    no_doubles,
    same_archive,
];

fn broken(promise: Promise, what: String) -> Violation {
    Violation { promise, what }
}

/// P1. A log that nobody read counts as empty: an unread archive proves nothing.
fn acked_is_archived(index: &Index<'_>, out: &mut Vec<Violation>) {
    let mut logs: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (token, attempt) in &index.attempts {
        let positions = logs
            .entry(attempt.log)
            .or_insert_with(|| index.positions(attempt.log));
        if let Outcome::Ok(at) = attempt.outcome
            && !positions.contains_key(token)
        {
            let what = format!("{token} in {}, acknowledged at {at} ns", attempt.log);
            out.push(broken(Promise::AckedIsArchived, what));
        }
    }
}

/// P2. Refused means surely not done, so what was refused must not show up either.
fn nothing_invented(index: &Index<'_>, out: &mut Vec<Violation>) {
    let mut judge = |token: &str, log: &str, place: &str| {
        let why = match index.attempts.get(token) {
            None => "was never sent",
            Some(attempt) if attempt.log != log => "was sent elsewhere",
            Some(attempt) if attempt.outcome == Outcome::Fail => "was refused",
            Some(_) => return,
        };
        out.push(broken(
            Promise::NothingInvented,
            format!("{token:?} {place} of {log} {why}"),
        ));
    };
    for (log, readings) in &index.readings {
        for (token, _) in readings.iter().flat_map(|reading| reading.rows) {
            judge(token, log, "in the archive");
        }
    }
    for stay in &index.stays {
        for (token, _) in &stay.received {
            judge(token, stay.log, "received as a message");
        }
    }
}

/// P3. What was received but is not archived is a matter of [`no_holes`]. The reflection of a retry is an answer, not a
/// place in the order.
fn one_order(index: &Index<'_>, out: &mut Vec<Violation>) {
    for stay in &index.stays {
        let positions = index.positions(stay.log);
        let mut last: Option<(usize, &str)> = None;
        for (token, _) in &stay.received {
            let Some(&position) = positions.get(token) else {
                continue;
            };
            if index.is_retry_of(stay.session, token) {
                continue;
            }
            if let Some((before, earlier)) = last.filter(|(before, _)| *before > position) {
                let what = format!(
                    "session {} received {earlier} (row {before}) before {token} (row {position})",
                    stay.session
                );
                out.push(broken(Promise::OneOrder, what));
            }
            last = Some((position, token));
        }
    }
}

/// P4. Between its first and last message a session misses nothing; nor what was sent after it joined, up to its last message
/// if it left, else all.
fn no_holes(index: &Index<'_>, out: &mut Vec<Violation>) {
    for stay in &index.stays {
        let positions = index.positions(stay.log);
        let got: BTreeSet<usize> = stay
            .received
            .iter()
            .filter_map(|(token, _)| positions.get(token).copied())
            .collect();
        // The reflection of a retry may be older than the session.
        let in_turn = stay
            .received
            .iter()
            .filter(|(token, _)| !index.is_retry_of(stay.session, token))
            .filter_map(|(token, _)| positions.get(token).copied());
        let (first, last) = in_turn.fold((None, None), |(first, last): (Option<usize>, _), at| {
            (
                Some(first.map_or(at, |first| first.min(at))),
                last.max(Some(at)),
            )
        });
        for (token, _) in stay
            .received
            .iter()
            .filter(|(token, _)| !positions.contains_key(token))
        {
            let what = format!(
                "session {} received {token}, which is in no archive",
                stay.session
            );
            out.push(broken(Promise::NoHoles, what));
        }
        for (token, position) in &positions {
            let before_last = last.is_some_and(|last| *position < last);
            let inside = before_last && first.is_some_and(|first| first < *position);
            let owed = sent_behind_join(index, stay, token) && (before_last || stay.left.is_none());
            if !got.contains(position) && (inside || owed) {
                let what = format!(
                    "session {} in {} lacks {token} (row {position})",
                    stay.session, stay.log
                );
                out.push(broken(Promise::NoHoles, what));
            }
        }
    }
}

/// Whether a message was sent after a session joined.
fn sent_behind_join(index: &Index<'_>, stay: &Stay<'_>, token: &str) -> bool {
    let sent = index.attempts.get(token).map(|attempt| attempt.invoked);
    sent.is_some_and(|invoked| invoked > stay.joined)
}

/// P5, in two sweeps over each archive: real time over all senders, and each session's own order.
fn sender_order(index: &Index<'_>, out: &mut Vec<Violation>) {
    for readings in index.readings.values() {
        let Some(reading) = readings.first() else {
            continue;
        };
        let mut latest: Option<(u64, &str)> = None;
        let mut by_session: BTreeMap<u32, (u64, &str)> = BTreeMap::new();
        for (token, _) in reading.rows {
            let Some(attempt) = index.attempts.get(token.as_str()) else {
                continue;
            };
            if let (Outcome::Ok(acked), Some((invoked, later))) = (attempt.outcome, latest)
                && acked < invoked
            {
                let what =
                    format!("{token}, acknowledged before {later} was sent, stands after it");
                out.push(broken(Promise::SenderOrder, what));
            }
            if let Some((invoked, later)) = by_session.get(&attempt.session)
                && attempt.invoked < *invoked
            {
                let what = format!("session {} sent {token} before {later}", attempt.session);
                out.push(broken(Promise::SenderOrder, what));
            }
            let invoked = attempt.invoked;
            by_session
                .entry(attempt.session)
                .and_modify(|last| *last = (*last).max((invoked, token)))
                .or_insert((invoked, token));
            latest = latest.max(Some((invoked, token)));
        }
    }
}

/// P6. Also a token that the test itself used twice: then nothing can be told.
fn no_doubles(index: &Index<'_>, out: &mut Vec<Violation>) {
    for token in &index.reused {
        out.push(broken(
            Promise::NoDoubles,
            format!("{token} was sent twice by the test"),
        ));
    }
    for (log, readings) in &index.readings {
        for reading in readings {
            let tokens = reading.rows.iter().map(|(token, _)| token.as_str());
            doubles(tokens, &format!("{log}, {}", reading.name), out);
        }
    }
    for stay in &index.stays {
        let place = format!("session {} in {}", stay.session, stay.log);
        let tokens = stay.received.iter().map(|(token, _)| *token);
        let in_turn = tokens
            .clone()
            .filter(|token| !index.is_retry_of(stay.session, token));
        doubles(in_turn, &place, out);
        // In its turn, and as the reflection of the retry: no third time.
        let mut retries: BTreeMap<&str, usize> = BTreeMap::new();
        for token in tokens.filter(|token| index.is_retry_of(stay.session, token)) {
            *retries.entry(token).or_default() += 1;
        }
        for (token, times) in retries.into_iter().filter(|(_, times)| *times > 2) {
            out.push(broken(
                Promise::NoDoubles,
                format!("{token} {times} times: {place}"),
            ));
        }
    }
    for (session, token) in &index.strays {
        let what = format!("session {session} received {token} without being in");
        out.push(broken(Promise::NoDoubles, what));
    }
}

fn doubles<'a>(tokens: impl Iterator<Item = &'a str>, place: &str, out: &mut Vec<Violation>) {
    let mut seen = BTreeSet::new();
    for token in tokens {
        if !seen.insert(token) {
            out.push(broken(
                Promise::NoDoubles,
                format!("{token} twice: {place}"),
            ));
        }
    }
}

/// P8. Also: the id under which a session received a message is its id in the archive.
fn same_archive(index: &Index<'_>, out: &mut Vec<Violation>) {
    for (log, readings) in &index.readings {
        let Some((first, others)) = readings.split_first() else {
            continue;
        };
        for other in others.iter().filter(|other| other.rows != first.rows) {
            let at = first.rows.iter().zip(other.rows).position(|(a, b)| a != b);
            let at = at.unwrap_or(first.rows.len().min(other.rows.len()));
            let what = format!(
                "{log}: {} has {} rows, {} has {}, first difference at row {at}",
                first.name,
                first.rows.len(),
                other.name,
                other.rows.len()
            );
            out.push(broken(Promise::SameArchive, what));
        }
        doubled_ids(log, first.rows, out);
        let ids: BTreeMap<&str, &str> = first
            .rows
            .iter()
            .map(|(token, id)| (token.as_str(), id.as_str()))
            .collect();
        for stay in index.stays.iter().filter(|stay| stay.log == *log) {
            for (token, id) in &stay.received {
                if let Some(archived) = ids.get(token).filter(|archived| *archived != id) {
                    let what = format!(
                        "session {} received {token} as {id}, archived as {archived}",
                        stay.session
                    );
                    out.push(broken(Promise::SameArchive, what));
                }
            }
        }
    }
}

fn doubled_ids(log: &str, rows: &[(String, String)], out: &mut Vec<Violation>) {
    let mut seen = BTreeSet::new();
    for (_, id) in rows {
        if !seen.insert(id) {
            out.push(broken(
                Promise::SameArchive,
                format!("{log}: the id {id} twice"),
            ));
        }
    }
}
