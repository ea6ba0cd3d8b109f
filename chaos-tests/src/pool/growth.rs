//! Pools that grow and shrink: nodes are let in, drained and removed by an operator.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use toml::Table;

use super::{Node, Pool, PoolSettings, run_ok};
use crate::wait::until;

/// How long a change of the members may take on a busy machine.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

/// Where a node's cluster port is unless something else is said.
const CLUSTER_PORT: u16 = 7400;

/// Runs `muster join`; gives the new node's id.
fn join_into(folder: &Path, token: &str, at: SocketAddr) -> Result<u64> {
    let place = folder.to_str().context("test folders have plain names")?;
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    run_ok(&[
        "join",
        "--token",
        token,
        "--dir",
        place,
        "--bind",
        &ip,
        "--control-bind",
        &ip,
        "--cluster-port",
        &port,
    ])?;
    let file: Table = std::fs::read_to_string(folder.join("muster.toml"))?.parse()?;
    let id = file.get("node").and_then(|section| section.get("id"));
    let id = id.and_then(toml::Value::as_integer).context("node.id")?;
    Ok(u64::try_from(id)?)
}

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
    /// Asks a node for something to be done with a node: `drain`, `undrain`, `remove`, `replace`.
    pub async fn operate(&self, via: u64, node: u64, what: &str, how: &Value) -> Result<Value> {
        let path = format!("/v1/nodes/{node}/{what}");
        let control = &self.node(via).control;
        control.ok("POST", &path, Some(how)).await?.json()
    }

    /// Asks for something that is refused; gives the reason's word.
    pub async fn refused(&self, via: u64, node: u64, what: &str, how: &Value) -> Result<String> {
        let path = format!("/v1/nodes/{node}/{what}");
        let control = &self.node(via).control;
        let answer = control.request("POST", &path, Some(how)).await?;
        ensure!(answer.status == 409, "{}: {}", answer.status, answer.body);
        let word = answer.json()?["code"].as_str().map(str::to_owned);
        word.context("a refusal has a word")
    }

    /// The members and what is under way, as a node sees it.
    pub async fn operations(&self, via: u64) -> Result<Value> {
        let control = &self.node(via).control;
        let nodes = control.ok("GET", "/v1/nodes", None).await?.json()?;
        let progress = control.ok("GET", "/v1/progress", None).await?.json()?;
        Ok(json!({ "members": nodes["nodes"], "progress": progress }))
    }

    /// A token that lets a node join.
    pub async fn join_token(&self, via: u64) -> Result<String> {
        let control = &self.node(via).control;
        let wanted = json!({ "ttl_s": 600 });
        let answer = control.ok("POST", "/v1/tokens", Some(&wanted)).await?;
        let token = answer.json()?["token"].as_str().map(str::to_owned);
        token.context("an answer has a token")
    }

    /// Lets a new machine join at an address, by a token of `via`, as its operator would. Gives its id; it does not run yet.
    pub async fn join(&mut self, via: u64, at: Ipv4Addr) -> Result<u64> {
        let token = self.join_token(via).await?;
        self.join_by(&token, at)
    }

    /// The same, by a token that is there.
    pub fn join_by(&mut self, token: &str, at: Ipv4Addr) -> Result<u64> {
        let folder = self.root().join("joined");
        let id = join_into(&folder, token, SocketAddr::from((at, CLUSTER_PORT)))?;
        std::fs::rename(&folder, self.root().join(format!("node-{id}")))?;
        self.adopt(id)?;
        Ok(id)
    }

    /// Takes a folder `node-N` beside the others into the pool.
    pub fn adopt(&mut self, id: u64) -> Result<()> {
        let folder = self.root().join(format!("node-{id}"));
        let tls = super::trusting(&folder.join("control.pem"))?;
        let node = Node::configure(&self.root(), id, &PoolSettings::nodes(1), &tls)?;
        self.nodes.push(node);
        Ok(())
    }

    /// A new pool of one node, made of a backup, on an address of its own; it serves.
    pub async fn restored(backup: &Path) -> Result<Pool> {
        let dir = TempDir::with_prefix("muster-test-")?;
        let root = dir.path().join("pool");
        let address = super::loopback_addresses(1)?;
        let address = address.first().context("an address")?.to_string();
        let (from, to) = (backup.to_str(), root.to_str());
        let (from, to) = from.zip(to).context("test folders have plain names")?;
        run_ok(&[
            "restore",
            from,
            "--dir",
            to,
            "--bind",
            &address,
            "--control-bind",
            &address,
        ])?;
        let tls = super::trusting(&root.join("ca/ca.pem"))?;
        let node = Node::configure(&root, 1, &PoolSettings::nodes(1), &tls)?;
        let partitions = super::partitions_of(&root)?;
        let mut pool = Pool {
            nodes: vec![node],
            tls,
            partitions,
            first: 1,
            dir,
        };
        pool.start_all()?;
        pool.all_ready().await?;
        Ok(pool)
    }

    /// Lets a node in whose folder is ready; it does not run yet.
    pub async fn admit(&self, id: u64, via: u64) -> Result<()> {
        let token = self.join_token(via).await?;
        let folder = self.root().join(format!("let-in-{id}"));
        let given = join_into(&folder, &token, self.cluster_address(id)?)?;
        ensure!(given == id, "the next id is {id}, not {given}");
        Ok(())
    }

    /// Lets a node in whose folder is ready, starts it and waits until it serves as a member.
    pub async fn let_in(&mut self, id: u64, via: u64) -> Result<()> {
        self.admit(id, via).await?;
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
            if !is_done || !rows.iter().all(counts) {
                return None;
            }
            // The members were counted before it was seen that nothing moves.
            self.operations(via).await.ok()
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
