//! `muster renew`: new certificates and keys for a node, from its pool's CA, under the names that the old ones have.
//!
//! Each new file is complete and on disk before it takes the old one's place. A running node takes them by itself. Between
//! the two renames of a key and its certificate they don't fit each other: the node then keeps what it has, and looks again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::node_id::NodeId;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Authority, Issued};
use crate::certificate::{Certified, names, read_chain};
use crate::cli::RenewArgs;
use crate::config::ConfigFile;
use crate::config::pool_file::{PoolFile, refuse_exposed};
use crate::exit::{Exit, Failure, print};
use crate::identities::Identities;
use crate::secret_file::{Readers, replace};

/// `muster renew`
pub(crate) fn renew(args: &RenewArgs) -> Result<(), Failure> {
    print(&make(args)?)
}

/// A certificate's two files.
struct Place {
    section: &'static str,
    certificate: PathBuf,
    key: PathBuf,
}

/// Renews, and says what was renewed.
pub(crate) fn make(args: &RenewArgs) -> Result<String, Failure> {
    let file = ConfigFile::load(&args.config)?;
    let pool = PoolFile::load(&file.existing("pool", "file", &file.pool.file)?)?;
    let (ca, ca_key) = (args.ca.join("ca.pem"), args.ca.join("ca-key.pem"));
    let authority = open_authority(&ca, &ca_key)?;
    let (ours, others) = of_this_authority(places(&file)?, &ca)?;
    let mut said = String::new();
    let issuer = issuer(&file);
    let issued = authority
        .issue_issuer(&pool.id)
        .map_err(|error| uncertified(&error))?;
    put(&issuer, &issued)?;
    said.push_str(&format!("{}: renewed\n", issuer.certificate.display()));
    for place in &ours {
        put(place, &issue(&authority, &pool, &file, place)?)?;
        said.push_str(&format!("{}: renewed\n", place.certificate.display()));
    }
    for place in others {
        let path = place.certificate.display();
        said.push_str(&format!(
            "{path}: left as it is, for another CA issued it\n"
        ));
    }
    // What was written is what a node would start with.
    Identities::load(&file, &pool, &provider())?;
    said.push_str("A running node takes them within seconds, on SIGHUP at once.\n");
    Ok(said)
}

/// What lets the node sign those of nodes that join. A pool from before has none yet.
fn issuer(file: &ConfigFile) -> Place {
    Place {
        section: "cluster",
        certificate: file.resolve(&file.cluster.issuer),
        key: file.resolve(&file.cluster.issuer_key),
    }
}

