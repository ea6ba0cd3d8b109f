//! Proposals into the log: adaptive batches.

use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};
use bytes::Bytes;
use cluster::node_id::Epoch;
use messaging::command::{Batch, Command, Entry, Proposal};
use messaging::link_record::LinkOrigin;

use super::OwnerActor;
use super::rest::Rest;

/// How long a batch may wait for its quorum.
pub(super) const SUBMISSION_MAX: Duration = Duration::from_secs(5);

/// How often a log without room is asked again.
const FULL_RETRY: Duration = Duration::from_millis(20);

/// How long a log may be without room before its owner asks another node to take over, and asks again.
pub(super) const FULL_MAX: Duration = Duration::from_secs(2);

/// A batch that was surely not proposed, because there was no room.
pub(super) struct Refused {
    payload: Bytes,
    /// When another node was asked last to take over; at first, since when there is no room.
    handed_over: Instant,
}

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
        let rests = reign.rest.as_ref().is_some_and(Rest::is_done);
        if reign.refused.is_some() || rests {
            return false;
        }
        let Some(proposals) = reign.batcher.poll_batch(Instant::now()) else {
            return false;
        };
        let epoch = reign.epoch;
        let time_ms = self.time_ms();
        self.fabric.metrics.batches.inc();
        self.fabric.metrics.proposals.inc_by(proposals.len() as u64);
        let batch = Batch {
            epoch: epoch.0,
            time_ms,
            proposals,
        };
        let version = self.place().replica.version();
        self.fabric.metrics.entries_of(version);
        match cluster::records::encode_entry(Entry::Batch(batch), version) {
            Ok(payload) => self.submit(payload, epoch, ctx),
            Err(error) => {
                // Commands are bounded far below a record; this would be a defect, and the numbers in it can't be skipped.
                tracing::error!(%error, "a batch could not be encoded");
                self.end("a batch could not be encoded");
                false
            }
        }
    }

    /// `false`: there was no room, and it waits.
    fn submit(&mut self, payload: Bytes, epoch: Epoch, ctx: &mut Context<Self>) -> bool {
        let submission = self.place().group.submit(payload.clone());
        if submission.is_busy() {
            self.refused(payload, epoch, ctx);
            return false;
        }
        let submitted = Instant::now();
        // A leader that lost its followers may wait for ever: then nobody knows, and the origins ask the next owner.
        let submission = tokio::time::timeout(SUBMISSION_MAX, submission);
        self.spawn(ctx, submission, move |actor, outcome, ctx| {
            let Some(reign) = &mut actor.reign else {
                return;
            };
            if reign.epoch != epoch {
                return;
            }
            match outcome {
                Ok(Ok(_)) => {
                    actor.fabric.metrics.committed(submitted.elapsed());
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

    /// Overload must not make more load, as a new reign would with everybody's attachments: the batch waits where it is,
    /// what comes after it waits in the links' windows, and if that lasts another node may have more room.
    fn refused(&mut self, payload: Bytes, epoch: Epoch, ctx: &mut Context<Self>) {
        let Some(reign) = &mut self.reign else { return };
        let now = Instant::now();
        let before = reign.refused.take();
        let since = before.map_or(now, |refused| refused.handed_over);
        let has_lasted = now >= since + FULL_MAX;
        let handed_over = if has_lasted { now } else { since };
        reign.refused = Some(Refused {
            payload,
            handed_over,
        });
        if has_lasted {
            tracing::warn!(partition = %self.partition, "the log has no room");
            self.hand_over(ctx);
        }
        ctx.run_later(FULL_RETRY, move |actor, ctx| {
            actor.survive(ctx, |actor, ctx| actor.submit_refused(epoch, ctx));
        });
    }

    fn submit_refused(&mut self, epoch: Epoch, ctx: &mut Context<Self>) {
        let Some(reign) = self.reign.as_mut().filter(|reign| reign.epoch == epoch) else {
            return;
        };
        let Some(refused) = &mut reign.refused else {
            return;
        };
        let payload = std::mem::take(&mut refused.payload);
        if self.submit(payload, epoch, ctx) {
            if let Some(reign) = &mut self.reign {
                reign.refused = None;
            }
            self.run_reign(ctx);
        }
    }

    /// Another voter takes over, if one can; the old owner goes on until then.
    pub(super) fn hand_over(&mut self, ctx: &mut Context<Self>) {
        let group = self.place().group.clone();
        let hand_over = async move { group.hand_over().await };
        self.spawn(ctx, hand_over, |actor, handed_over, _| {
            if !handed_over {
                tracing::warn!(partition = %actor.partition, "no other node can take the partition over");
            }
        });
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
