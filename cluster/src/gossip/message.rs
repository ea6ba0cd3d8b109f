//! Gossip's messages and their wire form: a version octet, then LEB128 numbers throughout.
//!
//! Small numbers dominate (versions, node ids, epochs of a young pool), so a node with 64 partitions stays
//! well below [`NODE_BYTES_MAX`](super::NODE_BYTES_MAX).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{ADDRESS_BYTES_MAX, Capacity, GossipKey, GossipValue};
use crate::node_id::{Epoch, Incarnation, NodeId, PartitionId};

const FORMAT: u8 = 1;
/// A message about more nodes than this is not of our pools (at most 64 nodes a cell).
const NODES_MAX: u64 = 1024;
const ENTRIES_MAX: u64 = 1024;
/// Capacity of a node that may be told; those of later builds included.
const FIGURES_MAX: u64 = 64;
/// Most that a delta takes besides its entries: six numbers.
pub(crate) const DELTA_HEAD_BYTES_MAX: usize = 6 * 10;

/// Where in an exchange a message stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// "This is what I know."
    Digest,
    /// "You lack this; and this is what I know."
    Answer,
    /// "You lack this."
    Delta,
}

/// How much of one node the sender knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestRow {
    /// The node.
    pub node: NodeId,
    /// Its process life.
    pub generation: Incarnation,
    /// Its heartbeat in that life.
    pub heartbeat: u64,
    /// All changes up to this version are known.
    pub version: u64,
}

/// A value with the version at which its node set it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The node's version counter when it was set.
    pub version: u64,
    /// The value.
    pub value: GossipValue,
}

/// Changes of one node: all after version `from` up to and including `to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDelta {
    /// The node.
    pub node: NodeId,
    /// Its process life.
    pub generation: Incarnation,
    /// Its heartbeat in that life.
    pub heartbeat: u64,
    /// The receiver must know everything up to here.
    pub from: u64,
    /// Then it knows everything up to here.
    pub to: u64,
    /// The changes; overwritten ones are left out.
    pub entries: Vec<(GossipKey, Entry)>,
}

/// One gossip message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GossipMessage {
    /// Where in the exchange it stands.
    pub step: Step,
    /// What the sender knows; empty in a [`Step::Delta`].
    pub digest: Vec<DigestRow>,
    /// What the receiver lacks; empty in a [`Step::Digest`].
    pub deltas: Vec<NodeDelta>,
}

/// The bytes are no gossip message of this format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GossipMessageError {
    /// Written in a format this build doesn't know.
    #[error("gossip of format {0}")]
    Format(u8),
    /// Cut short, too long, or an unknown tag.
    #[error("malformed gossip")]
    Malformed,
}

use GossipMessageError::Malformed;

impl GossipMessage {
    /// The wire form.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(FORMAT);
        out.put_u8(match self.step {
            Step::Digest => 0,
            Step::Answer => 1,
            Step::Delta => 2,
        });
        put(&mut out, self.digest.len() as u64);
        for row in &self.digest {
            for number in [row.node.0, row.generation.0, row.heartbeat, row.version] {
                put(&mut out, number);
            }
        }
        put(&mut out, self.deltas.len() as u64);
        for delta in &self.deltas {
            let count = delta.entries.len() as u64;
            for number in [
                delta.node.0,
                delta.generation.0,
                delta.heartbeat,
                delta.from,
                delta.to,
                count,
            ] {
                put(&mut out, number);
            }
            for (key, entry) in &delta.entries {
                put_entry(&mut out, *key, entry);
            }
        }
        out.freeze()
    }

    /// Reads the wire form. What it allocates is bounded by what it is given.
    pub fn decode(mut bytes: &[u8]) -> Result<GossipMessage, GossipMessageError> {
        let input = &mut bytes;
        let format = input.try_get_u8().map_err(|_| Malformed)?;
        if format != FORMAT {
            return Err(GossipMessageError::Format(format));
        }
        let step = match input.try_get_u8() {
            Ok(0) => Step::Digest,
            Ok(1) => Step::Answer,
            Ok(2) => Step::Delta,
            _ => return Err(Malformed),
        };
        let mut digest = Vec::new();
        for _ in 0..count(input, NODES_MAX)? {
            digest.push(DigestRow {
                node: NodeId(get(input)?),
                generation: Incarnation(get(input)?),
                heartbeat: get(input)?,
                version: get(input)?,
            });
        }
        let mut deltas = Vec::new();
        for _ in 0..count(input, NODES_MAX)? {
            deltas.push(get_delta(input)?);
        }
        if !input.is_empty() {
            return Err(Malformed);
        }
        Ok(GossipMessage {
            step,
            digest,
            deltas,
        })
    }
}

/// Bytes an entry takes on the wire.
pub(crate) fn entry_bytes(key: GossipKey, entry: &Entry) -> usize {
    let mut counted = BytesMut::with_capacity(64);
    put_entry(&mut counted, key, entry);
    counted.len()
}

