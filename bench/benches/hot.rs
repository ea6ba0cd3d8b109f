//! The hot pieces, alone: how long each takes, and how many instructions.
//!
//! ```sh
//! cargo bench --workspace --bench hot                      # time; noisy where other work runs
//! cargo bench --workspace --bench hot -- --instructions    # under valgrind: the same on every run, so that changes show
//! cargo bench --workspace --bench hot -- scan              # only pieces with this in their name
//! ```
//!
//! No library for it: a piece is a closure, and callgrind counts between the entry and the exit of [`measured`]. What other
//! threads do (the log's writer, the archive's workers) is in no count of instructions, and only in the log's time.

use std::hint::black_box;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use messaging::apply::{PoolConstants, Surroundings, apply};
use messaging::command::{Batch, Command, Entry, Proposal, ReceiveMessage};
use messaging::link_record::LinkOrigin;
use messaging::room::render::Rendering;
use messaging::slot::{PartitionTable, slot};
use messaging::state::State;
use storage::archive::{
    Archive, ArchiveOptions, ArchiveRow, Order, Page, PartitionId, RowKind, Rows,
};
use storage::log::{GroupId, Log, LogEntry, LogOptions};
use xmpp::jid::{BareJid, FullJid};
use xmpp::sasl::{Password, StoredCredentials};
use xmpp::scan::{Document, Frame, Framer, Limits};
use xmpp::stanza::Stanza;

/// A message as a client sends it.
const MESSAGE: &str = "<message xmlns='jabber:client' type='chat' to='bob@localhost' id='b1'>\
     <body>The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.</body>\
     <origin-id xmlns='urn:xmpp:sid:0' id='b1'/></message>";

/// Proposals of a batch.
const BATCH: u64 = 64;

/// Occupants who get a room's message.
const OCCUPANTS: usize = 50;

/// Rows of the archive that is read.
const ROWS: u64 = 20_000;

/// What is done again and again; the closure does it once.
type Piece = Box<dyn FnMut()>;

/// Its name, how many units each call is, and how it is made when it is wanted.
type Named = (&'static str, u64, fn() -> Piece);

/// All pieces.
const PIECES: &[Named] = &[
    ("scan: a message, from the socket's bytes", 1, scan),
    ("stanza: parse a scanned message", 1, parse),
    ("slot: which partition a user is in", 1, slots),
    ("room: fan a message out to 50", 1, fan_out),
    ("codec: encode a batch of 64, a message", BATCH, encode),
    ("codec: decode a batch of 64, a message", BATCH, decode),
    (
        "apply: a batch of 64 received messages, a message",
        BATCH,
        apply_batch,
    ),
    (
        "log: append 64 entries and wait for the disk, an entry",
        BATCH,
        log_append,
    ),
    ("archive: append 64 rows, a row", BATCH, archive_append),
    ("archive: read a page of 50 forwards", 1, || {
        archive_page(Order::OldestFirst)
    }),
    ("archive: read a page of 50 backwards", 1, || {
        archive_page(Order::NewestFirst)
    }),
];

/// What callgrind counts. The name is what it looks for.
#[inline(never)]
fn measured(piece: &mut dyn FnMut(), times: u64) {
    for _ in 0..times {
        piece();
    }
    black_box(times);
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    if let [word, name] = words.as_slice()
        && word == "--one"
    {
        return once(name);
    }
    let by_instructions = words.iter().any(|word| word == "--instructions");
    let wanted = |name: &str| {
        let mut filters = words
            .iter()
            .filter(|word| !word.starts_with('-'))
            .peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    for (name, units, make) in PIECES.iter().filter(|(name, ..)| wanted(name)) {
        match by_instructions {
            true => match instructions(name) {
                Some(count) => println!("{name:<60} {:>12.0} instructions", count / *units as f64),
                None => println!("{name:<60} valgrind did not count"),
            },
            false => {
                let nanos = nanoseconds(&mut make());
                println!("{name:<60} {:>12.0} ns", nanos / *units as f64);
            }
        }
    }
}

/// Calls that are counted, after as many that are not.
const COUNTED: u64 = 20;

/// The child of `--instructions`.
fn once(name: &str) {
    let Some((_, _, make)) = PIECES.iter().find(|(known, ..)| *known == name) else {
        return;
    };
    let mut piece = make();
    for _ in 0..COUNTED {
        piece();
    }
    measured(&mut piece, COUNTED);
}

/// Instructions of one call, as callgrind counts them.
fn instructions(name: &str) -> Option<f64> {
    let output = Process::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
        ])
        .arg("--toggle-collect=*measured*")
        .arg(std::env::current_exe().ok()?)
        .args(["--one", name])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said
        .lines()
        .find_map(|line| line.split_once("Collected :"))?;
    let count: f64 = line.1.trim().parse().ok()?;
    (count > 0.0).then(|| count / COUNTED as f64)
}

