//! A node's first start: it shows its folder to the other members before it gives a vote.
//!
//! A node that begins a pool alone has nobody to ask. It listens for a moment instead: whoever has joined the pool since it
//! began calls it, and no other has a certificate of the pool yet. While it runs it shows its folder to those that join.
//!
//! Invariant: a node takes part in Raft with one folder only, for ever. [`storage::data_dir::FolderId`] says how.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::node_id::NodeId;
use cluster::transport::{Frame, Lane, Reply, Transport};
use futures_util::future::join_all;
use storage::data_dir::{Beginning, DataDir, FolderId, answers_needed};

use super::dispatch::Dispatcher;
use super::{Settings, StartError};

/// The kind of frames on the ROUTE lane that show a folder.
pub(super) const FRAME_KIND: u8 = 17;

const TRY_EVERY: Duration = Duration::from_millis(100);
const CALL_MAX: Duration = Duration::from_secs(2);

const KNOWN_WITH_ANOTHER: u8 = 0;
const ADMITTED: u8 = 1;

/// How long a node that knows of no other listens before it begins a pool: the others call every second.
const LISTEN: Duration = Duration::from_secs(3);

/// Ends once this folder is admitted, for this start and all later ones.
pub(super) async fn be_admitted(
    settings: &Settings,
    transport: &Transport,
    dispatcher: &Dispatcher,
) -> Result<(), StartError> {
    let Beginning::Asking(folder) = settings.data.begin(FolderId(rand::random()))? else {
        return Ok(());
    };
    // `planted::Bug::WipedNodeReturns`
    #[cfg(feature = "bug-wiped-node-returns")]
    if planted::acts(planted::Bug::WipedNodeReturns) {
        return Ok(settings.data.admitted(folder)?);
    }
    let mut silent: BTreeSet<NodeId> = settings
        .members
        .iter()
        .map(|member| member.id)
        .filter(|id| *id != settings.node)
        .collect();
    let needed = answers_needed(silent.len());
    if silent.is_empty() {
        listen(settings, || dispatcher.caller()).await?;
    }
    let mut admitted = 0;
    let deadline = Instant::now() + settings.quorum_wait;
    loop {
        let asked = silent.iter().map(|node| ask(transport, *node, folder));
        for (node, answer) in join_all(asked).await {
            match answer {
                Some(true) => admitted += usize::from(silent.remove(&node)),
                Some(false) => return Err(begun_before(settings, node)),
                None => {}
            }
        }
        if admitted >= needed {
            settings.data.admitted(folder)?;
            if needed > 0 {
                tracing::info!(%folder, "the other nodes have admitted this data folder");
            }
            return Ok(());
        }
        dispatcher.skew(settings)?;
        if Instant::now() >= deadline {
            return Err(StartError::FirstStartUnheard {
                waited: settings.quorum_wait,
                missing: needed - admitted,
                silent: super::names(settings, |id| silent.contains(&id)),
            });
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

/// A pool that begins with this node has no other.
async fn listen(
    settings: &Settings,
    caller: impl Fn() -> Option<NodeId>,
) -> Result<(), StartError> {
    let deadline = Instant::now() + LISTEN;
    loop {
        if let Some(witness) = caller() {
            return Err(begun_before(settings, witness));
        }
        if Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

fn begun_before(settings: &Settings, witness: NodeId) -> StartError {
    StartError::BegunBefore {
        node: settings.node,
        witness,
        path: settings.data.path().to_owned(),
    }
}

/// Shows this node's folder to members that have joined since it began, so that they remember it; gives who has answered.
pub(super) async fn show(
    transport: &Transport,
    folder: FolderId,
    newcomers: Vec<NodeId>,
) -> Vec<NodeId> {
    let asked = newcomers.iter().map(|node| ask(transport, *node, folder));
    let mut heard = Vec::new();
    for (node, answer) in join_all(asked).await {
        if answer == Some(false) {
            tracing::error!(%node, %folder, "a member has seen this node begin with another data folder");
        }
        if answer.is_some() {
            heard.push(node);
        }
    }
    heard
}

async fn ask(transport: &Transport, node: NodeId, folder: FolderId) -> (NodeId, Option<bool>) {
    let frame = Frame::new(FRAME_KIND, Bytes::copy_from_slice(&folder.0));
    let answer = transport.call(node, Lane::Route, frame, CALL_MAX).await;
    (node, answer.ok().and_then(|frame| read(&frame.body)))
}

/// What an answer says; `None` if it is none that we know.
fn read(body: &[u8]) -> Option<bool> {
    match body {
        [KNOWN_WITH_ANOTHER] => Some(false),
        [ADMITTED] => Some(true),
        _ => None,
    }
}

/// Answers another node, once that is on disk. Without an answer the other asks again.
pub(super) fn serve(data: &std::sync::Arc<DataDir>, from: NodeId, frame: &Frame, reply: Reply) {
    let Ok(id) = <[u8; 16]>::try_from(frame.body.as_ref()) else {
        return tracing::warn!(%from, "the id of a data folder does not read");
    };
    let data = std::sync::Arc::clone(data);
    crate::threads::spawn_blocking(move || {
        let answer = match data.admits(from.0, FolderId(id)) {
            Ok(true) => ADMITTED,
            Ok(false) => {
                tracing::warn!(%from, "a node wants to begin anew with another data folder; refused");
                KNOWN_WITH_ANOTHER
            }
            Err(error) => {
                return tracing::error!(%from, %error, "whether the node has begun before is not known");
            }
        };
        let body = Bytes::copy_from_slice(&[answer]);
        if let Err(error) = reply.send(Frame::new(FRAME_KIND, body)) {
            tracing::debug!(?error, "a starting node was gone before it was answered");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_kind_is_none() {
        let check = |body: &[u8], expect| assert_eq!(read(body), expect, "{body:?}");
        check(&[0], Some(false));
        check(&[1], Some(true));
        check(&[2], None);
        check(&[], None);
        check(&[1, 1], None);
    }
}
