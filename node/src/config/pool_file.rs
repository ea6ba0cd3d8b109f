//! The pool file: what all nodes of a pool share and nobody else may know.
//!
//! `muster init` writes it once. It is the same on every node, is never edited after, and is part of every backup:
//! without its keys the ids in the archives mean nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cluster::node_id::PoolId;
use messaging::apply::PoolConstants;
use messaging::slot::PARTITIONS_MAX;
use sha2::{Digest, Sha256};
use xmpp::jid::BareJid;

use super::error::ConfigError;
use super::file::{Section, Sections, read_text};
use super::knob::{Knob, Secret};
use super::section::{SectionReference, section};

section! {
    /// The pool file, written by `muster init` and the same on every node. It is secret, never edited, and part of every
    /// backup.
    struct PoolFileSection["pool"] {
        /// The pool's id: a-z, 0-9 and inner hyphens, at most 40.
        id: String,
        /// The domain of the users.
        domain: String,
        /// The domain of the rooms.
        rooms_domain: String,
        /// Into how many Raft groups users and rooms are spread; fixed for ever.
        partitions: u16 = 16,
        /// Contacts a user may have.
        contacts_max: u32 = 1000,
        /// Occupants a room may have.
        occupants_max: u32 = 1000,
        /// Rooms a user may own in one partition before they can make no more there; rooms are spread over all partitions.
        rooms_owned_max: u32 = 100,
        /// The key behind opaque ids in archives and rooms.
        id_key: Secret<16>,
        /// The key behind what is shown of users who don't exist.
        secret: Secret<32>,
    }
}

const HEAD: &str = "\
# The pool file: the same on every node of the pool, and secret. Never edit it; keep it in your backups.
";

/// A pool file that makes sense. `Debug` does not show its keys.
#[derive(Clone)]
pub(crate) struct PoolFile {
    pub(crate) id: PoolId,
    pub(crate) partitions: u16,
    pub(crate) constants: PoolConstants,
    pub(crate) secret: [u8; 32],
}

impl std::fmt::Debug for PoolFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolFile")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl PoolFile {
    /// A new pool's, with new keys and the defaults of the reference.
    pub(crate) fn new(
        path: &Path,
        id: &str,
        domain: &str,
        rooms_domain: &str,
        partitions: u16,
    ) -> Result<PoolFile, ConfigError> {
        let text = format!(
            "[pool]\nid = {}\ndomain = {}\nrooms_domain = {}\npartitions = {partitions}\nid_key = {}\nsecret = {}\n",
            id.to_owned().show(),
            domain.to_owned().show(),
            rooms_domain.to_owned().show(),
            Secret::<16>(rand::random()).show(),
            Secret::<32>(rand::random()).show(),
        );
        PoolFile::parse(path, &text)
    }

    /// Reads and checks a pool file.
    pub(crate) fn load(path: &Path) -> Result<PoolFile, ConfigError> {
        let text = read_text(path)?;
        refuse_exposed(path)?;
        PoolFile::parse(path, &text)
    }

    /// Checks a pool file's text.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<PoolFile, ConfigError> {
        let mut sections = Sections::parse(path, text)?;
        sections.check(&[PoolFileSection::NAME])?;
        let section: PoolFileSection = sections.take()?;
        let invalid = |key, reason: String| ConfigError::Invalid {
            path: path.to_owned(),
            section: PoolFileSection::NAME,
            key,
            reason,
        };
        let id = section
            .id
            .parse::<PoolId>()
            .map_err(|error| invalid("id", error.to_string()))?;
        let domain = domain(&section.domain).map_err(|reason| invalid("domain", reason))?;
        let rooms_domain = self::domain(&section.rooms_domain)
            .map_err(|reason| invalid("rooms_domain", reason))?;
        if domain == rooms_domain {
            return Err(invalid(
                "rooms_domain",
                "rooms need a domain of their own".to_owned(),
            ));
        }
        if !(1..=PARTITIONS_MAX).contains(&section.partitions) {
            let reason = format!("{} is not 1 to {PARTITIONS_MAX}", section.partitions);
            return Err(invalid("partitions", reason));
        }
        let constants = PoolConstants {
            id_key: section.id_key.0,
            domain,
            rooms_domain,
            contacts_max: section.contacts_max,
            occupants_max: section.occupants_max,
            rooms_owned_max: section.rooms_owned_max,
        };
        Ok(PoolFile {
            id,
            partitions: section.partitions,
            constants,
            secret: section.secret.0,
        })
    }

    /// The file's text, with what it is for.
    pub(crate) fn text(&self) -> String {
        let constants = &self.constants;
        let section = PoolFileSection {
            id: self.id.as_str().to_owned(),
            domain: constants.domain.clone(),
            rooms_domain: constants.rooms_domain.clone(),
            partitions: self.partitions,
            contacts_max: constants.contacts_max,
            occupants_max: constants.occupants_max,
            rooms_owned_max: constants.rooms_owned_max,
            id_key: Secret(constants.id_key),
            secret: Secret(self.secret),
        };
        format!("{HEAD}\n{}", section.write())
    }

    /// SHA-256 over what the file says, however it is laid out: nodes compare it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text().as_bytes()).into()
    }

    /// What the reference says about it.
    pub(crate) fn reference() -> SectionReference {
        PoolFileSection::reference()
    }
}

/// A domain as addresses have it (RFC 7622 §3.2).
fn domain(text: &str) -> Result<String, String> {
    match BareJid::parse(text) {
        Ok(jid) if jid.is_domain() => Ok(jid.domain().to_owned()),
        _ => Err(format!("{text:?} is no domain")),
    }
}

/// Refuses a secret file that its owner shares.
pub(crate) fn refuse_exposed(path: &Path) -> Result<(), ConfigError> {
    let metadata = fs::metadata(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(ConfigError::Exposed {
            path: path.to_owned(),
            mode: "600",
        });
    }
    Ok(())
}
