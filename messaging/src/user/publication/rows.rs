//! Rows of the user's log on their way to sessions: as they come, read back from the archive, and as copies.
//!
//! ```text
//!  logged ──► sessions in step: at once
//!         └─► sessions behind: ReadRows ─► offline_rows ─► … until in step
//! ```
//!
//! A session is behind after its node attached, while it gets what waited for it, or when it doesn't acknowledge. New
//! rows never overtake older ones that it still has to read.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xmpp::jid::{FullJid, Jid};
use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::write::XmlWriter;

use super::session::{Reading, Session};
use super::{Actions, Publication, PublicationAction, Row, SessionKey, deliver};
use crate::archive::{ArchiveIds, ArchiveRecord, ArchiveRow, MessageRecord};
use crate::user::delivery::{self, CarbonDirection, Delivery};
use crate::user::message::with_stanza_id;

/// Who is to get a received row as of now.
enum Receivers {
    /// These sessions.
    Sessions(Vec<usize>),
    /// None yet: a session that is expected, or one that becomes available.
    Later,
    /// None ever.
    Nobody,
}

/// What a session gets of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// The message.
    Message,
    /// A carbon copy.
    Copy(CarbonDirection),
    /// Nothing.
    Nothing,
    /// Nothing, and nobody else has to get it either.
    Settled,
    /// Nothing: it is for this session, which has to look again.
    Other(usize),
}

impl Publication {
    /// [`crate::effect::UserEffect::Logged`]: a row was added to the log. Ends with the log's new position for every
    /// node that has a session; rows that the publication began behind are ignored.
    ///
    /// `also`: sessions that get it besides those that it is for.
    pub fn logged(
        &mut self,
        previous: u64,
        row: &Row,
        also: &[FullJid],
        ids: &ArchiveIds,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        if row.seq <= self.position() {
            return out;
        }
        let max = self.settings.unacknowledged_max;
        let in_step = |session: &Session| session.reader.in_step(previous, max);
        self.unsettled.missed(previous);
        let in_step: Vec<usize> = (0..self.sessions.len())
            .filter(|index| self.sessions.get(*index).is_some_and(in_step))
            .collect();
        match &row.record {
            ArchiveRecord::Message(record) if !record.sent => self.unsettled.received(row.seq),
            _ => self.unsettled.sent(row.seq),
        }
        self.hold(previous, row);
        if let ArchiveRecord::Message(record) = &row.record {
            self.share_out(&in_step, row, record, ids, &mut out);
            self.share_also(also, row, record, ids, &mut out);
        }
        for index in in_step {
            let reader = &mut self.sessions[index].reader;
            reader.next = row.seq;
            reader.fresh_after = row.seq;
        }
        self.finish(&mut out);
        let (nodes, seq) = (self.nodes(), row.seq);
        out.push(PublicationAction::Position {
            nodes,
            previous,
            seq,
        });
        out
    }

    /// Sessions whose read ends right before this row get it after that read.
    fn hold(&mut self, previous: u64, row: &Row) {
        let max = self.settings.held_rows_max;
        for session in &mut self.sessions {
            let reader = &mut session.reader;
            let Some(reading) = reader.reading.as_deref() else {
                continue;
            };
            let last = reader.held.back().map_or(reading.upto, |row| row.seq);
            if reading.again_from.is_none() && last == previous && reader.held.len() < max {
                reader.held.push_back(Arc::clone(row));
            }
        }
    }

