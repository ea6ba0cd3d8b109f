//! `muster restore`: a new pool of one node, out of a backup of another pool.
//!
//! ```text
//!  manifest and hashes ─► every file read ─► the line on which the partitions agree ─► new pool id, CA, secret ─► data folder
//! ```
//!
//! The groups of a backup are captured one after the other, meta first, so partitions may have come to a version that the meta group
//! has not heard of. The new pool is at the highest of them: no partition's log may be ahead of its pool (ADR 0021).
//!
//! Kept are the users' and rooms' domains, the partitions, the limits and the key behind archive ids. New are the pool's id, its
//! CA, its secret and the node. Nothing is written before all of the backup was read and found whole, and nothing has its
//! name before all is on disk.

use std::io::{self, IsTerminal};
use std::path::Path;

use cluster::backup::block::EntriesBlock;
use cluster::backup::founding::{
    FoundingError, NewNode, PartitionFiles, check_rows, found_partition, new_snapshot, read_state,
};
use cluster::backup::line::{Standing, entries_of, find_line};
use cluster::meta::audit::Change;
use cluster::meta::backup::{FoundingMeta, founding_rows, pool_version};
use cluster::meta::versions::Versions;
use cluster::node_id::{Group, NodeId, PartitionId, PoolId};
use cluster::raft::found_log;
use cluster::version::Build;
use messaging::apply::{PoolConstants, Surroundings};
use messaging::founding::INDEXES_APART;
use messaging::slot::PartitionTable;
use messaging::state::State;
use storage::archive::{Archive, ArchiveOptions};
use storage::block_file::BlockFileReader;
use storage::data_dir::DataDir;
use storage::log::LogOptions;

use crate::backup_files::{Backup, Kind};
use crate::cli::{InitArgs, Listed, RestoreArgs};
use crate::config::pool_file::PoolFile;
use crate::ctl::backup::size;
use crate::exit::{Exit, Failure, print};
use crate::init::{NodePlan, make_as, refuse_existing, report};
use crate::secret_file::random_hex;

/// `muster restore`
pub(crate) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    refuse_existing(&args.dir)?;
    let backup = Backup::open(&args.backup)?;
    let view = View::new();
    let mut seen = 0;
    backup.verify(|bytes| {
        seen += bytes;
        view.show(&format!(
            "verified {} of {}",
            size(seen),
            size(backup.bytes())
        ));
    })?;
    let pool = new_pool(&backup)?;
    let line = line(&backup, &pool, &Build::own(), &view)?;
    let init = init_args(args, &pool);
    let plans = make_as(&init, &pool, |node_dir, plan| {
        fill(&backup, &pool, &line, (node_dir, plan), &view)
    })?;
    view.end();
    let old = &backup.manifest.of.pool;
    print(&format!(
        "Restored the pool {old} from {}. Rooms and accounts are as they were then; nobody is online or in a room.\n\
         If {old} still runs, its clients must not be led to both.\n\n{}",
        args.backup.display(),
        report(&init, &pool, &plans)
    ))
}

fn init_args(args: &RestoreArgs, pool: &PoolFile) -> InitArgs {
    let RestoreArgs {
        dir,
        bind,
        control_bind,
        names,
        ports,
        ..
    } = args;
    InitArgs {
        dir: dir.clone(),
        nodes: 1,
        domain: pool.constants.domain.clone(),
        rooms_domain: Some(pool.constants.rooms_domain.clone()),
        partitions: pool.partitions,
        bind: vec![Listed::one(*bind)],
        control_bind: control_bind.map(Listed::one).into_iter().collect(),
        names: names.clone(),
        ports: ports.clone(),
    }
}

fn damaged(backup: &Backup, what: &str) -> Failure {
    let message = format!("{}: {what}: nothing was restored", backup.dir.display());
    Failure::new(Exit::Data, message)
}

