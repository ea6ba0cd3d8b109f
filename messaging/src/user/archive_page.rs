//! Pages of an archive, a user's or a room's: XEP-0313 (`urn:xmpp:mam:2` with `#extended`) over XEP-0059.
//!
//! ```text
//!  <query/> ─ parse ─► ArchiveQuery ─► the owner: answer() says who may read; the shell reads rows
//!                                         │ 1. every sequence in `named` must exist, else `unknown_id()`
//!                                         │ 2. rows within the bounds that `matches()`, `rows_wanted()` of them,
//!                                         │    newest first if `backward`
//!                                         └► page() ─► result messages and <fin/>
//! ```

use std::fmt::Write as _;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza::Stanza;
use xmpp::stanza_error::{Condition, StanzaError};
use xmpp::write::XmlWriter;

use crate::archive::{ArchiveIds, ArchiveRecord, ArchiveRow};
use crate::query::{ArchiveQuery, Reply};
use crate::room::event::RoomEvent;

/// Rows of a page where the client names no number.
pub const PAGE_ROWS_DEFAULT: u32 = 50;

/// Rows of a page at most.
pub const PAGE_ROWS_MAX: u32 = 250;

/// About how many bytes of messages a page has at most: a larger one ends early, as XEP-0059 §2.1 allows.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Ids that one query may name in the field `ids`.
const IDS_MAX: usize = PAGE_ROWS_MAX as usize;

/// Bytes of a `queryid`: it is repeated in every result.
const QUERY_ID_BYTES_MAX: usize = 256;

/// Reads a `<query/>` of an iq set.
///
/// # Errors
/// What the client is told: item-not-found for an id that no archive made, feature-not-implemented for an unknown field
/// (XEP-0313 §4.1.5), bad-request for values that can't be read.
pub fn parse(
    element: Element<'_>,
    key: BareJid,
    asker: FullJid,
    ids: &ArchiveIds,
) -> Result<ArchiveQuery, StanzaError> {
    if element.attr("node").is_some() {
        // XEP-0313 §5.1.3: nodes are for archives of publish-subscribe services.
        return Err(unknown_id());
    }
    let query_id = element.attr("queryid").map(|id| id.into_owned());
    if query_id
        .as_ref()
        .is_some_and(|id| id.len() > QUERY_ID_BYTES_MAX)
    {
        return Err(bad_request("The queryid is too long."));
    }
    let mut query = ArchiveQuery {
        key,
        asker,
        with: None,
        start_ms: None,
        end_ms: None,
        after: None,
        before: None,
        ids: Vec::new(),
        named: Vec::new(),
        backward: false,
        max: PAGE_ROWS_DEFAULT,
        flip: element.child("flip-page", ns::MAM).is_some(),
        query_id,
    };
    if let Some(form) = element.child("x", ns::DATA_FORM) {
        parse_form(form, &mut query, ids)?;
    }
    if let Some(set) = element.child("set", ns::RSM) {
        parse_set(set, &mut query, ids)?;
    }
    Ok(query)
}

/// Fields that a query may have.
const FIELDS: [&str; 7] = [
    "FORM_TYPE",
    "with",
    "start",
    "end",
    "before-id",
    "after-id",
    "ids",
];

