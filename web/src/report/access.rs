//! Operators, the tokens that let nodes join, and the audit log.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    Operator,
    /// See the pool, and change accounts.
    Support,
    /// See everything, and change nothing.
    Auditor,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Operator => "operator",
            Role::Support => "support",
            Role::Auditor => "auditor",
        })
    }
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The operator's name.
    pub name: String,
    /// Their role.
    pub role: Role,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorReport {
    /// Their name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Who added them.
    pub by: String,
    /// When, in ms since 1970.
    pub made_ms: u64,
}

/// All operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorsReport {
    /// By name.
    pub operators: Vec<OperatorReport>,
}

/// What a new operator is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperator {
    /// 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// A new operator, with the token that is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedOperator {
    /// Their name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// What lets them in: `Authorization: Bearer TOKEN`.
    pub token: String,
}

/// What a new token is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// How long it lets a node in, in seconds: up to 30 days.
    pub ttl_s: u64,
    /// Where the new machine reaches control ports of the pool, `HOST:PORT`; without any, the port of the node that is
    /// asked.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A new token, which is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// Its name, which is no secret.
    pub id: String,
    /// What `muster join --token` takes.
    pub token: String,
    /// When it ends, in ms since 1970.
    pub ends_ms: u64,
    /// Where the new machine is to connect.
    pub addresses: Vec<String>,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenReport {
    /// Its name.
    pub id: String,
    /// `open`, `spent`, `expired` or `revoked`.
    pub state: String,
    /// The operator who asked for it.
    pub by: String,
    /// When, in ms since 1970.
    pub made_ms: u64,
    /// When it ends, in ms since 1970.
    pub ends_ms: u64,
    /// The node that has joined with it.
    pub node: Option<u64>,
}

/// All tokens that have not ended long ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokensReport {
    /// By name.
    pub tokens: Vec<TokenReport>,
}

/// A change that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeReport {
    /// Who makes it.
    pub who: String,
    /// The address that it came from.
    pub from: String,
    /// A word: `user.add`.
    pub action: &'static str,
    /// What it is about, and how; never a secret.
    pub target: String,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutcomeReport {
    /// It was made.
    Done,
    /// It was not, for the reason with this code.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// A record of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditReport {
    /// Its number: they rise by one from 1.
    pub number: u64,
    /// When the change was begun, in ms since 1970, by the clock of the node that was asked.
    pub at_ms: u64,
    /// The node that was asked.
    pub node: u64,
    /// An operator's name, `root@node-N` for the token of a node's own folder, or `token:ID` for a machine that joins.
    pub who: String,
    /// The IP address that the request came from.
    pub from: String,
    /// A word: `user.add`, `node.drain`.
    pub action: String,
    /// What it is about, and how.
    pub target: String,
    /// `done`, `unknown`, or the code of the refusal.
    pub outcome: String,
}

/// Which records are asked for: without `after` and `before` the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Those with higher numbers, the oldest of them first.
    pub after: Option<u64>,
    /// The newest of those with lower numbers.
    pub before: Option<u64>,
    /// At most so many: 1 to 1,000, else 100.
    pub limit: Option<u32>,
    /// Only those in whose who, from, action, target or outcome this stands, in whatever case; at most 128 bytes.
    pub containing: Option<String>,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// In the order of their numbers.
    pub records: Vec<AuditReport>,
    /// What to give as `after` for what follows; nothing if there is no more yet.
    pub next: Option<u64>,
    /// What to give as `before` for what comes before; nothing if there is no more.
    pub previous: Option<u64>,
}
