//! Before a partition is handed over its owner here finishes what it has ([`crate::owner`], `rest`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cluster::node_id::Group;
use cluster::raft::Retiring;
use tokio::sync::oneshot;

use crate::fabric::Fabric;
use crate::owner::ToOwner;

/// How long an owner may take to finish. A partition whose log is slower than that is handed over all the same: whoever waits
/// then asks the next owner, as after a crash.
const RESTED_WITHIN: Duration = Duration::from_secs(1);

/// The owners of this node.
pub(super) struct Owners {
    fabric: Arc<Fabric>,
}

impl Owners {
    pub(super) fn new(fabric: Arc<Fabric>) -> Owners {
        Owners { fabric }
    }
}

impl Retiring for Owners {
    fn rest(&self, group: Group) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let fabric = Arc::clone(&self.fabric);
        Box::pin(async move {
            let partition = group.partition();
            let Some(actors) = partition.and_then(|partition| fabric.actors(partition)) else {
                return;
            };
            let (done, rests) = oneshot::channel();
            let rested = async {
                // Without a reign the word is dropped: there is nothing to wait for.
                actors.owner.send(ToOwner::Rest(done)).await.is_ok() && rests.await.is_ok()
            };
            if tokio::time::timeout(RESTED_WITHIN, rested).await.is_err() {
                tracing::info!(%group, "an owner did not finish in time; it is handed over all the same");
            }
        })
    }

    fn go_on(&self, group: Group) {
        let partition = group.partition();
        let actors = partition.and_then(|partition| self.fabric.actors(partition));
        // An owner that is too busy to hear it goes on by its own clock.
        if actors.is_some_and(|actors| actors.owner.try_send(ToOwner::GoOn).is_err()) {
            self.fabric.metrics.mailboxes_full.inc();
        }
    }
}
