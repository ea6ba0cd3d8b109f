//! One function a promise.

use std::collections::{BTreeMap, BTreeSet};

use super::index::{CatchUp, Index, Outcome, Stay};
use super::{Promise, Violation};

/// Adds what it finds, and gives how much it had to judge.
pub(super) type Rule = fn(&Index<'_>, &mut Vec<Violation>) -> usize;

/// The rules about messages, archives and values.
pub(super) const ALL: [(Promise, Rule); 8] = [
    (Promise::AckedIsArchived, acked_is_archived),
    (Promise::NothingInvented, nothing_invented),
    (Promise::OneOrder, one_order),
    (Promise::NoHoles, no_holes),
    (Promise::SenderOrder, sender_order),
    (Promise::NoDoubles, no_doubles),
    (Promise::SameArchive, same_archive),
    (Promise::SetStays, set_stays),
];

pub(super) fn broken(promise: Promise, what: String) -> Violation {
    Violation { promise, what }
}

/// P1. A log that nobody read counts as empty: an unread archive proves nothing.
fn acked_is_archived(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    for (token, attempt) in &index.attempts {
        if let Outcome::Ok(at) = attempt.outcome
            && !index.positions(attempt.log).contains_key(token)
        {
            let what = format!("{token} in {}, acknowledged at {at} ns", attempt.log);
            out.push(broken(Promise::AckedIsArchived, what));
        }
    }
    index.acked_count()
}

/// P2. Refused means surely not done, so what was refused must not show up either.
fn nothing_invented(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
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
        for (token, _) in stay.found() {
            judge(token, stay.log, "read at a login");
        }
    }
    archived(index) + received(index)
}

/// Rows of all readings.
fn archived(index: &Index<'_>) -> usize {
    let readings = index.readings.values().flatten();
    readings.map(|reading| reading.rows.len()).sum()
}

/// Messages that sessions received or found.
fn received(index: &Index<'_>) -> usize {
    let stays = index.stays.iter();
    stays
        .map(|stay| stay.received.len() + stay.found().count())
        .sum()
}

/// P3. What was received but is not archived is a matter of [`no_holes`]. The reflection of a retry is an answer, not a
/// place in the order. To a user what was written before the session was there may come late: it waited for a session that
/// had died.
fn one_order(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    for stay in &index.stays {
        let has_its_place = |token: &str| match stay.reads_archive {
            true => index.is_sent_behind_join(stay, token),
            false => !index.is_retry_of(stay.session, token),
        };
        let received = stay.received.iter().map(|(token, _)| *token);
        in_order(index, stay, received.filter(|t| has_its_place(t)), out);
        in_order(index, stay, stay.found().map(|(token, _)| token), out);
    }
    received(index)
}

