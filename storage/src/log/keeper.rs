//! The keeper: a thread that provides spare segments, so that the writer never waits for zeroes to be written.
//!
//! It recycles freed segments oldest first, once no reader holds them, makes new ones while fewer than wanted are spare,
//! and notices when there is no room for another: then entries are refused until an attempt, made every so often, succeeds.
//! It also looks how much is free: others write to the same disk, and before they use up what the stores need, entries are
//! unwanted.

use std::io;
use std::sync::Arc;
#[cfg(not(feature = "simulation"))]
use std::sync::{MutexGuard, PoisonError};
#[cfg(not(feature = "simulation"))]
use std::time::Duration;

use super::queue::{Inner, RESERVE, Shared};
use super::segment::{Segment, Spare};

/// How often the disk's room is looked at, a full disk is tried again, and a reader's segment looked at.
#[cfg(not(feature = "simulation"))]
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Spares kept besides the reserve; more are removed.
pub(super) const SPARES_KEPT: usize = RESERVE + 1;

/// What the keeper found to do.
enum Chore {
    Recycle(Arc<Segment>),
    Make,
    Remove(Spare),
}

/// Does all that there is to do, for a log without threads.
#[cfg(feature = "simulation")]
pub(super) fn chores(shared: &Shared) {
    watch_disk(shared);
    let mut retry_now = true;
    loop {
        let chore = next_chore(&mut shared.lock(), retry_now);
        let Some(chore) = chore else { return };
        retry_now = perform(shared, chore);
    }
}

/// Runs until the writer has ended.
#[cfg(not(feature = "simulation"))]
pub(super) fn run(shared: &Shared) {
    let mut retry_now = true;
    loop {
        watch_disk(shared);
        let mut inner = shared.lock();
        if inner.dead {
            return;
        }
        match next_chore(&mut inner, retry_now) {
            Some(chore) => {
                drop(inner);
                retry_now = perform(shared, chore);
            }
            None => {
                wait(shared, inner);
                // What failed may be tried again: after a pause, or when something was freed.
                retry_now = true;
            }
        }
    }
}

#[cfg(not(feature = "simulation"))]
fn wait(shared: &Shared, inner: MutexGuard<'_, Inner>) {
    drop(
        shared
            .keep
            .wait_timeout(inner, RETRY_AFTER)
            .unwrap_or_else(PoisonError::into_inner),
    );
}

/// Notes whether less than the reserve is free. A little more must be free again before that ends.
fn watch_disk(shared: &Shared) {
    let least = shared.options.disk_free_bytes_min;
    // A disk that doesn't say how much is free has none.
    let free = shared.dir.free_bytes().unwrap_or(0);
    let mut inner = shared.lock();
    inner.metrics.disk_free_bytes = free;
    let wanted = if inner.disk_low {
        least.saturating_add(least / 8)
    } else {
        least
    };
    let low = free < wanted;
    if low != inner.disk_low {
        inner.disk_low = low;
        drop(inner);
        if low {
            tracing::error!(
                free,
                least,
                "the disk is nearly full: nothing new is taken until more is free"
            );
        } else {
            tracing::info!(free, "the disk has room again");
        }
    }
}

fn next_chore(inner: &mut Inner, retry_now: bool) -> Option<Chore> {
    if let Some(segment) = inner.retired.front()
        && Arc::strong_count(segment) == 1
    {
        return inner.retired.pop_front().map(Chore::Recycle);
    }
    if inner.spares.len() < inner.spares_wanted {
        return (!inner.stalled || retry_now).then_some(Chore::Make);
    }
    inner.spares_wanted = SPARES_KEPT;
    if retry_now && inner.stalled {
        tracing::info!("the log has room again");
        inner.stalled = false;
    }
    if inner.spares.len() > 2 * SPARES_KEPT {
        return inner.spares.pop().map(Chore::Remove);
    }
    None
}

/// Returns whether making a segment may be tried at once.
fn perform(shared: &Shared, chore: Chore) -> bool {
    match chore {
        Chore::Recycle(segment) => {
            let Some(segment) = Arc::into_inner(segment) else {
                return true;
            };
            match shared.dir.recycle(segment) {
                Ok(spare) => add(shared, spare),
                Err(error) => (shared.options.on_disk_error)(&error),
            }
            true
        }
        Chore::Remove(spare) => {
            if let Err(error) = shared.dir.remove_spare(&spare) {
                tracing::warn!(%error, "a spare log segment could not be removed");
            }
            true
        }
        Chore::Make => match make(shared) {
            Ok(spare) => {
                add(shared, Some(spare));
                true
            }
            Err(error) => {
                let mut inner = shared.lock();
                if !inner.stalled {
                    tracing::error!(%error, "no room for another log segment: entries will be refused until there is");
                }
                inner.stalled = true;
                if inner.spares.len() >= SPARES_KEPT {
                    // One submission wanted more than there can be; those who want less are served.
                    inner.spares_wanted = SPARES_KEPT;
                }
                shared.room.notify_all();
                // Under pressure the writer copies more eagerly.
                shared.work.notify_one();
                false
            }
        },
    }
}

fn add(shared: &Shared, spare: Option<Spare>) {
    let mut inner = shared.lock();
    inner.spares.extend(spare);
    if inner.stalled && inner.spares.len() >= inner.spares_wanted {
        tracing::info!("the log has room again");
        inner.stalled = false;
    }
    shared.room.notify_all();
}

/// Makes a spare, within the limits set for the log and for the disk. Errors other than "no room" end the process.
pub(super) fn make(shared: &Shared) -> io::Result<Spare> {
    let no_room = |what: &str| io::Error::new(io::ErrorKind::StorageFull, what.to_owned());
    let files = {
        let inner = shared.lock();
        inner.segments.len() + inner.spares.len() + inner.retired.len()
    };
    if shared
        .options
        .segments_max
        .is_some_and(|most| files >= most)
    {
        return Err(no_room("the log has reached its limit of segments"));
    }
    let free = shared.dir.free_bytes()?;
    if free
        < shared
            .options
            .segment_bytes
            .saturating_add(shared.options.disk_free_bytes_min)
    {
        return Err(no_room("the disk is nearly full"));
    }
    match shared.dir.make_spare() {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            (shared.options.on_disk_error)(&error)
        }
        made => made,
    }
}
