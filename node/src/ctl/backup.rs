//! `muster ctl backup`: fetches a backup of a pool that runs, part by part, at a set pace.
//!
//! ```text
//!  begin ─► capture all groups ─► states ─► ends of the logs ─► entries ─► archives ─► manifest
//! ```
//!
//! All groups are captured before the first byte is fetched, and the ends of the logs are asked for when all have been: what
//! lies between is in the backup, too, and brings them to one line.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::backup::block::{BackedUpRow, EntriesBlock, RowPlace, RowsBlock};
use serde::Serialize;
use serde_json::Value;
use storage::block_file::{BlockFileError, BlockFileWriter};
use storage::codec;
use time::OffsetDateTime;
use web::report::backup::{BackupBegun, CaptureReport, EndReport, ExportBegun};
use xmpp::jid::BareJid;

use super::client::{Client, query};
use super::print_json;
use super::progress::bar;
use crate::backup_files::{self, GroupFiles, Kind, Manifest};
use crate::exit::{Exit, Failure, print};
use crate::init::at;

/// How often the nodes are told that the backup goes on; they forget after two minutes.
const TOLD_EVERY: Duration = Duration::from_secs(20);

/// `muster ctl backup`
pub(super) fn backup(
    client: &Client,
    json: bool,
    dir: &Path,
    mib_per_second: u32,
) -> Result<(), Failure> {
    backup_files::begin(dir)?;
    let fetched = fetch(client, json, dir, mib_per_second);
    let manifest = fetched.map_err(|failure| {
        failure.and(&format!(
            "; {} is incomplete: the same command begins it anew",
            dir.display()
        ))
    })?;
    let bytes: u64 = manifest
        .groups
        .iter()
        .flat_map(|group| &group.files)
        .map(|file| file.bytes)
        .sum();
    let report = Report {
        dir: dir.display().to_string(),
        pool: manifest.of.pool.clone(),
        partitions: manifest.of.partitions,
        bytes,
        seconds: manifest.ended_ms.saturating_sub(manifest.began_ms) / 1000,
    };
    backup_files::seal(dir, manifest)?;
    if json {
        return print_json(&report);
    }
    print(&format!(
        "{}: a backup of the pool {}, {} partitions, {} in {} s. All messages and credentials are in it: keep it secret.\n",
        report.dir,
        report.pool,
        report.partitions,
        size(report.bytes),
        report.seconds
    ))
}

#[derive(Serialize)]
struct Report {
    dir: String,
    pool: String,
    partitions: u16,
    bytes: u64,
    seconds: u64,
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

fn fetch(
    client: &Client,
    json: bool,
    dir: &Path,
    mib_per_second: u32,
) -> Result<Manifest, Failure> {
    let BackupBegun { id, began_ms, of }: BackupBegun = client.post("/v1/backups", &Value::Null)?;
    let groups = u32::from(of.partitions) + 1;
    let mut fetch = Fetch {
        client,
        dir,
        path: format!("/v1/backups/{id}"),
        told: Instant::now(),
        pace: Pace::new(u64::from(mib_per_second) << 20),
        view: View::new(json, groups),
    };
    let mut captured = Vec::new();
    for group in 0..groups {
        let path = format!("{}/groups/{group}", fetch.path);
        let report: CaptureReport = client.post(&path, &Value::Null)?;
        captured.push(report);
        fetch.view.show("captured", group)?;
        fetch.go_on()?;
    }
    for report in &captured {
        fetch.state(report)?;
        fetch.view.show("states", report.group)?;
    }
    let ends = fetch.logs(&captured)?;
    for report in captured.iter().skip(1) {
        fetch.rows(report, None)?;
        fetch.view.show("archives", report.group)?;
    }
    fetch.view.end()?;
    // A node that is gone by now forgets by itself.
    if let Err(failure) = client.delete(&fetch.path) {
        tracing::debug!(%failure, "the nodes were not told that the backup is over");
    }
    let mut files = Vec::new();
    for (report, upto) in captured.iter().zip(ends) {
        let names = backup_files::names(report.group).into_iter();
        let entries = names.map(|name| backup_files::entry(dir, name));
        files.push(GroupFiles {
            group: report.group,
            index: report.index,
            upto,
            files: entries.collect::<Result<_, _>>()?,
        });
    }
    let ended_ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    let ended_ms = u64::try_from(ended_ms).unwrap_or(began_ms);
    Ok(Manifest::new((id, began_ms, ended_ms), of, files))
}

/// A backup that is being fetched.
struct Fetch<'a> {
    client: &'a Client,
    dir: &'a Path,
    /// Of the backup at the control port.
    path: String,
    told: Instant,
    pace: Pace,
    view: View,
}

