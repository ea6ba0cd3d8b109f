//! Certificates from files, checked before anything starts: that they read, hold today, fit their key and name us.
//!
//! A server shows a [`Shown`] certificate: another may take its place while connections are open. A control port shows
//! two: its own to operators, and the node's own to machines that join ([`ShownByName`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError as Fault, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A chain and its key.
pub(crate) struct Certified {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    signing: Arc<CertifiedKey>,
}

/// What is wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// No certificate or key in it.
    #[error("{}: no {what} in PEM form: {reason}", path.display())]
    Pem {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    /// Its time is over.
    #[error("{}: the certificate has expired on {since}: replace it", path.display())]
    Expired { path: PathBuf, since: String },
    /// Its time has not come.
    #[error("{}: the certificate is not valid before {from}: check this machine's clock", path.display())]
    NotYetValid { path: PathBuf, from: String },
    /// It names somebody else.
    #[error("{}: the certificate is for {names}, but must name {expected}", path.display())]
    WrongName {
        path: PathBuf,
        expected: String,
        names: String,
    },
    /// The key is another's.
    #[error("{}: the key in {} does not belong to this certificate", path.display(), key.display())]
    OtherKey { path: PathBuf, key: PathBuf },
    /// Another CA's.
    #[error("{}: the certificate was not issued by the CA in {}", path.display(), ca.display())]
    OtherAuthority { path: PathBuf, ca: PathBuf },
    /// Anything else.
    #[error("{}: the certificate cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

impl Certified {
    /// Reads a chain and its key. They belong together and hold at this time.
    pub(crate) fn load(
        path: &Path,
        key_path: &Path,
        provider: &CryptoProvider,
    ) -> Result<Certified, CertificateError> {
        let chain = read_chain(path)?;
        let pem = read(key_path)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| CertificateError::Pem {
            path: key_path.to_owned(),
            what: "key",
            reason: error.to_string(),
        })?;
        check_time(path, &chain)?;
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), provider) {
            Ok(signing) => Ok(Certified {
                path: path.to_owned(),
                chain,
                key,
                signing: Arc::new(signing),
            }),
            Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::OtherKey {
                path: path.to_owned(),
                key: key_path.to_owned(),
            }),
            Err(error) => Err(unusable(path, &error)),
        }
    }

    /// The file it came from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// When the first certificate of the chain ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> Option<i64> {
        ends(&self.chain)
    }

    /// The leaf must name this server.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), CertificateError> {
        let server_name = self.server_name(name)?;
        let leaf =
            ParsedCertificate::try_from(self.leaf()?).map_err(|error| self.unusable(&error))?;
        match rustls::client::verify_server_name(&leaf, &server_name) {
            Ok(()) => Ok(()),
            Err(rustls::Error::InvalidCertificate(
                Fault::NotValidForName | Fault::NotValidForNameContext { .. },
            )) => Err(self.wrong_name(name)),
            Err(error) => Err(self.unusable(&error)),
        }
    }

    /// The CA must have issued it.
    pub(crate) fn check_authority(
        &self,
        name: &str,
        ca_path: &Path,
        provider: Arc<CryptoProvider>,
    ) -> Result<(), CertificateError> {
        self.check_name(name)?;
        let mut roots = RootCertStore::empty();
        for ca in read_chain(ca_path)? {
            roots.add(ca).map_err(|error| CertificateError::Unusable {
                path: ca_path.to_owned(),
                reason: error.to_string(),
            })?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| CertificateError::Unusable {
                path: ca_path.to_owned(),
                reason: error.to_string(),
            })?;
        let server_name = self.server_name(name)?;
        let intermediates = self.chain.get(1..).unwrap_or_default();
        let verified = verifier.verify_server_cert(
            self.leaf()?,
            intermediates,
            &server_name,
            &[],
            UnixTime::now(),
        );
        match verified {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(Fault::UnknownIssuer | Fault::BadSignature)) => {
                Err(CertificateError::OtherAuthority {
                    path: self.path.clone(),
                    ca: ca_path.to_owned(),
                })
            }
            Err(error) => Err(self.unusable(&error)),
        }
    }

    /// A control port that shows this certificate, but `nodes` to who asks for a name that ends with `suffix`.
    pub(crate) fn control_config(
        &self,
        (suffix, nodes): (String, &Certified),
        provider: Arc<CryptoProvider>,
    ) -> Result<(ServerConfig, Arc<ShownByName>), CertificateError> {
        let shown = Arc::new(ShownByName {
            suffix,
            nodes: nodes.shown(),
            others: self.shown(),
        });
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.unusable(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        Ok((config, shown))
    }

    fn shown(&self) -> Arc<Shown> {
        Arc::new(Shown(RwLock::new(Arc::clone(&self.signing))))
    }

    /// A server that shows this certificate, until another takes its place, and asks clients for none.
    pub(crate) fn server_config(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<(ServerConfig, Arc<Shown>), CertificateError> {
        let shown = self.shown();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.unusable(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        Ok((config, shown))
    }

    /// The same, with further certificates behind the chain: for who trusts one of those by its hash and has to be shown it.
    pub(crate) fn followed_by(
        &self,
        roots: &[CertificateDer<'static>],
        provider: &CryptoProvider,
    ) -> Result<Certified, CertificateError> {
        let mut chain = self.chain.clone();
        chain.extend_from_slice(roots);
        let key = self.key.clone_key();
        let signing = CertifiedKey::from_der(chain.clone(), key, provider)
            .map_err(|error| self.unusable(&error))?;
        Ok(Certified {
            path: self.path.clone(),
            chain,
            key: self.key.clone_key(),
            signing: Arc::new(signing),
        })
    }

    /// The chain and the key.
    pub(crate) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }

    fn leaf(&self) -> Result<&CertificateDer<'static>, CertificateError> {
        self.chain.first().ok_or_else(|| CertificateError::Pem {
            path: self.path.clone(),
            what: "certificate",
            reason: "the file is empty".to_owned(),
        })
    }

    fn server_name(&self, name: &str) -> Result<ServerName<'static>, CertificateError> {
        ServerName::try_from(as_certified(name)).map_err(|_| self.wrong_name(name))
    }

    fn wrong_name(&self, expected: &str) -> CertificateError {
        let names = self
            .chain
            .first()
            .map(|leaf| names(leaf))
            .unwrap_or_default();
        let names = if names.is_empty() {
            "nobody".to_owned()
        } else {
            names.join(", ")
        };
        CertificateError::WrongName {
            path: self.path.clone(),
            expected: expected.to_owned(),
            names,
        }
    }

    fn unusable(&self, error: &dyn std::fmt::Display) -> CertificateError {
        unusable(&self.path, error)
    }
}

