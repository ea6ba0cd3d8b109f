//! What a node must be able to do to have a control port.
//!
//! The port is written against this trait, not against the node: it is tested without one.

use std::future::Future;

use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::report::access::{
    AuditPage, AuditQuery, ChangeReport, Identity, IssuedOperator, IssuedToken, NewOperator,
    NewToken, OperatorReport, OutcomeReport, TokenReport,
};
use crate::report::backup::{BackupPart, BackupPool, CaptureReport, EndReport};
use crate::report::cluster::{FinaliseReport, VersionsReport};
use crate::report::console::HistoryReport;
use crate::report::imports::ImportPiece;
use crate::report::join::{JoinReply, JoinRequest};
use crate::report::nodes::{NodeOperation, NodeReport, PlanStep, ProgressReport};
use crate::report::{HashReport, PoolReport, Readiness};

/// The name of a record of the audit log between its two halves.
pub type AuditKey = [u8; 16];

/// The name of a backup.
pub type BackupKey = [u8; 16];

/// A node as its operators see it. Clones are handles of the same node and may be used on any thread.
pub trait ControlBackend: Clone + Send + 'static {
    /// The pool as this node sees it.
    fn report(&self) -> PoolReport;

    /// Addresses of the node's sessions in order, behind `after`, that contain a text; at most `limit`.
    fn sessions(&self, after: &str, containing: &str, limit: usize) -> Vec<String>;

    /// What the nodes did behind a time in ms since 1970, as far as it is kept.
    fn history(&self, after_ms: u64) -> HistoryReport;

    /// Whether the node can serve.
    fn readiness(&self) -> Readiness;

    /// What the node's replica of a partition holds, as a hash.
    ///
    /// # Errors
    /// [`BackendError::NoPartition`] if there is no such partition, [`BackendError::Unavailable`] if it is written to all the
    /// time.
    fn partition_hash(
        &self,
        partition: u16,
    ) -> impl Future<Output = Result<HashReport, BackendError>>;

    /// Its counters in the text format of OpenMetrics.
    fn metrics(&self) -> String;

    /// Makes an account.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] if there is one.
    fn create_account(
        &self,
        user: BareJid,
        password: Password,
    ) -> impl Future<Output = Result<(), BackendError>>;

    /// Makes an account for an import, or goes on with one.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] if there is one with credentials.
    fn begin_import(&self, user: BareJid) -> impl Future<Output = Result<(), BackendError>>;

    /// Adds a piece to an account that is being imported.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] if it is not being imported, [`BackendError::Invalid`].
    fn import(
        &self,
        user: BareJid,
        piece: ImportPiece,
    ) -> impl Future<Output = Result<(), BackendError>>;

    /// Gives an account another password.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] if there is no such account.
    fn set_password(
        &self,
        user: BareJid,
        password: Password,
    ) -> impl Future<Output = Result<(), BackendError>>;

    /// Removes an account and all that belongs to it.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] if there is no such account.
    fn remove_account(&self, user: BareJid) -> impl Future<Output = Result<(), BackendError>>;

    /// The accounts behind `after` in the order of their addresses, at most `limit`.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] if a part of the pool has no owner.
    fn list_accounts(
        &self,
        after: Option<BareJid>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<BareJid>, BackendError>>;

    /// All members, those that were removed too.
    fn nodes(&self) -> Vec<NodeReport>;

    /// What an operation would do.
    ///
    /// # Errors
    /// [`BackendError::Refused`] as the operation would be.
    fn plan(&self, node: u64, operation: NodeOperation) -> Result<Vec<PlanStep>, BackendError>;

    /// What letting in a node would do that the others reach at this address (`host:port`), and that runs what this one does: the
    /// id that it would have, and the steps.
    ///
    /// # Errors
    /// [`BackendError::Invalid`], [`BackendError::Refused`] as joining would be.
    fn plan_addition(&self, address: &str) -> Result<(u64, Vec<PlanStep>), BackendError>;

    /// Begins an operation; the nodes carry it out by themselves. What is under way already is begun.
    ///
    /// # Errors
    /// [`BackendError::Refused`].
    fn operate(
        &self,
        node: u64,
        operation: NodeOperation,
    ) -> impl Future<Output = Result<(), BackendError>>;

    /// How far what is under way has come.
    fn progress(&self) -> ProgressReport;

    /// The version that the pool is at, and the builds of its members.
    fn versions(&self) -> VersionsReport;

    /// What a finalisation would do; without a version, of the newest that a member supports.
    ///
    /// # Errors
    /// [`BackendError::Refused`] as the finalisation would be.
    fn plan_finalisation(&self, version: Option<u16>) -> Result<FinaliseReport, BackendError>;

    /// Brings the pool to a version, for good. What is so already is done.
    ///
    /// # Errors
    /// [`BackendError::Refused`].
    fn finalise(
        &self,
        version: Option<u16>,
    ) -> impl Future<Output = Result<FinaliseReport, BackendError>>;

    /// Whose token this is, if it is an operator's; the token of the node's own data folder is not one of these.
    fn identify(&self, token: &str) -> Option<Identity>;

    /// Writes down that somebody is about to change something. Nothing may be changed before this is good.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`]: then nothing is changed.
    fn begin_record(
        &self,
        change: ChangeReport,
    ) -> impl Future<Output = Result<AuditKey, BackendError>>;

    /// Writes down what became of it. Without that it stays unknown.
    fn end_record(&self, key: AuditKey, outcome: OutcomeReport) -> impl Future<Output = ()>;

    /// A page of the audit log.
    fn audit(&self, query: &AuditQuery) -> AuditPage;

    /// All operators.
    fn operators(&self) -> Vec<OperatorReport>;

    /// Makes an operator, who has a token from then on.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if there is one of that name, or too many.
    fn add_operator(
        &self,
        new: NewOperator,
        by: String,
    ) -> impl Future<Output = Result<IssuedOperator, BackendError>>;

    /// Takes an operator's token away.
    ///
    /// # Errors
    /// [`BackendError::NoSuch`].
    fn revoke_operator(&self, name: String) -> impl Future<Output = Result<(), BackendError>>;

    /// All tokens that let nodes join.
    fn tokens(&self) -> Vec<TokenReport>;

    /// Makes a token that lets one node join.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if this node can't let nodes join, or there are too many.
    fn issue_token(
        &self,
        new: NewToken,
        by: String,
    ) -> impl Future<Output = Result<IssuedToken, BackendError>>;

    /// Makes a token useless.
    ///
    /// # Errors
    /// [`BackendError::NoSuch`].
    fn revoke_token(&self, id: String) -> impl Future<Output = Result<(), BackendError>>;

    /// The name of the token that a machine wants to join with, for the audit log.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if it lets this request not in.
    fn check_join(
        &self,
        request: &JoinRequest,
    ) -> impl Future<Output = Result<String, BackendError>>;

    /// Lets a machine join. The same request again gets the same answer.
    ///
    /// # Errors
    /// [`BackendError::Refused`].
    fn join(&self, request: JoinRequest) -> impl Future<Output = Result<JoinReply, BackendError>>;

    /// What a pool that is made of a backup has to keep of this one.
    fn backup_pool(&self) -> BackupPool;

    /// The group that has a user, whether there is one or not.
    fn group_of(&self, user: &BareJid) -> u32;

    /// A name for a new backup, and the time, in ms since 1970.
    ///
    /// # Errors
    /// None of its own: it is a change that is written down.
    fn begin_backup(&self) -> impl Future<Output = Result<(BackupKey, u64), BackendError>>;

    /// Captures a group for a backup, at its owner.
    ///
    /// # Errors
    /// [`BackendError::Refused`], [`BackendError::Unavailable`].
    fn backup_capture(
        &self,
        backup: BackupKey,
        group: u32,
    ) -> impl Future<Output = Result<CaptureReport, BackendError>>;

    /// Up to where a group's log is committed.
    ///
    /// # Errors
    /// As [`ControlBackend::backup_capture`].
    fn backup_end(
        &self,
        backup: BackupKey,
        group: u32,
    ) -> impl Future<Output = Result<EndReport, BackendError>>;

    /// A part of what was captured.
    ///
    /// # Errors
    /// [`BackendError::Refused`]: the backup has to begin anew.
    fn backup_part(
        &self,
        backup: BackupKey,
        group: u32,
        part: BackupPart,
    ) -> impl Future<Output = Result<Vec<u8>, BackendError>>;

    /// Whether what was captured is still wanted.
    fn backup_goes_on(&self, backup: BackupKey, wanted: bool) -> impl Future<Output = ()>;
}

/// Why a node did not do what an operator asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// It exists already.
    #[error("there is such an account already")]
    Conflict,
    /// It does not exist.
    #[error("there is no such account")]
    NotFound,
    /// There is no partition of this number.
    #[error("there is no such partition")]
    NoPartition,
    /// There is no such node, token or operator.
    #[error("there is no such {0}")]
    NoSuch(&'static str),
    /// The state of the pool forbids it.
    #[error("{message}")]
    Refused {
        /// Why, as a word for programs.
        code: String,
        /// Why, as a sentence for people.
        message: String,
    },
    /// It could never be done.
    #[error("{0}")]
    Invalid(String),
    /// It can't be done now, and nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// Nobody knows whether it was done: ask, or try again.
    #[error("no answer in time: the change may still come about")]
    Timeout,
}