fn put_entry(out: &mut BytesMut, key: GossipKey, entry: &Entry) {
    match key {
        GossipKey::Owner(partition) => {
            out.put_u8(0);
            put(out, u64::from(partition.0));
        }
        GossipKey::Reaches => out.put_u8(1),
        GossipKey::Load => out.put_u8(2),
        GossipKey::Standing => out.put_u8(3),
        GossipKey::Capacity => out.put_u8(4),
        GossipKey::ClientAddress => out.put_u8(5),
    }
    put(out, entry.version);
    match &entry.value {
        GossipValue::Owner(node, epoch) => {
            out.put_u8(0);
            put(out, node.0);
            put(out, epoch.0);
        }
        GossipValue::Reaches(nodes) => {
            out.put_u8(1);
            put(out, nodes.len() as u64);
            nodes.iter().for_each(|node| put(out, node.0));
        }
        GossipValue::Load(load) => {
            out.put_u8(2);
            put(out, u64::from(*load));
        }
        GossipValue::Withdrawn => out.put_u8(3),
        GossipValue::Standing(standing) => {
            out.put_u8(4);
            out.put_u8(*standing);
        }
        GossipValue::Capacity(figures) => {
            out.put_u8(5);
            let numbers = numbers_of(figures);
            put(out, numbers.len() as u64);
            numbers.iter().for_each(|number| put(out, *number));
        }
        GossipValue::Address(address) => {
            out.put_u8(6);
            put(out, address.len() as u64);
            out.put_slice(address.as_bytes());
        }
    }
}

/// In the order in which they are told; later ones come at the end.
fn numbers_of(figures: &Capacity) -> [u64; 7] {
    [
        figures.sessions,
        figures.sessions_max,
        figures.data_bytes,
        figures.replicas,
        figures.disk_free_bytes,
        figures.memory_bytes,
        figures.memory_free_bytes,
    ]
}

fn get_figures(input: &mut &[u8]) -> Result<Capacity, GossipMessageError> {
    let mut numbers = [0; 7];
    for place in 0..count(input, FIGURES_MAX)? {
        let number = get(input)?;
        // What a later build tells besides is of no use here.
        let place = usize::try_from(place).map_err(|_| Malformed)?;
        if let Some(slot) = numbers.get_mut(place) {
            *slot = number;
        }
    }
    let [
        sessions,
        sessions_max,
        data_bytes,
        replicas,
        disk_free_bytes,
        memory_bytes,
        memory_free_bytes,
    ] = numbers;
    Ok(Capacity {
        sessions,
        sessions_max,
        data_bytes,
        replicas,
        disk_free_bytes,
        memory_bytes,
        memory_free_bytes,
    })
}

fn get_address(input: &mut &[u8]) -> Result<String, GossipMessageError> {
    let bytes = usize::try_from(count(input, ADDRESS_BYTES_MAX as u64)?).map_err(|_| Malformed)?;
    let (address, rest) = input.split_at_checked(bytes).ok_or(Malformed)?;
    *input = rest;
    let address = std::str::from_utf8(address).map_err(|_| Malformed)?;
    Ok(address.to_owned())
}

fn get_delta(input: &mut &[u8]) -> Result<NodeDelta, GossipMessageError> {
    let mut delta = NodeDelta {
        node: NodeId(get(input)?),
        generation: Incarnation(get(input)?),
        heartbeat: get(input)?,
        from: get(input)?,
        to: get(input)?,
        entries: Vec::new(),
    };
    for _ in 0..count(input, ENTRIES_MAX)? {
        delta.entries.push(get_entry(input)?);
    }
    Ok(delta)
}

fn get_entry(input: &mut &[u8]) -> Result<(GossipKey, Entry), GossipMessageError> {
    let key = match input.try_get_u8() {
        Ok(0) => GossipKey::Owner(PartitionId(
            u16::try_from(get(input)?).map_err(|_| Malformed)?,
        )),
        Ok(1) => GossipKey::Reaches,
        Ok(2) => GossipKey::Load,
        Ok(3) => GossipKey::Standing,
        Ok(4) => GossipKey::Capacity,
        Ok(5) => GossipKey::ClientAddress,
        _ => return Err(Malformed),
    };
    let version = get(input)?;
    let value = match input.try_get_u8() {
        Ok(0) => GossipValue::Owner(NodeId(get(input)?), Epoch(get(input)?)),
        Ok(1) => {
            let mut nodes = Vec::new();
            for _ in 0..count(input, NODES_MAX)? {
                nodes.push(NodeId(get(input)?));
            }
            GossipValue::Reaches(nodes)
        }
        Ok(2) => GossipValue::Load(u32::try_from(get(input)?).map_err(|_| Malformed)?),
        Ok(3) => GossipValue::Withdrawn,
        Ok(4) => GossipValue::Standing(input.try_get_u8().map_err(|_| Malformed)?),
        Ok(5) => GossipValue::Capacity(get_figures(input)?),
        Ok(6) => GossipValue::Address(get_address(input)?),
        _ => return Err(Malformed),
    };
    Ok((key, Entry { version, value }))
}

