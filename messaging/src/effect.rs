//! What must be done after a command was applied. Every replica files [`Effect::Archive`]; the rest is the owner's.
//!
//! Effects carry all that their execution needs as of their place in the log, so that an actor that runs behind the
//! log still does the right thing (the occupants of an event are those of that moment).

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;

use crate::archive::ArchiveRow;
use crate::command::Answer;
use crate::link_record::LinkOrigin;
use crate::outbox::{OutboxEntry, OutboxKey};
use crate::room::effect::RoomEffect;
use crate::user::archive_page::row_bytes;
use crate::user::roster::RosterItem;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// File a row; on every replica, before anything else of the chunk is shown.
    Archive(Arc<ArchiveRow>),
    /// Drop a key's archive (a removed account, a destroyed room).
    DropArchive {
        /// Whose.
        key: BareJid,
        /// Its last row. Rows behind it are those of a key made again: a replica that is filled from another may have them
        /// already, and must not lose them.
        upto: u64,
    },
    /// Drop a room's events up to a row; archived messages stay ([`crate::room::depth`]).
    TrimEvents {
        /// Which room's.
        room: BareJid,
        /// The last row that goes.
        upto: u64,
    },
    /// Tell the origin its proposal's outcome.
    Answer {
        /// Who asked.
        origin: LinkOrigin,
        /// Its incarnation.
        incarnation: u64,
        /// Its number.
        sequence: u64,
        /// The outcome.
        answer: Answer,
    },
    /// A new outbox entry to send.
    Outbox {
        /// Its key.
        key: OutboxKey,
        /// The entry.
        entry: Arc<OutboxEntry>,
    },
    /// For a user's sessions.
    User(BareJid, UserEffect),
    /// For a room's occupants.
    Room(BareJid, RoomEffect),
}

impl Effect {
    /// What is told only once: no row, answer or outbox entry brings it again when an owner dies before it was told.
    ///
    /// Every one of these may be told twice, as long as it still holds ([`crate::user::publication::Publication::once_again`]):
    /// a lost one a client would miss for ever. Its node leaves out what it has heard before ([`EffectMark`]); a contact who is
    /// told the same presence again is where it was. Left out is [`RoomEffect::ReflectAgain`]: it shows
    /// a row, and no row may reach a session twice; a client without its reflection tries again, and is answered again.
    pub fn once(&self) -> Option<Once> {
        match self {
            // What was not told before its session was in the log is told by whom its node brings it to.
            Effect::User(_, UserEffect::Noted(_)) => None,
            Effect::User(user, effect) if !matches!(effect, UserEffect::Logged { .. }) => {
                Some(Once::User(user.clone(), effect.clone()))
            }
            Effect::Room(room, RoomEffect::Deliver { to, stanza }) => Some(Once::Room(
                room.clone(),
                RoomDelivery {
                    to: to.clone(),
                    stanza: stanza.clone(),
                },
            )),
            _ => None,
        }
    }
}

/// Which effect of a partition's log it is, the same on every replica: by it a node knows what it was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EffectMark(pub u64);

impl EffectMark {
    /// The effect at this place among those of the entry with this index that remain when its rows are filed.
    pub fn of(index: u64, place: usize) -> EffectMark {
        // An entry of 4 MiB has far fewer effects than 2^24, and a log never 2^40 entries.
        EffectMark((index << 24) | (place as u64 & 0xff_ffff))
    }
}

/// See [`Effect::once`].
#[derive(Clone, Debug)]
pub enum Once {
    /// For a user's sessions; never [`UserEffect::Logged`].
    User(BareJid, UserEffect),
    /// For a session, by a room.
    Room(BareJid, RoomDelivery),
}

/// [`RoomEffect::Deliver`].
#[derive(Clone, Debug)]
pub struct RoomDelivery {
    /// To whom.
    pub to: FullJid,
    /// What.
    pub stanza: Stanza,
}

impl Once {
    /// About how many bytes it takes.
    pub fn size_hint(&self) -> usize {
        let told = match self {
            Once::User(_, effect) => effect.size_hint(),
            Once::Room(_, delivery) => delivery.stanza.size_hint(),
        };
        std::mem::size_of::<Once>() + told
    }
}

/// Something to do for the sessions of one user.
#[derive(Clone, Debug)]
pub enum UserEffect {
    /// A row was added to the user's log; delivery (and carbons) by its route.
    Logged {
        /// The sequence of the row before.
        previous: u64,
        /// The row.
        row: Arc<ArchiveRow>,
        /// Sessions that get it besides the one that it is for.
        also: Vec<FullJid>,
        /// The session that sent it, for rows that the user sent: it gets no carbon.
        sender: Option<FullJid>,
    },
    /// RFC 6121 §2.1.6: a roster push to interested sessions.
    RosterPush {
        /// The contact.
        contact: BareJid,
        /// The item; `None`: removed.
        item: Option<RosterItem>,
        /// The new roster version.
        version: u64,
    },
    /// XEP-0191 §3.3–3.4: a push to sessions that asked for the list; presence follows the change.
    BlocklistPush {
        /// The `<block/>` or `<unblock/>` element.
        payload: Bytes,
        /// Newly blocked: they get unavailable.
        blocked: Vec<xmpp::jid::Jid>,
        /// Newly unblocked: they get the current presence.
        unblocked: Vec<xmpp::jid::Jid>,
    },
    /// A subscription stanza for the sessions that are interested in the roster; type subscribe: for those that are available.
    Subscription(Stanza),
    /// The contact may now see the user, and was told so: send the current presence of each session.
    PresenceTo(BareJid),
    /// The contact may no longer see the user: send unavailable from each session.
    UnavailableTo(BareJid),
    /// An error for one of the user's sessions.
    Bounce {
        /// The session that sent what was refused.
        session: FullJid,
        /// The error stanza.
        stanza: Stanza,
    },
    /// The log says that this session is up: whoever owns the user next expects it, so that others may see it now.
    Noted(FullJid),
    /// The account is gone: end the sessions (`not-authorized` by the shell).
    AccountRemoved,
}

impl UserEffect {
    /// About how many bytes it holds that somebody sent.
    pub fn size_hint(&self) -> usize {
        match self {
            UserEffect::Logged { row, .. } => row_bytes(row),
            UserEffect::RosterPush { item, .. } => {
                let item = item.iter();
                item.map(|item| {
                    let name = item.name.as_deref().map_or(0, str::len);
                    let groups: usize = item.groups.iter().map(|group| group.len() + 24).sum();
                    let request = item.pending_in.as_ref();
                    name + groups + request.map_or(0, |request| request.payload.len())
                })
                .sum()
            }
            UserEffect::BlocklistPush {
                payload,
                blocked,
                unblocked,
            } => {
                let jids = blocked.iter().chain(unblocked);
                payload.len() + jids.map(|jid| jid.as_str().len() + 16).sum::<usize>()
            }
            UserEffect::Subscription(stanza) | UserEffect::Bounce { stanza, .. } => {
                stanza.size_hint()
            }
            UserEffect::PresenceTo(_)
            | UserEffect::UnavailableTo(_)
            | UserEffect::Noted(_)
            | UserEffect::AccountRemoved => 0,
        }
    }
}
