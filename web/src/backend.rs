//! What a node must be able to do to have a control port.
//!
//! The port is written against this trait, not against the node: it is tested without one.

use std::future::Future;

use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::report::{HashReport, OperationRequest, OperationsReport, PoolReport, Readiness};

/// A node as its operators see it. Clones are handles of the same node and may be used on any thread.
pub trait ControlBackend: Clone + Send + 'static {
    /// The pool as this node sees it.
    fn report(&self) -> PoolReport;

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

    /// The members and what is under way.
    fn operations(&self) -> OperationsReport;

    /// Lets a node in, drains it, takes that back or removes it.
    ///
    /// # Errors
    /// [`BackendError::Refused`] with the reason.
    fn operate(
        &self,
        request: OperationRequest,
    ) -> impl Future<Output = Result<serde_json::Value, BackendError>>;

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
    /// It could never be done.
    #[error("{0}")]
    Invalid(String),
    /// It can't be done now, and nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// The pool refuses.
    #[error("{sentence}")]
    Refused {
        /// For programs.
        code: &'static str,
        /// For people.
        sentence: String,
    },
    /// Nobody knows whether it was done: ask, or try again.
    #[error("no answer in time: the change may still come about")]
    Timeout,
}
