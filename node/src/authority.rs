//! The pool's own CA: certificates between nodes, for clients and for the control port, where there is no other.
//!
//! Between nodes nothing else is trusted, ever. For clients and operators a public CA's certificate may take its place.
//!
//! ```text
//!  CA (its key off the machines) ──► clients, control ports, nodes made by `init` and `renew`
//!   └─► cluster issuer (its key on every node) ──► nodes that join
//! ```
//!
//! Invariant: who has the issuer's key can certify nodes of this pool and nothing else that a verifier of the CA takes: its
//! certificate permits DNS names below `POOL.muster` only, and no IP address (RFC 5280 §4.2.1.10; docs/adr/0016).

use std::collections::BTreeSet;

use cluster::node_id::{NodeId, PoolId};
use cluster::transport::certificate_name;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints,
};
use time::{Duration, OffsetDateTime};

const CA_DAYS: i64 = 3650;
const ISSUER_DAYS: i64 = 1825;
const CERTIFICATE_DAYS: i64 = 730;

/// A CA with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate as PEM.
    pub(crate) certificate: String,
    /// Its key as PEM.
    pub(crate) key: String,
}

/// A certificate and its key as PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Makes a CA for a pool.
    pub(crate) fn new(pool: &PoolId) -> Result<Authority, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("Muster CA of {pool}"), CA_DAYS);
        // One issuer may stand between it and a node.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Authority {
            issuer: Issuer::new(params, key),
            certificate,
            key: key_pem,
        })
    }

    /// The CA of a pool that was made before, from its certificate and key as PEM.
    pub(crate) fn open(certificate: String, key: String) -> Result<Authority, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?;
        Ok(Authority {
            issuer,
            certificate,
            key,
        })
    }

    /// A cluster issuer: it can certify nodes of this pool, and nothing else.
    pub(crate) fn issue_issuer(&self, pool: &PoolId) -> Result<Issued, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("Muster cluster issuer of {pool}"), ISSUER_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = NODE_USAGES.to_vec();
        params.use_authority_key_identifier_extension = true;
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{pool}.muster"))],
            // Names of a kind that is not mentioned would all be permitted.
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A node's certificate over the key of its request. What else the request asks for is not looked at.
    ///
    /// Until `ends` at most, seconds since 1970: nothing lasts longer than what signed it.
    ///
    /// # Errors
    /// When the request does not read or was not signed with its own key.
    pub(crate) fn sign_node(
        &self,
        node: NodeId,
        pool: &PoolId,
        request: &str,
        ends: Option<i64>,
    ) -> Result<String, rcgen::Error> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        let name = certificate_name(node, pool);
        let mut params = leaf_params(&name, &BTreeSet::from([name.clone()]), &NODE_USAGES)?;
        let ends = ends.and_then(|ends| OffsetDateTime::from_unix_timestamp(ends).ok());
        if let Some(ends) = ends.filter(|ends| *ends < params.not_after) {
            params.not_after = ends;
        }
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(certificate.pem())
    }

    /// A node's certificate towards other nodes: one name, both directions.
    pub(crate) fn issue_for_node(
        &self,
        node: NodeId,
        pool: &PoolId,
    ) -> Result<Issued, rcgen::Error> {
        let name = certificate_name(node, pool);
        self.issue(&name, &BTreeSet::from([name.clone()]), &NODE_USAGES)
    }

    /// A server's certificate under these DNS names and IP addresses.
    pub(crate) fn issue_for_server(
        &self,
        about: &str,
        names: &BTreeSet<String>,
    ) -> Result<Issued, rcgen::Error> {
        self.issue(about, names, &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn issue(
        &self,
        about: &str,
        names: &BTreeSet<String>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Issued, rcgen::Error> {
        let key = KeyPair::generate()?;
        let params = leaf_params(about, names, usages)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A server's certificate that nobody but itself vouches for: for a control port whose own folder says whom to trust.
pub(crate) fn self_signed(about: &str, names: &BTreeSet<String>) -> Result<Issued, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = leaf_params(about, names, &[ExtendedKeyUsagePurpose::ServerAuth])?;
    params.use_authority_key_identifier_extension = false;
    let certificate = params.self_signed(&key)?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A new key, as PEM, and a request to certify it, as PEM. Who signs decides on the name.
pub(crate) fn request() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let request = params("a node that wants to join", 1).serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// Whether a request reads and was signed with its own key.
pub(crate) fn check_request(request: &str) -> Result<(), rcgen::Error> {
    CertificateSigningRequestParams::from_pem(request).map(drop)
}

/// Nodes call each other in both directions.
const NODE_USAGES: [ExtendedKeyUsagePurpose; 2] = [
    ExtendedKeyUsagePurpose::ServerAuth,
    ExtendedKeyUsagePurpose::ClientAuth,
];

fn leaf_params(
    about: &str,
    names: &BTreeSet<String>,
    usages: &[ExtendedKeyUsagePurpose],
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(about, CERTIFICATE_DAYS);
    params.subject_alt_names =
        CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
impl Authority {
    /// A self-signed certificate whose time begins and ends so many days from now.
    pub(crate) fn expired_or_future(name: &str, days_from: i64, days_to: i64) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = OffsetDateTime::now_utc() + Duration::days(days_from);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days_to);
        let certificate = params.self_signed(&key).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn params(about: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, about);
    // Clocks of clients differ.
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    params
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::{CertificateError, RootCertStore};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    /// What a client that trusts `root` thinks of a server with this chain.
    fn verify(root: &str, leaf: &str, issuer: &str, name: &str) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(der(root)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::now();
        let verified = verifier.verify_server_cert(&der(leaf), &[der(issuer)], &name, &[], now);
        verified.map(drop)
    }

    /// Who steals a node's folder can let nodes in, but can't pass for the pool's domain towards its clients.
    #[test]
    fn an_issuer_certifies_nodes_and_nothing_else() {
        let pool: PoolId = "muster-1".parse().unwrap();
        let root = Authority::new(&pool).unwrap();
        let issued = root.issue_issuer(&pool).unwrap();
        let issuer = Authority::open(issued.certificate.clone(), issued.key).unwrap();

        let (_, request) = request().unwrap();
        let node = issuer.sign_node(NodeId(4), &pool, &request, None).unwrap();
        let known = "node-4.muster-1.muster";
        assert_eq!(
            verify(&root.certificate, &node, &issuer.certificate, known),
            Ok(())
        );

        for name in [
            "example.org",
            "localhost",
            "node-4.muster-2.muster",
            "muster-1.muster.example.org",
            "10.0.0.1",
            "::1",
        ] {
            let forged = issuer
                .issue_for_server(name, &BTreeSet::from([name.to_owned()]))
                .unwrap()
                .certificate;
            let verified = verify(&root.certificate, &forged, &issuer.certificate, name);
            assert!(
                matches!(
                    verified,
                    Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                        _
                    )))
                ),
                "{name}: {verified:?}"
            );
            // The name is the reason: the CA itself may certify it.
            let good = root
                .issue_for_server(name, &BTreeSet::from([name.to_owned()]))
                .unwrap()
                .certificate;
            assert_eq!(
                verify(&root.certificate, &good, &issuer.certificate, name),
                Ok(())
            );
        }
        // Nor does a second name beside a permitted one help.
        let both = BTreeSet::from([known.to_owned(), "example.org".to_owned()]);
        let forged = issuer.issue_for_server("x", &both).unwrap().certificate;
        assert!(
            verify(
                &root.certificate,
                &forged,
                &issuer.certificate,
                "example.org"
            )
            .is_err()
        );
    }

    #[test]
    fn what_an_issuer_signs_ends_with_it() {
        let pool: PoolId = "muster-1".parse().unwrap();
        let root = Authority::new(&pool).unwrap();
        let (_, request) = request().unwrap();
        let signed = root.sign_node(NodeId(4), &pool, &request, Some(1_900_000_000));
        let ends = crate::certificate::ends(&[der(&signed.unwrap())]);
        assert_eq!(ends, Some(1_900_000_000.min(ends.unwrap())));
        assert!(
            root.sign_node(NodeId(4), &pool, "no request", None)
                .is_err()
        );
    }
}
