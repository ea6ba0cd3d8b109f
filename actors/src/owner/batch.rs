//! Proposals into the log: adaptive batches.

use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};
use messaging::command::{Batch, Command, Entry, Proposal};
use messaging::link_record::LinkOrigin;

use super::OwnerActor;

/// How long a batch may wait for its quorum.
const SUBMISSION_MAX: Duration = Duration::from_secs(5);

impl OwnerActor {
    /// Numbers and queues a proposal of the owner's own.
    pub(super) fn propose_own(&mut self, command: Command) {
        let Some(reign) = &mut self.reign else { return };
        reign.own_sequence += 1;
        let proposal = Proposal {
            origin: LinkOrigin::Owner,
            incarnation: reign.epoch.0,
            sequence: reign.own_sequence,
            command,
        };
        reign.batcher.push(proposal, Instant::now());
    }

    /// Submits the next batch if it is due; `true` if one was.
    pub(super) fn submit_batch(&mut self, ctx: &mut Context<Self>) -> bool {
        let Some(reign) = &mut self.reign else {
            return false;
        };
        let Some(proposals) = reign.batcher.poll_batch(Instant::now()) else {
            return false;
        };
        let epoch = reign.epoch;
        self.fabric.metrics.batches.inc();
        self.fabric.metrics.proposals.inc_by(proposals.len() as u64);
        let batch = Batch {
            epoch: epoch.0,
            time_ms: crate::runtime::now_ms(),
            proposals,
        };
        let payload = match cluster::records::encode_entry(Entry::Batch(batch)) {
            Ok(payload) => payload,
            Err(error) => {
                // Commands are bounded far below a record; this would be a defect, and the numbers in it can't be skipped.
                tracing::error!(%error, "a batch could not be encoded");
                self.end("a batch could not be encoded");
                return false;
            }
        };
        // A leader that lost its followers may wait for ever: then nobody knows, and the origins ask the next owner.
        let submission = tokio::time::timeout(SUBMISSION_MAX, self.place().group.submit(payload));
        self.spawn(ctx, submission, move |actor, outcome, ctx| {
            let Some(reign) = &mut actor.reign else {
                return;
            };
            if reign.epoch != epoch {
                return;
            }
            match outcome {
                Ok(Ok(_)) => {
                    reign.batcher.done();
                    actor.news(ctx);
                }
                Ok(Err(_)) | Err(_) => {
                    // What was in it may or may not be in the log: only a new epoch can tell. Its origins send again.
                    tracing::info!(partition = %actor.partition, "a batch found no quorum");
                    actor.end("a batch was not committed");
                    actor.claimed_term = 0;
                    actor.leadership(ctx);
                }
            }
        });
        true
    }

    pub(super) fn set_batch_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(reign) = &self.reign else { return };
        let Some(due) = reign
            .batcher
            .poll_timeout()
            .filter(|_| self.batch_timer.is_none())
        else {
            return;
        };
        let wait = due.saturating_duration_since(Instant::now());
        self.batch_timer = Some(ctx.run_later(wait, |actor, ctx| {
            actor.batch_timer = None;
            actor.survive(ctx, Self::run_reign);
        }));
    }
}
