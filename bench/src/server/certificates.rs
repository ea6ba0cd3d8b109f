//! One CA and one server certificate for a run: every server shows the same, so that handshakes cost the same.

use std::path::{Path, PathBuf};

use anyhow::Context;
use time::{Duration, OffsetDateTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::server::DOMAIN;

/// How long certificates hold, from a day ago on. ejabberd sets a timer for the end, which can't be centuries away.
const DAYS: i64 = 365;

/// PEM files in a folder that is removed with this; keys are ECDSA P-256.
#[derive(Debug)]
pub(crate) struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    /// Makes a CA and a certificate of it for the domain.
    pub(crate) fn make(parent: &Path) -> anyhow::Result<Certificates> {
        let dir = tempfile::Builder::new()
            .prefix("bench-certificates-")
            .tempdir_in(parent)?;
        let mut params = holding_a_year(CertificateParams::default());
        params
            .distinguished_name
            .push(DnType::CommonName, "CA of one benchmark");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let names = [DOMAIN.to_owned(), format!("conference.{DOMAIN}")];
        let mut params = holding_a_year(CertificateParams::new(names)?);
        params.distinguished_name.push(DnType::CommonName, DOMAIN);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &ca)?.pem();
        let made = Certificates { dir };
        let key = key.serialize_pem();
        write_secret(&made.ca(), &ca.pem())?;
        write_secret(&made.certificate(), &certificate)?;
        write_secret(&made.key(), &key)?;
        write_secret(&made.both(), &format!("{certificate}{key}"))?;
        Ok(made)
    }

    /// What clients trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("server.pem")
    }

    /// Its key.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("server-key.pem")
    }

    /// Certificate and key in one file.
    pub(crate) fn both(&self) -> PathBuf {
        self.dir.path().join("server-both.pem")
    }
}

fn holding_a_year(mut params: CertificateParams) -> CertificateParams {
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = params.not_before + Duration::days(DAYS);
    params
}

fn write_secret(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .with_context(|| format!("{}", file.display()))
}
