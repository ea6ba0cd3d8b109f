//! Pools that grow and shrink: nodes are let in, drained and removed by an operator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use toml::Table;

use super::{Node, Pool};
use crate::wait::until;

/// How long a change of the members may take on a busy machine.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

/// Leaves the first members in a node's configuration.
pub(super) fn begin_with(node: &Node, first: u16) -> Result<()> {
    let mut file: Table = std::fs::read_to_string(&node.config)?.parse()?;
    let members = file
        .get_mut("cluster")
        .and_then(|section| section.get_mut("members"))
        .and_then(toml::Value::as_array_mut)
        .context("cluster.members is missing")?;
    members.truncate(usize::from(first));
    std::fs::write(&node.config, toml::to_string(&file)?)?;
    Ok(())
}

impl Pool {
    /// Asks a node for a change of the members.
    pub async fn operate(&self, via: u64, request: &Value) -> Result<Value> {
        let control = &self.node(via).control;
        let answer = control.ok("POST", "/v1/operations", Some(request)).await?;
        answer.json()
    }

    /// Asks for a change that is refused; gives the reason's word.
    pub async fn refused(&self, via: u64, request: &Value) -> Result<String> {
        let control = &self.node(via).control;
        let answer = control
            .request("POST", "/v1/operations", Some(request))
            .await?;
        ensure!(answer.status == 409, "{}: {}", answer.status, answer.body);
        let word = answer.json()?["error"].as_str().map(str::to_owned);
        word.context("a refusal has a word")
    }

    /// The members and what is under way, as a node sees it.
    pub async fn operations(&self, via: u64) -> Result<Value> {
        let control = &self.node(via).control;
        control.ok("GET", "/v1/operations", None).await?.json()
    }

    /// Lets a node in whose folder is ready, starts it and waits until it serves as a member.
    pub async fn let_in(&mut self, id: u64, via: u64) -> Result<()> {
        let address = self.cluster_address(id)?.to_string();
        let added = json!({ "operation": "add", "address": address });
        let given = self.operate(via, &added).await?;
        ensure!(
            given["node"] == json!(id),
            "the next id is {id}, not {given}"
        );
        self.spawn(id)?;
        self.ready(id).await?;
        self.member_is(id, "member", via).await
    }

    /// Waits until a member is in a state.
    pub async fn member_is(&self, id: u64, state: &str, via: u64) -> Result<()> {
        let what = format!("node {id} is {state}");
        until(&what, CHANGE_LIMIT, async || {
            let seen = self.operations(via).await.ok()?;
            let members = seen["members"].as_array()?;
            let row = members.iter().find(|row| row["id"] == json!(id))?;
            (row["state"] == json!(state)).then_some(())
        })
        .await
    }

    /// Waits until nothing is under way, and every partition has so many voters; gives how many each node has.
    pub async fn placed(&self, voters: usize, via: u64) -> Result<Vec<(u64, usize)>> {
        let what = format!("every partition has {voters} voters and nothing moves");
        let seen = until(&what, CHANGE_LIMIT, async || {
            let seen = self.operations(via).await.ok()?;
            let progress = &seen["progress"];
            let is_done = progress["under_way"].as_array()?.is_empty()
                && progress["groups_to_move"] == json!(0);
            let status = self.status(via).await.ok()?;
            let rows = status["partitions"].as_array()?;
            let counts = |row: &Value| row["voters"].as_array().map(Vec::len) == Some(voters);
            (is_done && rows.iter().all(counts)).then_some(seen)
        })
        .await?;
        let members = seen["members"].as_array().context("members")?;
        let row = |row: &Value| Some((row["id"].as_u64()?, row["replicas"].as_u64()? as usize));
        Ok(members.iter().filter_map(row).collect())
    }

    /// Waits until replicas move.
    pub async fn moving(&self, via: u64) -> Result<()> {
        until("replicas move", CHANGE_LIMIT, async || {
            let seen = self.operations(via).await.ok()?;
            (seen["progress"]["groups_moving"].as_u64()? > 0).then_some(())
        })
        .await
    }
}
