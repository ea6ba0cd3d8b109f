//! A session of another node on its way here (XEP-0198 §5), because its client has come here or its node is to be emptied.
//!
//! ```text
//!   claim the address ─► ask the owner ─► Moved ─► the parts arrive ─► a session without a connection
//!        │ what is delivered meanwhile waits in its mailbox ──────────────────►│
//!        └──────────────── given back, unless it comes that far ───────────────┘
//! ```
//!
//! Invariant: the address is in the directory before the owner is asked, so that nothing that the owner or a room sends to
//! the session's new place finds nobody; and what was delivered to its old place, which the parts bring, comes first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{AsyncContext as _, Context};
use cluster::link::parked::{Arrival, ParkedPart, ParkedSession};
use cluster::link::protocol::{AskReply, Publish};
use messaging::command::{Answer, Command};
use messaging::room::command::{RoomAction, RoomCommand};
use messaging::user::publication::{MoveRequest, ResumptionToken, SessionEvent, SessionKey};
use tokio::sync::{mpsc, oneshot};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza_error::Condition;
use xmpp::stream_management::ResumptionId;

use crate::connections::Connection;
use crate::directory::Entry;
use crate::fabric::Fabric;
use crate::link::{Caller, Outcome, ToLink, tell};
use crate::mailbox::SessionMailbox;
use crate::session::{Adopted, Granted, SessionActor, ToSession, unavailable};

/// How long the other node may take to hand a session over once it is this one's: the rooms have to move as well.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(20);

/// Parts that may wait for a session: more than it may have.
const PARTS_MAX: usize = 64;

/// Sessions that are on their way here.
#[derive(Default)]
pub struct Berths {
    open: Mutex<HashMap<SessionKey, mpsc::Sender<ParkedPart>>>,
}

/// The session does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdopted {
    /// The owner knows of none, or its node keeps it.
    #[error("there is no such session")]
    Refused,
    /// Its address is taken on this node by now.
    #[error("a session of that address is here")]
    Taken,
    /// Nobody could be asked, or nothing came.
    #[error("the session was not handed over in time")]
    Unknown,
}

impl Berths {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, mpsc::Sender<ParkedPart>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, key: &SessionKey) -> mpsc::Receiver<ParkedPart> {
        let (sender, receiver) = mpsc::channel(PARTS_MAX);
        self.lock().insert(key.clone(), sender);
        receiver
    }

    fn close(&self, key: &SessionKey) {
        self.lock().remove(key);
    }

    /// A part of a session has come.
    pub fn part(&self, part: ParkedPart) {
        let berth = self.lock().get(&part.to).cloned();
        if berth.is_none_or(|berth| berth.try_send(part).is_err()) {
            tracing::debug!("a part of a session came that nobody waits for");
        }
    }
}

/// A session's place here until it comes.
struct Berth {
    fabric: Arc<Fabric>,
    request: MoveRequest,
    mailbox: Arc<SessionMailbox>,
    parts: mpsc::Receiver<ParkedPart>,
    /// A stop of the node waits for it.
    at_stop: Option<Connection>,
    /// Taken by the session.
    place: Option<Context<SessionActor>>,
}

/// Brings a session here whose client has come here. It waits without a connection then.
///
/// # Errors
/// [`NotAdopted`].
pub async fn adopt(fabric: &Arc<Fabric>, id: &ResumptionId) -> Result<(), NotAdopted> {
    adopt_by(fabric, id, ResumptionToken::asked(id.text())).await
}

async fn adopt_by(
    fabric: &Arc<Fabric>,
    id: &ResumptionId,
    token: ResumptionToken,
) -> Result<(), NotAdopted> {
    let mut berth = Berth::open(fabric, id, token).ok_or(NotAdopted::Taken)?;
    match berth.ask().await {
        Outcome::Replied(AskReply::Moved(_)) => {}
        Outcome::Replied(AskReply::Refused(error))
            if error.condition == Condition::ItemNotFound =>
        {
            return Err(NotAdopted::Refused);
        }
        // Whoever is refused for another reason may find it later.
        _ => return Err(NotAdopted::Unknown),
    }
    let arrived = tokio::time::timeout(HANDED_OVER_WITHIN, berth.arrival()).await;
    let parked = arrived.ok().flatten().ok_or(NotAdopted::Unknown)?;
    if parked.token.0 != id.text() {
        return Err(NotAdopted::Refused);
    }
    berth.begin(parked, id.clone());
    Ok(())
}

impl Berth {
    fn open(fabric: &Arc<Fabric>, id: &ResumptionId, token: ResumptionToken) -> Option<Berth> {
        let jid = id.jid().clone();
        let key = SessionKey {
            node: fabric.node.0,
            number: fabric.next_session_number(),
            jid: jid.clone(),
        };
        let mut place = Context::new();
        place.set_mailbox_capacity(SessionActor::MAILBOX);
        let bytes_max = fabric.settings.client.outgoing_bytes_max;
        let mailbox = SessionMailbox::new(place.address(), bytes_max).of(jid.bare());
        mailbox.connected_after(fabric.standstill.times());
        let mailbox = Arc::new(mailbox);
        let entry = Entry {
            number: key.number,
            session: Arc::clone(&mailbox),
        };
        if !fabric.directory.claim_if_free(jid, entry) {
            return None;
        }
        Some(Berth {
            fabric: Arc::clone(fabric),
            parts: fabric.berths.open(&key),
            request: MoveRequest {
                key,
                incarnation: fabric.incarnation.0,
                token,
            },
            mailbox,
            at_stop: Some(fabric.connections.open()),
            place: Some(place),
        })
    }