impl Fetch<'_> {
    fn go_on(&mut self) -> Result<(), Failure> {
        if self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            self.client.post_for_nothing(&self.path)?;
        }
        Ok(())
    }

    fn part(&mut self, path: &str) -> Result<Vec<u8>, Failure> {
        self.go_on()?;
        let bytes = self.client.bytes(path)?;
        self.pace.wait(bytes.len() as u64);
        self.view.fetched += bytes.len() as u64;
        Ok(bytes)
    }

    fn state(&mut self, report: &CaptureReport) -> Result<(), Failure> {
        let CaptureReport {
            group,
            node,
            state_bytes,
            ..
        } = *report;
        let path = self.dir.join(backup_files::name(group, Kind::State));
        let written = |error: io::Error| at(&path, &error);
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(written)?;
        let mut offset = 0;
        while offset < state_bytes {
            let from = &self.path;
            let from = format!("{from}/groups/{group}/state?node={node}&offset={offset}");
            let bytes = self.part(&from)?;
            if bytes.is_empty() {
                return Err(senseless("the state of a group ends before its end"));
            }
            file.write_all(&bytes).map_err(written)?;
            offset += bytes.len() as u64;
        }
        file.sync_all().map_err(written)
    }

    /// The ends of all logs, asked for before the first entry is fetched; meta first, which has none.
    fn logs(&mut self, captured: &[CaptureReport]) -> Result<Vec<u64>, Failure> {
        let mut ends = Vec::new();
        for report in captured.iter().skip(1) {
            let path = format!("{}/groups/{}/end", self.path, report.group);
            let end: EndReport = self.client.post(&path, &Value::Null)?;
            ends.push(end);
            self.go_on()?;
        }
        let mut indexes = vec![captured.first().map_or(0, |meta| meta.index)];
        for (report, end) in captured.iter().skip(1).zip(&ends) {
            self.entries(report, end)?;
            self.view.show("logs", report.group)?;
            indexes.push(end.index.max(report.index));
        }
        Ok(indexes)
    }

    fn entries(&mut self, report: &CaptureReport, end: &EndReport) -> Result<(), Failure> {
        let path = self
            .dir
            .join(backup_files::name(report.group, Kind::Entries));
        let mut file = BlockFileWriter::create(&path).map_err(|error| unwritten(&path, &error))?;
        let mut index = report.index;
        while index < end.index {
            let from = format!(
                "{}/groups/{}/entries?node={}&after={index}&upto={}",
                self.path, report.group, end.node, end.index
            );
            let bytes = self.part(&from)?;
            let block: EntriesBlock = read(&bytes)?;
            if block.first != index + 1 || block.payloads.is_empty() {
                return Err(senseless("the entries of a log are not the next"));
            }
            index += block.payloads.len() as u64;
            file.push(&bytes)
                .map_err(|error| unwritten(&path, &error))?;
        }
        file.finish().map_err(|error| unwritten(&path, &error))
    }

    /// The archive of a partition, or what of it is one user's.
    fn rows(&mut self, report: &CaptureReport, of: Option<&BareJid>) -> Result<(), Failure> {
        let CaptureReport { group, node, .. } = *report;
        let path = self.dir.join(backup_files::name(group, Kind::Rows));
        let mut file = BlockFileWriter::create(&path).map_err(|error| unwritten(&path, &error))?;
        // Rows are in the order of their keys, and numbers begin with 1.
        let mut place = of.map(|user| RowPlace {
            is_event: false,
            key: user.as_str().to_owned(),
            seq: 0,
        });
        loop {
            let mut from = format!("{}/groups/{group}/rows?node={node}", self.path);
            if let Some(RowPlace { is_event, key, seq }) = &place {
                let key = query(key);
                from.push_str(&format!("&key={key}&seq={seq}&event={is_event}"));
            }
            let mut bytes = self.part(&from)?;
            let mut block: RowsBlock = read(&bytes)?;
            if let Some(user) = of {
                let fetched = block.rows.len();
                let is_theirs = |row: &BackedUpRow| !row.is_event && *row.key == *user.as_str();
                block.rows.retain(is_theirs);
                block.ended |= block.rows.len() < fetched;
                let encoded = codec::encode(&block);
                bytes = encoded.map_err(|error| Failure::from_error(Exit::Failed, &error))?;
            }
            file.push(&bytes)
                .map_err(|error| unwritten(&path, &error))?;
            self.view.rows += block.rows.len() as u64;
            match block.rows.last() {
                Some(last) if !block.ended => place = Some(RowPlace::from(last)),
                _ if block.ended => break,
                _ => return Err(senseless("the rows of an archive end before their end")),
            }
            self.view.show("archives", group)?;
        }
        file.finish().map_err(|error| unwritten(&path, &error))
    }
}

