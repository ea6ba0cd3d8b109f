//! What a node needs to let another one in: the cluster issuer, and all that the new node must have.
//!
//! Files are read when somebody joins: what `muster renew` has put in their place counts at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::node_id::{NodeId, PoolId};
use cluster::transport::certificate_name;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use web::report::join::{Certified as CertifiedReport, JoinMember, JoinReply};

use crate::authority::Authority;
use crate::certificate::{CertificateError, Certified, read_chain};
use crate::config::ConfigFile;
use crate::config::pool_file::PoolFile;

/// Why a node can't let others in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuingError {
    /// It has no issuer.
    #[error(
        "this node cannot let others in: there is no {}; where the pool's CA is, run `muster renew --config {} --ca CA-FOLDER`, \
         which makes one",
        path.display(),
        config.display()
    )]
    NoIssuer {
        /// Where it would be.
        path: PathBuf,
        /// The node's configuration.
        config: PathBuf,
    },
    /// A file is no good.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No CA of the node vouches for what it has.
    #[error("{}: none of the CA certificates in {} issued it", path.display(), ca.display())]
    OtherAuthority {
        /// What was issued.
        path: PathBuf,
        /// The CA's file.
        ca: PathBuf,
    },
    /// The request is none, or the issuer can't sign.
    #[error("the request to certify a node cannot be signed: {0}")]
    Signature(#[from] rcgen::Error),
}

/// Where a node's files are.
#[derive(Clone)]
pub(crate) struct Issuing {
    file: Arc<ConfigFile>,
    pool: PoolFile,
    provider: Arc<CryptoProvider>,
}

/// An issuer that can sign.
pub(crate) struct Issuer {
    authority: Authority,
    ends: Option<i64>,
    /// SHA-256 of the CA certificate that this node's own certificate leads to: joining machines know the node by it.
    pub(crate) ca_hash: [u8; 32],
}

impl Issuing {
    /// For a node with this configuration.
    pub(crate) fn new(file: ConfigFile, pool: PoolFile, provider: Arc<CryptoProvider>) -> Issuing {
        Issuing {
            file: Arc::new(file),
            pool,
            provider,
        }
    }

    /// The pool's id.
    pub(crate) fn pool(&self) -> &PoolId {
        &self.pool.id
    }

    /// Where this node's control port is.
    pub(crate) fn control(&self) -> std::net::SocketAddr {
        self.file.control.listen
    }

    /// Reads the issuer, which must be good.
    pub(crate) fn open(&self) -> Result<Issuer, IssuingError> {
        let cluster = &self.file.cluster;
        let (path, key) = (
            self.file.resolve(&cluster.issuer),
            self.file.resolve(&cluster.issuer_key),
        );
        if !path.exists() || !key.exists() {
            let config = self.file.path.clone();
            return Err(IssuingError::NoIssuer { path, config });
        }
        let certified = Certified::load(&path, &key, &self.provider)?;
        let authority = Authority::open(read(&path)?, read(&key)?)?;
        let ca = self.file.resolve(&cluster.ca);
        let roots = read_chain(&ca)?;
        let vouches = |certificate: &Path, chain: &[CertificateDer<'static>], name: &str| {
            let mut roots = roots.iter();
            let root = roots.find(|root| leads_to(root, chain, name, &self.provider));
            root.ok_or_else(|| IssuingError::OtherAuthority {
                path: certificate.to_owned(),
                ca: ca.clone(),
            })
        };
        let own = self.file.resolve(&cluster.certificate);
        let name = certificate_name(NodeId(self.file.node.id), &self.pool.id);
        let root = vouches(&own, &read_chain(&own)?, &name)?;
        // What it would sign, tried on a node that there can't be.
        let (_, request) = crate::authority::request()?;
        let (nobody, name) = (NodeId(0), certificate_name(NodeId(0), &self.pool.id));
        let signed = authority.sign_node(nobody, &self.pool.id, &request, certified.ends())?;
        let signed = CertificateDer::from_pem_slice(signed.as_bytes())
            .map_err(|_| IssuingError::Signature(rcgen::Error::CouldNotParseCertificate))?;
        let chain: Vec<_> = [signed].into_iter().chain(certified.parts().0).collect();
        vouches(&path, &chain, &name)?;
        Ok(Issuer {
            authority,
            ends: certified.ends(),
            ca_hash: Sha256::digest(root).into(),
        })
    }

    /// All that a new node must have. Its request was checked when it was signed.
    pub(crate) fn reply(
        &self,
        issuer: &Issuer,
        node: NodeId,
        request: &str,
        members: Vec<JoinMember>,
    ) -> Result<JoinReply, IssuingError> {
        let leaf = (issuer.authority).sign_node(node, &self.pool.id, request, issuer.ends)?;
        let clients = &self.file.clients;
        Ok(JoinReply {
            node: node.0,
            pool: self.pool.text(),
            ca: read(&self.file.resolve(&self.file.cluster.ca))?,
            certificate: format!("{leaf}{}", issuer.authority.certificate),
            issuer: CertifiedReport {
                certificate: issuer.authority.certificate.clone(),
                key: issuer.authority.key.clone(),
            },
            clients: CertifiedReport {
                certificate: read(&self.file.resolve(&clients.certificate))?,
                key: read(&self.file.resolve(&clients.key))?,
            },
            members,
        })
    }
}

fn read(path: &Path) -> Result<String, IssuingError> {
    fs::read_to_string(path).map_err(|source| IssuingError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Whether a chain under this name leads to a CA.
pub(crate) fn leads_to(
    root: &CertificateDer<'static>,
    chain: &[CertificateDer<'static>],
    name: &str,
    provider: &Arc<CryptoProvider>,
) -> bool {
    let mut roots = RootCertStore::empty();
    let Some((leaf, rest)) = chain.split_first() else {
        return false;
    };
    let Ok(name) = ServerName::try_from(name.to_owned()) else {
        return false;
    };
    if roots.add(root.clone()).is_err() {
        return false;
    }
    let built =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let Ok(verifier) = built else {
        return false;
    };
    let verified = verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now());
    verified.is_ok()
}
