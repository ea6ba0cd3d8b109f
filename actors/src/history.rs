//! What the nodes did in the last minutes, second by second, for whoever looks: bounded, in memory, gone with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::gossip::figures::Figures;
use cluster::gossip::shell::Gossiper;
use cluster::node_id::NodeId;
use storage::process::ProcessUsage;
use tokio::time::MissedTickBehavior;

use crate::fabric::Fabric;
use crate::latencies::LatencyCounts;
use crate::metrics::Metrics;

/// How far apart samples are.
pub const SAMPLED_EVERY: Duration = Duration::from_secs(1);

/// Samples that are kept: ten minutes. Of a pool of 64 nodes they take about 2 MiB.
pub const SAMPLES_MAX: usize = 600;

/// The figures of all nodes that were heard of, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When, in ms since 1970. Times only rise.
    pub at_ms: u64,
    /// Of each node.
    pub nodes: BTreeMap<NodeId, Figures>,
}

/// The newest samples.
#[derive(Debug, Default)]
pub struct History {
    samples: Mutex<VecDeque<Sample>>,
}

impl History {
    /// Those behind a time, oldest first.
    pub fn after(&self, at_ms: u64) -> Vec<Sample> {
        let samples = self.lock();
        let behind = samples.iter().rev();
        let mut behind: Vec<Sample> = behind
            .take_while(|sample| sample.at_ms > at_ms)
            .cloned()
            .collect();
        behind.reverse();
        behind
    }

    /// The newest one.
    pub fn newest(&self) -> Option<Sample> {
        self.lock().back().cloned()
    }

    fn push(&self, mut sample: Sample) {
        let mut samples = self.lock();
        if let Some(last) = samples.back() {
            // A clock that was set back must not mix up what was seen.
            sample.at_ms = sample.at_ms.max(last.at_ms + 1);
        }
        samples.push_back(sample);
        while samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a node had counted at one time.
#[derive(Clone)]
struct Reading {
    at: Instant,
    logins: u64,
    stanzas_received: u64,
    stanzas_sent: u64,
    commits: LatencyCounts,
    usage: Option<ProcessUsage>,
}

impl Reading {
    fn of(metrics: &Metrics) -> Reading {
        Reading {
            at: Instant::now(),
            logins: metrics.logins.get(),
            stanzas_received: metrics.stanzas_in.get(),
            stanzas_sent: metrics.stanzas_out.get(),
            commits: metrics.commit_latencies.counts(),
            usage: ProcessUsage::now(),
        }
    }

    /// What was done between an earlier reading and this one.
    fn since(&self, earlier: &Reading, sessions: u32) -> Figures {
        let elapsed = self.at.saturating_duration_since(earlier.at).as_micros();
        let elapsed = elapsed.max(1);
        let each_second = |now: u64, before: u64| {
            let count = u128::from(now.saturating_sub(before)) * 1_000_000;
            u32::try_from((count + elapsed / 2) / elapsed).unwrap_or(u32::MAX)
        };
        let commits = self.commits.since(&earlier.commits);
        let quantile = |permille| commits.quantile_us(permille).map_or(0, |us| us.max(1));
        let cpu = |usage: Option<ProcessUsage>| {
            let cpu = usage.map(|usage| usage.cpu.as_millis());
            u64::try_from(cpu.unwrap_or_default()).unwrap_or(u64::MAX)
        };
        let resident = self.usage.map_or(0, |usage| usage.resident_bytes / 1024);
        Figures {
            sessions,
            logins: each_second(self.logins, earlier.logins),
            stanzas_received: each_second(self.stanzas_received, earlier.stanzas_received),
            stanzas_sent: each_second(self.stanzas_sent, earlier.stanzas_sent),
            commits: each_second(commits.total(), 0),
            commit_p50_us: quantile(500),
            commit_p99_us: quantile(990),
            // Milliseconds in a second are thousandths.
            cpu_permille: each_second(cpu(self.usage), cpu(earlier.usage)),
            resident_kib: u32::try_from(resident).unwrap_or(u32::MAX),
        }
    }
}

/// Takes a sample each second, and tells the other nodes this one's figures; until it is dropped.
pub(crate) async fn keep(fabric: Arc<Fabric>, gossip: Arc<Gossiper>) {
    let mut ticks = tokio::time::interval(SAMPLED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = Reading::of(&fabric.metrics);
    loop {
        ticks.tick().await;
        let reading = Reading::of(&fabric.metrics);
        let sessions = u32::try_from(fabric.directory.len()).unwrap_or(u32::MAX);
        let own = reading.since(&before, sessions);
        before = reading;
        let members = fabric.members();
        let members = members.iter().map(|member| member.id);
        let others: Vec<NodeId> = members.filter(|node| *node != fabric.node).collect();
        gossip.tell_figures(&own, &others);
        let mut nodes = gossip.figures();
        nodes.insert(fabric.node, own);
        let at_ms = crate::runtime::now_ms();
        fabric.metrics.history.push(Sample { at_ms, nodes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64) -> Sample {
        Sample {
            at_ms,
            nodes: BTreeMap::new(),
        }
    }

    fn times(samples: Vec<Sample>) -> Vec<u64> {
        samples.into_iter().map(|sample| sample.at_ms).collect()
    }

    #[test]
    fn the_newest_are_kept_and_told() {
        let history = History::default();
        assert_eq!(history.newest(), None);
        for at_ms in 1..=SAMPLES_MAX as u64 + 5 {
            history.push(sample(at_ms));
        }
        let all = times(history.after(0));
        assert_eq!(
            (all.len(), all.first(), all.last()),
            (SAMPLES_MAX, Some(&6), Some(&605))
        );
        assert_eq!(times(history.after(603)), [604, 605]);
        assert!(history.after(605).is_empty());
    }

    #[test]
    fn times_rise_also_where_a_clock_is_set_back() {
        let history = History::default();
        for at_ms in [1000, 400, 500, 2000] {
            history.push(sample(at_ms));
        }
        assert_eq!(times(history.after(0)), [1000, 1001, 1002, 2000]);
    }

    #[test]
    fn figures_are_of_one_second() {
        let metrics = Metrics::default();
        let mut before = Reading::of(&metrics);
        before.usage = Some(ProcessUsage {
            cpu: Duration::from_millis(500),
            resident_bytes: 1 << 20,
        });
        metrics.logins.inc_by(4);
        metrics.stanzas_in.inc_by(101);
        metrics.committed(Duration::from_millis(3));
        let mut after = Reading::of(&metrics);
        after.at = before.at + Duration::from_secs(2);
        after.usage = Some(ProcessUsage {
            cpu: Duration::from_millis(1500),
            resident_bytes: 3 << 20,
        });
        let figures = after.since(&before, 9);
        assert_eq!((figures.sessions, figures.logins), (9, 2));
        assert_eq!((figures.stanzas_received, figures.stanzas_sent), (51, 0));
        assert_eq!(figures.commits, 1, "half a commit a second, rounded");
        assert!((3000..3400).contains(&figures.commit_p50_us), "{figures:?}");
        assert_eq!(figures.commit_p50_us, figures.commit_p99_us);
        assert_eq!((figures.cpu_permille, figures.resident_kib), (500, 3072));
        assert_eq!(
            after.since(&after, 0).commit_p99_us,
            0,
            "nothing was committed"
        );
    }
}
