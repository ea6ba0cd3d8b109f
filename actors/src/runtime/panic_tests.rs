//! A node whose actors are made to panic: what is lost is replaced, and the node serves on.

use xmpp::stanza_error::Condition;

use super::stage::{Stage, WAIT, until};
use super::*;
use crate::link::ToLink;
use crate::supervision::RESTARTS_MAX;

impl Stage {
    fn panics(&self) -> u64 {
        self.fabric().metrics.panics.get()
    }

    /// Tells an owner something that makes an actor panic, and waits until that has been noticed.
    async fn panic(&self, partition: PartitionId, message: ToOwner) {
        let before = self.panics();
        self.fabric()
            .actors(partition)
            .unwrap()
            .owner
            .send(message)
            .await
            .unwrap();
        until("the panic is noticed", || self.panics() > before).await;
    }

    /// The partition of the account serves.
    async fn serves(&self) {
        let served = async {
            // What was under way may be unknown; later ones must not be.
            while self
                .node
                .set_password(self.alice.clone(), Password::new("other"))
                .await
                .is_err()
            {}
        };
        assert!(
            tokio::time::timeout(WAIT, served).await.is_ok(),
            "passwords can be set"
        );
    }
}

#[actix::test]
async fn a_panic_costs_one_user_one_room_or_one_reign() {
    let mut stage = Stage::set().await;
    let partition = stage.fabric().partition_of(&stage.alice);
    let room = BareJid::parse("room@conference.localhost").unwrap();
    let rooms = stage.fabric().partition_of(&room);

    // The owner: a new reign at the same address.
    let epoch = stage.fabric().owner(partition).unwrap().1;
    stage.panic(partition, ToOwner::Panic).await;
    until("another reign begins", || {
        stage
            .fabric()
            .owner(partition)
            .is_some_and(|(_, now)| now > epoch)
    })
    .await;
    stage.serves().await;

    // The link: it attaches again.
    let before = stage.panics();
    stage.actors().link.send(ToLink::Panic).await.unwrap();
    until("the link's panic is noticed", || stage.panics() > before).await;
    stage.serves().await;

    // A room.
    stage.panic(rooms, ToOwner::PanicRoom(room)).await;

    // A user, until it has been too often.
    let mut claims = vec![stage.claim("phone-0").await.unwrap()];
    for _ in 0..RESTARTS_MAX {
        stage
            .panic(partition, ToOwner::PanicUser(stage.alice.clone()))
            .await;
        let resource = format!("phone-{}", claims.len());
        claims.push(stage.claim(&resource).await.unwrap());
    }
    stage
        .panic(partition, ToOwner::PanicUser(stage.alice.clone()))
        .await;
    let Err(error) = stage.claim("phone").await else {
        panic!("a user who was too often too much is left alone");
    };
    assert_eq!(error.condition, Condition::InternalServerError);
    // The partition has not noticed.
    stage.serves().await;
    stage.node.stop().await;
}
