//! A message to one occupant: both sides' archives get it, by the outbox. XEP-0045 §7.5.

use std::sync::Arc;

use xmpp::jid::{FullJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};

use super::message::{already_sent, remember_sent};
use super::refusal::Refusal;
use super::render::private_payload;
use super::state::{Occupant, PrivateMessages, Role};
use super::transaction::Transaction;
use crate::command::{Command, ReceiveMessage};
use crate::outbox::{OnAnswer, OutboxEntry};

/// §7.5. The answer's sequence is the room's head at the time: private messages are no rows of the room.
pub(super) fn send(
    tx: &mut Transaction<'_, '_>,
    nick: &str,
    stanza: Stanza,
    origin_id: Option<String>,
) -> Result<u64, Refusal> {
    let record = tx.unlocked()?;
    let (base, head, allowed) = (record.base, record.head, record.config.private_messages);
    // Under its own name, so that the id of a private message never stands for one to the room.
    let origin_id = origin_id.map(|id| format!("/{nick}/{id}"));
    if let Some(seq) = origin_id
        .as_deref()
        .and_then(|id| already_sent(tx, id, base))
    {
        return Ok(seq);
    }
    let sender = tx.sender().cloned().ok_or(Refusal::NotOccupant)?;
    if !may_whisper(sender.role, allowed) {
        return Err(Refusal::Forbidden);
    }
    // Several sessions under the nickname: all get it, as one row. It is for the one that joined last, and waits for that
    // one's acknowledgement.
    let mut sessions = tx.sessions_under(nick);
    sessions.sort_by_key(|occupant| occupant.joined);
    let recipient = sessions.pop().ok_or(Refusal::NoSuchOccupant)?;
    let (person, sent_by) = (recipient.jid.bare(), tx.by.bare());
    if !tx.ctx.outbox_has_room(tx.state, [&person, &sent_by]) {
        return Err(Refusal::WayFull);
    }
    let also = sessions.iter().map(|other| other.jid.clone()).collect();
    deliver(tx, &sender, &recipient, also, &stanza)?;
    if let Some(origin_id) = origin_id {
        remember_sent(tx, origin_id, head);
    }
    Ok(head)
}

/// `muc#roomconfig_allowpm`.
pub(super) fn may_whisper(role: Role, allowed: PrivateMessages) -> bool {
    match allowed {
        PrivateMessages::Anyone => role >= Role::Visitor,
        PrivateMessages::Participants => role >= Role::Participant,
        PrivateMessages::Moderators => role >= Role::Moderator,
        PrivateMessages::None => false,
    }
}

fn deliver(
    tx: &mut Transaction<'_, '_>,
    sender: &Occupant,
    recipient: &Arc<Occupant>,
    also: Vec<FullJid>,
    stanza: &Stanza,
) -> Result<(), Refusal> {
    let from = tx
        .room
        .with_resource(&sender.nick)
        .map_err(|_| Refusal::NickMalformed)?;
    let to = tx
        .room
        .with_resource(&recipient.nick)
        .map_err(|_| Refusal::NickMalformed)?;
    let payload = private_payload(&stanza.payload, &tx.sender_id());
    let received = Stanza {
        from: Some(Jid::from(&from)),
        to: Some(Jid::from(&recipient.jid)),
        payload,
        ..stanza.clone()
    };
    let refused = Stanza {
        kind: StanzaKind::Message,
        from: Some(Jid::from(tx.by)),
        to: Some(Jid::from(&to)),
        payload: bytes::Bytes::new(),
        ..stanza.clone()
    };
    let sent = Stanza {
        from: Some(Jid::from(tx.by)),
        to: Some(Jid::from(&to)),
        ..stanza.clone()
    };
    let receive = ReceiveMessage {
        user: recipient.jid.bare(),
        stanza: received,
        also,
        sender: tx.room.clone(),
        time_ms: tx.ctx.time_ms,
    };
    tx.ctx.outbox(
        tx.state,
        OutboxEntry {
            target: recipient.jid.bare(),
            command: Command::ReceiveMessage(receive),
            on_answer: OnAnswer::Bounce {
                sender: tx.by.clone(),
                stanza: Box::new(refused),
            },
        },
    );
    let user = tx.by.bare();
    tx.ctx.outbox(
        tx.state,
        OutboxEntry {
            target: user.clone(),
            command: Command::FileSent { user, stanza: sent },
            on_answer: OnAnswer::Nothing,
        },
    );
    Ok(())
}
