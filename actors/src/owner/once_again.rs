//! What an owner may have taken with it, or a broken connection: told once more to a node that attaches.
//!
//! Effects that stand in no row ([`messaging::effect::Effect::once`]) are kept by every replica for a few seconds
//! ([`cluster::recent_effects`]). A node that attaches has missed some, perhaps: after the old owner's death, or since its
//! frames were lost. Its sessions are told all of those that concern them; the others are not.

use cluster::node_id::NodeId;
use xmpp::jid::BareJid;

use super::OwnerActor;
use crate::publication::ToPublication;
use crate::room::ToRoom;

impl OwnerActor {
    /// A node has attached, and its users and rooms know its sessions.
    pub(super) fn tell_again(&mut self, node: NodeId) {
        let untold = self.place().replica.untold(self.time_ms());
        for (user, effects) in untold.users {
            let node = Some(node);
            self.tell_publication(&user, false, ToPublication::Again { node, effects });
        }
        for (room, deliveries) in untold.rooms {
            self.tell_room(&room, ToRoom::Again { node, deliveries });
        }
    }

    /// A reign begins: whoever may no longer see a user must not wait for a node that may be dead.
    pub(super) fn tell_again_of_expected<'a>(
        &mut self,
        expected: impl Iterator<Item = &'a BareJid>,
    ) {
        let mut untold = self.place().replica.untold(self.time_ms());
        for user in expected {
            if let Some(effects) = untold.users.remove(user) {
                let node = None;
                self.tell_publication(user, false, ToPublication::Again { node, effects });
            }
        }
    }
}