/// XEP-0313 §4.1.
fn parse_form(
    form: Element<'_>,
    query: &mut ArchiveQuery,
    ids: &ArchiveIds,
) -> Result<(), StanzaError> {
    if form.attr("type").is_some_and(|kind| kind != "submit") {
        // XEP-0004 §3.1: a form that is cancelled asks for nothing.
        return Err(bad_request("The form isn't submitted."));
    }
    let mut form_type = None;
    for field in form
        .children()
        .filter(|field| field.is("field", ns::DATA_FORM))
    {
        let Some(var) = field.attr("var") else {
            return Err(bad_request("A field has no name."));
        };
        // §4.1.5, whether or not it has a value.
        if !FIELDS.contains(&&*var) {
            return Err(StanzaError::new(Condition::FeatureNotImplemented));
        }
        let values: Vec<String> = field
            .children()
            .filter(|value| value.is("value", ns::DATA_FORM))
            .map(|value| value.text().into_owned())
            .collect();
        let Some(value) = values.first() else {
            continue;
        };
        match &*var {
            "FORM_TYPE" => form_type = Some(value.clone()),
            "with" => {
                query.with = Some(Jid::parse(value).map_err(|_| bad_request("`with` is no JID."))?)
            }
            "start" => query.start_ms = Some(parse_time(value)?),
            "end" => query.end_ms = Some(parse_time(value)?),
            "after-id" => after(query, named(query, value, ids)?),
            "before-id" => before(query, named(query, value, ids)?),
            "ids" => {
                if values.len() > IDS_MAX {
                    return Err(bad_request("Too many ids."));
                }
                for value in &values {
                    let seq = named(query, value, ids)?;
                    query.ids.push(seq);
                    query.named.push(seq);
                }
                query.ids.sort_unstable();
                query.ids.dedup();
            }
            _ => {}
        }
    }
    match form_type.as_deref() {
        Some(ns::MAM) => Ok(()),
        _ => Err(bad_request("The form isn't one for archives.")),
    }
}

/// XEP-0059 as XEP-0313 §4.3 uses it.
fn parse_set(
    set: Element<'_>,
    query: &mut ArchiveQuery,
    ids: &ArchiveIds,
) -> Result<(), StanzaError> {
    if set.child("index", ns::RSM).is_some() {
        // XEP-0059 §2.6: pages by index are optional.
        return Err(StanzaError::new(Condition::FeatureNotImplemented));
    }
    if let Some(max) = set.child("max", ns::RSM) {
        query.max = page_rows(max.text().trim())?;
    }
    if let Some(id) = set.child("after", ns::RSM).map(|id| id.text())
        && !id.is_empty()
    {
        after(query, named(query, &id, ids)?);
    }
    if let Some(id) = set.child("before", ns::RSM).map(|id| id.text()) {
        query.backward = true;
        if !id.is_empty() {
            before(query, named(query, &id, ids)?);
        }
    }
    Ok(())
}

/// A number however large is a number: the page has as many rows as it may (XEP-0059 §2.1).
fn page_rows(max: &str) -> Result<u32, StanzaError> {
    if max.is_empty() || !max.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(bad_request("`max` is no number."));
    }
    // Only digits, so that what can't be read is too large.
    Ok(max.parse().unwrap_or(u32::MAX).min(PAGE_ROWS_MAX))
}

fn named(query: &ArchiveQuery, id: &str, ids: &ArchiveIds) -> Result<u64, StanzaError> {
    ids.seq(&query.key, id).ok_or_else(unknown_id)
}

fn after(query: &mut ArchiveQuery, seq: u64) {
    query.named.push(seq);
    query.after = Some(query.after.map_or(seq, |other| other.max(seq)));
}

fn before(query: &mut ArchiveQuery, seq: u64) {
    query.named.push(seq);
    query.before = Some(query.before.map_or(seq, |other| other.min(seq)));
}

/// What a client is told that names an id which isn't in the archive. XEP-0313 §4.1.3 and §4.3.2.
pub fn unknown_id() -> StanzaError {
    StanzaError::new(Condition::ItemNotFound)
}

fn bad_request(text: &str) -> StanzaError {
    StanzaError::new(Condition::BadRequest).with_text(text)
}

/// How many matching rows the shell reads: one more than the page, to see whether the page is the last.
pub fn rows_wanted(query: &ArchiveQuery) -> usize {
    query.max as usize + 1
}

/// Whether a row belongs to the result, all bounds included. `real_jids`: whether the asker may see who is behind a room's
/// nicknames.
pub fn matches(query: &ArchiveQuery, row: &ArchiveRow, real_jids: bool) -> bool {
    row.is_message()
        && query.after.is_none_or(|after| row.seq > after)
        && query.before.is_none_or(|before| row.seq < before)
        && query.start_ms.is_none_or(|start| row.time_ms >= start)
        && query.end_ms.is_none_or(|end| row.time_ms <= end)
        && (query.ids.is_empty() || query.ids.binary_search(&row.seq).is_ok())
        && query
            .with
            .as_ref()
            .is_none_or(|with| is_with(row, with, real_jids))
}

