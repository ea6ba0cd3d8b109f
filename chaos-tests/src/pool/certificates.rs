//! Certificates of the pool's own CA that end when a test wants it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use toml::Table;

use super::{DOMAIN, Pool, ROOMS};

/// Towards whom a node has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    /// Clients, under the names of the pool's domains.
    Clients,
    /// Other nodes, in both directions, under its own name.
    Nodes,
}

impl Pool {
    /// Puts another certificate and its key into a node's folder, which end so long from now. Gives the second of the end.
    pub fn certify(&self, node: u64, towards: Towards, after: Duration) -> Result<u64> {
        let (ca, folder) = (
            self.root().join("ca"),
            self.root().join(format!("node-{node}")),
        );
        let ca_key = KeyPair::from_pem(&std::fs::read_to_string(ca.join("ca-key.pem"))?)?;
        let ca = std::fs::read_to_string(ca.join("ca.pem"))?;
        let ca = Issuer::from_ca_cert_pem(&ca, ca_key)?;
        let (file, names) = match towards {
            Towards::Clients => ("clients", vec![DOMAIN.to_owned(), ROOMS.to_owned()]),
            Towards::Nodes => {
                let pool: Table = std::fs::read_to_string(folder.join("pool.toml"))?.parse()?;
                let id = pool.get("pool").and_then(|pool| pool.get("id"));
                let id = id.and_then(toml::Value::as_str).context("pool.id")?;
                ("cluster", vec![format!("node-{node}.{id}.muster")])
            }
        };
        let ends = SystemTime::now().duration_since(UNIX_EPOCH)? + after;
        let about = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, about);
        params.not_after = date_time_ymd(1970, 1, 1) + ends;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &ca)?;
        std::fs::write(folder.join(format!("{file}-key.pem")), key.serialize_pem())?;
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem())?;
        Ok(ends.as_secs())
    }
}
