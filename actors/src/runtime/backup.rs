//! Backups: what an operator asks of any node, that node asks of the partitions' owners, over the BULK lane.
//!
//! An owner captures state and archive when it is asked to, keeps them as long as somebody asks for parts, and answers at
//! the rate of all that a node sends in bulk. A lost owner loses what it captured: then the backup has to begin anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cluster::backup::ask::{
    BackupAnswer, BackupAsk, BackupId, BackupQuestion, BackupReply, FRAME_BYTES, FRAME_KIND,
    PART_BYTES,
};
use cluster::backup::block::{EntriesBlock, RowPlace};
use cluster::backup::capture::Source;
use cluster::node_id::{Group, NodeId, PartitionId};
use cluster::raft::ReadError;
use cluster::transport::{Frame, Lane, Reply};
use storage::codec::{decode, encode};
use tokio::sync::Semaphore;
use xmpp::jid::BareJid;

use super::NodeHandle;
use super::meta_road::OperationError;
use crate::fabric::{Fabric, PartitionPlace};

/// What was captured and is not asked for is kept so long.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// Backups at once that a node keeps something for.
const BACKUPS_MAX: usize = 2;

/// Questions that a node answers at once.
const ANSWERS_AT_ONCE: usize = 4;

/// How long an owner is looked for, and how often.
const OWNER_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long one answer may take: a capture writes the whole state of a partition.
const CALL_MAX: Duration = Duration::from_secs(25);

/// The longest answer: rows and entries of one part, and one more of the longest.
const ANSWER_BYTES_MAX: usize = 20 << 20;

/// What a node keeps for backups.
pub struct Backups {
    kept: Mutex<BTreeMap<(BackupId, u32), Kept>>,
    answers: Semaphore,
}

struct Kept {
    source: Arc<Source>,
    asked: Instant,
}

impl Default for Backups {
    fn default() -> Backups {
        Backups {
            kept: Mutex::default(),
            answers: Semaphore::new(ANSWERS_AT_ONCE),
        }
    }
}

impl Backups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(BackupId, u32), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was captured, in the place of what was before.
    fn keep(&self, backup: BackupId, group: Group, source: Source) -> Result<Arc<Source>, Refused> {
        let mut kept = self.lock();
        kept.retain(|_, one| one.asked.elapsed() < KEPT_FOR);
        let others: BTreeSet<BackupId> = kept.keys().map(|(id, _)| *id).collect();
        if !others.contains(&backup) && others.len() >= BACKUPS_MAX {
            return Err(Refused::Said(format!(
                "{BACKUPS_MAX} other backups are under way on a node"
            )));
        }
        let source = Arc::new(source);
        let one = Kept {
            source: Arc::clone(&source),
            asked: Instant::now(),
        };
        kept.insert((backup, group.0), one);
        Ok(source)
    }

    fn source(&self, backup: BackupId, group: Group) -> Result<Arc<Source>, Refused> {
        self.touch(backup);
        let kept = self.lock();
        let one = kept.get(&(backup, group.0));
        let one = one.ok_or_else(|| {
            Refused::Said(format!(
                "what was captured of {group} is no longer here: begin the backup anew"
            ))
        })?;
        Ok(Arc::clone(&one.source))
    }

    fn touch(&self, backup: BackupId) {
        let now = Instant::now();
        let mut kept = self.lock();
        kept.retain(|_, one| now.duration_since(one.asked) < KEPT_FOR);
        let ours = kept.iter_mut().filter(|((id, _), _)| *id == backup);
        ours.for_each(|(_, one)| one.asked = now);
    }

    fn release(&self, backup: BackupId) {
        self.lock().retain(|(id, _), _| *id != backup);
    }
}

/// Why a question has no answer.
enum Refused {
    NotLeader,
    Said(String),
}

