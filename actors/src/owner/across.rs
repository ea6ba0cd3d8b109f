//! Frames of other owners, and the outbox.

use std::sync::Arc;
use std::time::Instant;

use actix::Context;
use cluster::link::outbox::OutboxAction;
use cluster::link::protocol::Across;
use cluster::node_id::NodeId;
use messaging::link_record::LinkOrigin;

use super::OwnerActor;
use crate::publication::ToPublication;

impl OwnerActor {
    pub(super) fn across(&mut self, from_node: NodeId, across: Across, _ctx: &mut Context<Self>) {
        let fabric = Arc::clone(&self.fabric);
        let Some(reign) = &mut self.reign else {
            // Outboxes send again by themselves; presence converges by probes.
            return;
        };
        match across {
            Across::OutboxPropose {
                from,
                sequence,
                command,
            } => {
                let replica = &fabric.partitions[usize::from(self.partition.0)].replica;
                let record = |origin: LinkOrigin| replica.state().links.get(&origin).cloned();
                reign.target.handle_outbox(from_node, from, sequence, command, &record);
            }
            Across::OutboxAnswer { by, sequence, refused } => {
                reign.outbox.answered(by, sequence, refused, Instant::now())
            }
            Across::OutboxHole { by, expected } => reign.outbox.hole(by, expected, Instant::now()),
            Across::Presence { targets, stanza } => {
                let stanza = Arc::new(stanza);
                for target in targets {
                    self.tell_publication(&target, false, ToPublication::PresenceIn(Arc::clone(&stanza)));
                }
            }
            Across::Probe { from, targets } => {
                for target in targets {
                    self.tell_publication(&target, true, ToPublication::Probe(from.clone()));
                }
            }
            Across::Stanza(stanza) => {
                if let Some(to) = stanza.to.as_ref().map(|to| to.bare()) {
                    self.tell_publication(&to, true, ToPublication::Stanza(stanza));
                }
            }
            Across::OwnerHint { .. } => {}
        }
    }

    pub(super) fn outbox_action(&mut self, action: OutboxAction) {
        match action {
            OutboxAction::Send {
                to,
                epoch,
                target,
                across,
            } => {
                if let Err(error) = self.fabric.send_across(to, target, epoch, &across) {
                    tracing::debug!(%error, %to, "an outbox entry did not leave; it is sent again");
                }
            }
            OutboxAction::Propose(command) => self.propose_own(command),
        }
    }
}
