//! What nodes say of themselves, all the time: who owns what (P10), and which snapshots they have taken over.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors::runtime::NodeHandle;
use chaos_tests::history::{Recorder, What};
use tokio::task::JoinHandle;

use crate::world::Stage;

/// How often nodes are asked for owners.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// At every so manieth look they are asked for snapshots, too.
const COUNTED_AT: u64 = 10;

/// A node in one of its lives.
type Life = (u64, u64);

struct Watcher {
    stage: Rc<Stage>,
    recorder: Arc<Recorder>,
    /// The partition of which leader changes are counted.
    targeted: u64,
    /// What each node said last of each partition: epoch and owner.
    said: BTreeMap<(Life, u64), (u64, u64)>,
    installed: BTreeMap<Life, u64>,
}

/// Looks until it is ended.
pub struct Watch(JoinHandle<()>);

impl Watch {
    /// Begins to look.
    pub fn begin(stage: &Rc<Stage>, recorder: &Arc<Recorder>, targeted: u64) -> Watch {
        let mut watcher = Watcher {
            stage: Rc::clone(stage),
            recorder: Arc::clone(recorder),
            targeted,
            said: BTreeMap::new(),
            installed: BTreeMap::new(),
        };
        Watch(tokio::task::spawn_local(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            for number in 0.. {
                looks.tick().await;
                watcher.look(number % COUNTED_AT == 0);
            }
        }))
    }

    /// Looks no more.
    pub fn end(self) {
        self.0.abort();
    }
}

impl Watcher {
    fn look(&mut self, counts: bool) {
        let stage = Rc::clone(&self.stage);
        for machine in stage.machines.values() {
            let Some(handle) = machine.handle.borrow().clone() else {
                continue;
            };
            let life = (machine.node, *machine.starts.borrow());
            self.owners(life, &handle);
            if counts {
                self.snapshots(life, &handle);
            }
        }
    }

    fn owners(&mut self, life: Life, handle: &NodeHandle) {
        for row in handle.status().partitions {
            let (Some(owner), Some(epoch)) = (row.owner, row.epoch) else {
                continue;
            };
            let partition = u64::from(row.id);
            let before = self.said.insert((life, partition), (epoch, owner));
            if before != Some((epoch, owner)) {
                self.recorder.record(What::Owner {
                    via: life.0,
                    life: life.1,
                    partition,
                    targeted: partition == self.targeted,
                    epoch,
                    owner,
                });
            }
        }
    }

    fn snapshots(&mut self, life: Life, handle: &NodeHandle) {
        let counted = installed(&handle.metrics());
        let before = self.installed.insert(life, counted).unwrap_or(0);
        for _ in before..counted {
            let node = life.0;
            self.recorder.record(What::SnapshotInstalled { node });
        }
    }
}

/// What a node's metrics say of snapshots that it was sent and has taken over.
fn installed(metrics: &str) -> u64 {
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        let is_it = name.ends_with("snapshots_installed_total");
        is_it.then(|| value.parse().ok()).flatten()
    };
    metrics.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_counted_as_the_metrics_tell() {
        let text =
            "# TYPE muster_snapshots_installed counter\nmuster_snapshots_installed_total 3\nx 4\n";
        assert_eq!(installed(text), 3);
        assert_eq!(installed("# EOF\n"), 0);
    }
}
