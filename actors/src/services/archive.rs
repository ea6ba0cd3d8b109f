//! XEP-0313: pages of the archives of users and rooms.

use std::sync::Arc;

use cluster::machine::Replica;
use cluster::records::decode_archive_row;
use messaging::archive::{ArchiveIds, ArchiveRow};
use messaging::query::{ArchiveQuery, Query, Reply};
use messaging::user::archive_page;
use storage::archive::{Archive, ArchiveError, Order, Page, PartitionId, Rows};
use xmpp::jid::{BareJid, FullJid};
use xmpp::scan::Element;
use xmpp::stanza_error::{Condition, StanzaError};

use super::Service;

/// A request to an archive: its form, its ends, or a page.
pub fn at(
    element: Element<'_>,
    set: bool,
    key: &BareJid,
    session: &FullJid,
    ids: &ArchiveIds,
) -> Service {
    match (element.name(), set) {
        ("metadata", false) => Service::Query(Box::new(Query::ArchiveMetadata {
            key: key.clone(),
            asker: session.clone(),
        })),
        ("query", false) => Service::Answer(archive_page::form_payload()),
        ("query", true) => match archive_page::parse(element, key.clone(), session.clone(), ids) {
            Ok(query) => Service::Query(Box::new(Query::Archive(query))),
            Err(error) => Service::Refuse(error),
        },
        _ => Service::refuse(Condition::BadRequest),
    }
}

/// Rows read at once while a filter is looked for.
const CHUNK_ROWS: usize = 512;

/// Rows read at once where all of them match: a page is full after few large ones.
const PLAIN_CHUNK_ROWS: usize = 64;

/// Rows looked at for one page at most; a query that would look at more is refused, since a page that ends early would
/// pass for the last one.
const LOOKED_AT_MAX: usize = 100_000;

/// Reads a page; the asker may see it. Blocks on the disk.
pub fn read_page(replica: &Replica, query: &ArchiveQuery, real_jids: bool) -> Reply {
    let reader = Reader {
        archive: &replica.archive,
        partition: PartitionId(replica.surroundings.partition.0),
        query,
        is_room: query.key.domain() == replica.surroundings.pool.rooms_domain,
        real_jids,
    };
    let rows = reader.check_named().and_then(|known| match known {
        true => reader.rows().map(Some),
        false => Ok(None),
    });
    match rows {
        Ok(Some(rows)) => archive_page::page(query, rows, reader.count(), real_jids, &replica.ids),
        Ok(None) => Reply::Refused(Box::new(archive_page::unknown_id())),
        Err(ReadError::TooFar) => {
            let text =
                "Too many messages would have to be looked at: give a narrower span of time.";
            Reply::Refused(Box::new(
                StanzaError::new(Condition::PolicyViolation).with_text(text),
            ))
        }
        Err(error) => {
            tracing::error!(%error, "an archive could not be read");
            Reply::Refused(Box::new(StanzaError::new(Condition::InternalServerError)))
        }
    }
}

