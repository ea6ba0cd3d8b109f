//! The pool's version reaches the partition: by an entry of its own log, which its owner commits.
//!
//! Invariant: the entry may be committed twice or by two owners, and late: apply takes the highest. While it is not applied
//! here, this owner writes as of the version before; whoever owns the partition next sees from the log what is missing, so
//! an owner that rests proposes none.

use actix::Context;
use messaging::command::Entry;

use super::batch::SUBMISSION_MAX;
use super::{OwnerActor, Reign};

impl OwnerActor {
    /// Brings the partition to the pool's version, if it is behind. Looked at with every tick.
    pub(super) fn raise(&mut self, ctx: &mut Context<Self>) {
        let wanted = u32::from(self.fabric.may_write());
        let version = self.place().replica.version();
        let may = |reign: &&mut Reign| !reign.raising && reign.rest.is_none();
        let Some(reign) = self.reign.as_mut().filter(may) else {
            return;
        };
        if version >= wanted {
            return;
        }
        let entry = Entry::Version { version: wanted };
        let payload = match cluster::records::encode_entry(entry, version) {
            Ok(payload) => payload,
            Err(error) => return tracing::error!(%error, "a version could not be encoded"),
        };
        reign.raising = true;
        let epoch = reign.epoch;
        let submission = self.place().group.submit(payload);
        let submission = tokio::time::timeout(SUBMISSION_MAX, submission);
        self.spawn(ctx, submission, move |actor, outcome, _| {
            let reign = actor.reign.as_mut();
            if let Some(reign) = reign.filter(|reign| reign.epoch == epoch) {
                reign.raising = false;
            }
            if !matches!(outcome, Ok(Ok(_))) {
                tracing::debug!(partition = %actor.partition, wanted, "the version was not committed yet; tried again");
            }
        });
    }
}
