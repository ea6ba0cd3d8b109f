//! A group's part of a log, looked at without the group.

use std::ops::RangeInclusive;

use storage::codec::decode_frame;
use storage::log::{GroupId, GroupState, InspectedLog, LogError};

use super::log_store::SMALL_BYTES_MAX;
use super::record::{EntryRecord, LogIdRecord, VoteRecord};
use crate::meta::MetaEntry;
use crate::node_id::Group;
use crate::records::decode_entry;

/// The largest entry that is read; far more than any settings allow.
const ENTRY_BYTES_MAX: u64 = 64 << 20;

/// Up to where a group's log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogReach {
    /// What is purged.
    pub(crate) purged: Option<u64>,
    /// The last entry, or what is purged.
    pub(crate) last: Option<u64>,
}

/// Looks whether all of a group's records read and fit each other. `nonsense` is told what does not; `entries` how many there
/// are, now and then.
pub(crate) fn check_group(
    log: &InspectedLog,
    group: Group,
    state: &GroupState,
    nonsense: &mut dyn FnMut(String),
    entries: &mut dyn FnMut(u64),
) -> Result<LogReach, LogError> {
    if let Some(vote) = &state.vote
        && decode_frame::<VoteRecord>(vote, SMALL_BYTES_MAX).is_err()
    {
        nonsense("its vote does not read".to_owned());
    }
    let mut place = |bytes: &Option<bytes::Bytes>, what: &str| {
        let bytes = bytes.as_ref()?;
        match decode_frame::<LogIdRecord>(bytes, SMALL_BYTES_MAX) {
            Ok(id) => Some(id),
            Err(_) => {
                nonsense(format!("{what} does not read"));
                None
            }
        }
    };
    let purged = place(&state.purged, "up to where it is purged");
    let committed = place(&state.committed, "what is committed");
    if let Some(purged) = purged
        && purged.index.checked_add(1) != Some(state.first_index)
    {
        nonsense(format!(
            "it is purged up to {} and begins with {}",
            purged.index, state.first_index
        ));
    }
    if purged.is_none() && state.purged.is_none() && state.first_index > 0 {
        nonsense(format!("entries before {} are gone", state.first_index));
    }
    let last = state.last.map(|(index, _)| index);
    if let Some((last, _)) = state.last {
        check_entries(log, group, state.first_index..=last, nonsense, entries)?;
    }
    let reach = LogReach {
        purged: purged.map(|purged| purged.index),
        last: last.max(purged.map(|purged| purged.index)),
    };
    if let Some(committed) = committed
        && reach.last < Some(committed.index)
    {
        nonsense(format!(
            "{} is committed, and it ends before that",
            committed.index
        ));
    }
    Ok(reach)
}

fn check_entries(
    log: &InspectedLog,
    group: Group,
    range: RangeInclusive<u64>,
    nonsense: &mut dyn FnMut(String),
    entries: &mut dyn FnMut(u64),
) -> Result<(), LogError> {
    /// After how many entries progress is told.
    const STEP: u64 = 256;
    let (mut term, mut seen) = (0, 0);
    for index in range {
        let Some(stored) = log.entry(GroupId(group.0), index)? else {
            nonsense(format!("entry {index} is not where it was written"));
            continue;
        };
        if stored.term < term {
            nonsense(format!("the term falls at entry {index}"));
        }
        term = stored.term;
        let reads = match decode_frame::<EntryRecord>(&stored.payload, ENTRY_BYTES_MAX) {
            Ok(EntryRecord::Command(bytes)) => match group == Group::META {
                true => MetaEntry::decode(&bytes).is_ok(),
                false => decode_entry(&bytes).is_ok(),
            },
            Ok(EntryRecord::Blank | EntryRecord::Membership(_)) => true,
            Err(_) => false,
        };
        if !reads {
            nonsense(format!("entry {index} does not read"));
        }
        seen += 1;
        if seen % STEP == 0 {
            entries(STEP);
        }
    }
    entries(seen % STEP);
    Ok(())
}