/// A domain as certificates name it: labels beyond ASCII as A-labels (RFC 6125 §6.4.2).
pub(crate) fn as_certified(domain: &str) -> String {
    idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned())
}

/// The certificate that a server shows to whoever connects next.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    /// Shows another one from now on. Open connections stay as they are.
    pub(crate) fn replace(&self, by: &Certified) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&by.signing);
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// Two certificates under one address. A machine that joins reaches a node under any address, maybe by a tunnel: it asks
/// for the node itself, whose certificate comes from the pool's CA whatever operators see.
#[derive(Debug)]
pub(crate) struct ShownByName {
    suffix: String,
    nodes: Arc<Shown>,
    others: Arc<Shown>,
}

impl ShownByName {
    /// Shows others from now on.
    pub(crate) fn replace(&self, nodes: &Certified, others: &Certified) {
        self.nodes.replace(nodes);
        self.others.replace(others);
    }
}

impl ResolvesServerCert for ShownByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let of_a_node = hello
            .server_name()
            .is_some_and(|name| name.ends_with(&self.suffix));
        match of_a_node {
            true => self.nodes.resolve(hello),
            false => self.others.resolve(hello),
        }
    }
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Every certificate of a chain must hold now.
fn check_time(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), CertificateError> {
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    for der in chain {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| unusable(path, &error))?;
        let validity = certificate.validity();
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired {
                path: path.to_owned(),
                since: validity.not_after.to_string(),
            });
        }
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotYetValid {
                path: path.to_owned(),
                from: validity.not_before.to_string(),
            });
        }
    }
    Ok(())
}

/// When the first of some certificates ends, in seconds since 1970; `None`: none can be read.
pub(crate) fn ends(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let end = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    };
    chain.iter().filter_map(end).min()
}

/// The DNS names and IP addresses of a certificate.
pub(crate) fn names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let shown = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
                Err(_) => <[u8; 16]>::try_from(*bytes)
                    .ok()
                    .map(|v6| std::net::Ipv6Addr::from(v6).to_string()),
            },
            _ => None,
        });
    shown.collect()
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The certificates in a file; at least one.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = read(path)?;
    let failed = |reason: String| CertificateError::Pem {
        path: path.to_owned(),
        what: "certificate",
        reason,
    };
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if chain.is_empty() {
        return Err(failed("there is none".to_owned()));
    }
    Ok(chain)
}