/// The new pool's description: as the old one's, under another name and with another secret.
fn new_pool(backup: &Backup) -> Result<PoolFile, Failure> {
    let of = &backup.manifest.of;
    let id: PoolId = format!("muster-{}", random_hex(6))
        .parse()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let id_key = match u128::from_str_radix(&of.id_key, 16) {
        Ok(number) if of.id_key.len() == 32 => number.to_be_bytes(),
        _ => return Err(damaged(backup, "the key behind archive ids does not read")),
    };
    let pool = PoolFile {
        id,
        partitions: of.partitions,
        constants: PoolConstants {
            id_key,
            domain: of.domain.clone(),
            rooms_domain: of.rooms_domain.clone(),
            contacts_max: of.contacts_max,
            occupants_max: of.occupants_max,
            rooms_owned_max: of.rooms_owned_max,
        },
        secret: rand::random(),
    };
    // Whatever a pool file must fulfil.
    Ok(PoolFile::parse(
        Path::new("the backup's manifest"),
        &pool.text(),
    )?)
}

fn surroundings(pool: &PoolFile, partition: u16) -> Surroundings {
    Surroundings {
        partition: PartitionId(partition),
        table: PartitionTable::even(pool.partitions),
        pool: pool.constants.clone(),
    }
}

fn unreadable(backup: &Backup, group: u32, error: &dyn std::error::Error) -> Failure {
    let why = Failure::from_error(Exit::Data, error);
    let what = match group.checked_sub(1) {
        None => format!("the meta group: {why}"),
        Some(partition) => format!("partition {partition}: {why}"),
    };
    damaged(backup, &what)
}

/// What the new pool is made of.
#[derive(Debug)]
struct Line {
    /// The last entry that each partition needs.
    entries: Vec<u64>,
    /// The version that the pool is at with them.
    version: u16,
}

/// A build that can't read or apply what is in the backup is refused, whatever else is found.
fn judged(backup: &Backup, version: u16, build: &Build) -> Result<(), Failure> {
    let judged = Versions::of_new_pool(version).admits(build);
    judged.map_err(|refusal| {
        let what = format!(
            "{}: {}: nothing was restored",
            backup.dir.display(),
            refusal.sentence
        );
        Failure::new(Exit::VersionSkew, what)
    })
}

/// Reads everything, and finds the line on which the partitions agree.
fn line(backup: &Backup, pool: &PoolFile, build: &Build, view: &View) -> Result<Line, Failure> {
    let meta = pool_version(&backup.path(0, Kind::State));
    let meta = meta.map_err(|error| unreadable(backup, 0, &error))?;
    judged(backup, meta, build)?;
    let mut standings = Vec::new();
    for partition in 0..pool.partitions {
        let group = u32::from(partition) + 1;
        let failed = |error: &dyn std::error::Error| unreadable(backup, group, error);
        let rows = backup.path(group, Kind::Rows);
        check_rows(&rows, partition, |_| Ok(())).map_err(|error| failed(&error))?;
        let state = backup.path(group, Kind::State);
        let (state, index) = read_state(&state, Group(group)).map_err(|error| failed(&error))?;
        judged(backup, version_of(&state), build)?;
        let blocks = BlockFileReader::<EntriesBlock>::open(&backup.path(group, Kind::Entries));
        let blocks = blocks.map_err(|error| failed(&error))?;
        standings.push(Standing {
            state,
            index,
            entries: entries_of(partition, blocks),
            surroundings: surroundings(pool, partition),
        });
        view.show(&format!(
            "read partition {partition} of {}",
            pool.partitions
        ));
    }
    let found = find_line(&mut standings);
    let reached = standings.iter().map(|standing| version_of(&standing.state));
    let version = reached.fold(meta, u16::max);
    // Behind the entry that raised a version there are some that an older build doesn't read: that is no damage.
    judged(backup, version, build)?;
    let entries = found.map_err(|error| {
        let why = Failure::from_error(Exit::Data, &error);
        damaged(backup, &why.to_string())
    })?;
    Ok(Line { entries, version })
}

