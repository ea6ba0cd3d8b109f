//! Acts on who reaches whom: relays for frames, and leaderships to whom reaches more. The rules are in [`cluster::reach`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use cluster::gossip::shell::Gossiper;
use cluster::gossip::{GossipKey, GossipValue};
use cluster::node_id::NodeId;
use cluster::raft::Groups;
use cluster::reach::{Reachability, Sight};
use cluster::transport::Lane;

use super::dispatch::tell_all;
use crate::fabric::Fabric;
use crate::link::ToLink;
use crate::owner::ToOwner;

/// Groups that are handed over at one look: clients must not feel all at once.
const HANDED_OVER_AT_ONCE: usize = 4;

/// One look at the connections and the gossip.
pub(super) fn look(
    fabric: &Arc<Fabric>,
    groups: &Groups,
    gossip: &Gossiper,
    reachability: &mut Reachability,
) {
    let (reached, now) = (reached(fabric), Instant::now());
    let told = [
        (
            GossipKey::Reaches,
            GossipValue::Reaches(reached.iter().copied().collect()),
        ),
        (
            GossipKey::Standing,
            GossipValue::Standing(fabric.standing.get() as u8),
        ),
    ];
    for (key, value) in told {
        if let Err(error) = gossip.set(key, value) {
            tracing::debug!(?error, ?key, "the gossip is full");
        }
    }
    let sight = gossip.with_core(|core, now| Sight::of(core, fabric.node, reached, now));
    reachability.observe(sight, now);
    let mut avoided = reachability.avoided();
    avoided.extend(not_serving(fabric));
    groups.avoid(avoided);
    for node in fabric.set_relays(reachability.relays()) {
        match fabric.relay(node) {
            Some(relay) => {
                tracing::warn!(%node, %relay, "a node is not reached; frames go by a relay")
            }
            None => tracing::info!(%node, "no relay to this node any more"),
        }
        // What was on the old way may be lost, or come behind what goes the new way: both ends attach anew.
        tell_all(fabric, || ToLink::PeerUp(node), || ToOwner::PeerDown(node));
        fabric.reached_again(node);
    }
    hand_over(groups, reachability, now);
}

/// The members that this node has connections to. The gossip lane counts as well because it notices a silent peer first.
fn reached(fabric: &Fabric) -> BTreeSet<NodeId> {
    let members = fabric.members();
    let members = members.iter().map(|member| member.id);
    members
        .filter(|node| {
            *node != fabric.node
                && [Lane::Route, Lane::Gossip]
                    .into_iter()
                    .all(|lane| fabric.transport.connected(*node, lane))
        })
        .collect()
}

/// Members that are drained or leave: they are to lead nothing.
fn not_serving(fabric: &Fabric) -> Vec<NodeId> {
    let meta = fabric.meta.state();
    let present = meta.members.present();
    present
        .filter(|(_, row)| !row.phase.serves())
        .map(|(node, _)| node)
        .collect()
}

/// What is begun comes to its end beside this task.
fn hand_over(groups: &Groups, reachability: &mut Reachability, now: Instant) {
    if !reachability.is_missed_by_any(now) {
        return;
    }
    let mut handed_over = 0;
    for status in groups.status().iter().filter(|status| status.is_leader) {
        let fit = |node| groups.can_take_over(status, node);
        let Some(heir) = reachability.hand_over(status.group, fit, now) else {
            continue;
        };
        let (group, groups) = (status.group, groups.clone());
        tokio::spawn(async move {
            tracing::info!(%group, to = %heir, "handing over to a voter that reaches more members");
            if let Err(error) = groups.hand_over(group, heir).await {
                tracing::warn!(%group, %error, "leadership was not handed over");
            }
        });
        handed_over += 1;
        if handed_over == HANDED_OVER_AT_ONCE {
            break;
        }
    }
}
