//! What the console page asks besides what programs ask: who is signed in, sessions, and what was counted lately.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Role;

/// What signs somebody in to the console page.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// An operator's token.
    pub token: String,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedIn {
    /// An operator's name, or `root@node-N`.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// Which sessions are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionsQuery {
    /// Those behind this address.
    pub after: Option<String>,
    /// Only those whose address contains this; at most 128 bytes.
    pub containing: Option<String>,
    /// At most so many: 1 to 1,000, else 100.
    pub limit: Option<u32>,
}

/// A page of the sessions of the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionsPage {
    /// The node.
    pub node: u64,
    /// All its sessions.
    pub total: u64,
    /// Addresses with their resource, in order.
    pub sessions: Vec<String>,
    /// What to give as `after` for the next page; nothing on the last one.
    pub next: Option<String>,
}

/// From when on history is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// What is behind this time, in ms since 1970; without it all that is kept.
    pub after: Option<u64>,
}

/// What the nodes did lately, second by second. What a node has not told is `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryReport {
    /// The times of the samples, in ms since 1970; they rise.
    pub at_ms: Vec<u64>,
    /// A row a node; each of its lists is as long as `at_ms`.
    pub nodes: Vec<NodeHistory>,
}

/// What one node did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeHistory {
    /// Its id.
    pub node: u64,
    /// Bound sessions.
    pub sessions: Vec<Option<u32>>,
    /// Logins a second.
    pub logins: Vec<Option<u32>>,
    /// Stanzas received from clients, a second.
    pub stanzas_received: Vec<Option<u32>>,
    /// Stanzas sent to clients, a second.
    pub stanzas_sent: Vec<Option<u32>>,
    /// Batches committed by the owners on it, a second.
    pub commits: Vec<Option<u32>>,
    /// Half of the commits took no longer, in µs; nothing where there were none.
    pub commit_p50_us: Vec<Option<u32>>,
    /// All but a hundredth of the commits took no longer, in µs; nothing where there were none.
    pub commit_p99_us: Vec<Option<u32>>,
    /// Time on processors, in thousandths of one processor.
    pub cpu_permille: Vec<Option<u32>>,
    /// Memory in use, in KiB.
    pub resident_kib: Vec<Option<u32>>,
}
