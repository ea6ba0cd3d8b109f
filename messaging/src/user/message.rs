//! 1:1 messages: from the sender's log through the outbox into the recipient's log.
//!
//! ```text
//!  session ─► SendMessage: row in the sender's log + outbox entry (this commit is the ack)
//!                 │
//!                 └─► ReceiveMessage in the recipient's partition: row + delivery, or a refusal that bounces
//! ```
//!
//! A message to oneself is one row with `sent: false`: it is yet to be delivered.

use bytes::{BufMut, Bytes, BytesMut};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::stanza_error::Condition;
use xmpp::write::XmlWriter;

use super::dedup::SentIds;
use super::{blocking, import, log, streams};
use crate::apply::Context;
use crate::archive::{ArchiveIds, ArchiveRecord, ArchiveRow, MessageRecord};
use crate::command::{Answer, Command, ReceiveMessage, SendMessage};
use crate::outbox::{OnAnswer, OutboxEntry};
use crate::refusal::{refuse, refuse_blocked, refuse_way_full};
use crate::state::State;

/// [`Command::SendMessage`].
pub(crate) fn send(state: &mut State, ctx: &mut Context<'_>, message: SendMessage) -> Answer {
    let counted = message
        .counted
        .map(|counted| (message.sender.bare(), counted));
    let answer = file(state, ctx, message);
    // One that is refused is handled when its sender has been told.
    if let (Some((user, counted)), Answer::Done { .. }) = (&counted, &answer) {
        streams::count(state, ctx.time_ms, user, counted);
    }
    answer
}

fn file(state: &mut State, ctx: &mut Context<'_>, message: SendMessage) -> Answer {
    let SendMessage {
        sender,
        to,
        origin_id,
        mut stanza,
        local,
        counted: _,
    } = message;
    let user = sender.bare();
    let target = to.bare();
    if !import::is_usable(state, &user) {
        return refuse(Condition::NotAuthorized);
    }
    // Before every other rule: a retry gets the outcome of the first attempt, whatever has changed since.
    if let Some(origin_id) = &origin_id
        && let Some(ids) = state.sent_ids.get(&user)
        && let Some(seq) = ids.lookup(&target, origin_id, ctx.time_ms)
    {
        return Answer::Done { seq };
    }
    if blocking::is_blocked(state, &user, &to) {
        return refuse_blocked();
    }
    if !local {
        return refuse(Condition::RemoteServerNotFound);
    }
    let to_oneself = target == user;
    if !to_oneself && !ctx.outbox_has_room(state, [&target]) {
        return refuse_way_full();
    }
    stanza.from = Some(sender.clone().into());
    stanza.to = Some(to.clone());
    let record = MessageRecord {
        sent: !to_oneself,
        peer: to,
        sender: Some(sender.clone()),
        stanza: stanza.clone(),
    };
    let seq = log::append(state, ctx, &user, record, Some(sender.clone()), Vec::new());
    if !to_oneself {
        let on_answer = OnAnswer::Bounce {
            sender,
            stanza: Box::new(without_payload(&stanza)),
        };
        let time_ms = ctx.time_ms;
        let command = Command::ReceiveMessage(ReceiveMessage {
            user: target.clone(),
            stanza,
            also: Vec::new(),
            sender: user.clone(),
            time_ms,
        });
        ctx.outbox(
            state,
            OutboxEntry {
                target: target.clone(),
                command,
                on_answer,
            },
        );
    }
    if let Some(origin_id) = origin_id {
        let ids = state.sent_ids.get_or_insert_with(&user, SentIds::default);
        ids.record(&target, &origin_id, seq, ctx.time_ms);
    }
    Answer::Done { seq }
}

/// [`Command::ReceiveMessage`]. RFC 6121 §8.5.1 and XEP-0191 §3.2: no account and a block look the same; so does an account that is
/// still being imported, whose log has imported rows only ([`import`]).
pub(crate) fn receive(state: &mut State, ctx: &mut Context<'_>, message: ReceiveMessage) -> Answer {
    let ReceiveMessage {
        user,
        stanza,
        also,
        sender,
        time_ms: _,
    } = message;
    let from = stanza.from.clone().unwrap_or_else(|| sender.clone().into());
    if !import::is_usable(state, &user)
        || blocking::is_blocked(state, &user, &from)
        || blocking::is_blocked(state, &user, &Jid::from(sender))
    {
        return refuse(Condition::ServiceUnavailable);
    }
    let record = MessageRecord {
        sent: false,
        peer: from,
        sender: None,
        stanza,
    };
    Answer::Done {
        seq: log::append(state, ctx, &user, record, None, also),
    }
}

