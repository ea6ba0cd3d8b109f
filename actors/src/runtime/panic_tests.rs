//! A node of one, in this process, whose actors are made to panic: what is lost is replaced, and the node serves on.

use cluster::link::protocol::{Ask, AskReply};
use cluster::raft::RaftSettings;
use cluster::transport::{ClusterTls, certificate_name};
use messaging::apply::PoolConstants;
use messaging::user::publication::SessionKey;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use storage::data_dir::DataDir;
use storage::log::LogOptions;
use storage::state_store::Engine;
use xmpp::scan::Limits;
use xmpp::stanza_error::Condition;

use super::*;
use crate::link::{Outcome, ToLink};
use crate::negotiation::ask;
use crate::supervision::RESTARTS_MAX;

const NODE: NodeId = NodeId(1);
pub(super) const WAIT: Duration = Duration::from_secs(20);

fn certificates() -> (ClusterTls, Arc<rustls::ServerConfig>) {
    let pool = "panics".parse().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![certificate_name(NODE, &pool)]).unwrap();
    let chain = vec![params.signed_by(&key, &ca).unwrap().der().clone()];
    let key = || PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key())
        .unwrap();
    (
        ClusterTls::new(vec![ca.der().clone()], chain, key()),
        Arc::new(clients),
    )
}

pub(super) fn settings(folder: &std::path::Path) -> Settings {
    let (cluster_tls, client_tls) = certificates();
    let constants = PoolConstants {
        id_key: [1; 16],
        domain: "localhost".to_owned(),
        rooms_domain: "conference.localhost".to_owned(),
        contacts_max: 100,
        occupants_max: 100,
        rooms_owned_max: 100,
    };
    let client = ClientSettings {
        allow_plaintext_auth: false,
        tls_required: true,
        registration: false,
        scram_iterations: 1,
        limits_before_auth: Limits::BEFORE_AUTH,
        limits_after_auth: Limits::AFTER_AUTH,
        negotiation: Default::default(),
        resources_max: 10,
        unauthenticated_per_address_max: 10,
        trusted_networks: Vec::new(),
        outgoing_bytes_max: 1024 * 1024,
        sm_inbound: Default::default(),
        sm_outbound: Default::default(),
        archive_page_max: 50,
    };
    Settings {
        node: NODE,
        pool_id: "panics".parse().unwrap(),
        members: vec![Member {
            id: NODE,
            address: "127.0.0.1:0".to_owned(),
        }],
        partitions: 2,
        constants,
        pool_digest: [2; 32],
        secret: [3; 32],
        data: DataDir::open(folder, "panics", NODE.0).unwrap(),
        cluster_listen: "127.0.0.1:0".parse().unwrap(),
        cluster_tls,
        client_listeners: Vec::new(),
        client_tls,
        client,
        storage: StorageSettings {
            archive_cache_bytes: 8 * 1024 * 1024,
            state_cache_bytes: 8 * 1024 * 1024,
            log: LogOptions::default(),
            state_engine: Engine::Fjall,
        },
        raft: RaftSettings::default(),
        quorum_wait: WAIT,
        arbiters: 2,
    }
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let waiting = async {
        while !holds() {
            looks.tick().await;
        }
    };
    assert!(tokio::time::timeout(WAIT, waiting).await.is_ok(), "{what}");
}

struct Stage {
    node: NodeHandle,
    alice: BareJid,
    sessions: u64,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let node = start(settings(folder.path())).await.unwrap();
        until("the node is ready", || node.ready().is_ready()).await;
        let alice = BareJid::parse("alice@localhost").unwrap();
        node.create_account(alice.clone(), Password::new("secret"))
            .await
            .unwrap();
        Stage {
            node,
            alice,
            sessions: 0,
            _folder: folder,
        }
    }

    fn fabric(&self) -> &Arc<Fabric> {
        &self.node.inner.fabric
    }

    fn actors(&self) -> &PartitionActors {
        let fabric = self.fabric();
        fabric.actors(fabric.partition_of(&self.alice)).unwrap()
    }

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

    async fn bind(&mut self) -> Outcome {
        self.sessions += 1;
        let jid = self
            .alice
            .with_resource(&format!("phone-{}", self.sessions))
            .unwrap();
        let key = SessionKey {
            node: NODE.0,
            number: self.sessions,
            jid,
        };
        ask(self.fabric(), &self.alice, Ask::Bind(key)).await
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
    assert!(matches!(
        stage.bind().await,
        Outcome::Replied(AskReply::Bound)
    ));
    for _ in 0..RESTARTS_MAX {
        stage
            .panic(partition, ToOwner::PanicUser(stage.alice.clone()))
            .await;
        assert!(matches!(
            stage.bind().await,
            Outcome::Replied(AskReply::Bound)
        ));
    }
    stage
        .panic(partition, ToOwner::PanicUser(stage.alice.clone()))
        .await;
    let Outcome::Replied(AskReply::Refused(error)) = stage.bind().await else {
        panic!("a user who was too often too much is left alone");
    };
    assert_eq!(error.condition, Condition::InternalServerError);
    // The partition has not noticed.
    stage.serves().await;
    stage.node.stop().await;
}
