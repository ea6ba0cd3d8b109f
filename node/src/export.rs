//! Users in the portable form of XEP-0227: `muster export` takes them out of a backup, `muster ctl export-user` one out of a
//! pool that runs, of which it fetches what a backup has of the user's partition.
//!
//! Users come in the order of their addresses within each partition; no archive is ever held as a whole.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::iter::Peekable;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cluster::backup::block::{BackedUpRow, RowsBlock};
use cluster::backup::founding::{check_rows, read_state};
use cluster::node_id::{Group, PartitionId};
use cluster::records::decode_archive_row;
use messaging::archive::{ArchiveRecord, MessageRecord};
use messaging::state::State;
use messaging::user::account::Account;
use storage::block_file::BlockFileReader;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::sasl::ScramKeys;
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::timestamp::Timestamp;
use xmpp::write::XmlWriter;

use crate::backup_files::{Backup, Kind};
use crate::cli::ExportArgs;
use crate::exit::{Exit, Failure, print};
use crate::init::at;
use crate::pie::{NS, NS_MAM, NS_SCRAM};

/// `muster export`
pub(crate) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let mut wanted = BTreeMap::new();
    for user in &args.users {
        wanted.insert(address(user)?, false);
    }
    let backup = Backup::open(&args.backup)?;
    backup.verify(|_| {})?;
    let domain = &backup.manifest.of.domain;
    let parts = (0..backup.manifest.of.partitions).map(|partition| {
        let group = Group::of(PartitionId(partition));
        Part {
            partition,
            state: backup.path(group.0, Kind::State),
            rows: backup.path(group.0, Kind::Rows),
        }
    });
    let users = write(&args.out, domain, parts, &mut wanted)?;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(_, found)| !**found)
        .map(|(user, _)| user.as_str())
        .collect();
    print(&format!(
        "{}: {users} users of {domain}. Credentials and messages are in it: keep it secret.\n",
        args.out.display(),
    ))?;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::Refused,
            format!("not in the backup: {}", missing.join(", ")),
        )),
    }
}

/// A user's address out of a command line.
pub(crate) fn address(user: &str) -> Result<BareJid, Failure> {
    let parsed = BareJid::parse(user).ok().filter(|user| !user.is_domain());
    parsed.ok_or_else(|| Failure::new(Exit::CommandLine, format!("{user:?} is no user's address")))
}

/// What there is of a partition, in files as those of a backup.
pub(crate) struct Part {
    pub(crate) partition: u16,
    pub(crate) state: PathBuf,
    pub(crate) rows: PathBuf,
}

