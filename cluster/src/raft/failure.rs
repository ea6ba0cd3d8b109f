//! What is done when a group can't go on on this node: its machine, its stores or its log failed.
//!
//! There is no way back within the process: openraft has stopped the group, and what the machine has in memory may be ahead
//! of its stores. A node that lived on would hold partitions that nobody serves. So it ends, the others take over, and the
//! next start begins from what is on disk.

use std::fmt;
use std::sync::Arc;

use crate::node_id::Group;

/// Is told of the first failure of a group; should end the process. It may be called for several groups at once.
#[derive(Clone)]
pub struct OnFailure(Arc<Told>);

type Told = dyn Fn(Group, &str) + Send + Sync;

impl OnFailure {
    /// Does this.
    pub fn new(act: impl Fn(Group, &str) + Send + Sync + 'static) -> OnFailure {
        OnFailure(Arc::new(act))
    }

    pub(crate) fn tell(&self, group: Group, reason: &str) {
        (self.0)(group, reason);
    }
}

impl Default for OnFailure {
    /// Logs, and aborts the process.
    fn default() -> OnFailure {
        OnFailure::new(|group, reason| {
            tracing::error!(%group, reason, "a group failed: the process ends");
            std::process::abort()
        })
    }
}

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure")
    }
}

/// An error with all its causes.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
