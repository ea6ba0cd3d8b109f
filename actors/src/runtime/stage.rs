//! A node of one, in this process, with one account: what tests of actors play on.

use cluster::raft::RaftSettings;
use cluster::transport::{ClusterTls, certificate_name};
use cluster::version::Build;
use messaging::apply::PoolConstants;
use messaging::user::publication::SessionKey;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use storage::data_dir::DataDir;
use storage::log::LogOptions;
use storage::state_store::Engine;
use xmpp::scan::Limits;
use xmpp::stanza_error::StanzaError;

use super::*;
use crate::claim::Claim;

pub(super) const NODE: NodeId = NodeId(1);
pub(super) const WAIT: Duration = Duration::from_secs(20);

fn certificates() -> (ClusterTls, Arc<rustls::ServerConfig>) {
    let pool = "stage".parse().unwrap();
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

fn storage() -> StorageSettings {
    StorageSettings {
        archive_cache_bytes: 8 * 1024 * 1024,
        state_cache_bytes: 8 * 1024 * 1024,
        log: LogOptions {
            on_disk_error: stay,
            ..LogOptions::default()
        },
        state_engine: Engine::Fjall,
    }
}

fn client_settings() -> ClientSettings {
    ClientSettings {
        address: None,
        sessions_max: 1_000,
        allow_plaintext_auth: false,
        tls_required: true,
        registration: false,
        registrations: None,
        retired_domains: Vec::new(),
        scram_iterations: 1,
        limits_before_auth: Limits::BEFORE_AUTH,
        limits_after_auth: Limits::AFTER_AUTH,
        negotiation: Default::default(),
        resources_max: 10,
        unauthenticated_per_address_max: 10,
        queued_max: 10,
        queue_within: WAIT,
        trusted_networks: Vec::new(),
        proxy_networks: Vec::new(),
        stream_paces: Default::default(),
        user_paces: Default::default(),
        probe_after: WAIT,
        outgoing_bytes_max: 1024 * 1024,
        sm_inbound: Default::default(),
        sm_outbound: Default::default(),
        resume_within: WAIT,
        detached_bytes_max: 1024 * 1024,
        archive_page_max: 50,
        archive_queries_max: 4,
    }
}

/// Of a node that keeps its data in this folder.
pub(crate) fn settings(folder: &std::path::Path) -> Settings {
    let (cluster_tls, client_tls) = certificates();
    let constants = PoolConstants {
        id_key: [1; 16],
        domain: "localhost".to_owned(),
        rooms_domain: "conference.localhost".to_owned(),
        contacts_max: 100,
        occupants_max: 100,
        rooms_owned_max: 100,
    };
    Settings {
        build: Build::own(),
        node: NODE,
        pool_id: "stage".parse().unwrap(),
        members: vec![Member {
            id: NODE,
            address: "127.0.0.1:0".to_owned(),
        }],
        drain_sessions_per_second: 100,
        partitions: 2,
        constants,
        pool_digest: [2; 32],
        secret: [3; 32],
        data: Arc::new(DataDir::open(folder, "stage", NODE.0).unwrap()),
        cluster_listen: "127.0.0.1:0".parse().unwrap(),
        cluster_tls,
        client_listeners: Vec::new(),
        client_tls,
        client: client_settings(),
        storage: storage(),
        raft: RaftSettings::default(),
        quorum_wait: WAIT,
        memory: Memory::default,
        arbiters: 2,
        replication_threads: 2,
    }
}

/// At the end of a test its folder goes while the log's threads still run: that must not end the process, in which the test
/// is about to pass.
fn stay(error: &std::io::Error) -> ! {
    tracing::error!(%error, "the log's disk has gone");
    loop {
        std::thread::park();
    }
}

/// Waits for a condition, with a limit.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let waiting = async {
        while !holds() {
            looks.tick().await;
        }
    };
    assert!(tokio::time::timeout(WAIT, waiting).await.is_ok(), "{what}");
}

/// A node that serves.
pub(super) struct Stage {
    pub(super) node: NodeHandle,
    /// Who has the account.
    pub(super) alice: BareJid,
    sessions: u64,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn set() -> Stage {
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

    pub(super) fn fabric(&self) -> &Arc<Fabric> {
        &self.node.inner.fabric
    }

    /// Those of the account's partition.
    pub(super) fn actors(&self) -> &PartitionActors {
        let fabric = self.fabric();
        fabric.actors(fabric.partition_of(&self.alice)).unwrap()
    }

    /// The next session of the account, under this resource.
    pub(super) fn key(&mut self, resource: &str) -> SessionKey {
        self.sessions += 1;
        SessionKey {
            node: NODE.0,
            number: self.sessions,
            jid: self.alice.with_resource(resource).unwrap(),
        }
    }

    pub(super) async fn claim(&mut self, resource: &str) -> Result<Claim, Box<StanzaError>> {
        let key = self.key(resource);
        Claim::make(self.fabric(), key).await
    }
}
