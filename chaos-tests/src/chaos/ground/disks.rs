//! Faults of nodes' disks: power cuts, damage, slow and failing syncs, no space.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use super::{Ground, LIMIT, RESERVE};
use crate::chaos::bounds::Measure;
use crate::chaos::damage::Damage;
use crate::history::What;
use crate::switch::Dice;
use crate::syncs::Trace;
use crate::wait::until;

/// What was acknowledged longer ago than this is not in a node's last write.
const WRITTEN: u64 = 2_000_000_000;

/// What a node says when its log has lost what was acknowledged.
const NOTICED: &str = "the Raft log is damaged";

/// How much longer a sync takes on a slow disk.
const SLOW: Duration = Duration::from_millis(300);

impl Ground {
    pub(super) async fn power_cut(&mut self, nodes: &[u64]) -> Result<()> {
        self.fault(format!("the power of {nodes:?} goes"));
        for node in nodes {
            self.trial.crowd.node_dies(*node);
            self.disk(*node)?.cut()?;
        }
        for node in nodes {
            // One that has noticed has ended by itself.
            match self.trial.pool.ended(*node) {
                None => self.trial.kills(*node)?,
                Some(_) => self.trial.died(*node),
            }
            self.disk(*node)?.again()?;
        }
        if nodes.len() > 1 {
            return self.all_started().await;
        }
        self.trial.acks_at_target(40, LIMIT).await?;
        self.started().await
    }

    /// A node's log is hurt while it is dead. What was acknowledged and is gone it must notice, and get from the others
    /// before it votes again.
    pub(super) async fn damage(&mut self, node: u64, dice: &mut Dice) -> Result<()> {
        let kinds = Damage::ALL;
        let kind = usize::try_from(dice.roll(kinds.len() as u64))?;
        let kind = *kinds.get(kind).context("a kind of damage")?;
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} is killed and its log hurt: {kind:?}"));
        let written = self.written();
        self.trial.kills(node)?;
        let log = self.trial.pool.data_dir(node).join("log");
        let done = kind.to(&log, &written, dice)?;
        self.say(&done);
        let before = self.times(node, NOTICED);
        self.trial.acks_at_target(40, LIMIT).await?;
        self.trial.pool.start_all()?;
        self.mend();
        self.trial.pool.ready(node).await?;
        let noticed = self.times(node, NOTICED) > before;
        ensure!(
            noticed == kind.loses(),
            "{kind:?}, {done}: the node noticed that something is lost: {noticed}"
        );
        until("no group is quarantined", LIMIT, async || {
            let status = self.trial.pool.status(node).await.ok()?;
            let rows = status["partitions"].as_array()?;
            let held = rows.iter().any(|row| row["quarantined"] != json!(false));
            (!held && !rows.is_empty()).then_some(())
        })
        .await?;
        let after = self.since_mended()?;
        self.notes.push(format!(
            "{kind:?} ({done}), noticed: {noticed}; node {node} voted again {after} ms after its start"
        ));
        self.recovered().await.map(drop)
    }

    /// Messages that each node has surely written, and nodes' logs still have.
    fn written(&self) -> Vec<String> {
        let recorder = self.trial.recorder();
        let until = recorder.now().saturating_sub(WRITTEN);
        let events = recorder.events();
        let old = events.into_iter().filter(|event| event.at <= until);
        let mut acked: Vec<String> = old
            .filter_map(|event| match event.what {
                What::Ok { token } => Some(token),
                _ => None,
            })
            .collect();
        acked.split_off(acked.len().saturating_sub(500))
    }

    /// How often a sentence stands in a node's log.
    pub(super) fn times(&self, node: u64, sentence: &str) -> usize {
        let log = self.trial.pool.node(node).log().unwrap_or_default();
        log.matches(sentence).count()
    }

    pub(super) async fn slow_disk(&mut self, node: u64, span: Duration) -> Result<()> {
        self.fault(format!("the disk of node {node} is slow for {span:?}"));
        let (before, began) = (self.reigns().await?, self.trial.recorder().now());
        let trace = Trace::slow(&self.trial.pool, node, SLOW).await?;
        sleep(span).await;
        self.elected(Measure::SlowDiskElections, &before, began)
            .await?;
        trace.release().await?;
        self.mend();
        self.recovered().await.map(drop)
    }

    pub(super) async fn failed_sync(&mut self, node: u64) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("a sync of node {node} fails"));
        let folder = self.trial.pool.data_dir(node).join("log");
        let trace = Trace::fail_next(&self.trial.pool, node, &folder).await?;
        let pool = &mut self.trial.pool;
        until("the node ends itself", LIMIT, async || pool.ended(node)).await?;
        self.trial.died(node);
        let later = trace.after_the_failure().await?;
        ensure!(
            later.is_empty(),
            "syncs after the one that failed: {later:#?}"
        );
        self.started().await
    }

    /// Less than the reserve is left, or nothing at all; then its node may end, and is started when there is space.
    pub(super) async fn full_disk(&mut self, node: u64, nothing: bool) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!(
            "the disk of node {node} is full, wholly: {nothing}"
        ));
        let left = if nothing { 0 } else { RESERVE - (4 << 20) };
        self.disk(node)?.fill_to(left)?;
        self.trial.acks_at_target(60, LIMIT).await?;
        match self.trial.pool.ended(node) {
            None if nothing => self.trial.kills(node)?,
            None => {}
            Some(_) => self.trial.died(node),
        }
        self.disk(node)?.empty()?;
        self.started().await
    }
}
