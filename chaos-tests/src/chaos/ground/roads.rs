//! Faults of the network between nodes: splits, cuts of some directions, loss, delay.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{Ground, LIMIT};
use crate::chaos::bounds::{Measure, percentile};
use crate::chaos::measures::{Reigns, acked_within, milliseconds, reflections};
use crate::history::What;
use crate::switch::Road;

/// How long everything is left alone before something is measured that must be compared with that.
const CLEAN: Duration = Duration::from_secs(3);

/// Each fifth packet is lost, one in fifty comes twice.
const LOSSY: Road = Road {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    loss: 200,
    doubled: 20,
    cut: false,
    bytes_per_second: None,
};

/// Far away, by roads on which packets overtake each other.
const FAR: Road = Road {
    delay: Duration::from_millis(75),
    jitter: Duration::from_millis(50),
    loss: 0,
    doubled: 0,
    cut: false,
    bytes_per_second: None,
};

/// 1 Mbit/s.
pub(super) const THIN: Road = Road {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    loss: 0,
    doubled: 0,
    cut: false,
    bytes_per_second: Some(125_000),
};

impl Ground {
    pub(super) async fn split(&mut self, alone: &[u64], owner: u64, span: Duration) -> Result<()> {
        let others: Vec<u64> = self
            .ids()
            .into_iter()
            .filter(|id| !alone.contains(id))
            .collect();
        self.fault(format!(
            "{alone:?} and {others:?} don't meet for {span:?}, {owner} owns"
        ));
        self.trial.recorder().record(What::Split {
            minority: alone.to_vec(),
            leader: owner,
        });
        let measure = match alone.contains(&owner) {
            true => Measure::SplitFromOwner,
            false => Measure::SplitFromAnother,
        };
        self.blow(measure, alone);
        self.measured.owes(Measure::CaughtUp);
        self.network.part(alone, &others)?;
        self.network.part(&others, alone)?;
        self.struck();
        for node in alone {
            self.trial.crowd.node_is_cut_off(*node);
        }
        self.trial.acks_at_target(40, LIMIT).await?;
        sleep(span).await;
        self.mend_network()?;
        let caught_up = self.recovered().await?;
        self.measured.add(Measure::CaughtUp, [caught_up]);
        Ok(())
    }

    pub(super) async fn shatter(&mut self, span: Duration) -> Result<()> {
        self.fault(format!("nobody meets anybody for {span:?}"));
        let all = self.ids();
        self.network.part(&all, &all)?;
        for node in &all {
            self.trial.crowd.node_is_cut_off(*node);
        }
        sleep(span).await;
        self.mend_network()?;
        self.serves_again(Measure::Shattered).await?;
        self.recovered().await.map(drop)
    }

    fn mend_network(&mut self) -> Result<()> {
        for node in self.ids() {
            self.trial.crowd.node_is_in_touch(node);
        }
        self.network.heal()?;
        self.switch.heal();
        self.mend();
        Ok(())
    }

    pub(super) async fn cut(&mut self, ways: &[(u64, u64)], span: Duration) -> Result<()> {
        self.fault(format!("nothing passes {ways:?} for {span:?}"));
        let (before, began) = (self.reigns().await?, self.trial.recorder().now());
        self.blow(Measure::HalfCut, &[]);
        for (from, to) in ways {
            let cut = Road {
                cut: true,
                ..Road::default()
            };
            self.switch.set(*from, *to, cut);
        }
        self.struck();
        sleep(span).await;
        self.elected(Measure::HalfCutElections, &before, began)
            .await?;
        self.mend_network()?;
        self.recovered().await.map(drop)
    }

    /// Packets get lost: what is acknowledged meanwhile is compared with what was before.
    pub(super) async fn loss(&mut self, span: Duration) -> Result<()> {
        self.measured.owes(Measure::Goodput);
        let began = self.trial.recorder().now();
        sleep(CLEAN).await;
        let (clean_end, recorder) = (self.trial.recorder().now(), self.trial.recorder());
        self.fault(format!("loss for {span:?}"));
        self.switch.set_all(LOSSY);
        let from = recorder.now();
        sleep(span).await;
        let to = recorder.now();
        let events = recorder.events();
        // Acknowledged in a thousand seconds.
        let rate = |from: u64, to: u64| {
            acked_within(&events, from, to) * 1_000_000 / milliseconds(to - from).max(1)
        };
        let (clean, lossy) = (rate(began, clean_end), rate(from, to));
        self.notes.push(format!(
            "loss for {span:?}: {}.{:03} acknowledged a second, {}.{:03} before",
            lossy / 1000,
            lossy % 1000,
            clean / 1000,
            clean % 1000
        ));
        let of_clean = (lossy * 1000).checked_div(clean);
        self.measured.add(Measure::Goodput, of_clean);
        self.mend_network()?;
        self.recovered().await.map(drop)
    }

    /// Long roads on which packets overtake each other: nobody is elected, and a commit takes its round trips.
    pub(super) async fn delay(&mut self, span: Duration) -> Result<()> {
        self.fault(format!("delay for {span:?}"));
        let (before, recorder) = (self.reigns().await?, self.trial.recorder());
        self.switch.set_all(FAR);
        let from = recorder.now();
        sleep(span).await;
        self.elected(Measure::DelayElections, &before, from).await?;
        // What is sent last has its time, too.
        let to = recorder.now();
        sleep(FAR.delay * 8).await;
        let mut took = reflections(&recorder.events(), from, to);
        took.sort_unstable();
        self.notes.push(format!(
            "delay for {span:?}: {} messages reflected, p50 {} ms, p99 {} ms",
            took.len(),
            percentile(&took, 50),
            percentile(&took, 99)
        ));
        self.measured.add(Measure::DelayedCommit, took);
        self.mend_network()?;
        self.recovered().await.map(drop)
    }

    /// The term of each group, which the node says that knows the newest, and the handovers so far.
    pub(super) async fn reigns(&self) -> Result<Reigns> {
        let mut reigns = Reigns::default();
        for node in self.ids() {
            reigns.read(&self.trial.pool.node(node).log()?);
        }
        for node in self.trial.pool.running() {
            let status = self.trial.pool.status(node).await?;
            for row in status["partitions"].as_array().context("partitions")? {
                let word = |key: &str| row[key].as_u64();
                if let (Some(group), Some(term)) = (word("id"), word("term")) {
                    let newest = reigns.terms.entry(group).or_default();
                    *newest = term.max(*newest);
                }
            }
        }
        Ok(reigns)
    }

    /// Measures how many elections there were in a group since then.
    pub(super) async fn elected(
        &mut self,
        measure: Measure,
        before: &Reigns,
        since: u64,
    ) -> Result<()> {
        self.measured.owes(measure);
        let span = Duration::from_nanos(self.trial.recorder().now() - since);
        let most = self.reigns().await?.elections_since(before, span);
        self.measured.add(measure, [most]);
        Ok(())
    }
}
