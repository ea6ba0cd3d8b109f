//! TLS between nodes: 1.3 only, both ends certified by the pool's own CA.
//!
//! A node's certificate carries exactly one DNS name `node-<id>.<pool id>.muster` (and, if it restricts key
//! usage, both `serverAuth` and `clientAuth`). The opener lets rustls verify that name of the node it means
//! to reach; the acceptor reads the id from the opener's certificate. No names are looked up in the DNS.
//! Sessions are never resumed, since a resumed one would escape the checks of a replaced CA and of expiry.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::GeneralName;

use crate::node_id::{NodeId, PoolId};
use crate::transport::error::TransportError;

/// The pool's CA certificates, this node's chain and its key. The key never shows in logs.
pub struct ClusterTls {
    ca: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClusterTls {
    /// From DER. Two CA certificates are needed while the pool's CA is being replaced.
    pub fn new(
        ca: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> ClusterTls {
        ClusterTls { ca, chain, key }
    }

    /// Trusts other CA certificates from now on, as while the pool's CA is being replaced.
    pub fn replace_ca(&mut self, ca: Vec<CertificateDer<'static>>) {
        self.ca = ca;
    }

    /// From the contents of PEM files.
    pub fn from_pem(ca: &[u8], chain: &[u8], key: &[u8]) -> Result<ClusterTls, TransportError> {
        Ok(ClusterTls {
            ca: certificates("CA", ca)?,
            chain: certificates("certificate", chain)?,
            key: PrivateKeyDer::from_pem_slice(key).map_err(|error| TransportError::Pem {
                what: "key",
                reason: error.to_string(),
            })?,
        })
    }
}

fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TransportError::Pem {
            what,
            reason: error.to_string(),
        })?;
    if found.is_empty() {
        return Err(TransportError::Pem {
            what,
            reason: "no certificate in it".to_owned(),
        });
    }
    Ok(found)
}

impl Clone for ClusterTls {
    fn clone(&self) -> ClusterTls {
        ClusterTls {
            ca: self.ca.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl std::fmt::Debug for ClusterTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterTls")
            .field("ca", &self.ca.len())
            .field("chain", &self.chain.len())
            .field("key", &"…")
            .finish()
    }
}

/// The DNS name in a node's certificate.
pub fn certificate_name(node: NodeId, pool: &PoolId) -> String {
    format!("node-{}.{pool}.muster", node.0)
}

/// The verified configuration of both directions. Replaced as a whole when certificates change.
pub(crate) struct TlsContext {
    pub(crate) connector: TlsConnector,
    pub(crate) acceptor: TlsAcceptor,
}

impl TlsContext {
    /// Builds both configurations and checks that the certificate is this node's own.
    pub(crate) fn new(
        tls: &ClusterTls,
        node: NodeId,
        pool: &PoolId,
    ) -> Result<TlsContext, TransportError> {
        let expected = certificate_name(node, pool);
        let leaf = tls.chain.first().ok_or_else(|| TransportError::Pem {
            what: "certificate",
            reason: "no certificate in it".to_owned(),
        })?;
        match certified_node(leaf, pool) {
            Ok(id) if id == node => {}
            Ok(id) => {
                return Err(TransportError::WrongName {
                    expected,
                    reason: format!("it names {id}"),
                });
            }
            Err(reason) => {
                return Err(TransportError::WrongName {
                    expected,
                    reason: reason.to_owned(),
                });
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for ca in &tls.ca {
            roots.add(ca.clone())?;
        }
        let roots = Arc::new(roots);

        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(tls.chain.clone(), tls.key.clone_key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(tls.chain.clone(), tls.key.clone_key())?;
        client.resumption = rustls::client::Resumption::disabled();

        Ok(TlsContext {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
        })
    }
}

/// The name the opener demands of the node it means to reach.
pub(crate) fn server_name(node: NodeId, pool: &PoolId) -> ServerName<'static> {
    ServerName::try_from(certificate_name(node, pool)).expect("a pool id is a DNS label")
}

/// The node id in a certificate that TLS has already verified.
pub(crate) fn certified_node(
    certificate: &CertificateDer<'_>,
    pool: &PoolId,
) -> Result<NodeId, &'static str> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| "it cannot be parsed")?;
    let names = match parsed.subject_alternative_name() {
        Ok(Some(names)) => names,
        Ok(None) => return Err("it has no subject alternative name"),
        Err(_) => return Err("its subject alternative names cannot be parsed"),
    };
    let mut found = None;
    for name in &names.value.general_names {
        let GeneralName::DNSName(name) = name else {
            continue;
        };
        let Some(label) = name
            .strip_suffix(".muster")
            .and_then(|name| name.strip_prefix("node-"))
        else {
            continue;
        };
        // Two identities in one certificate would let a node choose whom to be.
        if found.is_some() {
            return Err("it names more than one node");
        }
        let (id, of_pool) = label
            .split_once('.')
            .ok_or("its node name lacks the pool")?;
        if of_pool != pool.as_str() {
            return Err("it is of another pool");
        }
        let number: u64 = id.parse().map_err(|_| "its node id is no number")?;
        // `node-07` and `node-+7` must not be second names of node 7.
        if number.to_string() != id {
            return Err("its node id is not in plain decimal");
        }
        found = Some(NodeId(number));
    }
    found.ok_or("it names no node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_read_from_certificates() {
        let pool: PoolId = "pool".parse().unwrap();
        let check = |names: &[&str], expect: Result<u64, &'static str>| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            assert_eq!(certified_node(made.cert.der(), &pool), expect.map(NodeId));
        };
        check(&["node-7.pool.muster"], Ok(7));
        check(
            &["example.org", "node-18446744073709551615.pool.muster"],
            Ok(u64::MAX),
        );
        check(&["node-7.loop.muster"], Err("it is of another pool"));
        check(&["node-7.x.pool.muster"], Err("it is of another pool"));
        check(&["node-7.muster"], Err("its node name lacks the pool"));
        check(
            &["node-07.pool.muster"],
            Err("its node id is not in plain decimal"),
        );
        check(&["node-x.pool.muster"], Err("its node id is no number"));
        check(
            &["node-1.pool.muster", "node-2.pool.muster"],
            Err("it names more than one node"),
        );
        check(&["example.org"], Err("it names no node"));
        check(&[], Err("it has no subject alternative name"));
    }

    #[test]
    fn garbage_is_no_certificate() {
        let pool: PoolId = "pool".parse().unwrap();
        let garbage = CertificateDer::from(vec![0x30, 0x82, 0xff]);
        assert_eq!(certified_node(&garbage, &pool), Err("it cannot be parsed"));
        assert!(matches!(
            ClusterTls::from_pem(b"", b"", b""),
            Err(TransportError::Pem { what: "CA", .. })
        ));
    }
}
