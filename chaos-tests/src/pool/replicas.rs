//! Whether all replicas are the same (P16): the same applied index means the same hash of state and archive.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Pool;
use crate::wait::until;

/// How long the replicas of a quiet partition may take until all have applied the same.
const SAME_INDEX: Duration = Duration::from_secs(30);

/// What was found equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Partitions of which every running node showed the same hash at the same index.
    pub partitions: usize,
    /// Rows of their states, in one replica.
    pub state_rows: u64,
    /// Rows of their archives, in one replica.
    pub archive_rows: u64,
}

impl Pool {
    /// What one node's replica of a partition holds: what `muster ctl hashes` says.
    pub async fn replica_hash(&self, node: u64, partition: u64) -> Result<Value> {
        let path = format!("/v1/partitions/{partition}/hash");
        self.node(node).control.ok("GET", &path, None).await?.json()
    }

    /// Compares every partition on all running nodes, each at one index that all have applied. Nobody may send anything
    /// that is to be remembered.
    pub async fn replicas_agree(&self) -> Result<Agreement> {
        let mut agreement = Agreement::default();
        for (partition, hashes) in self.replica_hashes().await? {
            let (first, others) = hashes.split_first().context("a node runs")?;
            for other in others {
                ensure!(
                    other.1 == first.1,
                    "partition {partition} is not the same everywhere: node {} has {}, node {} {}",
                    first.0,
                    first.1,
                    other.0,
                    other.1
                );
            }
            agreement.partitions += 1;
            agreement.state_rows += first.1["state_rows"].as_u64().unwrap_or(0);
            agreement.archive_rows += first.1["archive_rows"].as_u64().unwrap_or(0);
        }
        Ok(agreement)
    }

    /// What every running voter of every partition holds, each partition at one index.
    pub async fn replica_hashes(&self) -> Result<Vec<(u64, Vec<(u64, Value)>)>> {
        let nodes = self.running();
        let via = *nodes.first().context("no node runs")?;
        let status = self.status(via).await?;
        let partitions = status["partitions"].as_array();
        let mut all = Vec::new();
        for partition in partitions.context("the status lacks partitions")? {
            let voters = partition["voters"].as_array();
            let voters = voters.context("a partition has voters")?.iter();
            let voters: Vec<u64> = voters.filter_map(Value::as_u64).collect();
            let mut nodes = nodes.clone();
            nodes.retain(|node| voters.contains(node));
            let partition = partition["id"].as_u64().context("a partition has an id")?;
            let hashes = self.at_one_index(&nodes, partition).await?;
            all.push((partition, nodes.into_iter().zip(hashes).collect()));
        }
        Ok(all)
    }

    async fn at_one_index(&self, nodes: &[u64], partition: u64) -> Result<Vec<Value>> {
        let what = format!("all replicas of partition {partition} have applied the same");
        until(&what, SAME_INDEX, async || {
            let mut hashes = Vec::new();
            for node in nodes {
                // Refused while the partition is written to.
                hashes.push(self.replica_hash(*node, partition).await.ok()?);
            }
            let index = |hash: &Value| hash["applied"].as_u64();
            let first = hashes.first().and_then(index)?;
            let same = hashes.iter().all(|hash| index(hash) == Some(first));
            same.then_some(hashes)
        })
        .await
    }
}
