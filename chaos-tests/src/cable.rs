//! Cables between nodes that can be pulled: a TCP forwarder a direction, since each node opens its own connections.
//!
//! ```text
//!   node A ── dials ──► cable A→B ──► the cluster port of B
//! ```

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a cable does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// It carries.
    Whole,
    /// Connections are reset, and new ones as well: a firewall that refuses.
    Cut,
    /// Nothing passes, and nobody is told: a cable pulled out.
    Silent,
}

/// One direction's forwarder. It ends with this.
#[derive(Debug)]
pub struct Forwarder {
    /// Where the dialling node must connect.
    pub address: SocketAddr,
    state: watch::Sender<Cable>,
    task: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
        self.state.send_replace(Cable::Cut);
    }
}

impl Forwarder {
    /// A whole cable to `target`, listening on an address of the dialling node's.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Result<Forwarder> {
        let listener = TcpListener::bind(listen).await.context("a cable's end")?;
        let address = listener.local_addr()?;
        let (state, watched) = watch::channel(Cable::Whole);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, watched.clone()));
            }
        });
        Ok(Forwarder {
            address,
            state,
            task,
        })
    }

    /// Changes what the cable does, for open connections as well.
    pub fn set(&self, cable: Cable) {
        self.state.send_replace(cable);
    }
}

/// Carries one connection for as long as the cable is whole.
async fn carry(mut near: TcpStream, target: SocketAddr, mut state: watch::Receiver<Cable>) {
    if *state.borrow() == Cable::Cut {
        return reset(&near);
    }
    let silent = state.wait_for(|state| *state != Cable::Silent).await;
    if !silent.is_ok_and(|state| *state == Cable::Whole) {
        return reset(&near);
    }
    let Ok(mut far) = TcpStream::connect(target).await else {
        return reset(&near);
    };
    let changed = {
        let carrying = copy_bidirectional(&mut near, &mut far);
        tokio::select! {
            _ = carrying => return,
            changed = state.wait_for(|state| *state != Cable::Whole) => changed.map(|state| *state),
        }
    };
    if changed.is_ok_and(|state| state == Cable::Silent) {
        // What was on its way is lost; the ends are told nothing until somebody pulls the plug for good.
        drop(state.wait_for(|state| *state != Cable::Silent).await);
    }
    reset(&near);
    reset(&far);
}

/// So that the end is a reset, not an orderly close.
fn reset(stream: &TcpStream) {
    // A socket that is gone already needs none.
    drop(stream.set_zero_linger());
}