/// Fetches what a pool has of a user, as files of their partition in a folder; gives the number of the partition.
pub(super) fn fetch_user(client: &Client, user: &BareJid, dir: &Path) -> Result<u16, Failure> {
    let path = format!("{}/exports", web::user_path(user.as_str()));
    let ExportBegun { id, group } = client.post(&path, &Value::Null)?;
    let mut fetch = Fetch {
        client,
        dir,
        path: format!("/v1/backups/{id}"),
        told: Instant::now(),
        pace: Pace::new(u64::MAX),
        view: View::new(true, 1),
    };
    let path = format!("{}/groups/{group}", fetch.path);
    let report: CaptureReport = client.post(&path, &Value::Null)?;
    fetch.state(&report)?;
    fetch.rows(&report, Some(user))?;
    // A node that is gone by now forgets by itself.
    if let Err(failure) = client.delete(&fetch.path) {
        tracing::debug!(%failure, "the nodes were not told that the export is over");
    }
    let partition = group.checked_sub(1).and_then(|at| u16::try_from(at).ok());
    partition.ok_or_else(|| senseless("a user is in no partition"))
}

fn read<T: codec::Record>(bytes: &[u8]) -> Result<T, Failure> {
    codec::decode(bytes).map_err(|error| Failure::from_error(Exit::Failed, &error))
}

fn senseless(what: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("the node's answer makes no sense: {what}"),
    )
}

fn unwritten(path: &Path, error: &BlockFileError) -> Failure {
    let failure = Failure::from_error(Exit::Failed, error);
    Failure::new(Exit::Failed, format!("{}: {failure}", path.display()))
}

/// Holds up whoever fetches faster than so many bytes a second.
struct Pace {
    rate: u64,
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        Pace {
            rate: rate.max(1),
            began: Instant::now(),
            bytes: 0,
        }
    }

    fn wait(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due = due(self.bytes, self.rate);
        let early = due.saturating_sub(self.began.elapsed());
        if !early.is_zero() {
            std::thread::sleep(early);
        }
    }
}

/// When so many bytes may have been fetched.
fn due(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What is on the screen.
struct View {
    live: bool,
    groups: u32,
    fetched: u64,
    rows: u64,
}

impl View {
    fn new(json: bool, groups: u32) -> View {
        View {
            live: !json && io::stdout().is_terminal(),
            groups,
            fetched: 0,
            rows: 0,
        }
    }

    /// A phase, and the group that is done in it.
    fn show(&self, phase: &str, group: u32) -> Result<(), Failure> {
        if !self.live {
            return Ok(());
        }
        let (all, left) = (u64::from(self.groups), u64::from(self.groups - group) - 1);
        print(&format!(
            "\r{} {phase}: {} of {all}, {} and {} messages and events\x1b[K",
            bar(all, left),
            group + 1,
            size(self.fetched),
            self.rows
        ))
    }

    fn end(&self) -> Result<(), Failure> {
        match self.live {
            true => print("\n"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept() {
        let check = |bytes, rate, millis| {
            assert_eq!(due(bytes, rate), Duration::from_millis(millis), "{bytes}");
        };
        check(0, 1 << 20, 0);
        check(1 << 20, 1 << 20, 1000);
        check(1 << 19, 1 << 20, 500);
        check(5, 0, 5000);
    }

    #[test]
    fn sizes_for_people() {
        let check = |bytes, expect: &str| assert_eq!(size(bytes), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(5 << 20, "5 MiB");
        check(20 << 30, "20 GiB");
    }
}