/// Reads the ends of an archive; the asker may see it. Blocks on the disk.
pub fn read_metadata(replica: &Replica, key: &BareJid) -> Reply {
    let partition = PartitionId(replica.surroundings.partition.0);
    let end = |order| {
        let page = Page {
            after: None,
            before: None,
            order,
            limit: 1,
        };
        let rows = replica
            .archive
            .range(partition, key.as_str(), Rows::Messages, &page)?;
        Ok::<_, ReadError>(
            rows.first()
                .map(|row| decode_archive_row(&row.record))
                .transpose()?,
        )
    };
    match (end(Order::OldestFirst), end(Order::NewestFirst)) {
        (Ok(oldest), Ok(newest)) => Reply::Payload(archive_page::metadata_payload(
            oldest.as_ref(),
            newest.as_ref(),
            &replica.ids,
        )),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "an archive could not be read");
            Reply::Refused(Box::new(StanzaError::new(Condition::InternalServerError)))
        }
    }
}

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The archive's engine failed.
    #[error("the archive failed")]
    Archive(#[from] ArchiveError),
    /// Too many rows were looked at.
    #[error("too many rows would have to be looked at")]
    TooFar,
    /// The reading itself broke down.
    #[error("the reading task failed")]
    Task(#[source] tokio::task::JoinError),
    /// A row is no row.
    #[error("a row of the archive does not read")]
    Row(#[from] storage::codec::CodecError),
}

/// The rows of a key after one sequence up to another, in order: what a node missed, or a join's history.
///
/// # Errors
/// Those of the archive.
pub fn rows_between(
    replica: &Replica,
    key: &BareJid,
    rows: Rows,
    after: u64,
    upto: u64,
    order: Order,
    limit: usize,
) -> Result<Vec<Arc<ArchiveRow>>, ReadError> {
    let partition = PartitionId(replica.surroundings.partition.0);
    let page = Page {
        after: Some(after),
        before: Some(upto.saturating_add(1)),
        order,
        limit,
    };
    let found = replica
        .archive
        .range(partition, key.as_str(), rows, &page)?;
    found
        .iter()
        .map(|row| Ok(Arc::new(decode_archive_row(&row.record)?)))
        .collect()
}

struct Reader<'a> {
    archive: &'a Archive,
    partition: PartitionId,
    query: &'a ArchiveQuery,
    is_room: bool,
    real_jids: bool,
}

impl Reader<'_> {
    /// Whether every row that the client named is there.
    fn check_named(&self) -> Result<bool, ReadError> {
        for seq in &self.query.named {
            let page = Page {
                after: seq.checked_sub(1),
                before: seq.checked_add(1),
                order: Order::OldestFirst,
                limit: 1,
            };
            if self
                .archive
                .range(
                    self.partition,
                    self.query.key.as_str(),
                    Rows::Messages,
                    &page,
                )?
                .is_empty()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bounds in sequences, times turned into them.
    fn bounds(&self) -> Result<(Option<u64>, Option<u64>), ReadError> {
        let query = self.query;
        let key = query.key.as_str();
        let at = |time| {
            self.archive
                .seq_at_or_after(self.partition, key, Rows::Messages, time)
        };
        let mut after = query.after;
        if let Some(start) = query.start_ms {
            let first = at(start)?.unwrap_or(u64::MAX);
            after = after.max(Some(first.saturating_sub(1)));
        }
        let mut before = query.before;
        if let Some(end) = query.end_ms
            && let Some(beyond) = at(end.saturating_add(1))?
        {
            before = Some(before.map_or(beyond, |before| before.min(beyond)));
        }
        if let (Some(first), Some(last)) = (query.ids.first(), query.ids.last()) {
            after = after.max(first.checked_sub(1));
            let beyond = last.saturating_add(1);
            before = Some(before.map_or(beyond, |before| before.min(beyond)));
        }
        Ok((after, before))
    }

    /// One more than the page, if there are so many.
    fn rows(&self) -> Result<Vec<ArchiveRow>, ReadError> {
        let (mut after, mut before) = self.bounds()?;
        let order = if self.query.backward {
            Order::NewestFirst
        } else {
            Order::OldestFirst
        };
        let wanted = archive_page::rows_wanted(self.query);
        let mut rows = Vec::new();
        let mut looked_at = 0;
        let mut bytes = 0;
        while rows.len() < wanted && bytes < archive_page::PAGE_BYTES_MAX {
            if looked_at >= LOOKED_AT_MAX {
                return Err(ReadError::TooFar);
            }
            let limit = if self.is_filtered() {
                CHUNK_ROWS
            } else {
                PLAIN_CHUNK_ROWS.min(wanted - rows.len())
            };
            let chunk = self.chunk(&Page {
                after,
                before,
                order,
                limit,
            })?;
            let Some(last) = chunk.last().map(|row| row.seq) else {
                break;
            };
            looked_at += chunk.len();
            match order {
                Order::OldestFirst => after = Some(last),
                Order::NewestFirst => before = Some(last),
            }
            let short = chunk.len() < limit;
            for row in chunk {
                let row = decode_archive_row(&row.record)?;
                if archive_page::matches(self.query, &row, self.real_jids) {
                    bytes += archive_page::row_bytes(&row);
                    rows.push(row);
                }
                if bytes >= archive_page::PAGE_BYTES_MAX {
                    // The page is full.
                    break;
                }
            }
            if short {
                break;
            }
        }
        rows.truncate(wanted);
        #[cfg(feature = "bug-archive-by-wall-clock")]
        crate::planted::order_by_time(&mut rows, self.query.backward);
        Ok(rows)
    }

    /// Whether rows between the bounds may not match: a full JID as peer, or named rows only.
    fn is_filtered(&self) -> bool {
        self.query.with.is_some() || !self.query.ids.is_empty()
    }

    fn chunk(&self, page: &Page) -> Result<Vec<storage::archive::ArchiveRow>, ReadError> {
        let key = self.query.key.as_str();
        match &self.query.with {
            Some(with) if !self.is_room => {
                Ok(self
                    .archive
                    .range_with(self.partition, key, with.bare_str(), page)?)
            }
            _ => Ok(self
                .archive
                .range(self.partition, key, Rows::Messages, page)?),
        }
    }

    /// How many match in all, where that costs nothing: a query without bounds.
    fn count(&self) -> Option<u64> {
        let query = self.query;
        let bounded = query.with.is_some()
            || query.start_ms.is_some()
            || query.end_ms.is_some()
            || !query.ids.is_empty();
        if bounded {
            return None;
        }
        let counted = self.archive.count(self.partition, query.key.as_str());
        counted
            .inspect_err(|error| tracing::warn!(%error, "an archive could not be counted"))
            .ok()
    }
}
