//! Planted bugs of replicas: see the crate [`planted`].

#[cfg(feature = "bug-ban-on-one-node")]
use messaging::command::{Command, Entry};
#[cfg(feature = "bug-ban-on-one-node")]
use messaging::room::command::{RoomAction, RoomCommand};
#[cfg(feature = "bug-ban-on-one-node")]
use messaging::room::state::Affiliation;

/// [`planted::Bug::DedupNotInSnapshot`]: whether a table is missing from snapshots; `sent_ids` of `messaging::state::State` is.
#[cfg(feature = "bug-dedup-not-in-snapshot")]
pub(super) fn is_left_out(table: u8) -> bool {
    const SENT_IDS: u8 = 16;
    table == SENT_IDS && ::planted::acts(::planted::Bug::DedupNotInSnapshot)
}

/// [`planted::Bug::BanOnOneNode`]: an entry as a replica applies it; that of the owner alone bans anybody.
#[cfg(feature = "bug-ban-on-one-node")]
pub(super) fn unless_banning(mut entry: Entry, is_owner: bool) -> Entry {
    if is_owner || !::planted::acts(::planted::Bug::BanOnOneNode) {
        return entry;
    }
    if let Entry::Batch(batch) = &mut entry {
        for proposal in &mut batch.proposals {
            if let Command::Room(RoomCommand {
                action: RoomAction::Admin { items },
                ..
            }) = &mut proposal.command
            {
                items.retain(|item| item.affiliation != Some(Affiliation::Outcast));
            }
        }
    }
    entry
}