    /// Gives a new row to sessions that are in step, each stanza once for all of them.
    fn share_out(
        &mut self,
        sessions: &[usize],
        row: &Row,
        record: &MessageRecord,
        ids: &ArchiveIds,
        out: &mut Actions,
    ) {
        if sessions.is_empty() {
            return;
        }
        let receivers = self.receivers(record);
        if matches!(receivers, Receivers::Nobody) {
            self.unsettled.settle_range(row.seq, row.seq);
        }
        let mut taken = Vec::new();
        for &index in sessions {
            if self.share(index, row.seq, record, &receivers) == Share::Message {
                self.offer(index, row.seq);
                taken.push(self.sessions[index].key.clone());
            }
        }
        // After the message has found its receivers: who isn't among them gets a copy.
        let mut copied = Vec::new();
        for &index in sessions {
            if let Share::Copy(direction) = self.share(index, row.seq, record, &receivers) {
                copied.push((index, direction));
            }
        }
        if taken.is_empty() && copied.is_empty() {
            return;
        }
        let Some(stanza) = with_stanza_id(row, ids).map(Arc::new) else {
            return;
        };
        deliver(taken, &stanza, Some(row.seq), out);
        if let Some((_, direction)) = copied.first() {
            self.copy(&copied, *direction, &stanza, row.seq, out);
        }
    }

    /// A private message of a room for the other sessions under the nickname (XEP-0045 §7.5). Where the session that it
    /// is for has gone, it goes by the rules of delivery to whoever is there, these among them.
    ///
    /// It counts as its delivery where the message itself could have gone, as a copy does.
    fn share_also(
        &mut self,
        also: &[FullJid],
        row: &Row,
        record: &MessageRecord,
        ids: &ArchiveIds,
        out: &mut Actions,
    ) {
        let to = record.stanza.to.as_ref();
        if also.is_empty() || to.is_none_or(|to| self.find_jid(to.as_str()).is_none()) {
            return;
        }
        let Some(mut stanza) = with_stanza_id(row, ids) else {
            return;
        };
        stanza.to = None;
        let stanza = Arc::new(stanza);
        let (mut counted, mut others) = (Vec::new(), Vec::new());
        for jid in also {
            let Some(index) = self.find_jid(jid.as_str()) else {
                continue;
            };
            let key = self.sessions[index].key.clone();
            if self.sessions[index].reader.sent.contains(&row.seq) {
                continue;
            }
            if self.sessions[index].is_eligible() {
                self.offer(index, row.seq);
                counted.push(key);
            } else {
                others.push(key);
            }
        }
        deliver(counted, &stanza, Some(row.seq), out);
        deliver(others, &stanza, None, out);
    }

    /// Copies a message for sessions. A copy of a received message counts as its delivery where the message itself
    /// could have gone: what the user has seen there need not come again when its receiver vanishes.
    fn copy(
        &mut self,
        sessions: &[(usize, CarbonDirection)],
        direction: CarbonDirection,
        stanza: &Stanza,
        seq: u64,
        out: &mut Actions,
    ) {
        if !delivery::carbon_eligible(stanza, direction) {
            return;
        }
        let copy = Arc::new(delivery::carbon(stanza, direction, &self.user));
        let (mut counted, mut others) = (Vec::new(), Vec::new());
        for &(index, _) in sessions {
            let session = &self.sessions[index];
            let key = session.key.clone();
            if direction == CarbonDirection::Received && session.is_eligible() {
                self.offer(index, seq);
                counted.push(key);
            } else {
                others.push(key);
            }
        }
        deliver(counted, &copy, Some(seq), out);
        deliver(others, &copy, None, out);
    }

    fn offer(&mut self, index: usize, seq: u64) {
        let session = &mut self.sessions[index];
        session.reader.sent.push_back(seq);
        session.reader.offered = session.reader.offered.max(seq);
        self.unsettled.offer(seq, session.id);
    }

    /// RFC 6121 §8.5, for a message that its sender was told is accepted.
    fn receivers(&self, record: &MessageRecord) -> Receivers {
        let own = Jid::from(&self.user);
        let to = record.stanza.to.as_ref().unwrap_or(&own);
        let expected = |jid: &Jid| {
            self.expected
                .iter()
                .any(|expected| expected.jid.as_str() == jid.as_str())
        };
        if expected(to) && self.find_jid(to.as_str()).is_none() {
            return Receivers::Later;
        }
        match delivery::route(&record.stanza, to, true, &self.resources(), true) {
            Delivery::Sessions(sessions) => Receivers::Sessions(sessions),
            Delivery::Offline => Receivers::Later,
            Delivery::Server | Delivery::Error(_) | Delivery::Drop => Receivers::Nobody,
        }
    }