/// XEP-0313 §4.1.1: a bare JID matches all its resources. In a room the publisher is known by its occupant JID, and by its
/// real one to who may see it.
fn is_with(row: &ArchiveRow, with: &Jid, real_jids: bool) -> bool {
    match &row.record {
        ArchiveRecord::Message(message) if with.is_bare() => {
            message.peer.bare_str() == with.as_str()
        }
        ArchiveRecord::Message(message) => message.peer == *with,
        ArchiveRecord::Room(
            RoomEvent::Message { nick, sender, .. } | RoomEvent::Subject { nick, sender, .. },
        ) => {
            let is_occupant = with.bare_str() == row.key.as_str()
                && with.resource().is_none_or(|resource| resource == nick);
            let is_person = sender.bare().as_str() == with.bare_str()
                && with
                    .resource()
                    .is_none_or(|_| with.as_str() == sender.as_str());
            is_occupant || (real_jids && is_person)
        }
        ArchiveRecord::Room(_) => false,
    }
}

/// The least bytes that a row adds to a page: rows that have [`PAGE_BYTES_MAX`] of them fill it.
pub fn row_bytes(row: &ArchiveRow) -> usize {
    match &row.record {
        ArchiveRecord::Message(message) => message.stanza.payload.len(),
        ArchiveRecord::Room(
            RoomEvent::Message { stanza, .. } | RoomEvent::Subject { stanza, .. },
        ) => stanza.payload.len(),
        ArchiveRecord::Room(_) => 0,
    }
}

/// The page: messages to the asker, and the payload of the iq result that follows them.
///
/// `rows` as read: matching, at most [`rows_wanted`] or until they fill the page, newest first for a backward query. `count`: how many match in
/// all, where that is known cheaply. `real_jids`: whether the asker may see who is behind a room's nicknames.
pub fn page(
    query: &ArchiveQuery,
    mut rows: Vec<ArchiveRow>,
    count: Option<u64>,
    real_jids: bool,
    ids: &ArchiveIds,
) -> Reply {
    let mut complete = rows.len() <= query.max as usize;
    rows.truncate(query.max as usize);
    let mut messages: Vec<Bytes> = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for row in &rows {
        let message = result(query, row, real_jids, ids);
        // The first one always fits, or nobody could ever read on.
        if !messages.is_empty() && bytes + message.len() > PAGE_BYTES_MAX {
            complete = false;
            break;
        }
        bytes += message.len();
        messages.push(message);
    }
    if bytes >= PAGE_BYTES_MAX {
        // The shell reads no further than a full page.
        complete = false;
    }
    rows.truncate(messages.len());
    if query.backward {
        rows.reverse();
        messages.reverse();
    }
    if query.flip {
        messages.reverse();
    }
    Reply::Page {
        messages,
        fin: fin(&rows, complete, count, ids),
    }
}

/// XEP-0313 §4.2.
fn result(query: &ArchiveQuery, row: &ArchiveRow, real_jids: bool, ids: &ArchiveIds) -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start("message")
        .attr("from", row.key.as_str())
        .attr("to", query.asker.as_str());
    out.start_ns("result", ns::MAM)
        .attr_opt("queryid", query.query_id.as_deref())
        .attr("id", &ids.id(&row.key, row.seq));
    out.start_ns("forwarded", ns::FORWARD);
    out.start_ns("delay", ns::DELAY)
        .attr("stamp", &stamp(row.time_ms))
        .end();
    match &row.record {
        ArchiveRecord::Message(message) => {
            let stanza = &message.stanza;
            let (from, to) = (
                stanza.from.as_ref().map(Jid::as_str),
                stanza.to.as_ref().map(Jid::as_str),
            );
            start_message(&mut out, stanza, from, to);
        }
        ArchiveRecord::Room(
            RoomEvent::Message {
                sender,
                nick,
                occupant_id,
                stanza,
                ..
            }
            | RoomEvent::Subject {
                sender,
                nick,
                occupant_id,
                stanza,
                ..
            },
        ) => {
            // XEP-0313 §5.1.2: from the occupant JID, without `to`.
            let mut from = String::with_capacity(row.key.as_str().len() + 1 + nick.len());
            from.push_str(row.key.as_str());
            if !nick.is_empty() {
                from.push('/');
                from.push_str(nick);
            }
            start_message(&mut out, stanza, Some(&from), None);
            out.start_ns("occupant-id", ns::OCCUPANT_ID)
                .attr("id", occupant_id)
                .end();
            if real_jids {
                out.start_ns("x", ns::MUC_USER)
                    .start("item")
                    .attr("jid", sender.as_str())
                    .end()
                    .end();
            }
        }
        ArchiveRecord::Room(_) => {
            out.start_ns("message", ns::CLIENT);
        }
    }
    out.finish()
}

