//! Frames of other owners, and the outbox.

use std::sync::Arc;
use std::time::Instant;

use actix::Context;
use cluster::link::outbox::OutboxAction;
use cluster::link::protocol::Across;
use cluster::node_id::NodeId;
use messaging::link_record::LinkOrigin;

use super::OwnerActor;

impl OwnerActor {
    pub(super) fn across(&mut self, from_node: NodeId, across: Across, _ctx: &mut Context<Self>) {
        let fabric = Arc::clone(&self.fabric);
        let Some(reign) = &mut self.reign else {
            // Outboxes send again by themselves.
            return self.hand_on(across);
        };
        match across {
            Across::OutboxPropose {
                from,
                sequence,
                command,
            } => {
                let replica = &fabric.partitions[usize::from(self.partition.0)].replica;
                let record = |origin: LinkOrigin| replica.state().links.get(&origin).cloned();
                reign
                    .target
                    .handle_outbox(from_node, from, sequence, command, &record);
            }
            Across::OutboxAnswer {
                by,
                sequence,
                refused,
            } => reign.outbox.answered(by, sequence, refused, Instant::now()),
            Across::OutboxHole { by, expected } => reign.outbox.hole(by, expected, Instant::now()),
            Across::Presence { behind, .. } | Across::Stanza { behind, .. } => {
                self.soft_behind(behind, across)
            }
            Across::Probe { .. } => self.soft(across),
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