    /// What a session gets of a row: of a fresh one by the rules of delivery, of an older one only if it waits.
    fn share(
        &self,
        index: usize,
        seq: u64,
        record: &MessageRecord,
        receivers: &Receivers,
    ) -> Share {
        let session = &self.sessions[index];
        let fresh = seq > session.reader.fresh_after;
        let copied = session.flags.carbons && record.sender.as_ref() != Some(&session.key.jid);
        if record.sent {
            return match fresh && copied {
                true => Share::Copy(CarbonDirection::Sent),
                false => Share::Settled,
            };
        }
        if session.reader.sent.contains(&seq) {
            return Share::Nothing;
        }
        let waiting = self.unsettled.is_waiting(seq);
        let to = record.stanza.to.as_ref();
        let sessions = match receivers {
            Receivers::Nobody => return Share::Settled,
            Receivers::Later => return Share::Nothing,
            Receivers::Sessions(sessions) => sessions,
        };
        if sessions.contains(&index) {
            return match (fresh, waiting) {
                (true, _) => Share::Message,
                (false, false) => Share::Nothing,
                (false, true) if self.was_offered(seq, index, sessions, to) => Share::Settled,
                (false, true) => Share::Message,
            };
        }
        match sessions.first() {
            // Copies are for those who would otherwise not see what another session got (XEP-0280 §7).
            Some(_) if fresh && copied && (session.is_eligible() || !waiting) => {
                Share::Copy(CarbonDirection::Received)
            }
            Some(&other) if !fresh && waiting && self.sessions[other].reader.next >= seq => {
                Share::Other(other)
            }
            _ => Share::Nothing,
        }
    }

    /// Whether an earlier owner has delivered a row of which nothing else is known: rows come in order, so a session
    /// that got a newer one was offered this one, too. What was for a session that has gone may have been taken there
    /// or here: it isn't shown a second time, the archive has it.
    fn was_offered(&self, seq: u64, index: usize, sessions: &[usize], to: Option<&Jid>) -> bool {
        let newest = |index: &usize| self.sessions[*index].reader.newest_row;
        let newest = match to {
            Some(to) if !to.is_bare() => newest(&index),
            _ => sessions.iter().map(newest).max().unwrap_or(0),
        };
        self.unsettled.is_of_earlier_owner(seq) && seq <= newest
    }

    /// The rows that a [`PublicationAction::ReadRows`] asked for, all of them between `after` and `upto`, in order: what
    /// waits is delivered (with its time, XEP-0203), what the session missed follows. Rows that nobody asked for any
    /// more are ignored.
    pub fn offline_rows(
        &mut self,
        session: &SessionKey,
        after: u64,
        upto: u64,
        rows: &[Row],
        ids: &ArchiveIds,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let Some(index) = self.find(session) else {
            return out;
        };
        let reader = &mut self.sessions[index].reader;
        let asked = reader
            .reading
            .take_if(|reading| (reading.after, reading.upto) == (after, upto));
        let Some(reading) = asked else { return out };
        let held = reader.held.take();
        let next = match reading.again_from {
            Some(from) => from.min(after),
            None => self.read_all(index, *reading, rows, &held, ids, &mut out),
        };
        let reader = &mut self.sessions[index].reader;
        reader.fresh_after = reader.fresh_after.max(next);
        reader.next = next;
        self.finish(&mut out);
        out
    }

