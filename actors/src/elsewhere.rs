//! Where clients of this node go on, as far as nodes tell where clients reach them (`[clients] address`).
//!
//! Each address comes from the configuration of the node that tells it, by the gossip of the pool's own nodes: nobody who
//! speaks XMPP has a part in it.

use cluster::gossip::{GossipKey, GossipValue, Liveness, NodeView};
use cluster::meta::members::MemberPhase;
use cluster::node_id::NodeId;

use crate::fabric::Fabric;
use crate::isolation::Standing;

impl Fabric {
    /// Where clients reach another node that serves; by turns, so that they are spread. RFC 6120 §4.9.3.19.
    pub fn other_host(&self, turn: u64) -> Option<String> {
        let members: Vec<NodeId> = {
            let state = self.meta.state();
            let present = state.members.present();
            let serving = present
                .filter(|(node, row)| *node != self.node && row.phase == MemberPhase::Member);
            serving.map(|(node, _)| node).collect()
        };
        let hosts: Vec<String> = self.gossip.with_core(|core, now| {
            let views = members.iter().filter_map(|node| core.view().get(node));
            let alive = views.filter(|view| view.liveness(now) == Liveness::Alive);
            alive.filter_map(host_of).collect()
        });
        chosen(hosts, turn)
    }

    /// Where a session of this node is resumed best: here, where it is (XEP-0198 §3). Not if it is about to leave.
    pub fn location(&self) -> Option<String> {
        let stays = self.standing.takes_logins();
        self.settings.client.address.clone().filter(|_| stays)
    }
}

/// Where clients reach a node, if it serves.
fn host_of(view: &NodeView) -> Option<String> {
    let serves = match view.get(GossipKey::Standing) {
        Some(GossipValue::Standing(number)) => {
            Standing::from_u8(*number) == Some(Standing::InTouch)
        }
        _ => false,
    };
    match view.get(GossipKey::ClientAddress) {
        Some(GossipValue::Address(address)) if serves => Some(address.clone()),
        _ => None,
    }
}

fn chosen(mut hosts: Vec<String>, turn: u64) -> Option<String> {
    let turn = turn.checked_rem(hosts.len() as u64)?;
    let place = usize::try_from(turn).ok()?;
    (place < hosts.len()).then(|| hosts.swap_remove(place))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cluster::gossip::Gossip;
    use cluster::node_id::Incarnation;

    use super::*;

    #[test]
    fn hosts_take_turns() {
        let check = |hosts: &[&str], turn, expect: Option<&str>| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            assert_eq!(chosen(hosts, turn).as_deref(), expect);
        };
        check(&[], 7, None);
        check(&["one"], 7, Some("one"));
        check(&["one", "two"], 6, Some("one"));
        check(&["one", "two"], 7, Some("two"));
    }

    #[test]
    fn only_nodes_that_serve_are_named() {
        let check = |standing: Option<Standing>, address: Option<&str>, expect: Option<&str>| {
            let mut core = Gossip::new(NodeId(1), Incarnation(1));
            if let Some(standing) = standing {
                let standing = GossipValue::Standing(standing as u8);
                core.set(GossipKey::Standing, standing).unwrap();
            }
            if let Some(address) = address {
                let address = GossipValue::Address(address.to_owned());
                core.set(GossipKey::ClientAddress, address).unwrap();
            }
            core.tick(Duration::from_secs(1), &[], 7);
            let view = core.view().get(&NodeId(1)).unwrap();
            assert_eq!(host_of(view).as_deref(), expect, "{standing:?}");
        };
        let here = Some("host:5222");
        check(Some(Standing::InTouch), here, here);
        check(Some(Standing::InTouch), None, None);
        check(None, here, None);
        for standing in [
            Standing::NoQuorum,
            Standing::NoLogins,
            Standing::CutOff,
            Standing::Stopping,
            Standing::Draining,
        ] {
            check(Some(standing), here, None);
        }
    }
}