/// What a partition is at.
fn version_of(state: &State) -> u16 {
    u16::try_from(state.record().version()).unwrap_or(u16::MAX)
}

/// Fills the data folder of the first node.
fn fill(
    backup: &Backup,
    pool: &PoolFile,
    line: &Line,
    (node_dir, plan): (&Path, &NodePlan),
    view: &View,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::from_error(Exit::Failed, error);
    let data = DataDir::open(&node_dir.join("data"), pool.id.as_str(), plan.id.0)
        .map_err(|error| failed(&error))?;
    // Before anything is there that is of that version.
    if data.pool_version().map_err(|error| failed(&error))? < line.version {
        let noted = data.note_pool_version(line.version);
        noted.map_err(|error| failed(&error))?;
    }
    let archive = Archive::open(&data.archive_dir(), &ArchiveOptions::default())
        .map_err(|error| failed(&error))?;
    let snapshots = data.snapshots_dir();
    let new = NewNode {
        archive: &archive,
        snapshots: &snapshots,
        node: plan.id,
        time_ms: actors::runtime::now_ms(),
    };
    let mut groups = vec![(
        Group::META,
        found_meta(backup, (pool, line.version), plan, &new)
            .map_err(|error| unreadable(backup, 0, &error))?,
    )];
    for (partition, last) in (0..pool.partitions).zip(&line.entries) {
        let group = u32::from(partition) + 1;
        let paths = [Kind::State, Kind::Rows, Kind::Entries].map(|kind| backup.path(group, kind));
        let [state, rows, entries] = &paths;
        let files = PartitionFiles {
            state,
            rows,
            entries,
        };
        let founded = found_partition(files, &surroundings(pool, partition), *last, &new);
        let index = founded.map_err(|error| unreadable(backup, group, &error))?;
        groups.push((Group(group), index));
        view.show(&format!(
            "restored partition {partition} of {}",
            pool.partitions
        ));
    }
    archive.sync().map_err(|error| failed(&error))?;
    found_log(&data.log_dir(), LogOptions::default(), plan.id, &groups)
        .map_err(|error| failed(&error))
}

fn found_meta(
    backup: &Backup,
    (pool, version): (&PoolFile, u16),
    plan: &NodePlan,
    new: &NewNode<'_>,
) -> Result<u64, FoundingError> {
    let of = &backup.manifest.of;
    let meta = backup.manifest.groups.first();
    let index = meta
        .map_or(0, |meta| meta.index)
        .saturating_add(INDEXES_APART);
    let rows = founding_rows(FoundingMeta {
        backup: &backup.path(0, Kind::State),
        digest: pool.digest(),
        node: plan.id,
        address: plan.cluster.to_string(),
        groups: u32::from(pool.partitions) + 1,
        index,
        version,
        record: Change {
            at_ms: new.time_ms,
            node: NodeId(plan.id.0),
            who: "muster restore".to_owned(),
            from: "local".to_owned(),
            action: "pool.restore".to_owned(),
            target: format!("backup {} of {}", backup.manifest.id, of.pool),
        },
    })?;
    let mut writer = new_snapshot(new.snapshots, Group::META, index, plan.id)?;
    for (table, key, value) in rows {
        writer.row(table, &key, &value)?;
    }
    writer.finish()?;
    Ok(index)
}

/// What is on the screen while it takes its time.
pub(crate) struct View {
    live: bool,
}

impl View {
    pub(crate) fn new() -> View {
        View {
            live: io::stdout().is_terminal(),
        }
    }

    pub(crate) fn show(&self, text: &str) {
        if self.live {
            // Where nobody reads there is nobody to tell.
            let _ = print(&format!("\r{text}\x1b[K"));
        }
    }

    pub(crate) fn end(&self) {
        if self.live {
            let _ = print("\r\x1b[K");
        }
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
