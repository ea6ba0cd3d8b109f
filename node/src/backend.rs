//! The node behind the control port: what the runtime says and does, in the port's terms.

mod access;
mod backup;
mod history;
pub(crate) mod importing;
mod joining;
mod nodes;
pub(crate) mod versions;

use actors::control::{self, ControlError};
use actors::runtime::{MemberStatus, NodeHandle, OperationError, PartitionStatus};
use web::backend::{AuditKey, BackendError, BackupKey, ControlBackend};
use web::report::access::{
    AuditPage, AuditQuery, ChangeReport, Identity, IssuedOperator, IssuedToken, NewOperator,
    NewToken, OperatorReport, OutcomeReport, TokenReport,
};
use web::report::backup::{BackupPart, BackupPool, CaptureReport, EndReport};
use web::report::cluster::{FinaliseReport, VersionsReport};
use web::report::console::HistoryReport;
use web::report::imports::ImportPiece;
use web::report::join::{JoinReply, JoinRequest};
use web::report::nodes::{NodeOperation, NodeReport, PlanStep, ProgressReport};
use web::report::{HashReport, MemberReport, PartitionReport, PoolReport, Readiness};
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::config::pool_file::PoolFile;
use crate::issuing::Issuing;

/// A running node as its operators see it.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) node: NodeHandle,
    pub(crate) domain: String,
    pub(crate) pool: PoolFile,
    pub(crate) issuing: Issuing,
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
            supports: versions::span(status.supports),
            pool_version: status.pool_version,
            uptime_s: status.uptime_seconds,
            sessions: status.sessions as u64,
            members: status.members.into_iter().map(member).collect(),
            partitions: status.partitions.into_iter().map(partition).collect(),
        }
    }

    fn sessions(&self, after: &str, containing: &str, limit: usize) -> Vec<String> {
        self.node.sessions(after, containing, limit)
    }

    fn history(&self, after_ms: u64) -> HistoryReport {
        history::report(&self.node.history(after_ms))
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

    async fn begin_import(&self, user: BareJid) -> Result<(), BackendError> {
        let begin = control::ImportPiece::Begin;
        self.node.import(user, begin).await.map_err(refusal)
    }

    async fn import(&self, user: BareJid, piece: ImportPiece) -> Result<(), BackendError> {
        let piece = importing::piece(&user, piece)?;
        self.node.import(user, piece).await.map_err(refusal)
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

    fn nodes(&self) -> Vec<NodeReport> {
        nodes::list(&self.node)
    }

    fn plan(&self, node: u64, operation: NodeOperation) -> Result<Vec<PlanStep>, BackendError> {
        nodes::plan(&self.node, node, operation)
    }

    fn plan_addition(&self, address: &str) -> Result<(u64, Vec<PlanStep>), BackendError> {
        nodes::plan_addition(&self.node, address)
    }

    async fn operate(&self, node: u64, operation: NodeOperation) -> Result<(), BackendError> {
        nodes::operate(&self.node, node, operation).await
    }

    fn progress(&self) -> ProgressReport {
        nodes::progress(&self.node)
    }

    fn versions(&self) -> VersionsReport {
        versions::of(&self.node)
    }

    fn plan_finalisation(&self, version: Option<u16>) -> Result<FinaliseReport, BackendError> {
        versions::plan(&self.node, version)
    }

    async fn finalise(&self, version: Option<u16>) -> Result<FinaliseReport, BackendError> {
        versions::finalise(&self.node, version).await
    }

    fn identify(&self, token: &str) -> Option<Identity> {
        access::identify(&self.node, token)
    }

    async fn begin_record(&self, change: ChangeReport) -> Result<AuditKey, BackendError> {
        access::begin_record(&self.node, change).await
    }

    async fn end_record(&self, key: AuditKey, outcome: OutcomeReport) {
        access::end_record(&self.node, key, outcome).await;
    }

    fn audit(&self, query: &AuditQuery) -> AuditPage {
        access::audit(&self.node, query)
    }

    fn operators(&self) -> Vec<OperatorReport> {
        access::operators(&self.node)
    }

    async fn add_operator(
        &self,
        new: NewOperator,
        by: String,
    ) -> Result<IssuedOperator, BackendError> {
        access::add_operator(&self.node, new, by).await
    }

    async fn revoke_operator(&self, name: String) -> Result<(), BackendError> {
        access::revoke_operator(&self.node, &name).await
    }

    fn tokens(&self) -> Vec<TokenReport> {
        joining::tokens(&self.node)
    }

    async fn issue_token(&self, new: NewToken, by: String) -> Result<IssuedToken, BackendError> {
        joining::issue(&self.node, &self.issuing, new, by).await
    }

    async fn revoke_token(&self, id: String) -> Result<(), BackendError> {
        joining::revoke(&self.node, &id).await
    }

    async fn check_join(&self, request: &JoinRequest) -> Result<String, BackendError> {
        joining::check(&self.node, request).await
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinReply, BackendError> {
        joining::join(&self.node, &self.issuing, request).await
    }

    fn backup_pool(&self) -> BackupPool {
        backup::pool(&self.node, &self.pool)
    }

    fn group_of(&self, user: &BareJid) -> u32 {
        self.node.group_of(user).0
    }

    async fn begin_backup(&self) -> Result<(BackupKey, u64), BackendError> {
        Ok((rand::random(), actors::runtime::now_ms()))
    }

    async fn backup_capture(
        &self,
        backup: BackupKey,
        group: u32,
    ) -> Result<CaptureReport, BackendError> {
        backup::capture(&self.node, backup, group).await
    }

    async fn backup_end(&self, backup: BackupKey, group: u32) -> Result<EndReport, BackendError> {
        let ended = self.node.backup_end(backup, group).await;
        let (node, index) = ended.map_err(not_done)?;
        Ok(EndReport { node, index })
    }

    async fn backup_part(
        &self,
        backup: BackupKey,
        group: u32,
        part: BackupPart,
    ) -> Result<Vec<u8>, BackendError> {
        backup::part(&self.node, backup, group, part).await
    }

    async fn backup_goes_on(&self, backup: BackupKey, wanted: bool) {
        self.node.backup_goes_on(backup, wanted).await;
    }
}

/// What the meta group refused.
fn not_done(error: OperationError) -> BackendError {
    match error.code {
        "unavailable" => BackendError::Unavailable(error.sentence),
        "outcome-unknown" => BackendError::Timeout,
        "unknown-node" => BackendError::NoSuch("node"),
        code => BackendError::Refused {
            code: code.to_owned(),
            message: error.sentence,
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