    async fn ask(&self) -> Outcome {
        let (sender, receiver) = oneshot::channel();
        let Some(link) = self.fabric.link_of(&self.request.key.jid.bare()) else {
            return Outcome::Full;
        };
        let adopt = ToLink::Adopt {
            caller: Caller::Task(sender),
            request: self.request.clone(),
            mailbox: Arc::clone(&self.mailbox),
        };
        if link.send(adopt).await.is_err() {
            return Outcome::NotDone;
        }
        receiver.await.unwrap_or(Outcome::NotDone)
    }

    async fn arrival(&mut self) -> Option<ParkedSession> {
        let mut arrival = Arrival::default();
        loop {
            let part = self.parts.recv().await?;
            match arrival.part(&part) {
                Ok(None) => {}
                Ok(Some(parked)) => return Some(parked),
                Err(error) => {
                    tracing::warn!(%error, "a session that was handed over does not read");
                    return None;
                }
            }
        }
    }

    fn begin(mut self, parked: ParkedSession, id: ResumptionId) {
        let (Some(place), Some(place_at_stop)) = (self.place.take(), self.at_stop.take()) else {
            return;
        };
        self.fabric.berths.close(&self.request.key);
        self.fabric.metrics.sessions_adopted.inc();
        let adopted = Adopted {
            fabric: Arc::clone(&self.fabric),
            key: self.request.key.clone(),
            mailbox: Arc::clone(&self.mailbox),
            parked,
            id,
            place_at_stop,
        };
        SessionActor::adopt(adopted, place);
    }

    /// Leaves the rooms that it is in by now; whoever waits for it looks elsewhere.
    fn let_go(&self) {
        let key = &self.request.key;
        let of = (key.node, self.request.incarnation, key.number);
        while let Some(piece) = self.mailbox.take() {
            match piece {
                ToSession::Entered { room, .. } => leave(&self.fabric, &room, &key.jid, of),
                ToSession::Resume(request) => {
                    // Whoever is gone need not be told.
                    let _ = request.granted.send(Granted::Elsewhere);
                }
                _ => {}
            }
        }
    }
}

/// Says goodbye to a room for a stay.
fn leave(fabric: &Fabric, room: &BareJid, by: &FullJid, of: (u64, u64, u64)) {
    let presence = unavailable(by);
    let command = Command::Room(RoomCommand {
        room: room.clone(),
        by: by.clone(),
        account: 0,
        action: RoomAction::Leave {
            presence,
            of: Some(of),
        },
    });
    let (caller, command) = (Caller::Nobody, Box::new(command));
    if let Some(link) = fabric.link_of(room) {
        tell(link, ToLink::Propose { caller, command });
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if self.place.is_none() {
            return;
        }
        let key = self.request.key.clone();
        self.fabric.berths.close(&key);
        self.fabric.directory.release(&key.jid, key.number);
        self.let_go();
        let Some(link) = self.fabric.link_of(&key.jid.bare()) else {
            return;
        };
        let stanza = unavailable(&key.jid);
        let publish = Box::new(Publish::Session(SessionEvent::Down { key, stanza }));
        let caller = None;
        tell(link, ToLink::Publish { caller, publish });
    }
}

/// Brings a session here whose node is to be emptied; nobody waits for it.
pub fn take_in(fabric: &Arc<Fabric>, jid: FullJid, token: &ResumptionToken) {
    let id = fabric.resumption_ids.read(&token.0);
    let Some(id) = id.filter(|id| *id.jid() == jid && fabric.standing.takes_logins()) else {
        return;
    };
    let fabric = Arc::clone(fabric);
    actix_rt::spawn(async move {
        let token = ResumptionToken::unasked(id.text());
        if let Err(error) = adopt_by(&fabric, &id, token).await {
            tracing::debug!(%jid, %error, "a session was not taken in");
        }
    });
}

/// Moves a session's stay in rooms to its new node; gives those in which it is not, or not any more.
pub async fn move_stays(
    fabric: Arc<Fabric>,
    rooms: Vec<BareJid>,
    (by, account): (FullJid, u64),
    (from, to): ((u64, u64, u64), (u64, u64, u64)),
) -> Vec<BareJid> {
    use futures_util::StreamExt as _;
    let moved = rooms.into_iter().map(|room| {
        let (fabric, by) = (Arc::clone(&fabric), by.clone());
        async move {
            let action = RoomAction::Move { from, to };
            let command = Command::Room(RoomCommand {
                room: room.clone(),
                by: by.clone(),
                account,
                action,
            });
            match crate::negotiation::propose(&fabric, &room, command).await {
                Outcome::Answered(Answer::Done { seq: 1.. }) => None,
                Outcome::Answered(_) => Some(room),
                _ => {
                    // Nobody is left here to stay there. If it moves after all, this ends nothing.
                    leave(&fabric, &room, &by, from);
                    Some(room)
                }
            }
        }
    });
    let moved = futures_util::stream::iter(moved).buffer_unordered(ROOMS_AT_ONCE);
    moved.filter_map(|room| async move { room }).collect().await
}

/// Rooms that one session moves at once: links have room for others.
const ROOMS_AT_ONCE: usize = 16;
