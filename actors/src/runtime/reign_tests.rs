//! What a change of owner must not cost: words that were never told, and what waits while the log has no room.

use bytes::Bytes;
use cluster::link::protocol::{AttachPart, Up};
use cluster::node_id::Epoch;
use cluster::recent_effects::Untold;
use messaging::command::{Answer, Command};
use messaging::room::command::{RoomAction, RoomCommand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xmpp::stanza::{Stanza, StanzaKind};

use super::stage::{WAIT, settings, until};
use super::*;
use crate::link::Outcome;
use crate::negotiation::propose;

pub(super) const OPEN: &str = "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams'>";

/// A client that says what the test says, and knows what it was told.
pub(super) struct Client {
    socket: TcpStream,
    unread: String,
}

impl Client {
    /// Opens a stream and asks to be let in, with PLAIN. `initial`: the base64 of `NUL user NUL password`.
    pub(super) async fn knock(address: SocketAddr, initial: &str) -> Client {
        let mut client = Client {
            socket: TcpStream::connect(address).await.unwrap(),
            unread: String::new(),
        };
        client.say(OPEN).await;
        client.hears("</stream:features>").await;
        let auth = format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{initial}</auth>"
        );
        client.say(&auth).await;
        client
    }

    /// Logs in and asks for the roster.
    pub(super) async fn log_in(address: SocketAddr, resource: &str, initial: &str) -> Client {
        let mut client = Client::knock(address, initial).await;
        client.hears("<success").await;
        client.say(OPEN).await;
        client.hears("</stream:features>").await;
        let bind = format!(
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
             <resource>{resource}</resource></bind></iq>"
        );
        client.say(&bind).await;
        client.hears("</iq>").await;
        client
            .say("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq><presence/>")
            .await;
        client.hears("id='roster'").await;
        client
    }

    pub(super) async fn say(&mut self, xml: &str) {
        self.socket.write_all(xml.as_bytes()).await.unwrap();
    }

    /// Reads on until this was said; gives all that was said until then.
    pub(super) async fn hears(&mut self, what: &str) -> String {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(at) = self.unread.find(what) {
                return self.unread.drain(..at + what.len()).collect();
            }
            let read = tokio::time::timeout(WAIT, self.socket.read(&mut bytes)).await;
            let count = read.unwrap_or_else(|_| panic!("{what} was not said: {}", self.unread));
            let count = count.unwrap();
            assert!(count > 0, "{what} was not said: {}", self.unread);
            self.unread
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

fn bare(text: &str) -> BareJid {
    BareJid::parse(text).unwrap()
}

/// The owner of a user's partition.
struct Owner<'a> {
    fabric: &'a Arc<Fabric>,
    partition: PartitionId,
}

impl<'a> Owner<'a> {
    fn of(fabric: &'a Arc<Fabric>, user: &str) -> Owner<'a> {
        let partition = fabric.partition_of(&bare(user));
        Owner { fabric, partition }
    }

    fn untold(&self) -> Untold {
        let place = &self.fabric.partitions[usize::from(self.partition.0)];
        place.replica.untold(now_ms())
    }

    fn epoch(&self) -> Option<u64> {
        self.fabric.owner(self.partition).map(|(_, epoch)| epoch.0)
    }

    async fn tell(&self, message: ToOwner) {
        let actors = self.fabric.actors(self.partition).unwrap();
        actors.owner.send(message).await.unwrap();
    }
}

/// Lets clients log in without TLS, at an address of its own.
pub(super) fn listens(settings: &mut Settings) -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    settings.client.allow_plaintext_auth = true;
    settings.client.tls_required = false;
    settings.client_listeners = vec![ClientListener {
        address,
        direct_tls: false,
    }];
    address
}

/// An owner that has committed and dies before it has told anybody: the next one tells, and ends who has no account.
#[actix::test]
async fn what_a_dead_owner_left_untold_is_told_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let address = listens(&mut settings);
    let node = start(settings).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    for user in ["alice@localhost", "bob@localhost"] {
        node.create_account(bare(user), Password::new("secret"))
            .await
            .unwrap();
    }
    let fabric = &node.inner.fabric;
    let mut alice = Client::log_in(address, "phone", "AGFsaWNlAHNlY3JldA==").await;
    let mut bob = Client::log_in(address, "phone", "AGJvYgBzZWNyZXQ=").await;

    let owner = Owner::of(fabric, "alice@localhost");
    owner.tell(ToOwner::FallSilent).await;
    alice
        .say(
            "<message type='chat' id='lost' to='nobody@localhost'><body>hi</body></message>\
             <iq type='set' id='add'><query xmlns='jabber:iq:roster'>\
             <item jid='carol@localhost'/></query></iq>",
        )
        .await;
    // The answer comes by itself; the push and the error would not.
    alice.hears("id='add'").await;
    until("the refusal is committed", || {
        owner.untold().users.values().map(Vec::len).sum::<usize>() >= 2
    })
    .await;
    owner.tell(ToOwner::Panic).await;
    alice.hears("jid='carol@localhost'").await;
    alice.hears("id='lost'").await;
    alice.hears("<service-unavailable").await;
    // What was heard is not heard again.
    let before = owner.epoch();
    owner.tell(ToOwner::Panic).await;
    until("another reign", || owner.epoch() > before).await;
    alice
        .say("<iq type='get' id='again'><query xmlns='jabber:iq:roster'/></iq>")
        .await;
    let heard = alice.hears("id='again'").await;
    assert!(!heard.contains("type='set'"), "{heard}");
    assert!(!heard.contains("id='lost'"), "{heard}");

    let owner = Owner::of(fabric, "bob@localhost");
    owner.tell(ToOwner::FallSilent).await;
    node.remove_account(bare("bob@localhost")).await.unwrap();
    owner.tell(ToOwner::Panic).await;
    bob.hears("<not-authorized").await;
    node.stop().await;
}

