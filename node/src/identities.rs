//! The certificates of a node, loaded and checked together: towards clients, operators and other nodes.

use std::path::PathBuf;
use std::sync::Arc;

use cluster::node_id::NodeId;
use cluster::transport::{ClusterTls, certificate_name};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;

use crate::certificate::{self, Certified, read_chain};
use crate::config::ConfigFile;
use crate::config::error::ConfigError;
use crate::config::pool_file::{PoolFile, refuse_exposed};

/// All of them. They are good, and belong to this node.
pub(crate) struct Identities {
    /// Towards clients; it names the pool's domain.
    pub(crate) clients: Certified,
    /// Towards operators.
    pub(crate) control: Certified,
    /// Towards machines that join: as towards other nodes, and with the CA, of which they know the hash.
    pub(crate) joining: Certified,
    cluster: Certified,
    /// What signs the certificates of nodes that join, if there is one.
    issuer: Option<Certified>,
    cluster_ca: Vec<CertificateDer<'static>>,
    cluster_ca_path: PathBuf,
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateEnd {
    /// What it is for: `clients`, `control`, `cluster`, `issuer` or `ca`.
    pub(crate) what: &'static str,
    /// Its file.
    pub(crate) path: PathBuf,
    /// Seconds since 1970.
    pub(crate) ends: i64,
}

impl Identities {
    /// Reads and checks what a configuration names.
    pub(crate) fn load(
        file: &ConfigFile,
        pool: &PoolFile,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Identities, ConfigError> {
        let load = |section, certificate, key| {
            let key = file.existing(section, "key", key)?;
            let certificate = file.existing(section, "certificate", certificate)?;
            let certified = Certified::load(&certificate, &key, provider)?;
            refuse_exposed(&key)?;
            Ok::<_, ConfigError>(certified)
        };
        let sections = (&file.cluster, &file.clients, &file.control);
        let cluster_ca_path = file.existing("cluster", "ca", &sections.0.ca)?;
        let cluster = load("cluster", &sections.0.certificate, &sections.0.key)?;
        let name = certificate_name(NodeId(file.node.id), &pool.id);
        cluster.check_authority(&name, &cluster_ca_path, Arc::clone(provider))?;
        let issuer = file.resolve(&file.cluster.issuer);
        let issuer = match issuer.exists() {
            true => {
                let key = file.existing("cluster", "issuer_key", &file.cluster.issuer_key)?;
                refuse_exposed(&key)?;
                Some(Certified::load(&issuer, &key, provider)?)
            }
            false => None,
        };
        let clients = load("clients", &sections.1.certificate, &sections.1.key)?;
        clients.check_name(&pool.constants.domain)?;
        let cluster_ca = read_chain(&cluster_ca_path)?;
        Ok(Identities {
            clients,
            control: load("control", &sections.2.certificate, &sections.2.key)?,
            joining: cluster.followed_by(&cluster_ca, provider)?,
            cluster,
            issuer,
            cluster_ca,
            cluster_ca_path,
        })
    }

    /// What the transport between nodes needs.
    pub(crate) fn cluster_tls(&self) -> ClusterTls {
        let (chain, key) = self.cluster.parts();
        ClusterTls::new(self.cluster_ca.clone(), chain, key)
    }

    /// When each of them ends.
    pub(crate) fn ends(&self) -> Vec<CertificateEnd> {
        let certified = |what, certified: &Certified| {
            let ends = certified.ends()?;
            let path = certified.path().to_owned();
            Some(CertificateEnd { what, path, ends })
        };
        // Of two authorities the older one may end: the newer one is what counts.
        let each = self.cluster_ca.iter();
        let newest = each
            .filter_map(|ca| certificate::ends(std::slice::from_ref(ca)))
            .max();
        let ca = newest.map(|ends| CertificateEnd {
            what: "ca",
            path: self.cluster_ca_path.clone(),
            ends,
        });
        [
            certified("clients", &self.clients),
            certified("control", &self.control),
            certified("cluster", &self.cluster),
            (self.issuer.as_ref()).and_then(|issuer| certified("issuer", issuer)),
            ca,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
