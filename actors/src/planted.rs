//! Planted bugs of sessions, links and archives: see the crate [`planted`].

#[cfg(feature = "bug-archive-by-wall-clock")]
pub(crate) use by_time::order_by_time;
#[cfg(feature = "bug-follower-read")]
pub(crate) use here::{is_read_here, read_here};
#[cfg(feature = "bug-dedup-skipped-on-resume")]
pub(crate) use resume::{comes_back, unrecognised};

/// [`planted::Bug::ArchiveByWallClock`].
#[cfg(feature = "bug-archive-by-wall-clock")]
mod by_time {
    use std::cmp::Reverse;

    use messaging::archive::ArchiveRow;

    /// Rows of one time stamp stand in no particular order: here in one that is surely another than that of the log.
    pub(crate) fn order_by_time(rows: &mut [ArchiveRow], backward: bool) {
        if ::planted::acts(::planted::Bug::ArchiveByWallClock) {
            rows.sort_by_key(|row| (row.time_ms, Reverse(row.seq)));
            if backward {
                rows.reverse();
            }
        }
    }
}

/// [`planted::Bug::FollowerRead`].
#[cfg(feature = "bug-follower-read")]
mod here {
    use std::sync::Arc;

    use cluster::link::protocol::AskReply;
    use cluster::node_id::PartitionId;
    use messaging::query::{Query, Reply};

    use crate::fabric::Fabric;
    use crate::link::{Caller, Outcome};
    use crate::services::archive;

    /// Whether the bug acts on this question.
    pub(crate) fn is_read_here(query: &Query) -> bool {
        let is_archive = matches!(query, Query::Archive(_) | Query::ArchiveMetadata { .. });
        is_archive && ::planted::acts(::planted::Bug::FollowerRead)
    }

    /// Answers from what this node's own replica has applied so far.
    pub(crate) fn read_here(
        fabric: Arc<Fabric>,
        partition: PartitionId,
        query: Query,
        caller: Caller,
    ) {
        actix_rt::spawn(async move {
            let read = move || {
                let replica = &fabric.partitions[usize::from(partition.0)].replica;
                let reply = messaging::query::answer(&replica.state(), &query);
                match (reply, &query) {
                    (Reply::ArchiveAllowed { real_jids }, Query::Archive(query)) => {
                        archive::read_page(replica, query, real_jids)
                    }
                    (Reply::ArchiveAllowed { .. }, Query::ArchiveMetadata { key, .. }) => {
                        archive::read_metadata(replica, key)
                    }
                    (reply, _) => reply,
                }
            };
            caller.tell(match tokio::task::spawn_blocking(read).await {
                Ok(reply) => Outcome::Replied(AskReply::Reply(reply)),
                Err(_panicked) => Outcome::NotDone,
            });
        });
    }
}

/// [`planted::Bug::DedupSkippedOnResume`].
#[cfg(feature = "bug-dedup-skipped-on-resume")]
mod resume {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};

    use messaging::command::Command;
    use messaging::room::command::{RoomAction, RoomCommand};
    use xmpp::jid::BareJid;

    static BACK: Mutex<BTreeSet<BareJid>> = Mutex::new(BTreeSet::new());

    /// A client of this account wanted to resume a session and could not.
    pub(crate) fn comes_back(account: Option<&BareJid>) {
        let mut back = BACK.lock().unwrap_or_else(PoisonError::into_inner);
        back.extend(account.cloned());
    }

    /// A command as it is proposed: without origin-id, if its sender has come back.
    pub(crate) fn unrecognised(mut command: Command) -> Command {
        if !::planted::acts(::planted::Bug::DedupSkippedOnResume) {
            return command;
        }
        let (sender, origin_id) = match &mut command {
            Command::SendMessage(message) => (&message.sender, &mut message.origin_id),
            Command::Room(RoomCommand { by, action, .. }) => match action {
                RoomAction::Message { origin_id, .. }
                | RoomAction::PrivateMessage { origin_id, .. } => (&*by, origin_id),
                _ => return command,
            },
            _ => return command,
        };
        let back = BACK.lock().unwrap_or_else(PoisonError::into_inner);
        if back.contains(&sender.bare()) {
            *origin_id = None;
        }
        drop(back);
        command
    }
}