impl Refused {
    fn of(error: &dyn std::error::Error) -> Refused {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Refused::Said(text)
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Refused {
        match error {
            ReadError::NotLeader { .. } => Refused::NotLeader,
            error => Refused::of(&error),
        }
    }
}

/// Answers a frame about a backup. Never blocks.
pub(super) fn serve(fabric: &Arc<Fabric>, frame: Frame, reply: Reply) {
    let fabric = Arc::clone(fabric);
    tokio::spawn(async move {
        let Ok(_permit) = fabric.backups.answers.acquire().await else {
            return;
        };
        let Ok(ask) = decode::<BackupAsk>(&frame.body) else {
            return tracing::warn!("a question about a backup does not read");
        };
        let skip = usize::try_from(ask.skip).unwrap_or(usize::MAX);
        let group = Group(u32::from(frame.partition.0));
        let answer = match answer(&fabric, group, ask).await {
            Ok(bytes) => part(&bytes, skip),
            Err(Refused::NotLeader) => BackupReply::NotLeader,
            Err(Refused::Said(why)) => BackupReply::Refused(why),
        };
        let Ok(body) = encode(&answer) else {
            return tracing::error!("an answer about a backup does not encode");
        };
        if let Some(place) = fabric.partitions.first() {
            place.group.may_send(body.len()).await;
        }
        if let Err(error) = reply.send(Frame::new(FRAME_KIND, body)) {
            tracing::debug!(%error, "an answer about a backup was not sent");
        }
    });
}

/// A frame's worth of an answer.
fn part(bytes: &Bytes, skip: usize) -> BackupReply {
    let Ok(total) = u32::try_from(bytes.len()) else {
        return BackupReply::Refused("an answer is too long".to_owned());
    };
    let start = skip.min(bytes.len());
    let end = start.saturating_add(FRAME_BYTES).min(bytes.len());
    BackupReply::Part {
        total,
        bytes: bytes.slice(start..end),
    }
}

async fn answer(fabric: &Arc<Fabric>, group: Group, ask: BackupAsk) -> Result<Bytes, Refused> {
    let backup = ask.backup;
    match ask.what {
        BackupQuestion::Capture => capture(fabric, backup, group).await,
        BackupQuestion::State { offset } => {
            let source = fabric.backups.source(backup, group)?;
            read(move || source.state_part(offset, PART_BYTES)).await
        }
        BackupQuestion::Rows { after } => {
            let source = fabric.backups.source(backup, group)?;
            read(move || source.rows(after.as_ref(), PART_BYTES)).await
        }
        BackupQuestion::End => {
            let place = place_of(fabric, group)?;
            place.group.read_barrier().await?;
            let index = place.replica.applied_index();
            said(&BackupAnswer::Ended { index })
        }
        BackupQuestion::Entries { after, upto } => {
            let place = place_of(fabric, group)?;
            let (handle, partition) = (place.group.clone(), place.id.0);
            let found = handle.entries(after, upto, PART_BYTES);
            let found = found.map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Refused::Said(format!(
                    "the log of {group} is purged already: begin the backup anew"
                )),
                _ => Refused::of(&error),
            })?;
            let block = EntriesBlock {
                partition,
                first: after + 1,
                payloads: found.into_iter().map(|entry| entry.payload).collect(),
            };
            encode(&block)
                .map(Bytes::from)
                .map_err(|error| Refused::of(&error))
        }
        BackupQuestion::Touch => {
            fabric.backups.touch(backup);
            said(&BackupAnswer::Done)
        }
        BackupQuestion::Release => {
            fabric.backups.release(backup);
            said(&BackupAnswer::Done)
        }
    }
}

fn said(answer: &BackupAnswer) -> Result<Bytes, Refused> {
    encode(answer)
        .map(Bytes::from)
        .map_err(|error| Refused::of(&error))
}

fn place_of(fabric: &Fabric, group: Group) -> Result<&PartitionPlace, Refused> {
    let partition = group.partition().map(|partition| usize::from(partition.0));
    partition
        .and_then(|partition| fabric.partitions.get(partition))
        .ok_or_else(|| Refused::Said(format!("there is no {group}")))
}

/// Does what waits for the disk elsewhere.
async fn read<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refused> {
    match crate::threads::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Refused::of(&error)),
        Err(panicked) => Err(Refused::of(&panicked)),
    }
}

