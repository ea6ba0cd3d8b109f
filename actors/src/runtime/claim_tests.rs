//! Resources and the streams they are for: each that the owner counts has its stream, and no other.

use bytes::Bytes;
use xmpp::stream_error::StreamErrorCondition;

use super::stage::{Stage, WAIT, until};
use super::*;
use crate::claim::Claim;
use crate::mailbox::SessionMailbox;
use crate::session::ToSession;

/// More than a user may have at once.
const MANY: usize = 30;

impl Stage {
    /// Asks for a resource until it is granted: what was given back just now may still be counted.
    async fn claim_at_last(&mut self, resource: &str) -> Claim {
        let asked = async {
            loop {
                if let Ok(claim) = self.claim(resource).await {
                    return claim;
                }
            }
        };
        tokio::time::timeout(WAIT, asked)
            .await
            .expect("a resource is free")
    }

    fn holder(&self, claim: &Claim) -> Option<u64> {
        let directory = &self.fabric().directory;
        directory
            .find(&claim.key().jid, 0)
            .map(|entry| entry.number)
    }
}

fn doomed(claim: &Claim) -> Option<StreamErrorCondition> {
    SessionMailbox::doomed(claim.mailbox())
}

#[actix::test]
async fn a_newer_stream_ends_an_older_one_whose_session_has_not_begun() {
    let mut stage = Stage::set().await;
    let older = stage.claim("phone").await.unwrap();
    assert_eq!(stage.holder(&older), Some(older.key().number));
    let newer = stage.claim("phone").await.unwrap();
    assert_eq!(doomed(&older), Some(StreamErrorCondition::Conflict));
    assert_eq!(doomed(&newer), None);
    assert_eq!(stage.holder(&newer), Some(newer.key().number));
    // The older one's end doesn't touch the newer one.
    drop(older);
    let third = stage.claim("desk").await.unwrap();
    assert_eq!(doomed(&newer), None);
    assert_eq!(stage.holder(&newer), Some(newer.key().number));
    drop((newer, third));
    stage.node.stop().await;
}

#[actix::test]
async fn what_comes_before_the_session_begins_waits_for_it() {
    let mut stage = Stage::set().await;
    let claim = stage.claim("phone").await.unwrap();
    let entry = stage.fabric().directory.find(&claim.key().jid, 0).unwrap();
    let bytes = Bytes::from_static(b"<message/>");
    let taken = entry
        .session
        .try_send(ToSession::Deliver { bytes, row: None });
    assert!(taken.is_ok());
    drop(claim);
    let bytes = Bytes::from_static(b"<message/>");
    let taken = entry
        .session
        .try_send(ToSession::Deliver { bytes, row: None });
    assert!(taken.is_err(), "nobody will read it");
    stage.node.stop().await;
}

#[actix::test]
async fn a_resource_whose_stream_is_gone_is_given_back() {
    let mut stage = Stage::set().await;
    for n in 0..MANY {
        drop(stage.claim_at_last(&format!("phone-{n}")).await);
    }
    until("the directory is empty", || {
        stage.fabric().directory.is_empty()
    })
    .await;
    stage.node.stop().await;
}

/// As after the ask's time limit: it has left, and nobody waits for the grant.
#[actix::test]
async fn a_resource_that_is_granted_too_late_is_given_back() {
    let mut stage = Stage::set().await;
    let mut late = 0;
    for n in 0..MANY {
        let key = stage.key(&format!("phone-{n}"));
        let fabric = Arc::clone(stage.fabric());
        let mut asked = Box::pin(async move { Claim::make(&fabric, key).await.map(drop) });
        // The owner, on a thread of its own, may have answered one or the other meanwhile.
        late += usize::from(futures_util::poll!(&mut asked).is_pending());
        drop(asked);
    }
    assert!(late > 0, "all {MANY} were answered at once");
    let claim = stage.claim_at_last("desk").await;
    assert_eq!(stage.holder(&claim), Some(claim.key().number));
    until("what was granted too late is given back", || {
        stage.fabric().directory.len() == 1
    })
    .await;
    drop(claim);
    stage.node.stop().await;
}