    /// Considers rows that were read and new ones that follow; gives the last one that was considered.
    fn read_all(
        &mut self,
        index: usize,
        reading: Reading,
        rows: &[Row],
        held: &VecDeque<Row>,
        ids: &ArchiveIds,
        out: &mut Actions,
    ) -> u64 {
        let max = self.settings.unacknowledged_max;
        let mut next = reading.after;
        let mut bytes = 0;
        let asked = |row: &&Row| row.seq > reading.after && row.seq <= reading.upto;
        for row in rows.iter().filter(asked) {
            if self.sessions[index].reader.sent.len() >= max {
                return next;
            }
            // What the archive doesn't have needs no delivery.
            self.unsettled
                .settle_range(next + 1, row.seq.saturating_sub(1));
            self.read(index, row, ids, out);
            next = row.seq;
            let reader = &mut self.sessions[index].reader;
            if reader.sent.back() == Some(&row.seq) {
                bytes += payload_bytes(row);
            }
            if bytes >= self.settings.read_bytes_max {
                // What the client has not taken yet would only pile up on the way.
                reader.pause = reader.sent.back().copied();
                return next;
            }
        }
        self.unsettled.settle_range(next + 1, reading.upto);
        next = reading.upto;
        for row in held {
            if self.sessions[index].reader.sent.len() >= max {
                return next;
            }
            self.read(index, row, ids, out);
            next = row.seq;
        }
        next
    }

    /// A read that was asked for found no row between `after` and `upto`: how far it may go without finding one, for
    /// [`Self::offline_rows`]. `next`: the number of the archive's first row after `upto`, if there is one.
    ///
    /// Numbers have wide gaps where a pool was restored ([`crate::founding`]).
    pub fn past_gap(
        &mut self,
        session: &SessionKey,
        (after, upto): (u64, u64),
        next: Option<u64>,
    ) -> u64 {
        let position = self.position();
        let Some(index) = self.find(session) else {
            return upto;
        };
        let reader = &mut self.sessions[index].reader;
        let Some(reading) = &mut reader.reading else {
            return upto;
        };
        // Held rows follow the end of the read at once.
        if (reading.after, reading.upto) != (after, upto) || !reader.held.is_empty() {
            return upto;
        }
        let end = next.map_or(position, |next| next.saturating_sub(1).min(position));
        reading.upto = end.max(upto);
        reading.upto
    }

    /// The archive could not be read for a session. [`Publication::read_again`], later, asks again.
    pub fn rows_unavailable(&mut self, session: &SessionKey) {
        if let Some(index) = self.find(session) {
            self.sessions[index].reader.give_up_reading();
        }
    }

