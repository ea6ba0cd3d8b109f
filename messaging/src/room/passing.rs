//! What goes through a room without being filed: chat states, markers, messages that ask not to be stored.
//!
//! Judged by the same rights as what is filed, read from the owner's state at the time.

use xmpp::jid::{BareJid, FullJid};
use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::write::XmlWriter;

use super::message::may_speak;
use super::private_message::may_whisper;
use super::refusal::Refusal;
use super::render::{Renderer, Rendering, private_payload, sender_jid};
use crate::state::State;

/// A message that isn't filed; the stanza is stripped of what only servers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passing {
    /// For everybody.
    Groupchat {
        /// The message.
        stanza: Stanza,
    },
    /// For one occupant.
    Private {
        /// Whom.
        nick: String,
        /// The message.
        stanza: Stanza,
    },
}

/// The stanzas for the occupants who get it.
///
/// # Errors
/// As for a message that is filed.
pub fn pass(
    state: &State,
    renderer: &Renderer,
    room: &BareJid,
    by: &FullJid,
    passing: &Passing,
) -> Result<Vec<Rendering>, Refusal> {
    let record = state
        .rooms
        .get(room)
        .filter(|record| !record.locked)
        .ok_or(Refusal::NoSuchRoom)?;
    let sender = state
        .occupants
        .get(&(room.clone(), by.clone()))
        .ok_or(Refusal::NotOccupant)?;
    let occupants = state.room_views.peek(&state.occupants, room);
    let occupant_id = renderer.occupant_id(room, sender);
    let from = Some(sender_jid(room, &sender.nick));
    let (stanza, targets) = match passing {
        Passing::Groupchat { stanza } => {
            may_speak(sender, record, false)?;
            let mut writer = XmlWriter::new(ns::CLIENT);
            writer.raw(&stanza.payload);
            writer
                .start_ns("occupant-id", ns::OCCUPANT_ID)
                .attr("id", &occupant_id)
                .end();
            let targets = occupants
                .iter()
                .map(|occupant| occupant.jid.clone())
                .collect();
            (
                Stanza {
                    from,
                    to: None,
                    payload: writer.finish(),
                    ..stanza.clone()
                },
                targets,
            )
        }
        Passing::Private { nick, stanza } => {
            if !may_whisper(sender.role, record.config.private_messages) {
                return Err(Refusal::Forbidden);
            }
            let targets: Vec<FullJid> = occupants
                .iter()
                .filter(|occupant| occupant.nick == *nick)
                .map(|o| o.jid.clone())
                .collect();
            if targets.is_empty() {
                return Err(Refusal::NoSuchOccupant);
            }
            let payload = private_payload(&stanza.payload, &occupant_id);
            (
                Stanza {
                    from,
                    to: None,
                    payload,
                    ..stanza.clone()
                },
                targets,
            )
        }
    };
    Ok(vec![Rendering::new(&stanza, targets)])
}