fn count(input: &mut &[u8], max: u64) -> Result<u64, GossipMessageError> {
    get(input).and_then(|count| {
        if count <= max {
            Ok(count)
        } else {
            Err(Malformed)
        }
    })
}

fn put(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn get(input: &mut &[u8]) -> Result<u64, GossipMessageError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = input.try_get_u8().map_err(|_| Malformed)?;
        // The tenth octet has room for one bit.
        if shift == 63 && byte > 1 {
            return Err(Malformed);
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use storage::codec::golden::Layout;

    use super::*;

    /// Numbers of one octet, of two, and of as many as there are.
    const NUMBERS: [u64; 3] = [1, 300, u64::MAX];

    fn digest() -> Vec<DigestRow> {
        let row = |number| DigestRow {
            node: NodeId(number),
            generation: Incarnation(2),
            heartbeat: 3,
            version: 4,
        };
        NUMBERS.map(row).into()
    }

    /// A node that tells all there is to tell, and one that tells nothing.
    fn deltas() -> Vec<NodeDelta> {
        let values = [
            GossipValue::Owner(NodeId(5), Epoch(6)),
            GossipValue::Reaches(NUMBERS.map(NodeId).into()),
            GossipValue::Load(u32::MAX),
            GossipValue::Standing(0x80),
            GossipValue::Withdrawn,
        ];
        let entry = |value| {
            let key = match &value {
                GossipValue::Owner(..) => GossipKey::Owner(PartitionId(u16::MAX)),
                GossipValue::Reaches(_) => GossipKey::Reaches,
                GossipValue::Load(_) => GossipKey::Load,
                GossipValue::Standing(_) => GossipKey::Standing,
                GossipValue::Capacity(_) => GossipKey::Capacity,
                GossipValue::Address(_) => GossipKey::ClientAddress,
                GossipValue::Withdrawn => GossipKey::Owner(PartitionId(0)),
            };
            (
                key,
                Entry {
                    version: 0x7f,
                    value,
                },
            )
        };
        let delta = |node, entries| NodeDelta {
            node: NodeId(node),
            generation: Incarnation(8),
            heartbeat: 9,
            from: 10,
            to: 11,
            entries,
        };
        vec![delta(7, values.map(entry).into()), delta(12, Vec::new())]
    }

    #[test]
    fn golden_bytes_of_what_a_node_can_take() {
        let told = |key, value| NodeDelta {
            node: NodeId(7),
            generation: Incarnation(8),
            heartbeat: 9,
            from: 10,
            to: 11,
            entries: vec![(key, Entry { version: 11, value })],
        };
        let figures = Capacity {
            sessions: 1,
            sessions_max: 300,
            data_bytes: u64::MAX,
            replicas: 4,
            disk_free_bytes: 5,
            memory_bytes: 6,
            memory_free_bytes: 7,
        };
        let address = "xmpp.example.org:5222".to_owned();
        let message = GossipMessage {
            step: Step::Delta,
            digest: Vec::new(),
            deltas: vec![
                told(GossipKey::Capacity, GossipValue::Capacity(figures)),
                told(GossipKey::ClientAddress, GossipValue::Address(address)),
            ],
        };
        let layout = Layout {
            name: "gossip-capacity",
            version: FORMAT,
            written: &message.encode(),
        };
        let read = |bytes: Vec<u8>| GossipMessage::decode(&bytes).ok();
        storage::golden_layout!("../../tests/goldens/wire.txt", layout, &message, read);
    }

    /// A later build may tell more figures, and nobody may tell a long address.
    #[test]
    fn more_figures_are_passed_over_and_long_addresses_refused() {
        let mut more = BytesMut::new();
        put(&mut more, 9);
        (1..=9).for_each(|number| put(&mut more, number));
        let read = get_figures(&mut &more[..]).expect("figures");
        assert_eq!(numbers_of(&read), [1, 2, 3, 4, 5, 6, 7]);
        let mut long = BytesMut::new();
        put(&mut long, ADDRESS_BYTES_MAX as u64 + 1);
        long.put_bytes(b'a', ADDRESS_BYTES_MAX + 1);
        assert_eq!(get_address(&mut &long[..]), Err(Malformed));
    }

    #[test]
    fn golden_bytes_of_messages() {
        for (name, step, digest, deltas) in [
            ("gossip-digest", Step::Digest, digest(), vec![]),
            ("gossip-answer", Step::Answer, digest(), deltas()),
            ("gossip-delta", Step::Delta, vec![], deltas()),
        ] {
            let message = GossipMessage {
                step,
                digest,
                deltas,
            };
            let layout = Layout {
                name,
                version: FORMAT,
                written: &message.encode(),
            };
            let read = |bytes: Vec<u8>| GossipMessage::decode(&bytes).ok();
            storage::golden_layout!("../../tests/goldens/wire.txt", layout, &message, read);
        }
    }
}
