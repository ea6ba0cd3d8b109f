//! The pool's own CA: certificates between nodes, for clients and for the control port, where there is no other.
//!
//! Between nodes nothing else is trusted, ever. For clients and operators a public CA's certificate may take its place.

use std::collections::BTreeSet;

use cluster::node_id::{NodeId, PoolId};
use cluster::transport::certificate_name;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

const CA_DAYS: i64 = 3650;
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
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
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

    /// A node's certificate towards other nodes: one name, both directions.
    pub(crate) fn issue_for_node(
        &self,
        node: NodeId,
        pool: &PoolId,
    ) -> Result<Issued, rcgen::Error> {
        let name = certificate_name(node, pool);
        let usages = [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue(&name, &BTreeSet::from([name.clone()]), &usages)
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
        let mut params = params(about, CERTIFICATE_DAYS);
        params.subject_alt_names =
            CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
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
