//! Accounts that come from another server, piece by piece.

use messaging::archive::MessageRecord;
use messaging::command::{Command, ReceiveMessage};
use messaging::founding::{Founding, found};
use messaging::user::import::{ImportedContact, ImportedItem};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza::{Stanza, StanzaKind};

use super::pool::{Pool, credentials, jid, message, user};

fn begin(name: &str) -> Command {
    Command::BeginImport { user: user(name) }
}

fn contact(of: &str, pending_out: bool) -> ImportedContact {
    ImportedContact {
        contact: user(of),
        name: Some("A friend".into()),
        groups: vec!["Friends".into()],
        to: true,
        from: true,
        pending_out,
        approved: false,
        listed: true,
        pending_in: None,
    }
}

fn contacts(name: &str, contacts: Vec<ImportedContact>) -> Command {
    Command::ImportContacts {
        user: user(name),
        contacts,
    }
}

fn record(name: &str, body: &str) -> MessageRecord {
    MessageRecord {
        sent: false,
        peer: jid("old@elsewhere"),
        sender: None,
        stanza: Stanza {
            from: Some(jid("old@elsewhere")),
            to: Some(user(name).into()),
            payload: format!("<body>{body}</body>").into(),
            ..Stanza::new(StanzaKind::Message)
        },
    }
}

fn rows(name: &str, after: u64, waiting: bool, rows: &[(u64, &str)]) -> Command {
    let rows = rows.iter();
    Command::ImportRows {
        user: user(name),
        after,
        waiting,
        rows: rows
            .map(|(time, body)| (*time, record(name, body)))
            .collect(),
    }
}

fn finish(name: &str) -> Command {
    Command::FinishImport {
        user: user(name),
        credentials: credentials(),
    }
}

fn items(name: &str) -> Vec<Command> {
    let private = ImportedItem::Private {
        name: "{urn:v}v".into(),
        element: "<v xmlns='urn:v'/>".into(),
    };
    let vcard = ImportedItem::Vcard("<vCard xmlns='vcard-temp'/>".into());
    let blocked = ImportedItem::Blocked(vec![jid("eve@elsewhere")]);
    let command = |item| Command::ImportItem {
        user: user(name),
        item,
    };
    [private, vcard, blocked].map(command).into()
}

/// Head and cursor, counted from the log's beginning.
fn log(pool: &Pool, name: &str) -> (u64, u64) {
    let state = pool.state(name);
    let log = state.logs.get(&user(name)).unwrap();
    let generation = state.accounts.get(&user(name)).unwrap().generation;
    (
        log.head - generation * 4_096,
        log.delivered - generation * 4_096,
    )
}

#[test]
fn every_piece_may_come_twice() {
    let mut pool = Pool::with_users(&["bob"]);
    let pieces = [
        begin("new"),
        contacts("new", vec![contact("bob", false)]),
        rows("new", 0, false, &[(1, "one"), (2, "two")]),
        rows("new", 2, false, &[(2, "three")]),
        rows("new", 3, true, &[(5, "waits")]),
    ];
    let pieces = pieces
        .into_iter()
        .chain(items("new"))
        .chain([finish("new")]);
    for piece in &pieces.collect::<Vec<_>>() {
        pool.done(piece.clone(), "new");
        if !matches!(piece, Command::FinishImport { .. }) {
            pool.done(begin("new"), "new");
        }
        pool.done(piece.clone(), "new");
    }
    assert_eq!(log(&pool, "new"), (4, 3));
    assert_eq!(pool.archived("new").len(), 4);
    assert_eq!(pool.subscription("new", "bob"), "both");
    let state = pool.state("new");
    assert_eq!(
        (state.vcards.len(), state.private.len(), state.blocks.len()),
        (1, 1, 1)
    );
    assert!(state.imports.is_empty(), "it is over");
    // Nobody is told: the other server's contacts have their own side.
    pool.settle(true);
    assert_eq!(pool.subscription("bob", "new"), "absent");
}

#[test]
fn who_has_credentials_is_not_imported_into() {
    let mut pool = Pool::with_users(&["bob"]);
    let others = StoredCredentials {
        sha512: None,
        ..credentials()
    };
    let pieces = [
        begin("bob"),
        contacts("bob", vec![contact("eve", false)]),
        rows("bob", 0, false, &[(1, "one")]),
        Command::FinishImport {
            user: user("bob"),
            credentials: others,
        },
    ];
    for piece in pieces.into_iter().chain(items("bob")) {
        assert_eq!(pool.refused(piece, "bob"), "Conflict");
    }
    let state = pool.state("bob");
    assert!(state.vcards.is_empty() && state.private.is_empty() && state.blocks.is_empty());
    assert_eq!(pool.refused(finish("nobody"), "nobody"), "ItemNotFound");
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut pool = Pool::with_users(&["bob"]);
    pool.done(begin("new"), "new");
    pool.done(rows("new", 0, false, &[(1, "one")]), "new");
    let table = [
        (
            rows("new", 2, false, &[(2, "behind a gap")]),
            "UnexpectedRequest",
        ),
        (
            rows("new", 1, false, &[(3, "b"), (2, "a")]),
            "NotAcceptable",
        ),
        (rows("new", 1, false, &[(3, "much"); 257]), "NotAcceptable"),
        (
            contacts("new", vec![contact("bob", false), contact("new", false)]),
            "NotAllowed",
        ),
        (
            contacts("new", vec![contact("bob", false); 257]),
            "NotAcceptable",
        ),
        (
            Command::FinishImport {
                user: user("new"),
                credentials: StoredCredentials::default(),
            },
            "NotAcceptable",
        ),
    ];
    for (command, refusal) in table {
        assert_eq!(pool.refused(command, "new"), refusal);
    }
    assert_eq!(log(&pool, "new"), (1, 1));
    assert_eq!(pool.state("new").roster.len(), 0);
}