    /// Asks for rows again after a failure.
    pub fn read_again(&mut self) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        self.finish(&mut out);
        out
    }

    /// One row that was read for one session.
    fn read(&mut self, index: usize, row: &Row, ids: &ArchiveIds, out: &mut Actions) {
        let ArchiveRecord::Message(record) = &row.record else {
            self.unsettled.settle_range(row.seq, row.seq);
            return;
        };
        let receivers = self.receivers(record);
        let fresh = row.seq > self.sessions[index].reader.fresh_after;
        let share = self.share(index, row.seq, record, &receivers);
        let session = vec![self.sessions[index].key.clone()];
        match share {
            Share::Message => {
                self.offer(index, row.seq);
                let Some(mut stanza) = with_stanza_id(row, ids) else {
                    return;
                };
                if !fresh {
                    add_delay(&mut stanza, row, self.user.domain());
                }
                deliver(session, &Arc::new(stanza), Some(row.seq), out);
            }
            Share::Copy(direction) => {
                let Some(stanza) = with_stanza_id(row, ids) else {
                    return;
                };
                self.copy(&[(index, direction)], direction, &stanza, row.seq, out);
            }
            Share::Settled | Share::Nothing => {}
            Share::Other(other) => {
                if self.was_offered(row.seq, other, &[other], record.stanza.to.as_ref()) {
                    self.unsettled.settle_range(row.seq, row.seq);
                } else {
                    self.sessions[other]
                        .reader
                        .rewind(row.seq.saturating_sub(1));
                }
            }
        }
        if share == Share::Settled || record.sent {
            self.unsettled.settle_range(row.seq, row.seq);
        }
    }

    /// A session may now be offered what waits. XEP-0160; DESIGN: one that read its archive has it already.
    pub(super) fn becomes_eligible(&mut self, index: usize) {
        let session = &self.sessions[index];
        if session.flags.archive_first {
            self.unsettled.settle_range(0, session.reader.bound_at);
        }
        self.offer_waiting(Some(index));
    }

    /// Has the rows that wait read for a session: this one, or the one that is most likely to be looked at.
    pub(super) fn offer_waiting(&mut self, session: Option<usize>) {
        let Some(first) = self.unsettled.first_waiting() else {
            return;
        };
        if !self.expected.is_empty() {
            return;
        }
        let rank = |index: &usize| {
            let session = &self.sessions[*index];
            (session.is_eligible(), session.priority(), session.id)
        };
        let Some(index) = session.or_else(|| (0..self.sessions.len()).max_by_key(rank)) else {
            return;
        };
        // Who takes nothing for the account can only say what an earlier owner gave it.
        if self.sessions[index].is_eligible() || self.unsettled.is_of_earlier_owner(first) {
            self.sessions[index].reader.rewind(first.saturating_sub(1));
        }
    }

    /// A session acknowledged what it was sent, in the order of sending, up to a row.
    pub(super) fn acknowledged(&mut self, index: usize, seq: u64) {
        let sent = &mut self.sessions[index].reader.sent;
        let known = sent.contains(&seq);
        while let Some(&row) = sent.front() {
            if !known && row > seq {
                break;
            }
            sent.pop_front();
            self.unsettled.acknowledged(row);
            if row == seq {
                break;
            }
        }
        sent.trim();
    }

    /// What every change may bring: rows to be read, the cursor.
    pub(super) fn finish(&mut self, out: &mut Actions) {
        let position = self.position();
        let max = self.settings.unacknowledged_max;
        let page = self.settings.read_rows_max.min(max as u64 / 2).max(1);
        for session in &mut self.sessions {
            let reader = &mut session.reader;
            let room = reader.sent.len() + page as usize <= max && !reader.is_paused();
            if reader.reading.is_none() && reader.next < position && room {
                let (after, upto) = (reader.next, position.min(reader.next + page));
                reader.reading = Some(Box::new(Reading {
                    after,
                    upto,
                    again_from: None,
                }));
                let session = session.key.clone();
                out.push(PublicationAction::ReadRows {
                    session,
                    after,
                    upto,
                });
            }
        }
        if let Some(cursor) = self.unsettled.advance() {
            out.push(PublicationAction::AdvanceCursor(cursor));
        }
    }
}

fn payload_bytes(row: &ArchiveRow) -> usize {
    match &row.record {
        ArchiveRecord::Message(message) => message.stanza.payload.len(),
        ArchiveRecord::Room(_) => 0,
    }
}

/// XEP-0203: when the server took the message, for one that is delivered later.
fn add_delay(stanza: &mut Stanza, row: &ArchiveRow, domain: &str) {
    let nanos = i128::from(row.time_ms) * 1_000_000;
    let time =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let Ok(stamp) = time.format(&Rfc3339) else {
        return;
    };
    let mut delay = XmlWriter::new(ns::CLIENT);
    delay
        .start_ns("delay", ns::DELAY)
        .attr("from", domain)
        .attr("stamp", &stamp)
        .end();
    let delay = delay.finish();
    let mut payload = BytesMut::with_capacity(stanza.payload.len() + delay.len());
    payload.put_slice(&stanza.payload);
    payload.put_slice(&delay);
    stanza.payload = payload.freeze();
}