fn start_message(out: &mut XmlWriter, stanza: &Stanza, from: Option<&str>, to: Option<&str>) {
    out.start_ns("message", ns::CLIENT)
        .attr_opt("from", from)
        .attr_opt("to", to);
    out.attr_opt("id", stanza.id.as_deref())
        .attr_opt("type", stanza.type_.as_deref());
    out.attr_opt("xml:lang", stanza.lang.as_deref());
    out.raw(&stanza.payload);
}

/// XEP-0313 §4.3: first and last in the archive's order, whatever the order of sending.
fn fin(rows: &[ArchiveRow], complete: bool, count: Option<u64>, ids: &ArchiveIds) -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns("fin", ns::MAM);
    if complete {
        out.attr("complete", "true");
    }
    out.start_ns("set", ns::RSM);
    if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
        out.leaf("first", &ids.id(&first.key, first.seq))
            .leaf("last", &ids.id(&last.key, last.seq));
    }
    if let Some(count) = count {
        out.leaf("count", &count.to_string());
    }
    out.finish()
}

/// The payload of the answer to `<metadata/>`: the oldest and the newest message. XEP-0313 §5.
pub fn metadata_payload(
    oldest: Option<&ArchiveRow>,
    newest: Option<&ArchiveRow>,
    ids: &ArchiveIds,
) -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns("metadata", ns::MAM);
    if let (Some(oldest), Some(newest)) = (oldest, newest) {
        for (name, row) in [("start", oldest), ("end", newest)] {
            out.start(name)
                .attr("id", &ids.id(&row.key, row.seq))
                .attr("timestamp", &stamp(row.time_ms))
                .end();
        }
    }
    out.finish()
}

/// The payload of the answer to `<query/>` in an iq get: the fields of a query. XEP-0313 §4.1.5.
pub fn form_payload() -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns("query", ns::MAM)
        .start_ns("x", ns::DATA_FORM)
        .attr("type", "form");
    out.start("field")
        .attr("type", "hidden")
        .attr("var", "FORM_TYPE")
        .leaf("value", ns::MAM)
        .end();
    let fields = [
        ("jid-single", "with"),
        ("text-single", "start"),
        ("text-single", "end"),
        ("text-single", "before-id"),
        ("text-single", "after-id"),
    ];
    for (type_, var) in fields {
        out.start("field")
            .attr("type", type_)
            .attr("var", var)
            .end();
    }
    out.start("field")
        .attr("type", "list-multi")
        .attr("var", "ids");
    out.start_ns("validate", ns::DATA_FORM_VALIDATE)
        .attr("datatype", "xs:string")
        .start("open");
    out.finish()
}

/// A time stamp, XEP-0082.
pub fn stamp(time_ms: u64) -> String {
    let nanos = i128::from(time_ms) * 1_000_000;
    let time =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (time.date(), time.time());
    let mut text = String::with_capacity(24);
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond(),
    );
    text
}

fn parse_time(text: &str) -> Result<u64, StanzaError> {
    let time = OffsetDateTime::parse(text.trim(), &Rfc3339)
        .map_err(|_| bad_request("A time is not as in XEP-0082."))?;
    let ms = time.unix_timestamp_nanos().div_euclid(1_000_000);
    // Before 1970 there is nothing.
    Ok(u64::try_from(ms.max(0)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
