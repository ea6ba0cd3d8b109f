//! Certificates: renewed while everything runs, and one that has expired.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use super::{Ground, LIMIT};
use crate::chaos::bounds::Measure;
use crate::chaos::measures::disturbed;
use crate::pool::{Towards, run_ok};
use crate::wait::until;

/// What a node says when it has taken new files.
const TAKEN: &str = "certificates were read anew";

/// What a node says of one that it does not let in.
const NOT_LET_IN: &str = "a cluster connection was not let in";

/// How long a certificate is good that is to expire.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// How long the others are looked at while a node with an expired certificate knocks.
const KNOCKS: Duration = Duration::from_secs(3);

impl Ground {
    /// All nodes get new certificates, and nobody is disconnected. Then a node comes back with one that has expired: nobody
    /// lets it in, until it has another.
    pub(super) async fn certificates(&mut self, node: u64) -> Result<()> {
        self.fault("all certificates are renewed".into());
        let began = self.trial.recorder().now();
        for id in self.ids() {
            self.renewed(id).await?;
        }
        self.trial.acks_at_target(40, LIMIT).await?;
        let ended = disturbed(&self.trial.recorder().events(), began);
        self.measured.add(Measure::RenewalDisturbed, [ended]);

        self.trial.crowd.node_dies(node);
        self.fault(format!(
            "node {node} comes back with an expired certificate"
        ));
        self.trial.kills(node)?;
        self.trial.pool.certify(node, Towards::Nodes, GOOD_FOR)?;
        sleep(GOOD_FOR * 2).await;
        let known = self.refused(node);
        // By its own clock it may start.
        self.trial.pool.set_clock(node, "-1h")?;
        self.trial.pool.spawn(node)?;
        until("the others refuse it", LIMIT, async || {
            (self.refused(node) > known).then_some(())
        })
        .await?;
        sleep(KNOCKS).await;
        let health = &self.trial.pool.node(node).control;
        let health = health.request("GET", "/health/ready", None).await;
        ensure!(
            !health.is_ok_and(|answer| answer.status == 200),
            "node {node} serves with a certificate that has expired"
        );
        self.trial.acks_at_target(40, LIMIT).await?;

        // It may have given up by itself meanwhile.
        match self.trial.pool.ended(node) {
            None => self.trial.kills(node)?,
            Some(_) => self.trial.died(node),
        }
        self.renew(node)?;
        self.trial.pool.set_clock(node, "+0")?;
        self.started().await
    }

    fn renew(&self, node: u64) -> Result<()> {
        let pool = &self.trial.pool;
        let text = |path: &std::path::Path| path.to_str().map(str::to_owned);
        let (config, ca) = (text(&pool.node(node).config), text(&pool.root().join("ca")));
        let (config, ca) = (config.context("a plain path")?, ca.context("a plain path")?);
        run_ok(&["renew", "--config", &config, "--ca", &ca]).map(drop)
    }

    /// A running node has new certificates, and has taken them.
    async fn renewed(&self, node: u64) -> Result<()> {
        let known = self.times(node, TAKEN);
        self.renew(node)?;
        self.trial.pool.hangup(node)?;
        until("the node takes its new certificates", LIMIT, async || {
            (self.times(node, TAKEN) > known).then_some(())
        })
        .await
    }

    /// How often other nodes have not let somebody in because of a certificate's time.
    fn refused(&self, expired: u64) -> usize {
        let pool = &self.trial.pool;
        let others = pool.running().into_iter().filter(|node| *node != expired);
        let logs = others.map(|node| pool.node(node).log().unwrap_or_default());
        let is_it = |line: &&str| line.contains(NOT_LET_IN) && line.contains("expired");
        logs.map(|log| log.lines().filter(is_it).count()).sum()
    }
}
