//! Sessions that go from one node to another, as their nodes' links hear of it.

use cluster::link::protocol::{Moving, Publish};
use messaging::user::publication::{SessionEvent, SessionKey};

use super::LinkActor;
use crate::adoption::take_in;
use crate::session::{ToSession, unavailable};

impl LinkActor {
    pub(super) fn moving(&mut self, moving: Moving) {
        match moving {
            Moving::Yield { session, to } => {
                let wanted = to.key.clone();
                if !self.tell_session(&session, ToSession::Yield(Box::new(to))) {
                    // Its goodbye is on its way.
                    let (key, to) = (session, wanted);
                    self.say(SessionEvent::Stays { key, to });
                }
            }
            Moving::Release { session, to } => {
                // Behind all that was delivered to it, and before anything of its new place.
                let stanza = unavailable(&session.jid);
                self.note_event(&SessionEvent::Down {
                    key: session.clone(),
                    stanza,
                });
                self.tell_session(&session, ToSession::Release(to));
            }
            Moving::Stay { session, to } => {
                self.tell_session(&session, ToSession::Stay(to));
            }
            Moving::Adopt { jid, token } => take_in(&self.fabric, jid, &token),
            Moving::Parked(part) => self.fabric.berths.part(part),
        }
    }

    /// `false`: it is not here.
    fn tell_session(&self, session: &SessionKey, message: ToSession) -> bool {
        let entry = self.fabric.directory.find(&session.jid, session.number);
        entry.is_some_and(|entry| entry.session.try_send(message).is_ok())
    }

    fn say(&mut self, event: SessionEvent) {
        let said = self
            .core
            .publish(None, Publish::Session(event), std::time::Instant::now());
        if said.is_err() {
            tracing::debug!("whoever wants a session that is gone hears of it with its goodbye");
        }
    }
}
