//! A fourth node: it is let in, gets its share of the replicas, and gives all away again, while things break.

use std::rc::Rc;
use std::time::Duration;

use actors::runtime::{NewMember, NodeHandle, RemoveOptions};
use anyhow::{Result, bail};
use chaos_tests::wait::until;
use cluster::node_id::NodeId;
use cluster::version::Build;

use crate::machine::{CLUSTER_PORT, address};
use crate::world::{Order, Stage};

/// Its id: the next that the pool gives.
pub const GUEST: u64 = 4;

/// How long an operator tries, and how long a change may take.
const CHANGES: Duration = Duration::from_secs(60);

/// The operator of a fourth node.
pub struct Guest {
    stage: Rc<Stage>,
}

impl Guest {
    /// Nothing has happened yet.
    pub fn new(stage: &Rc<Stage>) -> Guest {
        Guest {
            stage: Rc::clone(stage),
        }
    }

    /// A node that runs, other than the guest.
    fn via(&self) -> Option<NodeHandle> {
        let others = self
            .stage
            .machines
            .values()
            .filter(|machine| machine.node != GUEST);
        let mut running = others.filter_map(|machine| machine.handle.borrow().clone());
        running.find(|handle| handle.ready().is_ready())
    }

    fn state(&self) -> Option<&'static str> {
        let members = self.via()?.members();
        let guest = members.into_iter().find(|member| member.id == GUEST);
        guest.map(|guest| guest.state)
    }

    /// It is let in, and starts.
    pub async fn comes(&self) -> Result<()> {
        let new = NewMember {
            address: format!("{}:{CLUSTER_PORT}", address(GUEST)),
            addition: [7; 16],
            build: Build::own(),
        };
        let added = until("a node is let in", CHANGES, async || {
            let via = self.via()?;
            via.add_member(new.clone()).await.ok()
        })
        .await?;
        if added != NodeId(GUEST) {
            bail!("the new node is {added}");
        }
        self.stage.order(Order::Start(GUEST));
        until("the new node is a member", CHANGES, async || {
            (self.state() == Some("member")).then_some(())
        })
        .await
    }

    /// From now on it gives away what it has, as soon as it has it.
    pub async fn is_to_go(&self) -> Result<()> {
        until("a node is to go", CHANGES, async || {
            let via = self.via()?;
            let asked = via.remove(NodeId(GUEST), RemoveOptions::default()).await;
            // Asked for before, and the outcome was not told.
            let goes = matches!(self.state(), Some("leaving" | "removed"));
            (asked.is_ok() || goes).then_some(())
        })
        .await
    }

    /// Nothing is left of it.
    pub async fn has_gone(&self) -> Result<()> {
        until("the node has gone", CHANGES, async || {
            let done = self.via()?.progress().is_done();
            (done && self.state() == Some("removed")).then_some(())
        })
        .await
    }
}
