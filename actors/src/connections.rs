//! The client connections of this node, so that a stop can reach each of them and wait for its end.
//!
//! Invariant: after [`Connections::stop`] every stream that was opened ends with `system-shutdown`, wherever it is, and is
//! refused nothing before that. One that negotiates looks out for [`Connections::stopping`] whatever else it waits for, its
//! socket or an owner's answer, and the stop comes first ([`Connections::unless_stopping`]). One that is bound is in the
//! directory, and is told; one that is being bound at that moment looks at [`Connections::is_stopping`] after it has entered
//! the directory. So either the stop finds it there, or it finds the stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long a node that stops waits for a client that does not close its connection.
const CLOSE_AT_STOP_MAX: Duration = Duration::from_millis(500);

/// All client connections of this node.
#[derive(Debug)]
pub struct Connections {
    stopping: watch::Sender<bool>,
    open: watch::Sender<usize>,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections {
            stopping: watch::Sender::new(false),
            open: watch::Sender::new(0),
        }
    }
}

/// An open connection; it counts until this is dropped.
#[derive(Debug)]
pub struct Connection {
    connections: Arc<Connections>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open.send_modify(|open| *open -= 1);
    }
}

impl Connections {
    /// Counts a new connection.
    pub fn open(self: &Arc<Connections>) -> Connection {
        self.open.send_modify(|open| *open += 1);
        Connection {
            connections: Arc::clone(self),
        }
    }

    /// No connection is taken from now on, and each stream is to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the node is about to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns when the node is about to stop.
    pub async fn stopping(&self) {
        // The sender lives as long as this borrow, so it can't be gone.
        let _ = self.stopping.subscribe().wait_for(|stops| *stops).await;
    }

    /// What some work brings; `None`: the node is about to stop. Also where the work has an end at the same moment: it may be a
    /// refusal for no other reason than the stop.
    pub async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let value = tokio::select! {
            biased;
            () = self.stopping() => return None,
            value = work => value,
        };
        (!self.is_stopping()).then_some(value)
    }

    /// Returns when the node is about to stop and has given clients a moment to close their connections.
    pub async fn hurry(&self) {
        self.stopping().await;
        tokio::time::sleep(CLOSE_AT_STOP_MAX).await;
    }

    /// Returns when no connection is open.
    pub async fn ended(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, poll};

    use super::*;

    #[tokio::test]
    async fn a_stop_reaches_those_who_wait_and_those_who_look_later() {
        let connections = Connections::default();
        let mut waiting = pin!(connections.stopping());
        assert!(poll!(&mut waiting).is_pending());
        assert!(!connections.is_stopping());
        connections.stop();
        assert!(poll!(&mut waiting).is_ready());
        assert!(connections.stopping().now_or_never().is_some());
        assert!(connections.is_stopping());
    }

    #[tokio::test]
    async fn nothing_that_ends_with_the_stop_counts() {
        let connections = Connections::default();
        assert_eq!(connections.unless_stopping(async { 7 }).await, Some(7));
        let mut waits = pin!(connections.unless_stopping(std::future::pending::<u8>()));
        assert!(poll!(&mut waits).is_pending());
        // The stop comes while the work comes to its end.
        let ends = connections.unless_stopping(async {
            connections.stop();
            7
        });
        assert_eq!(ends.await, None);
        assert_eq!(waits.await, None);
        assert_eq!(connections.unless_stopping(async { 7 }).await, None);
    }

    #[tokio::test]
    async fn the_end_of_the_last_connection_is_awaited() {
        let connections = Arc::new(Connections::default());
        assert!(connections.ended().now_or_never().is_some());
        let (first, second) = (connections.open(), connections.open());
        let mut ended = pin!(connections.ended());
        assert!(poll!(&mut ended).is_pending());
        drop(first);
        assert!(poll!(&mut ended).is_pending());
        drop(second);
        assert!(poll!(&mut ended).is_ready());
    }
}
