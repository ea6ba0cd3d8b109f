//! Members, and what is done with them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cluster::BuildReport;

/// A member of the pool, as it stands in the pool's own list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeReport {
    /// Its id.
    pub id: u64,
    /// Where the other nodes reach it.
    pub address: String,
    /// `joining`, `member`, `draining`, `drained`, `leaving` or `removed`.
    pub state: String,
    /// Whether it is to leave once it is drained.
    pub leaves: bool,
    /// Whether the node that was asked is connected to it and hears of it.
    pub alive: bool,
    /// Raft groups in which it has a vote.
    pub replicas: u64,
    /// Partitions that it owns, as far as is known.
    pub owns: u64,
    /// Its sessions, if it has told them in the last seconds.
    #[serde(default)]
    pub sessions: Option<u64>,
    /// The build of its last start; nothing if it has never started, or its build did not say.
    pub build: Option<BuildReport>,
}

/// All members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodesReport {
    /// By id, those that were removed too: their ids are never used again.
    pub nodes: Vec<NodeReport>,
}

/// What is to be done with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeOperation {
    /// Empty it of leaders and sessions; it keeps its replicas.
    Drain {
        /// Sessions moved a second; nothing: as the node is set.
        sessions_per_second: Option<u32>,
        /// Though the others can't carry what it has.
        over_capacity: bool,
    },
    /// Take that back.
    Undrain,
    /// Drain it, move its replicas, and let it go.
    Remove {
        /// It is dead and will not come back: it is not waited for.
        dead: bool,
        /// Though the others can't carry what it has.
        over_capacity: bool,
    },
    /// Remove it, and give its replicas to another.
    Replace {
        /// Who gets them.
        with: u64,
        /// Though the others can't carry what it has.
        over_capacity: bool,
    },
}

/// How to drain a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Sessions moved a second; nothing: as the node is set.
    #[serde(default)]
    pub sessions_per_second: Option<u32>,
}

/// How to remove a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// It is dead and will not come back: it is not waited for.
    #[serde(default)]
    pub dead: bool,
}

/// How to replace a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// The id of the node that gets its replicas.
    pub with: u64,
}

/// Whether only the plan is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DryRun {
    /// Only tell what would be done, and whether it would be refused.
    #[serde(default)]
    pub dry_run: bool,
}

/// A node that might be let in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Addition {
    /// Where the other nodes would reach it, `host:port`.
    pub address: String,
}

/// How a node is taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TakeAway {
    /// Only tell what would be done, and whether it would be refused.
    #[serde(default)]
    pub dry_run: bool,
    /// Do it though the others can't carry what the node has, as far as is known (`capacity-would-be-exceeded`).
    #[serde(default)]
    pub over_capacity: bool,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationReport {
    /// The node that it is done with.
    pub node: u64,
    /// Whether it was begun; else it was only planned.
    pub begun: bool,
    /// Its steps, as they were foreseen.
    pub steps: Vec<PlanStep>,
}

/// A step of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum PlanStep {
    /// A node is let in and catches up.
    Join {
        /// Its id.
        node: u64,
    },
    /// A node hands over the groups that it leads.
    HandOver {
        /// Its id.
        node: u64,
        /// How many it could lead.
        groups: u64,
    },
    /// A node's sessions move to others.
    MoveSessions {
        /// Its id.
        node: u64,
    },
    /// A node serves again.
    Serve {
        /// Its id.
        node: u64,
    },
    /// A group changes its voters.
    MoveReplica {
        /// 0 is the meta group, 1 + p is that of partition p.
        group: u32,
        /// Who votes now.
        from: Vec<u64>,
        /// Who shall.
        to: Vec<u64>,
    },
    /// A node is no member any more.
    Remove {
        /// Its id.
        node: u64,
    },
}

impl fmt::Display for PlanStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[u64]| {
            let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
            nodes.join(",")
        };
        match self {
            PlanStep::Join { node } => write!(f, "node {node} joins and catches up"),
            PlanStep::HandOver { node, groups } => {
                write!(
                    f,
                    "node {node} hands over what it leads, {groups} groups at most"
                )
            }
            PlanStep::MoveSessions { node } => {
                write!(f, "the sessions of node {node} move to other nodes")
            }
            PlanStep::Serve { node } => write!(f, "node {node} serves again"),
            PlanStep::MoveReplica { group: 0, from, to } => {
                write!(f, "meta group: voters {} become {}", list(from), list(to))
            }
            PlanStep::MoveReplica { group, from, to } => {
                let partition = group - 1;
                write!(
                    f,
                    "partition {partition}: voters {} become {}",
                    list(from),
                    list(to)
                )
            }
            PlanStep::Remove { node } => write!(f, "node {node} leaves the pool for good"),
        }
    }
}

/// How far what is under way has come, as the node that was asked sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgressReport {
    /// Whether nothing is under way.
    pub done: bool,
    /// Members that join, drain or leave.
    pub under_way: Vec<UnderWay>,
    /// Groups whose voters have still to change.
    pub groups_to_move: u64,
    /// Those of them whose voters change now.
    pub groups_moving: u64,
    /// Log entries that new voters of groups led by the node that was asked still lack.
    pub entries_behind: u64,
    /// Partitions owned by members that drain or leave.
    pub leaders_left: u64,
    /// Sessions on members that drain or leave, as they were last told; absent if there is no such member, or nobody has told.
    pub sessions_left: Option<u64>,
}

/// A member that joins, drains or leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnderWay {
    /// Its id.
    pub node: u64,
    /// `joining`, `draining`, `drained` or `leaving`.
    pub state: String,
}
