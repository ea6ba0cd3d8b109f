//! What a machine that joins says and hears.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cluster::BuildReport;

/// A machine wants to be a node of this pool. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The secret of a token: 64 hexadecimal digits.
    pub secret: String,
    /// A request to certify its key (PKCS #10, PEM). The name in it does not matter.
    pub request: String,
    /// Where the other nodes will reach it, `IP:PORT`.
    pub address: String,
    /// What it runs; a build from before there were versions does not say.
    #[serde(default)]
    pub build: Option<BuildReport>,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// All that the new node needs. Full of secrets: `Debug` shows none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinReply {
    /// Its id.
    pub node: u64,
    /// The pool's file, `pool.toml`.
    pub pool: String,
    /// The certificates that nodes trust (PEM).
    pub ca: String,
    /// Its certificate towards other nodes, with its chain (PEM).
    pub certificate: String,
    /// What lets it sign further nodes' requests.
    pub issuer: Certified,
    /// The certificate that clients see, if the node that was asked has one for the pool's domain.
    pub clients: Certified,
    /// All members, itself included.
    pub members: Vec<JoinMember>,
}

impl std::fmt::Debug for JoinReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinReply")
            .field("node", &self.node)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// A certificate with its chain, and its key (PEM).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certified {
    /// The chain.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// A member of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinMember {
    /// Its id.
    pub id: u64,
    /// Where the others reach it, `HOST:PORT`.
    pub address: String,
}
