//! A node that stops tells every client so, and refuses nobody anything before that.

use super::reign_tests::{Client, listens};
use super::stage::{settings, until};
use super::*;

/// A stream that waits for an owner's answer is not left to wait, nor told that its login is refused for now.
#[actix::test]
async fn who_waits_for_an_owner_is_told_of_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let address = listens(&mut settings);
    let node = start(settings).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    for place in &node.inner.fabric.partitions {
        let actors = node.inner.fabric.actors(place.id).unwrap();
        actors.owner.send(ToOwner::Stop).await.unwrap();
    }
    let mut waits = Client::knock(address, "AGFsaWNlAHNlY3JldA==").await;
    node.stop().await;
    let heard = waits.hears("</stream:stream>").await;
    assert!(heard.contains("<system-shutdown "), "{heard}");
    assert!(!heard.contains("<failure "), "{heard}");
}