async fn capture(fabric: &Arc<Fabric>, backup: BackupId, group: Group) -> Result<Bytes, Refused> {
    let scratch = fabric.settings.data.scratch_dir();
    let source = if group == Group::META {
        let meta = Arc::clone(&fabric.meta);
        read(move || meta.capture(&scratch)).await?
    } else {
        let place = place_of(fabric, group)?;
        // What was acknowledged anywhere before is applied here then.
        place.group.read_barrier().await?;
        let replica = Arc::clone(&place.replica);
        read(move || replica.capture(&scratch)).await?
    };
    let source = fabric.backups.keep(backup, group, source)?;
    said(&BackupAnswer::Captured {
        index: source.index(),
        state_bytes: source.state_bytes(),
    })
}

/// A group that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The node that keeps it.
    pub node: u64,
    /// The last entry that state and archive have.
    pub index: u64,
    /// Bytes of the state's file.
    pub state_bytes: u64,
}

fn refused(why: String) -> OperationError {
    OperationError::new("backup-failed", why)
}

impl NodeHandle {
    /// The group of the partition that has a user, whether there is one or not.
    pub fn group_of(&self, user: &BareJid) -> Group {
        Group::of(self.inner.fabric.partition_of(user))
    }

    /// Captures a group for a backup, at its owner; the meta group here.
    ///
    /// # Errors
    /// `backup-failed`, with the reason; `unavailable` if the partition has no owner.
    pub async fn backup_capture(
        &self,
        backup: BackupId,
        group: u32,
    ) -> Result<Captured, OperationError> {
        let (node, answer) = self
            .ask_leader(backup, Group(group), &BackupQuestion::Capture)
            .await?;
        match decode(&answer) {
            Ok(BackupAnswer::Captured { index, state_bytes }) => Ok(Captured {
                node: node.0,
                index,
                state_bytes,
            }),
            _ => Err(refused("the answer of a node does not read".to_owned())),
        }
    }

    /// Up to which entry a partition's log is committed, by its owner; and who that is.
    ///
    /// # Errors
    /// As [`NodeHandle::backup_capture`].
    pub async fn backup_end(
        &self,
        backup: BackupId,
        group: u32,
    ) -> Result<(u64, u64), OperationError> {
        let end = BackupQuestion::End;
        let (node, answer) = self.ask_leader(backup, Group(group), &end).await?;
        match decode(&answer) {
            Ok(BackupAnswer::Ended { index }) => Ok((node.0, index)),
            _ => Err(refused("the answer of a node does not read".to_owned())),
        }
    }

    /// A part of the state's file of a captured group.
    ///
    /// # Errors
    /// `backup-failed`, with the reason.
    pub async fn backup_state(
        &self,
        backup: BackupId,
        (node, group): (u64, u32),
        offset: u64,
    ) -> Result<Bytes, OperationError> {
        let what = BackupQuestion::State { offset };
        self.ask_node(backup, NodeId(node), Group(group), &what)
            .await
    }

    /// Rows of the archive of a captured partition behind a place.
    ///
    /// # Errors
    /// `backup-failed`, with the reason.
    pub async fn backup_rows(
        &self,
        backup: BackupId,
        (node, group): (u64, u32),
        after: Option<RowPlace>,
    ) -> Result<Bytes, OperationError> {
        let what = BackupQuestion::Rows { after };
        self.ask_node(backup, NodeId(node), Group(group), &what)
            .await
    }

    /// Entries of a partition's log behind an index.
    ///
    /// # Errors
    /// `backup-failed`, with the reason.
    pub async fn backup_entries(
        &self,
        backup: BackupId,
        (node, group): (u64, u32),
        (after, upto): (u64, u64),
    ) -> Result<Bytes, OperationError> {
        let what = BackupQuestion::Entries { after, upto };
        self.ask_node(backup, NodeId(node), Group(group), &what)
            .await
    }