/// The fastest of some rounds, a call: what disturbs only makes it slower.
fn nanoseconds(piece: &mut Piece) -> f64 {
    const ROUNDS: usize = 20;
    const ROUND: Duration = Duration::from_millis(25);
    let start = Instant::now();
    let mut times = 0;
    while start.elapsed() < ROUND {
        piece();
        times += 1;
    }
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        measured(piece, times);
        start.elapsed().as_nanos() as f64 / times as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn document() -> Document {
    let bytes = Bytes::from_static(MESSAGE.as_bytes());
    Document::parse(bytes, &Limits::OWN).expect("it is XML")
}

fn stanza() -> Stanza {
    let mut stanza = Stanza::from_element(&document().root()).expect("it is a stanza");
    stanza.from = Some("alice@localhost/phone".parse().expect("an address"));
    stanza
}

fn user(number: u64) -> BareJid {
    BareJid::parse(&format!("user{number}@localhost")).expect("an address")
}

fn scan() -> Piece {
    let mut framer = Framer::new(Limits::OWN);
    let header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
    framer.push(header.as_bytes());
    assert!(matches!(framer.next(), Ok(Some(Frame::Header(_)))));
    Box::new(move || {
        framer.push(black_box(MESSAGE).as_bytes());
        let frame = framer.next().expect("it is XML");
        assert!(matches!(frame, Some(Frame::Element(_))));
        black_box(frame);
    })
}

fn parse() -> Piece {
    let document = document();
    Box::new(move || {
        black_box(Stanza::from_element(&document.root()).expect("it is a stanza"));
    })
}

fn slots() -> Piece {
    let table = PartitionTable::even(16);
    let user = user(7);
    Box::new(move || {
        black_box(slot(black_box(&user)));
        black_box(table.partition_of(black_box(&user)));
    })
}

fn fan_out() -> Piece {
    let stanza = stanza();
    let occupant = |number| {
        format!("user{number}@localhost/phone")
            .parse()
            .expect("an address")
    };
    let targets: Vec<FullJid> = (0..OCCUPANTS).map(occupant).collect();
    Box::new(move || {
        let rendering = Rendering::new(&stanza, targets.clone());
        for target in &targets {
            black_box(rendering.to_recipient(target));
        }
    })
}

/// A batch of messages for users, as another partition's outbox sends them.
fn batch(epoch: u64, first: u64) -> Entry {
    let stanza = stanza();
    let proposal = |sequence| Proposal {
        origin: LinkOrigin::Partition(1),
        incarnation: 0,
        sequence,
        command: Command::ReceiveMessage(ReceiveMessage {
            user: user(sequence % 100),
            stanza: stanza.clone(),
            also: Vec::new(),
            sender: BareJid::parse("alice@localhost").expect("an address"),
            time_ms: 1_000,
        }),
    };
    Entry::Batch(Batch {
        epoch,
        time_ms: 1_000,
        proposals: (first..first + BATCH).map(proposal).collect(),
    })
}

fn encode() -> Piece {
    let entry = batch(1, 1);
    Box::new(move || {
        black_box(cluster::records::encode_entry(entry.clone(), 1).expect("it fits"));
    })
}

fn decode() -> Piece {
    let bytes = cluster::records::encode_entry(batch(1, 1), 1).expect("it fits");
    Box::new(move || {
        black_box(cluster::records::decode_entry(&bytes).expect("it is one"));
    })
}

fn apply_batch() -> Piece {
    let surroundings = Surroundings {
        partition: messaging::slot::PartitionId(0),
        table: PartitionTable::even(1),
        pool: PoolConstants {
            id_key: [7; 16],
            domain: "localhost".to_owned(),
            rooms_domain: "conference.localhost".to_owned(),
            contacts_max: 1000,
            occupants_max: 1000,
            rooms_owned_max: 1000,
        },
    };
    let mut state = State::default();
    let begin = Entry::OwnerBegin {
        node: 1,
        incarnation: 1,
        time_ms: 1_000,
    };
    apply(&mut state, &surroundings, 1, begin);
    let iterations = std::num::NonZeroU32::MIN;
    let credentials = StoredCredentials::derive(&Password::new("secret"), &[1; 32], iterations)
        .expect("a password");
    let account = |number| Proposal {
        origin: LinkOrigin::Node(1),
        incarnation: 1,
        sequence: number + 1,
        command: Command::CreateAccount {
            user: user(number),
            credentials: credentials.clone(),
        },
    };
    let accounts = Entry::Batch(Batch {
        epoch: 1,
        time_ms: 1_000,
        proposals: (0..100).map(account).collect(),
    });
    apply(&mut state, &surroundings, 2, accounts);
    let (mut index, mut first) = (2, 1);
    Box::new(move || {
        index += 1;
        let effects = apply(&mut state, &surroundings, index, batch(1, first));
        first += BATCH;
        // An answer and a row for each, at least: nothing was refused for a reason of its own.
        assert!(effects.len() >= 2 * BATCH as usize);
        black_box(effects);
    })
}

fn log_append() -> Piece {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let options = LogOptions {
        segment_bytes: 4 << 20,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(dir.path(), options).expect("a log");
    let payload = Bytes::from_static(MESSAGE.as_bytes());
    let (mut next, group) = (0, GroupId(1));
    Box::new(move || {
        let _ = &dir;
        let entry = |index| LogEntry {
            index,
            term: 1,
            payload: payload.clone(),
        };
        let (tell, done) = std::sync::mpsc::channel();
        let entries = (next..next + BATCH).map(entry).collect();
        log.append(group, entries, move |written| {
            // Whoever waits is there until this is told.
            let _ = tell.send(written.is_ok());
        });
        assert_eq!(done.recv(), Ok(true));
        next += BATCH;
    })
}

fn rows(key: &Arc<str>, first: u64, count: u64) -> Vec<ArchiveRow> {
    let row = |seq| ArchiveRow {
        key: Arc::clone(key),
        kind: RowKind::Message,
        seq,
        time: seq,
        peer: Some(Arc::from("alice@localhost")),
        record: Bytes::from_static(MESSAGE.as_bytes()),
    };
    (first..first + count).map(row).collect()
}

fn archive() -> (tempfile::TempDir, Archive) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let archive = Archive::open(dir.path(), &ArchiveOptions::default()).expect("an archive");
    (dir, archive)
}

fn archive_append() -> Piece {
    let (dir, archive) = archive();
    let key: Arc<str> = Arc::from("bob@localhost");
    let mut next = 1;
    Box::new(move || {
        let _ = &dir;
        let rows = rows(&key, next, BATCH);
        archive.append(PartitionId(0), &rows).expect("a disk");
        next += BATCH;
    })
}

fn archive_page(order: Order) -> Piece {
    let (dir, archive) = archive();
    let key: Arc<str> = Arc::from("bob@localhost");
    for first in (1..=ROWS).step_by(BATCH as usize) {
        archive
            .append(PartitionId(0), &rows(&key, first, BATCH))
            .expect("a disk");
    }
    let mut from = 0;
    Box::new(move || {
        let _ = &dir;
        // Another place each time, as clients have.
        from = (from + 977) % (ROWS - 100);
        let page = Page {
            after: (order == Order::OldestFirst).then_some(from),
            before: (order == Order::NewestFirst).then_some(from + 60),
            order,
            limit: 50,
        };
        let rows = archive
            .range(PartitionId(0), &key, Rows::Messages, &page)
            .expect("a disk");
        assert_eq!(rows.len(), 50);
        black_box(rows);
    })
}