/// Cursors are gathered for seconds, but not beyond a session's end: a new owner would give its user the rows again.
#[actix::test]
async fn a_session_that_ends_leaves_its_cursor_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let address = listens(&mut settings);
    let node = start(settings).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    let alice = bare("alice@localhost");
    node.create_account(alice.clone(), Password::new("secret"))
        .await
        .unwrap();
    let fabric = &node.inner.fabric;
    let mut client = Client::log_in(address, "phone", "AGFsaWNlAHNlY3JldA==").await;
    client
        .say("<message type='chat' id='m' to='alice@localhost'><body>hi</body></message>")
        .await;
    client.hears("id='m'").await;
    client.hears("id='delivered-1'").await;
    let began = std::time::Instant::now();
    client
        .say("<iq type='result' id='delivered-1' to='localhost'/></stream:stream>")
        .await;
    client.hears("</stream:stream>").await;
    let place = &fabric.partitions[usize::from(fabric.partition_of(&alice).0)];
    until("the cursor is at the head", || {
        let state = place.replica.state();
        let log = state.logs.get(&alice);
        log.is_some_and(|log| log.delivered == log.head && log.head > 0)
    })
    .await;
    assert!(
        began.elapsed() < std::time::Duration::from_secs(4),
        "gathered"
    );
    node.stop().await;
}

/// More than the group takes at once: it waits, and nobody has to attach again.
#[actix::test]
async fn what_finds_no_room_waits_and_the_reign_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    // Room for one batch on its way, where the owner would have two.
    settings.raft.submitted_bytes_max = settings.raft.payload_bytes_max;
    let node = start(settings).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    let fabric = &node.inner.fabric;
    let user = bare("alice@localhost");
    node.create_account(user.clone(), Password::new("secret"))
        .await
        .unwrap();
    let owner = Owner::of(fabric, "alice@localhost");
    let before = owner.epoch();
    let private = |number: usize| Command::SetPrivate {
        user: user.clone(),
        name: format!("{{urn:x}}{}", number % 4),
        element: Bytes::from(vec![b' '; 1_500_000]),
    };
    let proposals = (0..10).map(|number| propose(fabric, &user, private(number)));
    for outcome in futures_util::future::join_all(proposals).await {
        assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    }
    assert_eq!(owner.epoch(), before, "one reign");
    node.stop().await;
}

/// Of two occupants whose session is gone one comes back and joins again: only the other is put out.
#[actix::test]
async fn an_occupant_who_has_joined_again_is_not_put_out_a_minute_later() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(settings(folder.path())).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    let fabric = &node.inner.fabric;
    let room = bare("den@conference.localhost");
    let owner = Owner::of(fabric, "den@conference.localhost");
    // Of a former life of the node, so that its attachments never claim them.
    let join = |name: &str| {
        let action = RoomAction::Join {
            nick: name.to_owned(),
            presence: Stanza::new(StanzaKind::Presence),
            password: None,
            history: Default::default(),
            node: fabric.node.0,
            incarnation: fabric.incarnation.0 - 1,
            session: 1,
        };
        let command = RoomCommand {
            room: room.clone(),
            by: bare(&format!("{name}@localhost"))
                .with_resource("pc")
                .unwrap(),
            account: 0,
            action,
        };
        propose(fabric, &room, Command::Room(command))
    };
    let inside = || {
        let place = &fabric.partitions[usize::from(owner.partition.0)];
        let state = place.replica.state();
        let occupants = state.occupants.iter();
        let nicks = occupants.map(|(_, occupant)| occupant.nick.clone());
        nicks.collect::<Vec<_>>()
    };
    for (name, configures) in [("alice", true), ("bob", false)] {
        assert!(matches!(join(name).await, Outcome::Answered(_)));
        if configures {
            let command = RoomCommand {
                room: room.clone(),
                by: bare("alice@localhost").with_resource("pc").unwrap(),
                account: 0,
                action: RoomAction::Configure {
                    fields: Default::default(),
                },
            };
            let answer = propose(fabric, &room, Command::Room(command)).await;
            assert!(matches!(answer, Outcome::Answered(Answer::Done { .. })));
        }
    }
    assert_eq!(inside(), ["alice", "bob"]);
    let before = owner.epoch();
    owner.tell(ToOwner::Panic).await;
    until("another reign", || owner.epoch() > before).await;
    // Answered by the next owner, hence after the node has attached to it.
    assert!(matches!(join("alice").await, Outcome::Answered(_)));
    let minute = std::time::Duration::from_secs(61);
    owner.tell(ToOwner::RemoveUnclaimedIn(minute)).await;
    until("who did not come back is put out", || {
        inside() == ["alice"] || inside().is_empty()
    })
    .await;
    assert_eq!(inside(), ["alice"]);
    node.stop().await;
}

/// An owner that took any incarnation for a node's newest life took nothing of the node's true lives after that.
#[actix::test]
async fn an_incarnation_from_nowhere_shuts_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(settings(folder.path())).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    let fabric = &node.inner.fabric;
    let alice = bare("alice@localhost");
    let owner = Owner::of(fabric, "alice@localhost");
    let attach = AttachPart {
        incarnation: u64::MAX,
        attempt: 1,
        last: true,
        ..AttachPart::default()
    };
    let up = ToOwner::Up {
        from: fabric.node,
        epoch: Epoch(owner.epoch().unwrap()),
        up: Box::new(Up::Attach(attach)),
    };
    owner.tell(up).await;
    let answer = propose(fabric, &alice, Command::Nothing).await;
    assert!(matches!(answer, Outcome::Answered(_)), "{answer:?}");
    node.stop().await;
}