/// Makes the file with the users of a domain that are wanted, or all; marks those that were found, and gives how many there are.
/// The file is whole, or it is not there.
pub(crate) fn write(
    out: &Path,
    domain: &str,
    parts: impl Iterator<Item = Part>,
    wanted: &mut BTreeMap<BareJid, bool>,
) -> Result<u64, Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .map_err(|error| at(out, &error))?;
    let mut export = Export {
        out: BufWriter::new(file),
        users: 0,
    };
    let written = export.all(domain, parts, wanted);
    written.map_err(|error| {
        let unfinished = std::fs::remove_file(out);
        let failure = match error {
            ExportError::Io(error) => at(out, &error),
            other => Failure::from_error(Exit::Data, &other),
        };
        match unfinished {
            Ok(()) => failure,
            Err(error) => failure.and(&format!("; {}: {error}", out.display())),
        }
    })?;
    Ok(export.users)
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the file can't be written")]
    Io(#[from] std::io::Error),
    #[error("the backup does not read")]
    State(#[from] cluster::backup::founding::FoundingError),
    #[error("the messages of a partition do not read")]
    Rows(#[from] storage::block_file::BlockFileError),
    #[error("a message does not read")]
    Row(#[from] storage::codec::CodecError),
}

struct Export<W> {
    out: W,
    users: u64,
}

impl<W: Write> Export<W> {
    fn all(
        &mut self,
        domain: &str,
        parts: impl Iterator<Item = Part>,
        wanted: &mut BTreeMap<BareJid, bool>,
    ) -> Result<(), ExportError> {
        self.out
            .write_all(b"<?xml version='1.0' encoding='UTF-8'?>\n")?;
        let mut head = XmlWriter::new("");
        head.start_ns("server-data", NS).start("host");
        head.attr("jid", domain).text("\n");
        let (head, end) = open_part(head);
        self.out.write_all(&head)?;
        for part in parts {
            let group = Group::of(PartitionId(part.partition));
            let (state, _) = read_state(&part.state, group)?;
            self.partition(&state, &part.rows, part.partition, wanted)?;
        }
        self.out.write_all(&end)?;
        self.out.write_all(b"\n")?;
        self.out.flush()?;
        Ok(())
    }

    fn partition(
        &mut self,
        state: &State,
        rows: &Path,
        partition: u16,
        wanted: &mut BTreeMap<BareJid, bool>,
    ) -> Result<(), ExportError> {
        // Whole and in order, before anything relies on that.
        check_rows(rows, partition, |_| Ok(()))?;
        let everybody = wanted.is_empty();
        let mut users: BTreeMap<&str, (&BareJid, &Account)> = BTreeMap::new();
        for (user, account) in state.accounts.iter() {
            let is_wanted = match wanted.get_mut(user) {
                Some(found) => {
                    *found = true;
                    true
                }
                None => everybody,
            };
            if is_wanted {
                users.insert(user.as_str(), (user, account));
            }
        }
        let mut rows = messages(rows)?.peekable();
        for (key, (user, account)) in users {
            while rows
                .next_if(|row| row.as_ref().is_ok_and(|row| &*row.key < key))
                .is_some()
            {}
            self.user(state, user, account, &mut rows)?;
        }
        Ok(())
    }

    fn user(
        &mut self,
        state: &State,
        user: &BareJid,
        account: &Account,
        rows: &mut Peekable<impl Iterator<Item = Result<BackedUpRow, ExportError>>>,
    ) -> Result<(), ExportError> {
        let mut out = XmlWriter::new(NS);
        out.start("user")
            .attr("name", user.local().unwrap_or_default());
        out.text("\n");
        write_credentials(account, &mut out);
        write_roster(state, user, &mut out);
        write_private(state, user, &mut out);
        let (head, end) = open_part(out);
        self.out.write_all(&head)?;
        let delivered = state.logs.get(user).map_or(0, |log| log.delivered);
        let mut waiting = Vec::new();
        let archive = format!("<archive xmlns='{NS_MAM}'>\n");
        self.out.write_all(archive.as_bytes())?;
        while let Some(row) =
            rows.next_if(|row| row.as_ref().map_or(true, |row| *row.key == *user.as_str()))
        {
            let row = row?;
            let read = decode_archive_row(&row.record)?;
            let ArchiveRecord::Message(record) = read.record else {
                continue;
            };
            if row.seq > delivered && !record.sent {
                waiting.push((read.time_ms, record));
                continue;
            }
            let element = archived(read.time_ms, &record);
            self.out.write_all(&element)?;
        }
        self.out.write_all(b"</archive>\n")?;
        if !waiting.is_empty() {
            self.out.write_all(b"<offline-messages>\n")?;
            for (time_ms, record) in waiting {
                self.out.write_all(&offline(time_ms, &record, user))?;
            }
            self.out.write_all(b"</offline-messages>\n")?;
        }
        self.out.write_all(&end)?;
        self.out.write_all(b"\n")?;
        self.users += 1;
        Ok(())
    }
}

/// What is written so far of elements that stay open, and their ends. No text of XML has a zero byte.
fn open_part(mut out: XmlWriter) -> (Vec<u8>, Vec<u8>) {
    const MARK: &[u8] = b"\0";
    out.raw(MARK);
    let whole = out.finish();
    let at = whole.iter().position(|byte| *byte == 0);
    let (head, end) = whole.split_at(at.unwrap_or(whole.len()));
    (head.to_vec(), end.get(1..).unwrap_or_default().to_vec())
}

/// The messages of a partition, by key and number.
fn messages(
    path: &Path,
) -> Result<impl Iterator<Item = Result<BackedUpRow, ExportError>>, ExportError> {
    let blocks = BlockFileReader::<RowsBlock>::open(path)?;
    let rows = blocks.flat_map(|block| match block {
        Ok(block) => block.rows.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error.into())],
    });
    Ok(rows.filter(|row| row.as_ref().map_or(true, |row| !row.is_event)))
}

fn write_credentials(account: &Account, out: &mut XmlWriter) {
    let credentials = &account.credentials;
    let all: [(&str, &Option<ScramKeys>); 3] = [
        ("SCRAM-SHA-1", &credentials.sha1),
        ("SCRAM-SHA-256", &credentials.sha256),
        ("SCRAM-SHA-512", &credentials.sha512),
    ];
    for (mechanism, keys) in all {
        let Some(keys) = keys else { continue };
        let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        out.start_ns("scram-credentials", NS_SCRAM)
            .attr("mechanism", mechanism);
        out.leaf("iter-count", &keys.iterations.to_string());
        out.leaf("salt", &base64(&keys.salt));
        out.leaf("server-key", &base64(&keys.server_key));
        out.leaf("stored-key", &base64(&keys.stored_key));
        out.end();
        out.text("\n");
    }
}

fn write_roster(state: &State, user: &BareJid, out: &mut XmlWriter) {
    out.start_ns("query", ns::ROSTER);
    for (contact, item) in state.roster.rows_of(user) {
        if item.listed {
            item.write(contact, out);
        }
    }
    out.end();
    out.text("\n");
    for (contact, item) in state.roster.rows_of(user) {
        if let Some(request) = &item.pending_in {
            out.start_ns("presence", ns::CLIENT)
                .attr("type", "subscribe")
                .attr("from", contact.as_str())
                .attr_opt("id", request.id.as_deref());
            out.raw(&request.payload).end();
            out.text("\n");
        }
    }
}

fn write_private(state: &State, user: &BareJid, out: &mut XmlWriter) {
    if let Some(vcard) = state.vcards.get(user) {
        // Stored as it stands within a stanza, and it names its namespace.
        out.raw(vcard);
        out.text("\n");
    }
    let mut private = state.private.rows_of(user).peekable();
    if private.peek().is_some() {
        out.start_ns("query", ns::PRIVATE);
        for (_, element) in private {
            out.raw(element);
        }
        out.end();
        out.text("\n");
    }
    let mut blocked = state.blocks.rows_of(user).peekable();
    if blocked.peek().is_some() {
        out.start_ns("blocklist", ns::BLOCKING);
        for (jid, ()) in blocked {
            out.start("item").attr("jid", jid.as_str()).end();
        }
        out.end();
        out.text("\n");
    }
}

fn stamp(time_ms: u64) -> String {
    Timestamp::from_millis(i64::try_from(time_ms).unwrap_or(i64::MAX)).to_string()
}

/// XEP-0227 §4.11.
fn archived(time_ms: u64, record: &MessageRecord) -> Vec<u8> {
    let mut out = XmlWriter::new(NS_MAM);
    out.start_ns("result", ns::MAM);
    out.start_ns("forwarded", ns::FORWARD);
    out.start_ns("delay", ns::DELAY)
        .attr("stamp", &stamp(time_ms))
        .end();
    record.stanza.write_into(&mut out);
    out.end().end();
    let mut element = out.finish().to_vec();
    element.push(b'\n');
    element
}

/// XEP-0227 §4.4.
fn offline(time_ms: u64, record: &MessageRecord, user: &BareJid) -> Vec<u8> {
    let mut delay = XmlWriter::new(ns::CLIENT);
    delay
        .start_ns("delay", ns::DELAY)
        .attr("from", user.domain())
        .attr("stamp", &stamp(time_ms))
        .end();
    let mut stanza = Stanza {
        kind: StanzaKind::Message,
        ..record.stanza.clone()
    };
    stanza.append_payload(&delay.finish());
    let mut out = XmlWriter::new(NS);
    stanza.write_into(&mut out);
    let mut element = out.finish().to_vec();
    element.push(b'\n');
    element
}
