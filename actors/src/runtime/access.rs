//! Who has access to the pool: what the meta group knows of tokens, operators and what they did, and how it is changed.

use cluster::meta::MetaEntry;
use cluster::meta::access::{Access, AccessEntry};
use cluster::meta::audit::{AuditEntry, Change, Outcome, RecordId};
use cluster::meta::members::AdditionId;
use cluster::node_id::NodeId;

use super::NodeHandle;
use super::meta_road::OperationError;

impl NodeHandle {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.fabric.node
    }

    /// Reads what this node has heard so far. Be brief: the meta group waits.
    pub fn access<T>(&self, read: impl FnOnce(&Access) -> T) -> T {
        read(&self.inner.fabric.meta.access())
    }

    /// The member that an addition has let in.
    pub fn member_of(&self, addition: AdditionId) -> Option<NodeId> {
        let state = self.inner.fabric.meta.state();
        let mut rows = state.members.rows.iter();
        let found = rows.find(|(_, row)| row.addition == addition);
        found.map(|(node, _)| *node)
    }

    /// Changes tokens or operators. What is asked twice is done once.
    ///
    /// # Errors
    /// What the meta group refuses, and those of all changes: `unavailable`, `outcome-unknown`.
    pub async fn change_access(&self, entry: AccessEntry) -> Result<(), OperationError> {
        self.decide(MetaEntry::Access(entry)).await.map(drop)
    }

    /// Writes into the audit log that something is about to be changed, and gives the record's name.
    ///
    /// # Errors
    /// If it is not certain that it is written: then nothing may be changed.
    pub async fn begin_record(&self, change: Change) -> Result<RecordId, OperationError> {
        let id: RecordId = rand::random();
        let entry = AuditEntry::Begin { id, change };
        self.change_access(AccessEntry::Audit(entry)).await?;
        Ok(id)
    }

    /// Writes what became of it.
    ///
    /// # Errors
    /// If it is not certain that it is written: then it may stay unknown.
    pub async fn end_record(&self, id: RecordId, outcome: Outcome) -> Result<(), OperationError> {
        let entry = AuditEntry::End { id, outcome };
        self.change_access(AccessEntry::Audit(entry)).await
    }
}
