//! The node behind the control port: what the runtime says and does, in the port's terms.

use actors::control::ControlError;
use actors::runtime::{
    DrainOptions, MemberStatus, NewMember, NodeHandle, Operation, OperationError, PartitionStatus,
    RemoveOptions,
};
use cluster::node_id::NodeId;
use serde_json::{Value, json};
use web::backend::{BackendError, ControlBackend};
use web::report::{
    HashReport, MemberReport, OperationRequest, OperationsReport, PartitionReport, PoolReport,
    Readiness,
};
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

/// A running node as its operators see it.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) node: NodeHandle,
    pub(crate) domain: String,
}

impl ControlBackend for Backend {
    fn report(&self) -> PoolReport {
        let status = self.node.status();
        PoolReport {
            pool: status.pool,
            domain: self.domain.clone(),
            node: status.node,
            incarnation: status.incarnation,
            version: status.version,
            uptime_s: status.uptime_seconds,
            sessions: status.sessions as u64,
            members: status.members.into_iter().map(member).collect(),
            partitions: status.partitions.into_iter().map(partition).collect(),
        }
    }

    fn readiness(&self) -> Readiness {
        let ready = self.node.ready();
        Readiness {
            quorum: ready.quorum,
            stopping: ready.stopping,
            draining: ready.draining,
            log_full: ready.log_full,
            groups_failed: ready.groups_failed,
            partitions_owned: ready.partitions_owned,
            partitions: ready.partitions,
        }
    }

    fn operations(&self) -> OperationsReport {
        OperationsReport {
            members: json!(self.node.members()),
            progress: json!(self.node.progress()),
        }
    }

    async fn operate(&self, request: OperationRequest) -> Result<Value, BackendError> {
        let (operation, dry_run) = operation(request);
        if dry_run {
            let plan = self.node.plan(&operation).map_err(not_done)?;
            return Ok(json!(plan));
        }
        let done = match operation {
            Operation::Add(new) => {
                let node = self.node.add_member(new).await.map_err(not_done)?;
                return Ok(json!({ "node": node.0 }));
            }
            Operation::Drain(node, options) => self.node.drain(node, options).await,
            Operation::Undrain(node) => self.node.undrain(node).await,
            Operation::Remove(node, options) => self.node.remove(node, options).await,
            Operation::Replace { old, new } => self.node.replace(old, new).await,
        };
        done.map_err(not_done)?;
        Ok(json!({}))
    }

    async fn partition_hash(&self, partition: u16) -> Result<HashReport, BackendError> {
        let hash = self.node.partition_hash(partition).await;
        let hash = hash.map_err(refusal)?;
        Ok(HashReport {
            partition,
            applied: hash.applied,
            state_rows: hash.state.rows,
            state: hex(&hash.state.digest),
            archive_rows: hash.archive.rows,
            archive: hex(&hash.archive.digest),
        })
    }

    fn metrics(&self) -> String {
        self.node.metrics()
    }

    async fn create_account(&self, user: BareJid, password: Password) -> Result<(), BackendError> {
        self.node
            .create_account(user, password)
            .await
            .map_err(refusal)
    }

    async fn set_password(&self, user: BareJid, password: Password) -> Result<(), BackendError> {
        self.node
            .set_password(user, password)
            .await
            .map_err(refusal)
    }

    async fn remove_account(&self, user: BareJid) -> Result<(), BackendError> {
        self.node.remove_account(user).await.map_err(refusal)
    }

    async fn list_accounts(
        &self,
        after: Option<BareJid>,
        limit: u32,
    ) -> Result<Vec<BareJid>, BackendError> {
        self.node.list_accounts(after, limit).await.map_err(refusal)
    }
}

/// An operator's request in the runtime's terms, and whether only its plan is wanted.
fn operation(request: OperationRequest) -> (Operation, bool) {
    match request {
        OperationRequest::Add { address, dry_run } => {
            let addition = rand::random();
            (Operation::Add(NewMember { address, addition }), dry_run)
        }
        OperationRequest::Drain {
            node,
            sessions_per_second,
            dry_run,
        } => {
            let options = DrainOptions {
                sessions_per_second,
            };
            (Operation::Drain(NodeId(node), options), dry_run)
        }
        OperationRequest::Undrain { node, dry_run } => (Operation::Undrain(NodeId(node)), dry_run),
        OperationRequest::Remove {
            node,
            force_dead,
            dry_run,
        } => {
            let options = RemoveOptions { force_dead };
            (Operation::Remove(NodeId(node), options), dry_run)
        }
        OperationRequest::Replace { old, new, dry_run } => {
            let (old, new) = (NodeId(old), NodeId(new));
            (Operation::Replace { old, new }, dry_run)
        }
    }
}

fn not_done(error: OperationError) -> BackendError {
    match error.code {
        "unavailable" => BackendError::Unavailable(error.sentence),
        "outcome-unknown" => BackendError::Timeout,
        code => BackendError::Refused {
            code,
            sentence: error.sentence,
        },
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn member(status: MemberStatus) -> MemberReport {
    MemberReport {
        id: status.id,
        address: status.address,
        connected: status.connected,
        alive: status.liveness == "alive",
        standing: status.standing.map(str::to_owned),
        reaches: status.reaches,
        relay: status.relay,
    }
}

fn partition(status: PartitionStatus) -> PartitionReport {
    PartitionReport {
        id: u32::from(status.id),
        owner: status.owner,
        epoch: status.epoch.unwrap_or(0),
        leader: status.leader,
        term: status.term,
        voters: status.voters,
        applied: status.applied,
        committed: status.committed,
        last_log: status.last_log,
        quarantined: status.quarantined,
    }
}

fn refusal(error: ControlError) -> BackendError {
    match error {
        ControlError::Conflict => BackendError::Conflict,
        ControlError::NotFound => BackendError::NotFound,
        ControlError::NoPartition => BackendError::NoPartition,
        ControlError::Invalid(reason) => BackendError::Invalid(reason),
        ControlError::Unavailable(reason) => BackendError::Unavailable(reason),
        ControlError::BeingFreed => BackendError::Unavailable(error.to_string()),
        ControlError::Timeout => BackendError::Timeout,
    }
}
