//! Makes the seeds of `cluster_frames` and `codec_records` from the golden bytes in the tree: one file a variant. Run it in the
//! folder `fuzz` when golden bytes have come (`cargo run -p muster-fuzz-cluster --example seeds`).

use std::fs;
use std::path::Path;

use cluster::link::protocol::{Across, Down, Up};
use cluster::records::{encode_archive_row, encode_entry};
use messaging::archive::ArchiveRow;
use messaging::command::{Batch, Entry};
use messaging::state::State;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::codec::{Record, decode};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Serialize, Deserialize)]
struct Samples<T>(Vec<T>);

impl<T: Serialize + DeserializeOwned> Record for Samples<T> {
    const VERSION: u8 = 1;
    const NAME: &'static str = "samples";
}

/// The bytes of all lines with these names.
fn lines(file: &str, names: &[&str]) -> Outcome<Vec<(String, Vec<u8>)>> {
    let text = fs::read_to_string(Path::new("../cluster/tests/goldens").join(file))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(_), Some(hex)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if names.contains(&name) {
            let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16);
            let bytes: Result<Vec<u8>, _> = (0..hex.len()).step_by(2).map(digit).collect();
            found.push((name.to_owned(), bytes?));
        }
    }
    Ok(found)
}

fn samples<T: Serialize + DeserializeOwned>(file: &str, names: &[&str]) -> Outcome<Vec<T>> {
    let mut all = Vec::new();
    for (_, bytes) in lines(file, names)? {
        all.extend(decode::<Samples<T>>(&bytes)?.0);
    }
    Ok(all)
}

fn put(target: &str, name: &str, front: &[u8], bytes: &[u8]) -> Outcome<()> {
    let folder = Path::new("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), [front, bytes].concat())?;
    Ok(())
}

fn frames() -> Outcome<()> {
    const TARGET: &str = "cluster_frames";
    for (at, up) in samples::<Up>("link.txt", &["link-up", "link-up-moving"])?
        .iter()
        .enumerate()
    {
        put(TARGET, &format!("up-{at}"), &[1], &up.encode()?)?;
    }
    let downs = samples::<Down>("link.txt", &["link-down", "link-down-moving"])?;
    for (at, down) in downs.iter().enumerate() {
        put(TARGET, &format!("down-{at}"), &[2], &down.encode()?)?;
    }
    for (at, across) in samples::<Across>("link.txt", &["link-across"])?
        .iter()
        .enumerate()
    {
        put(TARGET, &format!("across-{at}"), &[3], &across.encode()?)?;
    }
    for (name, bytes) in lines("wire.txt", &["frame-header"])? {
        put(TARGET, &name, &[0], &bytes)?;
    }
    let hellos = ["hello-accepted", "hello-probe", "hello-wrong-pool"];
    for (name, bytes) in lines("wire.txt", &hellos)? {
        put(TARGET, &name, &[4], bytes.get(2..).unwrap_or_default())?;
    }
    // A stored record has a checksum between version and body; a frame has none.
    let frame = |bytes: &[u8]| [&bytes[..1], bytes.get(5..).unwrap_or_default()].concat();
    for (name, bytes) in lines("link.txt", &["parked-session"])? {
        put(TARGET, &name, &[5], &frame(&bytes))?;
    }
    let raft = [
        "raft-vote",
        "raft-log-id",
        "raft-entry",
        "raft-mark",
        "raft-append-request",
        "raft-append-reply",
        "raft-vote-query",
        "raft-vote-reply",
        "raft-transfer-query",
        "raft-transfer-reply",
        "raft-reelect-query",
        "raft-reelect-reply",
    ];
    for (name, bytes) in lines("raft.txt", &raft)? {
        let number = raft.iter().position(|one| *one == name).unwrap_or_default();
        put(TARGET, &name, &[6, u8::try_from(number)?], &frame(&bytes))?;
    }
    let transfer = [
        "snapshot-offer",
        "snapshot-offer-reply",
        "snapshot-file-query",
        "snapshot-file-reply",
        "snapshot-keys-query",
        "snapshot-keys-reply",
        "snapshot-rows-query",
        "snapshot-rows-reply",
    ];
    for (at, (name, bytes)) in lines("transfer.txt", &transfer)?.into_iter().enumerate() {
        let number = transfer.iter().position(|one| *one == name);
        let front = [8, u8::try_from(number.unwrap_or_default())?];
        // Without version and checksum: the target puts them in front.
        let body = bytes.get(5..).unwrap_or_default();
        put(TARGET, &format!("{name}-{at}"), &front, body)?;
    }
    let gossip = [
        "gossip-digest",
        "gossip-answer",
        "gossip-delta",
        "gossip-capacity",
    ];
    for (name, bytes) in lines("wire.txt", &gossip)? {
        put(TARGET, &name, &[7], &bytes)?;
    }
    Ok(())
}

fn records() -> Outcome<()> {
    const TARGET: &str = "codec_records";
    let mut number = 0;
    for entry in samples::<Entry>("partition.txt", &["partition-entries"])? {
        let parts = match entry {
            Entry::Batch(batch) => {
                let alone = |proposal| {
                    Entry::Batch(Batch {
                        proposals: vec![proposal],
                        ..batch.clone()
                    })
                };
                batch.proposals.iter().cloned().map(alone).collect()
            }
            other => vec![other],
        };
        for part in parts {
            put(
                TARGET,
                &format!("entry-{number}"),
                &[0],
                &encode_entry(part, 1)?,
            )?;
            number += 1;
        }
    }
    let rows = samples::<ArchiveRow>("partition.txt", &["archive-rows"])?;
    for (at, row) in rows.iter().enumerate() {
        let bytes = encode_archive_row(row)?;
        put(TARGET, &format!("row-{at}"), &[2, bytes[0]], &bytes[5..])?;
        if at == 0 {
            put(TARGET, "row-with-checksum", &[1], &bytes)?;
        }
    }
    type Row = (u8, Vec<u8>, Vec<u8>);
    for (at, (table, key, value)) in samples::<Row>("partition.txt", &["state-rows"])?
        .iter()
        .enumerate()
    {
        let place = State::TABLES.iter().position(|one| one == table);
        let place = u16::try_from(place.unwrap_or_default())?.to_le_bytes();
        let length = u16::try_from(key.len())?.to_le_bytes();
        let front = [&[3][..], &place, &length, key].concat();
        put(TARGET, &format!("state-{at}"), &front, value)?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    frames()?;
    records()
}
