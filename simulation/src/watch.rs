//! Who owns what, looked at all the time: P10.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::world::Stage;

/// How often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Seen {
    /// Partition and epoch, and who owned it then.
    owners: BTreeMap<(u16, u64), u64>,
    /// Node, its start and partition, and the highest epoch that it named.
    highest: BTreeMap<(u64, u64, u16), u64>,
    wrong: Vec<String>,
}

/// Looks until it is ended.
pub struct Watch {
    seen: Rc<RefCell<Seen>>,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Begins to look.
    pub fn begin(stage: &Rc<Stage>) -> Watch {
        let seen = Rc::<RefCell<Seen>>::default();
        let (stage, sees) = (Rc::clone(stage), Rc::clone(&seen));
        let looking = tokio::task::spawn_local(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            loop {
                looks.tick().await;
                look(&stage, &mut sees.borrow_mut());
            }
        });
        Watch { seen, looking }
    }

    /// How many reigns there were, and what was wrong.
    pub fn end(self) -> (usize, Vec<String>) {
        self.looking.abort();
        let mut seen = self.seen.borrow_mut();
        (seen.owners.len(), std::mem::take(&mut seen.wrong))
    }
}

fn look(stage: &Stage, seen: &mut Seen) {
    for machine in stage.machines.values() {
        let Some(handle) = machine.handle.borrow().clone() else {
            continue;
        };
        for partition in handle.status().partitions {
            let (Some(owner), Some(epoch)) = (partition.owner, partition.epoch) else {
                continue;
            };
            let before = *seen.owners.entry((partition.id, epoch)).or_insert(owner);
            if before != owner {
                let what = format!(
                    "P10: epoch {epoch} of partition {} is of nodes {before} and {owner}",
                    partition.id
                );
                seen.wrong.push(what);
            }
            let life = (machine.node, *machine.starts.borrow(), partition.id);
            let highest = seen.highest.entry(life).or_insert(epoch);
            if epoch < *highest {
                let what = format!(
                    "P10: partition {} went from epoch {highest} to {epoch} on node {}",
                    partition.id, machine.node
                );
                seen.wrong.push(what);
            }
            *highest = (*highest).max(epoch);
        }
    }
}
