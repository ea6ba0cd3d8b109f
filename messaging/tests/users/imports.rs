//! Accounts that come from another server, piece by piece.

use messaging::archive::MessageRecord;
use messaging::command::Command;
use messaging::user::import::ImportedContact;
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
        finish("new"),
    ];
    for piece in &pieces {
        pool.done(piece.clone(), "new");
        if !matches!(piece, Command::FinishImport { .. }) {
            pool.done(begin("new"), "new");
        }
        pool.done(piece.clone(), "new");
    }
    assert_eq!(log(&pool, "new"), (4, 3));
    assert_eq!(pool.archived("new").len(), 4);
    assert_eq!(pool.subscription("new", "bob"), "both");
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
    for piece in [
        begin("bob"),
        contacts("bob", vec![contact("eve", false)]),
        rows("bob", 0, false, &[(1, "one")]),
        Command::FinishImport {
            user: user("bob"),
            credentials: others,
        },
    ] {
        assert_eq!(pool.refused(piece, "bob"), "Conflict");
    }
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
            rows("new", 0, false, &[(1, "one"), (2, "more")]),
            "UnexpectedRequest",
        ),
        (
            rows("new", 1, false, &[(3, "b"), (2, "a")]),
            "NotAcceptable",
        ),
        (
            rows("new", 1, false, &[(u64::MAX, "tomorrow")]),
            "NotAcceptable",
        ),
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
    // A message that comes meanwhile is kept, and the import can't go on behind it as if it were its own.
    pool.done(message("bob", "new", "hi", None), "bob");
    pool.settle(true);
    assert_eq!(log(&pool, "new"), (2, 1));
    let next = rows("new", 1, false, &[(2, "two"), (3, "three")]);
    assert_eq!(pool.refused(next, "new"), "UnexpectedRequest");
}
