//! Frames on their way: in order on each connection, unless a fault says otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{Faults, Random};
use crate::node_id::{Epoch, NodeId, PartitionId};

#[derive(Clone)]
pub(super) enum Body {
    Up(Bytes),
    Down(Bytes),
    Across(Bytes),
}

#[derive(Clone)]
pub(super) struct Frame {
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) body: Body,
}

#[derive(Default)]
pub(super) struct Network {
    queues: BTreeMap<(NodeId, NodeId), VecDeque<Frame>>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Network {
    /// Queues a frame; `false`: there is no connection.
    pub(super) fn send(
        &mut self,
        from: NodeId,
        to: NodeId,
        frame: Frame,
        faults: Faults,
        random: &mut Random,
    ) -> bool {
        if self.cuts.contains(&pair(from, to)) {
            return false;
        }
        let queue = self.queues.entry((from, to)).or_default();
        if from == to || !random.chance(faults.lose) {
            if from != to && random.chance(faults.double) {
                queue.push_back(frame.clone());
            }
            queue.push_back(frame);
        }
        true
    }

    /// Takes the oldest frame of any connection.
    pub(super) fn take(&mut self, random: &mut Random) -> Option<(NodeId, NodeId, Frame)> {
        let busy: Vec<_> = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(way, _)| *way)
            .collect();
        if busy.is_empty() {
            return None;
        }
        let way = busy[random.below(busy.len() as u64) as usize];
        let frame = self.queues.get_mut(&way)?.pop_front()?;
        Some((way.0, way.1, frame))
    }

    /// Forgets what is on its way between two nodes.
    pub(super) fn reset(&mut self, a: NodeId, b: NodeId) {
        self.queues.remove(&(a, b));
        self.queues.remove(&(b, a));
    }

    pub(super) fn cut(&mut self, a: NodeId, b: NodeId) {
        if a != b {
            self.cuts.insert(pair(a, b));
        }
    }

    /// Mends a cut; `false`: there was none.
    pub(super) fn uncut(&mut self, a: NodeId, b: NodeId) -> bool {
        self.cuts.remove(&pair(a, b))
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }
}
