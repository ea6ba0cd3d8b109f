//! Backups, in the port's terms.

use actors::runtime::{Captured, NodeHandle};
use cluster::backup::block::RowPlace;
use web::backend::{BackendError, BackupKey};
use web::report::backup::{BackupPart, BackupPool, CaptureReport};

use super::{hex, not_done};
use crate::config::pool_file::PoolFile;

pub(super) fn pool(handle: &NodeHandle, pool: &PoolFile) -> BackupPool {
    let constants = &pool.constants;
    BackupPool {
        pool: pool.id.as_str().to_owned(),
        version: handle.status().version,
        domain: constants.domain.clone(),
        rooms_domain: constants.rooms_domain.clone(),
        partitions: pool.partitions,
        contacts_max: constants.contacts_max,
        occupants_max: constants.occupants_max,
        rooms_owned_max: constants.rooms_owned_max,
        id_key: hex(&constants.id_key),
    }
}

pub(super) async fn capture(
    handle: &NodeHandle,
    backup: BackupKey,
    group: u32,
) -> Result<CaptureReport, BackendError> {
    let captured = handle.backup_capture(backup, group).await;
    let Captured {
        node,
        index,
        state_bytes,
    } = captured.map_err(not_done)?;
    Ok(CaptureReport {
        group,
        node,
        index,
        state_bytes,
    })
}

pub(super) async fn part(
    handle: &NodeHandle,
    backup: BackupKey,
    group: u32,
    part: BackupPart,
) -> Result<Vec<u8>, BackendError> {
    let bytes = match part {
        BackupPart::State(part) => {
            let from = (part.node, group);
            handle.backup_state(backup, from, part.offset).await
        }
        BackupPart::Rows(part) => {
            let after = part.key.map(|key| RowPlace {
                is_event: part.event,
                key,
                seq: part.seq,
            });
            handle.backup_rows(backup, (part.node, group), after).await
        }
        BackupPart::Entries(part) => {
            let range = (part.after, part.upto);
            handle
                .backup_entries(backup, (part.node, group), range)
                .await
        }
    };
    bytes.map(Vec::from).map_err(not_done)
}