    /// Tells all nodes that what they have captured for a backup is still wanted, or wanted no more. Who does not hear it
    /// forgets after two minutes.
    pub async fn backup_goes_on(&self, backup: BackupId, wanted: bool) {
        let what = match wanted {
            true => BackupQuestion::Touch,
            false => BackupQuestion::Release,
        };
        let members = self.inner.fabric.members();
        let told = members
            .iter()
            .map(|member| self.ask_node(backup, member.id, Group::META, &what));
        for told in futures_util::future::join_all(told).await {
            if let Err(error) = told {
                tracing::debug!(%error, "a node was not told of a backup");
            }
        }
    }

    async fn ask_leader(
        &self,
        backup: BackupId,
        group: Group,
        what: &BackupQuestion,
    ) -> Result<(NodeId, Bytes), OperationError> {
        let fabric = &self.inner.fabric;
        let deadline = Instant::now() + OWNER_WITHIN;
        loop {
            let owner = match group.partition() {
                Some(partition) => fabric.owner(partition).map(|(owner, _)| owner),
                None => Some(fabric.node),
            };
            if let Some(owner) = owner {
                match self.answer_of(backup, owner, group, what).await? {
                    Some(answer) => return Ok((owner, answer)),
                    None => tracing::debug!(%group, %owner, "the owner has changed"),
                }
            }
            if Instant::now() >= deadline {
                let why = format!("{group} has no owner that this node reaches; try again");
                return Err(OperationError::new("unavailable", why));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn ask_node(
        &self,
        backup: BackupId,
        node: NodeId,
        group: Group,
        what: &BackupQuestion,
    ) -> Result<Bytes, OperationError> {
        let answer = self.answer_of(backup, node, group, what).await?;
        answer.ok_or_else(|| refused(format!("{node} leads {group} no longer")))
    }

    /// All parts of an answer; `None`: the node does not lead.
    async fn answer_of(
        &self,
        backup: BackupId,
        node: NodeId,
        group: Group,
        what: &BackupQuestion,
    ) -> Result<Option<Bytes>, OperationError> {
        let mut answer = BytesMut::new();
        loop {
            let ask = BackupAsk {
                backup,
                what: what.clone(),
                skip: u32::try_from(answer.len()).unwrap_or(u32::MAX),
            };
            let body = encode(&ask).map_err(|error| refused(error.to_string()))?;
            let frame = Frame {
                partition: PartitionId(u16::try_from(group.0).unwrap_or(u16::MAX)),
                ..Frame::new(FRAME_KIND, body)
            };
            let transport = &self.inner.transport;
            let reply = transport.call(node, Lane::Bulk, frame, CALL_MAX).await;
            let reply =
                reply.map_err(|error| refused(format!("{node} did not answer: {error}")))?;
            let (total, bytes) = match decode(&reply.body) {
                Ok(BackupReply::Part { total, bytes }) => (total as usize, bytes),
                Ok(BackupReply::NotLeader) => return Ok(None),
                Ok(BackupReply::Refused(why)) => return Err(refused(format!("{node}: {why}"))),
                Err(error) => {
                    let why = format!("the answer of {node} does not read: {error}");
                    return Err(refused(why));
                }
            };
            answer.extend_from_slice(&bytes);
            if answer.len() >= total {
                return Ok(Some(answer.freeze()));
            }
            if bytes.is_empty() || total > ANSWER_BYTES_MAX {
                return Err(refused(format!("the answer of {node} makes no sense")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_in_parts() {
        let long = Bytes::from(vec![7; FRAME_BYTES + 5]);
        let check = |bytes: &Bytes, skip, expect: usize| {
            let BackupReply::Part { total, bytes: part } = part(bytes, skip) else {
                panic!("a part");
            };
            assert_eq!(
                (total as usize, part.len()),
                (bytes.len(), expect),
                "{skip}"
            );
        };
        check(&long, 0, FRAME_BYTES);
        check(&long, FRAME_BYTES, 5);
        check(&long, FRAME_BYTES + 5, 0);
        check(&long, FRAME_BYTES + 6, 0);
        check(&Bytes::new(), 0, 0);
    }
}
