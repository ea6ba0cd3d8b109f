//! A session is given each row of its user's log once, whatever its node has seen before and whenever it attaches.

use cluster::link::protocol::Down;

use super::reign_tests::{Client, listens};
use super::stage::{NODE, settings, until};
use super::*;
use crate::link::ToLink;

/// A node with the accounts of Alice and Bob, who is there and writes to her.
struct Stage {
    node: NodeHandle,
    address: SocketAddr,
    alice: BareJid,
    bob: Client,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        let address = listens(&mut settings);
        let node = start(settings).await.unwrap();
        until("the node is ready", || node.ready().is_ready()).await;
        let [alice, bob] =
            ["alice", "bob"].map(|name| BareJid::parse(&format!("{name}@localhost")).unwrap());
        for user in [&alice, &bob] {
            let password = Password::new("secret");
            node.create_account(user.clone(), password).await.unwrap();
        }
        let bob = Client::log_in(address, "phone", "AGJvYgBzZWNyZXQ=").await;
        Stage {
            node,
            address,
            alice,
            bob,
            _folder: folder,
        }
    }

    async fn alice_logs_in(&self) -> Client {
        Client::log_in(self.address, "phone", "AGFsaWNlAHNlY3JldA==").await
    }

    fn partition(&self) -> PartitionId {
        self.node.inner.fabric.partition_of(&self.alice)
    }

    /// Where Alice's log ends.
    fn head(&self) -> u64 {
        let place = &self.node.inner.fabric.partitions[usize::from(self.partition().0)];
        let state = place.replica.state();
        state.logs.get(&self.alice).map_or(0, |log| log.head)
    }

    /// Bob writes to Alice; it is in her log then.
    async fn bob_writes(&mut self, id: &str) {
        let before = self.head();
        let message = format!(
            "<message type='chat' id='{id}' to='alice@localhost'><body>hi</body></message>"
        );
        self.bob.say(&message).await;
        until("the message is in the log", || self.head() > before).await;
    }

    async fn tell_link(&self, message: ToLink) {
        let actors = self.node.inner.fabric.actors(self.partition()).unwrap();
        actors.link.send(message).await.unwrap();
    }
}

/// A node that has just started is still sent rows for the sessions of its life before, and their place is not where a new
/// session begins: what that was given when it came, because it had waited, came a second time as missed.
#[actix::test]
async fn what_passed_for_a_session_that_is_gone_is_no_session_s_beginning() {
    let mut stage = Stage::set().await;
    stage.bob_writes("waits").await;
    let (from, epoch) = stage.node.inner.fabric.owner(stage.partition()).unwrap();
    let row = stage.head();
    let down = Box::new(Down::Position {
        key: stage.alice.clone(),
        previous: row - 2,
        seq: row - 1,
    });
    stage.tell_link(ToLink::Frame { from, epoch, down }).await;
    let mut alice = stage.alice_logs_in().await;
    alice.hears("id='waits'").await;
    alice.hears("id='delivered-1'").await;
    alice
        .say("<iq type='result' id='delivered-1' to='localhost'/><presence><status>back</status></presence>")
        .await;
    // What was said before it is done.
    alice.hears("<status>back</status>").await;
    stage.bob_writes("next").await;
    stage.bob_writes("last").await;
    let mut heard = alice.hears("id='next'").await;
    heard += &alice.hears("id='last'").await;
    assert!(!heard.contains("id='waits'"), "{heard}");
    stage.node.stop().await;
}

/// The owner learns by the attachment that a session takes messages now, and of no row that the node has not seen pass.
#[actix::test]
async fn what_waited_comes_with_an_attachment_that_has_no_newer_row() {
    let mut stage = Stage::set().await;
    let mut alice = stage.alice_logs_in().await;
    alice
        .say("<presence><priority>-1</priority></presence>")
        .await;
    alice.hears("<priority>-1</priority>").await;
    stage.bob_writes("waits").await;
    stage.tell_link(ToLink::PeerDown(NODE)).await;
    alice.say("<presence/>").await;
    alice.hears("id='waits'").await;
    stage.node.stop().await;
}