/// [`Command::FileSent`]: a copy for the archive of somebody who sent through a room.
pub(crate) fn file_sent(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    stanza: Stanza,
) -> Answer {
    let Some(peer) = stanza.to.clone() else {
        return refuse(Condition::BadRequest);
    };
    if !import::is_usable(state, &user) {
        return refuse(Condition::ItemNotFound);
    }
    let sender: Option<FullJid> = stanza.from.as_ref().and_then(Jid::to_full);
    let record = MessageRecord {
        sent: true,
        peer,
        sender: sender.clone(),
        stanza,
    };
    Answer::Done {
        seq: log::append(state, ctx, &user, record, sender, Vec::new()),
    }
}

/// The message of a user's row as its user may see it, with the archive's `<stanza-id/>` (XEP-0359 §3.2, XEP-0313 §3.2).
///
/// `None` for a row of a room.
pub fn with_stanza_id(row: &ArchiveRow, ids: &ArchiveIds) -> Option<Stanza> {
    let ArchiveRecord::Message(record) = &row.record else {
        return None;
    };
    let mut stanza = record.stanza.clone();
    stanza.payload = payload_with_stanza_id(&stanza, row.key.as_str(), &ids.id(&row.key, row.seq));
    Some(stanza)
}

/// A stanza's payload with one `<stanza-id/>` by this archive; those that claim to be by it are left out.
pub fn payload_with_stanza_id(stanza: &Stanza, by: &str, id: &str) -> Bytes {
    let mut own = XmlWriter::new(ns::CLIENT);
    own.start_ns("stanza-id", ns::STANZA_ID)
        .attr("by", by)
        .attr("id", id)
        .end();
    let own = own.finish();
    let kept = without_stanza_ids_by(stanza, by);
    let mut payload = BytesMut::with_capacity(kept.len() + own.len());
    payload.put_slice(&kept);
    payload.put_slice(&own);
    payload.freeze()
}

/// XEP-0359 §5: nobody but the archive itself says what its ids are.
fn without_stanza_ids_by(stanza: &Stanza, by: &str) -> Bytes {
    let payload = &stanza.payload;
    // Canonical names have no prefix, so most messages need no second look.
    const NAME: &[u8] = b"<stanza-id";
    let named = payload.windows(NAME.len()).any(|window| window == NAME);
    if !named {
        return payload.clone();
    }
    let Ok(document) = stanza.payload_document() else {
        return payload.clone();
    };
    let is_own = |element: &xmpp::scan::Element<'_>| {
        element.is("stanza-id", ns::STANZA_ID)
            && element.attr("by").is_some_and(|value| {
                Jid::parse(&value).map_or(*value == *by, |jid| jid.as_str() == by)
            })
    };
    if !document.roots().any(|element| is_own(&element)) {
        return payload.clone();
    }
    let mut out = XmlWriter::new(ns::CLIENT);
    for element in document.roots().filter(|element| !is_own(element)) {
        out.element(element);
    }
    out.finish()
}

/// Enough of a stanza for an error that answers it: addresses, type and id.
fn without_payload(stanza: &Stanza) -> Stanza {
    Stanza {
        payload: Bytes::new(),
        ..stanza.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xmpp::stanza::StanzaKind;

    fn check(payload: &'static str, expect: &str) {
        let stanza = Stanza {
            payload: Bytes::from_static(payload.as_bytes()),
            ..Stanza::new(StanzaKind::Message)
        };
        let with_id = payload_with_stanza_id(&stanza, "bob@localhost", "7");
        assert_eq!(std::str::from_utf8(&with_id).unwrap(), expect);
    }

    #[test]
    fn only_the_archives_own_id_speaks_for_it() {
        let own = "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost' id='7'/>";
        check("<body>hi</body>", &format!("<body>hi</body>{own}"));
        check(
            "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost' id='forged'/><body>hi</body>",
            &format!("<body>hi</body>{own}"),
        );
        check(
            "<stanza-id xmlns='urn:xmpp:sid:0' by='BOB@localhost' id='forged'/><body>hi</body>",
            &format!("<body>hi</body>{own}"),
        );
        let room = "<stanza-id xmlns='urn:xmpp:sid:0' by='den@conference.localhost' id='1'/><body>hi</body>";
        check(room, &format!("{room}{own}"));
        let inside =
            "<x xmlns='y'><stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost' id='1'/></x>";
        check(inside, &format!("{inside}{own}"));
        check("", own);
    }

    #[test]
    fn a_row_is_shown_with_its_archive_id() {
        let ids = ArchiveIds::new(&[1; 16]);
        let record = MessageRecord {
            sent: false,
            peer: Jid::parse("alice@localhost/a").unwrap(),
            sender: None,
            stanza: Stanza::new(StanzaKind::Message),
        };
        let key = BareJid::parse("bob@localhost").unwrap();
        let row = ArchiveRow {
            key,
            seq: 5,
            time_ms: 0,
            record: ArchiveRecord::Message(record),
        };
        let shown = with_stanza_id(&row, &ids).unwrap();
        let expect = format!(
            "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost' id='{}'/>",
            ids.id(&row.key, 5)
        );
        assert_eq!(std::str::from_utf8(&shown.payload).unwrap(), expect);
    }
}
