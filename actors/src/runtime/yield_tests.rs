//! Who gets a session that has a client: another node to which that client has come, and nobody else.

use std::sync::Arc;

use messaging::user::publication::{MoveRequest, ResumptionToken, SessionKey};
use xmpp::jid::FullJid;

use super::reign_tests::{Client, OPEN, listens};
use super::stage::{settings, until};
use super::*;
use crate::session::ToSession;

const SM: &str = "urn:xmpp:sm:3";
const PHONE: &str = "alice@localhost/phone";

/// Enables stream management; gives the id for resumption.
async fn enable(client: &mut Client) -> String {
    client
        .say(&format!("<enable xmlns='{SM}' resume='true'/>"))
        .await;
    client.hears("<enabled").await;
    let said = client.hears("/>").await;
    let (_, id) = said.split_once(" id='").unwrap();
    id.split_once('\'').unwrap().0.to_owned()
}

/// The owner's word to the session that another node wants it.
fn yields_to(fabric: &Arc<Fabric>, number: u64, token: ResumptionToken) {
    let jid = FullJid::parse(PHONE).unwrap();
    let node = fabric.node.0 + 1;
    let to = MoveRequest {
        key: SessionKey {
            node,
            number,
            jid: jid.clone(),
        },
        incarnation: 1,
        token,
    };
    let entry = fabric.directory.find(&jid, 0).unwrap();
    let word = ToSession::Yield(Box::new(to));
    assert!(entry.session.try_send(word).is_ok());
}

/// Asks and hears the answer: what was said to the session before is done.
async fn is_alive(client: &mut Client, id: &str) {
    let ping = format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>");
    client.say(&ping).await;
    let said = client.hears(&format!("id='{id}'")).await;
    assert!(!said.contains("<stream:error"), "{said}");
}

/// A node may have been told to take a session in long before it asks. The client, which has resumed the session since, must
/// not lose its stream to that; to itself, at another node, it does (XEP-0198 §5).
#[actix::test]
async fn a_session_with_a_client_yields_to_that_client_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let address = listens(&mut settings);
    let node = start(settings).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    let alice = BareJid::parse("alice@localhost").unwrap();
    node.create_account(alice, Password::new("secret"))
        .await
        .unwrap();
    let fabric = &node.inner.fabric;
    let mut client = Client::log_in(address, "phone", "AGFsaWNlAHNlY3JldA==").await;
    let id = enable(&mut client).await;

    yields_to(fabric, 1, ResumptionToken::unasked(&id));
    is_alive(&mut client, "late").await;

    // Nor is what has lost its connection on a node that goes on: its client may be back at once, and here.
    let detached = fabric.metrics.sessions_detached.get();
    drop(client);
    until("the session waits", || {
        fabric.metrics.sessions_detached.get() > detached
    })
    .await;
    yields_to(fabric, 2, ResumptionToken::unasked(&id));
    let mut client = Client::knock(address, "AGFsaWNlAHNlY3JldA==").await;
    client.hears("<success").await;
    client.say(OPEN).await;
    client.hears("</stream:features>").await;
    let resume = format!("<resume xmlns='{SM}' previd='{id}' h='0'/>");
    client.say(&resume).await;
    client.hears("<resumed").await;
    is_alive(&mut client, "resumed").await;

    yields_to(fabric, 3, ResumptionToken::asked(&id));
    client.hears("<conflict").await;
    client.hears("</stream:stream>").await;
    node.stop().await;
}