fn in_order<'a>(
    index: &Index<'_>,
    stay: &Stay<'_>,
    tokens: impl Iterator<Item = &'a str>,
    out: &mut Vec<Violation>,
) {
    let positions = index.positions(stay.log);
    let mut last: Option<(usize, &str)> = None;
    for token in tokens {
        let Some(&position) = positions.get(token) else {
            continue;
        };
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

/// P4. What is received is archived; and nothing is missing that a session is owed: see [`lacks_in_a_room`] and
/// [`lacks_of_a_user`].
fn no_holes(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    // By log: the messages up to the newest one that sessions have seen without a hole.
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for stay in &index.stays {
        let positions = index.positions(stay.log);
        let received = stay.received.iter().copied();
        for (token, _) in received.chain(stay.found()) {
            if !positions.contains_key(token) {
                let what = format!(
                    "session {} received {token}, which is in no archive",
                    stay.session
                );
                out.push(broken(Promise::NoHoles, what));
            }
        }
        let lacks = match (stay.reads_archive, &stay.caught_up) {
            (false, _) => lacks_in_a_room(index, stay),
            (true, None) => Vec::new(),
            (true, Some(catch_up)) => {
                let reached = reached.entry(stay.log).or_default();
                lacks_of_a_user(index, stay, catch_up, reached)
            }
        };
        let rows = positions.iter().filter(|(_, at)| lacks.contains(at));
        for (token, position) in rows {
            let what = format!(
                "session {} in {} lacks {token} (row {position})",
                stay.session, stay.log
            );
            out.push(broken(Promise::NoHoles, what));
        }
    }
    received(index)
}

/// The rows that a session in a room lacks: between its first and last message it misses nothing; nor what was sent after it
/// joined, up to its last message if it left, else all.
fn lacks_in_a_room(index: &Index<'_>, stay: &Stay<'_>) -> Vec<usize> {
    let positions = index.positions(stay.log);
    // The reflection of a retry may be older than the session.
    let received = stay.received.iter().map(|(token, _)| *token);
    let in_turn = rows_of(
        index,
        stay,
        received
            .clone()
            .filter(|token| !index.is_retry_of(stay.session, token)),
    );
    let (first, last) = (in_turn.first().copied(), in_turn.last().copied());
    let got = rows_of(index, stay, received);
    let lacks = |(token, position): (&&str, &usize)| {
        let before_last = last.is_some_and(|last| *position < last);
        let inside = before_last && first.is_some_and(|first| first < *position);
        let owed = index.is_sent_behind_join(stay, token) && (before_last || stay.left.is_none());
        (!got.contains(position) && (inside || owed)).then_some(*position)
    };
    positions.iter().filter_map(lacks).collect()
}

/// The rows that a user's session lacks. What was written after it was there it is sent, up to the last such message if it
/// left, else all. What came before is in what it read in the archive behind what was known: between the two there is no
/// hole. A session that knows more than all before it could have begins too late: it lacks what is between.
fn lacks_of_a_user(
    index: &Index<'_>,
    stay: &Stay<'_>,
    catch_up: &CatchUp<'_>,
    reached: &mut usize,
) -> Vec<usize> {
    let positions = index.positions(stay.log);
    let received = rows_of(index, stay, stay.received.iter().map(|(token, _)| *token));
    let found = rows_of(index, stay, stay.found().map(|(token, _)| token));
    let known = catch_up.after.and_then(|token| positions.get(token));
    let begin = known.map_or(0, |known| known + 1).min(*reached);
    let newest = received.last().max(found.last());
    let end = match stay.left {
        None => positions.len(),
        Some(_) => newest.map_or(0, |newest| newest + 1),
    };
    let is_sent = |token: &str| index.is_sent_behind_join(stay, token);
    let last = positions
        .iter()
        .filter(|(token, at)| received.contains(at) && is_sent(token))
        .map(|(_, at)| *at)
        .max();
    let lacks = |(token, position): (&&str, &usize)| {
        let before_last = last.is_some_and(|last| *position < last);
        let owed = is_sent(token) && (before_last || stay.left.is_none());
        let within = (begin..end).contains(position) && !found.contains(position);
        (!received.contains(position) && (owed || within)).then_some(*position)
    };
    *reached = end.max(*reached);
    positions.iter().filter_map(lacks).collect()
}

/// Where these messages stand, in the order of the log.
fn rows_of<'a>(
    index: &Index<'_>,
    stay: &Stay<'_>,
    tokens: impl Iterator<Item = &'a str>,
) -> BTreeSet<usize> {
    let positions = index.positions(stay.log);
    tokens
        .filter_map(|token| positions.get(token).copied())
        .collect()
}

/// P5, in two sweeps over each archive: real time over all senders, and each session's own order, in which it sent messages
/// for the first time or again.
fn sender_order(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
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
            for (session, sent) in attempt.sends() {
                let last = by_session.entry(session).or_insert((sent, token));
                if sent < last.0 {
                    let what = format!("session {session} sent {token} before {}", last.1);
                    out.push(broken(Promise::SenderOrder, what));
                }
                *last = (*last).max((sent, token));
            }
            let invoked = attempt.invoked;
            latest = latest.max(Some((invoked, token)));
        }
    }
    archived(index)
}

/// P6. Also a token that the test itself used twice: then nothing can be told.
fn no_doubles(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
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
        doubles(stay.found().map(|(token, _)| token), &place, out);
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
    archived(index) + received(index)
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
fn same_archive(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
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
            for (token, id) in stay.received.iter().copied().chain(stay.found()) {
                if let Some(archived) = ids.get(token).filter(|archived| **archived != id) {
                    let what = format!(
                        "session {} received {token} as {id}, archived as {archived}",
                        stay.session
                    );
                    out.push(broken(Promise::SameArchive, what));
                }
            }
        }
    }
    // One reading says nothing of the others.
    let readings = index.readings.values();
    readings.map(|all| all.len().saturating_sub(1)).sum()
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

/// P11 and P15, for what is set by one at a time: each reading shows what was set last, and nothing else.
fn set_stays(index: &Index<'_>, out: &mut Vec<Violation>) -> usize {
    for values in &index.values {
        let mut judge = |register: &str, what: String| {
            let what = format!("{}: {register} {what}", values.reading);
            out.push(broken(Promise::SetStays, what));
        };
        for (register, value) in &values.set {
            match values.read.get(*register) {
                Some(read) if read == value => {}
                Some(read) => judge(register, format!("is {read:?}, was set to {value:?}")),
                None => judge(register, format!("is missing, was set to {value:?}")),
            }
        }
        let is_unknown =
            |(register, _): &(&String, &String)| !values.set.contains_key(register.as_str());
        for (register, read) in values.read.iter().filter(is_unknown) {
            judge(register, format!("is {read:?}, was never set"));
        }
    }
    index.values.iter().map(|values| values.set.len()).sum()
}
