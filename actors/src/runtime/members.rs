//! Who is in the pool, as this node goes by it: the meta group's word, or its configuration's until there is one.
//!
//! Two lists, because a node that was removed still has to be told so: *members* are those that count; *peers* are those
//! that this node keeps connections with, which may be some more for a moment.
//!
//! Who may connect: peers, and nodes with a higher id than any that this node has heard of. Ids only grow, so such a node
//! was added since, and it may lead the meta group: without it this node would never hear of it. Its certificate has proven
//! the id, and ids are certified when they are given out.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use cluster::meta::MetaState;
use cluster::meta::members::MemberPhase;
use cluster::node_id::NodeId;

use super::Member;

/// The lists, shared by all who ask.
#[derive(Debug)]
pub struct MemberList {
    lists: RwLock<Lists>,
    /// Where this node's configuration says that members are. From here a member may be reached at another address than
    /// from elsewhere, so for whom it names this goes before what the meta group says.
    configured: BTreeMap<NodeId, String>,
}

#[derive(Clone, Debug)]
struct Lists {
    members: Arc<Vec<Member>>,
    peers: Arc<Vec<Member>>,
    /// The highest id heard of, tombstones included; 0 on a node that was added and has heard of nobody yet.
    highest: NodeId,
}

impl MemberList {
    /// From the configuration of a node, which is one of these members or was added to their pool.
    pub fn new(own: NodeId, members: Vec<Member>) -> MemberList {
        let ids = || members.iter().map(|member| member.id);
        let highest = match ids().any(|id| id == own) {
            true => ids().max().unwrap_or_default(),
            false => NodeId(0),
        };
        let addresses = members.iter().map(|member| (member.id, &member.address));
        let configured = addresses
            .map(|(id, address)| (id, address.clone()))
            .collect();
        let members = Arc::new(members);
        MemberList {
            configured,
            lists: RwLock::new(Lists {
                peers: Arc::clone(&members),
                members,
                highest,
            }),
        }
    }

    /// The members, this node among them.
    pub fn members(&self) -> Arc<Vec<Member>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&lists.members)
    }

    /// Those to keep connections with.
    pub fn peers(&self) -> Arc<Vec<Member>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&lists.peers)
    }

    /// Whether a node may connect.
    pub fn admits(&self, node: NodeId) -> bool {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        node > lists.highest || lists.peers.iter().any(|member| member.id == node)
    }

    /// Whether a node is one that connections are kept with.
    pub fn knows(&self, node: NodeId) -> bool {
        self.peers().iter().any(|member| member.id == node)
    }

    /// Takes what the meta group says. `following`: who still follows the meta group, removed or not. Whether the peers
    /// have changed. A pool whose members are not noted yet changes nothing.
    pub fn follow(&self, state: &MetaState, following: &[NodeId]) -> bool {
        let member = |(id, address): (NodeId, &String)| Member {
            id,
            address: self.configured.get(&id).unwrap_or(address).clone(),
        };
        let rows = || state.members.rows.iter().map(|(node, row)| (*node, row));
        let present = rows().filter(|(_, row)| row.phase != MemberPhase::Removed);
        let members: Vec<Member> = present
            .map(|(node, row)| member((node, &row.address)))
            .collect();
        if members.is_empty() {
            return false;
        }
        let kept = |node, phase| phase != MemberPhase::Removed || following.contains(&node);
        let peers: Vec<Member> = rows()
            .filter(|(node, row)| kept(*node, row.phase))
            .map(|(node, row)| member((node, &row.address)))
            .collect();
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *lists.peers != peers;
        if let Some((last, _)) = state.members.rows.last_key_value() {
            lists.highest = *last;
        }
        if *lists.members != members {
            lists.members = Arc::new(members);
        }
        if changed {
            lists.peers = Arc::new(peers);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use cluster::meta::members::MemberRow;

    use super::*;

    fn state(rows: &[(u64, MemberPhase)]) -> MetaState {
        let mut state = MetaState::default();
        for (node, phase) in rows {
            let row = MemberRow {
                address: format!("host-{node}"),
                phase: *phase,
                revision: 1,
                addition: [0; 16],
                leaves: false,
                heir: None,
                pace: 0,
            };
            state.members.rows.insert(NodeId(*node), row);
        }
        state
    }

    #[test]
    fn the_meta_groups_word_replaces_the_configurations() {
        use MemberPhase::{Joining, Member as Is, Removed};
        let old = || {
            vec![Member {
                id: NodeId(9),
                address: "old".to_owned(),
            }]
        };
        let added = MemberList::new(NodeId(10), old());
        assert!(added.admits(NodeId(2)) && added.admits(NodeId(11)));
        let list = MemberList::new(NodeId(9), old());
        assert!(!list.admits(NodeId(2)) && list.admits(NodeId(10)));
        let check =
            |rows: &[(u64, MemberPhase)], following: &[u64], members: &[u64], peers: &[u64]| {
                let following: Vec<NodeId> = following.iter().copied().map(NodeId).collect();
                list.follow(&state(rows), &following);
                let ids = |list: Arc<Vec<Member>>| list.iter().map(|m| m.id.0).collect::<Vec<_>>();
                assert_eq!(ids(list.members()), members);
                assert_eq!(ids(list.peers()), peers);
            };
        check(&[], &[], &[9], &[9]);
        check(&[(1, Is), (2, Joining)], &[], &[1, 2], &[1, 2]);
        assert!(!list.admits(NodeId(0)) && list.admits(NodeId(3)));
        check(&[(1, Is), (2, Removed)], &[1, 2], &[1], &[1, 2]);
        assert!(list.admits(NodeId(2)));
        check(&[(1, Is), (2, Removed)], &[1], &[1], &[1]);
        assert!(!list.admits(NodeId(2)));
    }

    /// Behind address translation a node is elsewhere for some than for others.
    #[test]
    fn the_configuration_says_where_a_member_is_reached_from_here() {
        let here = Member {
            id: NodeId(1),
            address: "from-here".to_owned(),
        };
        let list = MemberList::new(NodeId(2), vec![here]);
        let state = state(&[(1, MemberPhase::Member), (3, MemberPhase::Member)]);
        list.follow(&state, &[]);
        let peers = list.peers();
        let addresses: Vec<&str> = peers.iter().map(|peer| &*peer.address).collect();
        assert_eq!(addresses, ["from-here", "host-3"]);
    }
}