/// It doesn't matter where a run that goes on cuts its pieces.
#[test]
fn rows_have_their_places_whatever_piece_they_come_in() {
    let mut pool = Pool::with_users(&[]);
    let all = [(1, "one"), (2, "two"), (3, "three"), (4, "four")];
    pool.done(begin("new"), "new");
    pool.done(rows("new", 0, false, &all[..2]), "new");
    pool.done(rows("new", 1, false, &all[1..3]), "new");
    pool.done(rows("new", 0, false, &all), "new");
    pool.done(rows("new", 2, false, &all[2..]), "new");
    let archived = pool.archived("new");
    assert_eq!(archived.len(), 4, "{archived:?}");
    for (row, (_, body)) in archived.iter().zip(all) {
        assert!(row.contains(body), "{archived:?}");
    }
}

/// A clock that is ahead costs nothing but the time that it made up.
#[test]
fn no_row_is_of_a_time_to_come() {
    let mut pool = Pool::with_users(&[]);
    let now = pool.time_ms;
    pool.done(begin("new"), "new");
    let of_all_times = [(now - 1, "past"), (now + 1, "soon"), (u64::MAX, "never")];
    pool.done(rows("new", 0, false, &of_all_times), "new");
    let times: Vec<u64> = pool.archive.iter().map(|row| row.time_ms).collect();
    assert_eq!(times, [now - 1, now, now]);
}

/// Nothing but imported rows comes into the log before the end: it would have the place of one of them, which then was lost.
#[test]
fn no_messages_come_before_the_end() {
    let mut pool = Pool::with_users(&["bob"]);
    pool.done(begin("new"), "new");
    pool.done(rows("new", 0, false, &[(1, "one")]), "new");
    let Command::SendMessage(sent) = message("bob", "new", "hi", None) else {
        panic!("that is a message");
    };
    let receive = || {
        Command::ReceiveMessage(ReceiveMessage {
            user: user("new"),
            stanza: sent.stanza.clone(),
            also: Vec::new(),
            sender: user("bob"),
            time_ms: 5,
        })
    };
    let filed = || Command::FileSent {
        user: user("new"),
        stanza: Stanza {
            to: Some(jid("den@conference.localhost/n")),
            ..sent.stanza.clone()
        },
    };
    let late = message("new", "bob", "of a session that is gone", None);
    assert_eq!(pool.refused(receive(), "new"), "ServiceUnavailable");
    assert_eq!(pool.refused(filed(), "new"), "ItemNotFound");
    assert_eq!(pool.refused(late, "new"), "NotAuthorized");
    pool.done(Command::SendMessage(sent.clone()), "bob");
    pool.settle(true);
    assert_eq!(log(&pool, "new"), (1, 1));
    pool.done(rows("new", 1, false, &[(2, "two")]), "new");
    pool.done(finish("new"), "new");
    pool.done(receive(), "new");
    pool.done(filed(), "new");
    assert_eq!(pool.archived("new").len(), 4);
}

/// In a restored pool numbers leap, and an import goes on behind what was imported.
#[test]
fn an_import_goes_on_in_a_restored_pool() {
    let mut pool = Pool::with_users(&[]);
    pool.done(begin("new"), "new");
    pool.done(rows("new", 0, false, &[(1, "one"), (2, "two")]), "new");
    let before: Vec<u64> = pool.archive.iter().map(|row| row.seq).collect();
    for (partition, surroundings) in pool.partitions.iter_mut().zip(&pool.surroundings) {
        let founding = Founding {
            index: partition.index,
            node: 1,
            time_ms: 5_000,
        };
        partition.index = found(&mut partition.state, surroundings, founding).1;
    }
    let partition = pool.partition_of("new");
    pool.begin_owner(partition);
    pool.restart_node(partition);
    pool.done(begin("new"), "new");
    pool.done(rows("new", 0, false, &[(1, "one"), (2, "two")]), "new");
    pool.done(rows("new", 2, false, &[(3, "three")]), "new");
    pool.done(rows("new", 3, true, &[(4, "waits")]), "new");
    pool.done(finish("new"), "new");
    assert_eq!(pool.archived("new").len(), 4);
    let log = pool.state("new").logs.get(&user("new")).unwrap();
    let last = pool.archive.last().unwrap();
    assert_eq!((last.seq, log.delivered), (log.head, log.head - 1));
    assert!(
        pool.archive[2].seq > before[1] + 1,
        "no number of the old pool's"
    );
}

/// What belongs to an import goes with it.
#[test]
fn an_import_ends_with_a_password_or_the_account() {
    let mut pool = Pool::with_users(&[]);
    let set = Command::SetCredentials {
        user: user("new"),
        credentials: credentials(),
    };
    let remove = Command::RemoveAccount { user: user("new") };
    for end in [set, remove] {
        pool.done(begin("new"), "new");
        pool.done(rows("new", 0, false, &[(1, "one")]), "new");
        pool.done(end, "new");
        pool.settle(false);
        assert!(pool.state("new").imports.is_empty());
        let more = rows("new", 1, false, &[(2, "two")]);
        assert_eq!(pool.refused(more, "new"), "Conflict");
        if pool.state("new").accounts.contains(&user("new")) {
            pool.done(Command::RemoveAccount { user: user("new") }, "new");
            pool.settle(false);
        }
    }
}
