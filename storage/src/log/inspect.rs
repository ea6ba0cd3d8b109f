//! A log as it lies on disk, for who looks into a stopped node's folder: nothing is written, renamed or removed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::GroupIndex;
use super::queue::read_entry;
use super::recovery::{Recovered, Rewrite, replay, rewriting, summary};
use super::segment::{Found, Segment, list_segments};
use super::{GroupId, GroupState, LogEntry, LogError};

/// A log that was read to its end.
pub struct InspectedLog {
    recovered: Recovered,
    groups: BTreeMap<GroupId, GroupIndex>,
    segments: BTreeMap<u32, Arc<Segment>>,
    headless: Vec<PathBuf>,
}

impl InspectedLog {
    /// Reads the log in a folder, one segment at a time, each three times. The caller sees to it that no process has it.
    ///
    /// # Errors
    /// [`LogError::Io`] if a file can't be read.
    pub fn open(dir: &Path) -> Result<InspectedLog, LogError> {
        let found = list_segments(dir).map_err(LogError::io("list its folder"))?;
        let fresh = found.is_empty();
        let mut found = match rewriting(found)? {
            Rewrite::None(found) => found,
            Rewrite::Interrupted { keep, .. } => keep,
        };
        let replayed = replay(&mut found)?;
        let recovered = summary(&replayed, fresh);
        let groups = replayed.groups.into_iter();
        let groups = groups.map(|(id, group)| (id, group.index)).collect();
        let (mut segments, mut headless) = (BTreeMap::new(), Vec::new());
        for one in found {
            match one {
                Found::Segment(segment) => {
                    segments.insert(segment.id(), Arc::new(segment));
                }
                Found::Headless { path, .. } => headless.push(path),
            }
        }
        Ok(InspectedLog {
            recovered,
            groups,
            segments,
            headless,
        })
    }

    /// What a start would find.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Segments whose header does not read.
    #[must_use]
    pub fn headless(&self) -> &[PathBuf] {
        &self.headless
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len() + self.headless.len()
    }

    /// The groups and what is known of each.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, GroupState)> {
        self.groups.iter().map(|(id, index)| (*id, index.state()))
    }

    /// An entry that a group has, read from its segment; `None` if it isn't there.
    ///
    /// # Errors
    /// [`LogError::Io`] if it can't be read.
    pub fn entry(&self, group: GroupId, index: u64) -> Result<Option<LogEntry>, LogError> {
        let of_group = self.groups.get(&group);
        let place = of_group.and_then(|found| Some((found.location(index)?, found.term(index)?)));
        let Some((location, term)) = place else {
            return Ok(None);
        };
        let Some(segment) = self.segments.get(&location.segment) else {
            return Ok(None);
        };
        let payload = read_entry(segment, group, index, location);
        let payload = match payload {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            other => other.map_err(LogError::io("read an entry"))?,
        };
        Ok(payload.map(|payload| LogEntry {
            index,
            term,
            payload,
        }))
    }
}