fn issue(
    authority: &Authority,
    pool: &PoolFile,
    file: &ConfigFile,
    place: &Place,
) -> Result<Issued, Failure> {
    let node = NodeId(file.node.id);
    let names: BTreeSet<String> = names(&leaf(&place.certificate)?).into_iter().collect();
    let issued = match place.section {
        "cluster" => authority.issue_for_node(node, &pool.id),
        "control" => {
            authority.issue_for_server(&format!("control port of node {}", node.0), &names)
        }
        _ => authority.issue_for_server(&pool.constants.domain, &names),
    };
    issued.map_err(|error| uncertified(&error))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn uncertified(error: &rcgen::Error) -> Failure {
    let message = format!("the certificates cannot be made: {error}");
    Failure::new(Exit::Failed, message)
}

fn open_authority(ca: &Path, ca_key: &Path) -> Result<Authority, Failure> {
    let failed = |error| Failure::from_error(Exit::Config, &error);
    // Its time and its key are checked as any other's.
    Certified::load(ca, ca_key, &provider()).map_err(failed)?;
    refuse_exposed(ca_key)?;
    let read = |path: &Path| {
        fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", path.display())))
    };
    Authority::open(read(ca)?, read(ca_key)?).map_err(|error| uncertified(&error))
}

/// The certificates that are to be renewed: the clients' one may be somebody else's business.
fn places(file: &ConfigFile) -> Result<Vec<Place>, Failure> {
    let place = |section, certificate, key| {
        Ok::<_, Failure>(Place {
            section,
            certificate: file.existing(section, "certificate", certificate)?,
            key: file.existing(section, "key", key)?,
        })
    };
    let (cluster, clients, control) = (&file.cluster, &file.clients, &file.control);
    Ok(vec![
        place("cluster", &cluster.certificate, &cluster.key)?,
        place("control", &control.certificate, &control.key)?,
        place("clients", &clients.certificate, &clients.key)?,
    ])
}

/// Those that the CA issued, and those that somebody else did. The one towards other nodes must be among the former.
fn of_this_authority(places: Vec<Place>, ca: &Path) -> Result<(Vec<Place>, Vec<Place>), Failure> {
    let authority = leaf(ca)?;
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for place in places {
        let issued = is_ours(&place, &authority);
        match issued.map_err(|reason| unreadable(&place.certificate, &reason))? {
            true => ours.push(place),
            false if place.section == "cluster" => {
                let message = format!(
                    "{}: the CA in {} is not the one of this node's pool: nothing was renewed",
                    place.certificate.display(),
                    ca.display()
                );
                return Err(Failure::new(Exit::Config, message));
            }
            false => others.push(place),
        }
    }
    Ok((ours, others))
}

/// Whether the CA issued a certificate, or the last of its chain, which a node that joined has from an issuer. What a node
/// that joined shows to operators is signed by itself, for want of the CA.
fn is_ours(place: &Place, authority: &CertificateDer<'_>) -> Result<bool, String> {
    let chain = read_chain(&place.certificate).map_err(|error| error.to_string())?;
    let (Some(leaf), Some(last)) = (chain.first(), chain.last()) else {
        return Err("it is empty".to_owned());
    };
    let of_itself = place.section == "control" && is_issued_by(leaf, leaf)?;
    Ok(of_itself || is_issued_by(last, authority)?)
}

/// By name: whether the old signature holds does not matter for a new one.
fn is_issued_by(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<bool, String> {
    let parse = |der| X509Certificate::from_der(der).map_err(|error| error.to_string());
    let ((_, certificate), (_, ca)) = (parse(certificate)?, parse(ca)?);
    Ok(certificate.issuer().as_raw() == ca.subject().as_raw())
}

/// The old certificate may have ended: only its names are asked for.
fn leaf(path: &Path) -> Result<CertificateDer<'static>, Failure> {
    let mut chain = read_chain(path)
        .map_err(|error| Failure::from_error(Exit::Config, &error))?
        .into_iter();
    chain.next().ok_or_else(|| unreadable(path, "it is empty"))
}

fn unreadable(path: &Path, reason: &str) -> Failure {
    let message = format!("{}: it can't be read: {reason}", path.display());
    Failure::new(Exit::Config, message)
}

/// The key first: a node that looks in between finds a certificate that does not fit it, and waits.
fn put(place: &Place, issued: &Issued) -> Result<(), Failure> {
    let put = |path: &Path, text: &str, readers| {
        replace(path, text, readers)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))
    };
    put(&place.key, &issued.key, Readers::Owner)?;
    put(&place.certificate, &issued.certificate, Readers::All)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn pool(dir: &Path) -> PathBuf {
        let run = dir.join("run");
        let line = [
            "muster",
            "init",
            "--nodes",
            "1",
            "--names",
            "chat.example.org",
            "--dir",
        ];
        let cli = Cli::parse_from(line.into_iter().chain([run.to_str().unwrap()]));
        let Command::Init(args) = cli.command else {
            panic!()
        };
        crate::init::make(&args).unwrap();
        run
    }

    fn renewed(pool: &Path, ca: &Path) -> Result<String, Failure> {
        make(&RenewArgs {
            config: pool.join("node-1/muster.toml"),
            ca: ca.to_owned(),
        })
    }

    #[test]
    fn names_stay_and_keys_change() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        let files = ["cluster", "control", "clients", "issuer"].map(|name| {
            let place = |end: &str| pool.join(format!("node-1/{name}{end}.pem"));
            (place(""), place("-key"))
        });
        let shown = |path: &Path| names(&leaf(path).unwrap());
        let before = files.clone().map(|(certificate, key)| {
            (
                shown(&certificate),
                fs::read(&certificate).unwrap(),
                fs::read(key).unwrap(),
            )
        });
        assert!(before[2].0.contains(&"chat.example.org".to_owned()));
        let said = renewed(&pool, &pool.join("ca")).unwrap();
        assert_eq!(said.matches(": renewed\n").count(), 4, "{said}");
        for ((certificate, key), (names, old, old_key)) in files.iter().zip(before) {
            assert_eq!(shown(certificate), names);
            assert_ne!(fs::read(certificate).unwrap(), old);
            assert_ne!(fs::read(key).unwrap(), old_key);
            refuse_exposed(key).unwrap();
        }
    }

    /// A pool from before there were issuers gets one, and so does one whose issuer was lost.
    #[test]
    fn an_issuer_is_made_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        let (issuer, key) = (
            pool.join("node-1/issuer.pem"),
            pool.join("node-1/issuer-key.pem"),
        );
        fs::remove_file(&issuer).unwrap();
        fs::remove_file(&key).unwrap();
        renewed(&pool, &pool.join("ca")).unwrap();
        assert!(issuer.is_file());
        refuse_exposed(&key).unwrap();
    }

    #[test]
    fn another_pools_authority_renews_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (pool, other) = (pool(dir.path()), pool(other.path()));
        let certificate = pool.join("node-1/control.pem");
        let before = fs::read(&certificate).unwrap();
        let message = renewed(&pool, &other.join("ca")).unwrap_err().to_string();
        assert!(message.ends_with("nothing was renewed"), "{message}");
        assert_eq!(fs::read(&certificate).unwrap(), before);
    }

    /// A public CA's business is not ours.
    #[test]
    fn what_another_authority_issued_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        let issued = Authority::expired_or_future("localhost", -1, 100);
        let (certificate, key) = (
            pool.join("node-1/clients.pem"),
            pool.join("node-1/clients-key.pem"),
        );
        replace(&key, &issued.key, Readers::Owner).unwrap();
        replace(&certificate, &issued.certificate, Readers::All).unwrap();
        let said = renewed(&pool, &pool.join("ca")).unwrap();
        assert!(said.contains("clients.pem: left as it is"), "{said}");
        assert_eq!(
            fs::read_to_string(&certificate).unwrap(),
            issued.certificate
        );
    }
}
