//! Golden bytes of what is replicated and what is on disk: every command, every event, a row of every table.

use messaging::archive::{ArchiveRecord, MessageRecord};
use messaging::command::{Batch, Command, Proposal, ReceiveMessage, SendMessage};
use messaging::link_record::{LinkOrigin, LinkRecord};
use messaging::outbox::{OnAnswer, OutboxEntry};
use messaging::room::command::{
    AdminItem, FormFields, HistoryRequest, Invitee, RoomAction, RoomCommand,
};
use messaging::room::depth::LogDepth;
use messaging::room::event::RoomEvent;
use messaging::room::forget::RemovedAccount;
use messaging::room::state::{
    Affiliation, AffiliationRecord, Occupant, Role, RoomConfig, RoomRecord, Secret, Subject,
};
use messaging::state::{OnlineRecord, PartitionRecord, State};
use messaging::user::account::Account;
use messaging::user::log::UserLog;
use messaging::user::roster::RosterItem;
use messaging::user::streams::{Counted, Course, StreamCount, StreamId, StreamNote};
use messaging::user::subscription::SubscriptionRequest;
use storage::codec::golden::Layout;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::{ScramKeys, StoredCredentials};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::{Condition, StanzaError};

use super::*;

#[path = "records_tests/imports.rs"]
mod imports;

fn juliet() -> BareJid {
    BareJid::parse("juliet@localhost").unwrap()
}

fn romeo() -> BareJid {
    BareJid::parse("romeo@localhost").unwrap()
}

fn balcony() -> FullJid {
    FullJid::parse("juliet@localhost/balcony").unwrap()
}

fn den() -> BareJid {
    BareJid::parse("den@conference.localhost").unwrap()
}

fn stanza(kind: StanzaKind) -> Stanza {
    Stanza {
        from: Some(balcony().into()),
        to: Some(romeo().into()),
        id: Some("m1".into()),
        type_: Some("chat".into()),
        lang: Some("en".into()),
        payload: Bytes::from_static(b"<body>hark</body>"),
        ..Stanza::new(kind)
    }
}

fn message() -> Stanza {
    stanza(StanzaKind::Message)
}

fn presence() -> Stanza {
    stanza(StanzaKind::Presence)
}

fn credentials() -> StoredCredentials {
    let keys = |byte: u8| {
        Some(ScramKeys {
            salt: vec![byte; 4],
            iterations: 4096,
            stored_key: vec![byte + 1; 4],
            server_key: vec![byte + 2; 4],
        })
    };
    StoredCredentials {
        sha1: keys(1),
        sha256: keys(11),
        sha512: None,
    }
}

fn occupant() -> Occupant {
    Occupant {
        jid: balcony(),
        nick: "jules".into(),
        role: Role::Moderator,
        affiliation: Affiliation::Owner,
        presence: presence(),
        joined: 8_193,
        node: 2,
        incarnation: 5,
        session: 9,
        account: 4,
    }
}

fn refused() -> Box<StanzaError> {
    Box::new(StanzaError::new(Condition::ServiceUnavailable).with_text("no"))
}

/// A command that is not in [`commands`] does not compile here.
fn is_known(command: &Command) {
    match command {
        Command::Nothing
        | Command::CreateAccount { .. }
        | Command::SetCredentials { .. }
        | Command::RemoveAccount { .. }
        | Command::ForgetAccount { .. }
        | Command::SendMessage(_)
        | Command::ReceiveMessage(_)
        | Command::FileSent { .. }
        | Command::SetContact { .. }
        | Command::RemoveContact { .. }
        | Command::SendSubscription { .. }
        | Command::ReceiveSubscription { .. }
        | Command::Block { .. }
        | Command::Unblock { .. }
        | Command::SetPrivate { .. }
        | Command::SetVcard { .. }
        | Command::AdvanceCursor { .. }
        | Command::NoteSessions { .. }
        | Command::NoteStreams { .. }
        | Command::Room(_)
        | Command::OutboxAnswered { .. }
        // In `imports`.
        | Command::BeginImport { .. }
        | Command::ImportContacts { .. }
        | Command::ImportRows { .. }
        | Command::FinishImport { .. }
        | Command::ImportItem { .. } => {}
    }
}

fn of_users() -> Vec<Command> {
    let (user, contact) = (juliet(), romeo());
    let items: Vec<Jid> = vec![romeo().into()];
    vec![
        Command::CreateAccount {
            user: user.clone(),
            credentials: credentials(),
        },
        Command::SetCredentials {
            user: user.clone(),
            credentials: credentials(),
        },
        Command::RemoveAccount { user: user.clone() },
        Command::ForgetAccount {
            user: user.clone(),
            generation: 4,
        },
        Command::SetContact {
            user: user.clone(),
            contact: contact.clone(),
            name: Some("Romeo".into()),
            groups: vec!["Montagues".into()],
        },
        Command::RemoveContact {
            user: user.clone(),
            contact: contact.clone(),
        },
        Command::SendSubscription {
            user: user.clone(),
            contact: contact.clone(),
            stanza: presence(),
        },
        Command::ReceiveSubscription {
            user: user.clone(),
            contact,
            stanza: presence(),
        },
        Command::Block {
            user: user.clone(),
            items: items.clone(),
        },
        Command::Unblock {
            user: user.clone(),
            items,
        },
        Command::SetPrivate {
            user: user.clone(),
            name: "u:e e".into(),
            element: Bytes::from_static(b"<e xmlns='u:e'/>"),
        },
        Command::SetVcard {
            user: user.clone(),
            element: Bytes::from_static(b"<vCard/>"),
        },
        Command::AdvanceCursor {
            user,
            delivered: 4_099,
        },
    ]
}

fn stream_note(course: Course) -> StreamNote {
    StreamNote {
        user: juliet(),
        stream: StreamId(7),
        handled: 3,
        course,
    }
}

fn of_messages() -> Vec<Command> {
    vec![
        Command::Nothing,
        Command::SendMessage(SendMessage {
            sender: balcony(),
            to: romeo().into(),
            origin_id: Some("o1".into()),
            stanza: message(),
            local: true,
            counted: Some(Counted {
                stream: StreamId(7),
                number: 3,
                handled: 1,
            }),
        }),
        Command::ReceiveMessage(ReceiveMessage {
            user: romeo(),
            stanza: message(),
            also: vec![balcony()],
            sender: juliet(),
            time_ms: 1_700_000_000_000,
        }),
        Command::FileSent {
            user: juliet(),
            stanza: message(),
        },
        Command::NoteSessions {
            up: vec![(balcony(), 2, 5)],
            down: vec![balcony()],
        },
        Command::NoteStreams {
            notes: vec![
                stream_note(Course::Begins(300)),
                stream_note(Course::GoesOn),
                stream_note(Course::Ends),
            ],
        },
        Command::OutboxAnswered {
            partition: 3,
            sequence: 4,
            refused: Some(refused()),
        },
    ]
}

/// An action that is not in [`of_rooms`] does not compile here.
fn is_known_action(action: &RoomAction) {
    match action {
        RoomAction::Join { .. }
        | RoomAction::Presence { .. }
        | RoomAction::Leave { .. }
        | RoomAction::Message { .. }
        | RoomAction::PrivateMessage { .. }
        | RoomAction::Invite { .. }
        | RoomAction::Decline { .. }
        | RoomAction::RequestVoice
        | RoomAction::GrantVoice { .. }
        | RoomAction::Admin { .. }
        | RoomAction::Configure { .. }
        | RoomAction::CancelConfiguration
        | RoomAction::Destroy { .. }
        | RoomAction::Move { .. }
        | RoomAction::RemoveUnclaimed { .. } => {}
    }
}

fn of_occupants() -> Vec<RoomAction> {
    vec![
        RoomAction::Join {
            nick: "jules".into(),
            presence: presence(),
            password: Some(Secret("pass".into())),
            history: HistoryRequest {
                maxchars: Some(1),
                maxstanzas: Some(2),
                seconds: Some(3),
                since_ms: Some(4),
            },
            node: 2,
            incarnation: 5,
            session: 9,
        },
        RoomAction::Presence {
            nick: "jules".into(),
            presence: presence(),
        },
        RoomAction::Leave {
            presence: presence(),
            of: Some((2, 5, 9)),
        },
        RoomAction::Message {
            stanza: message(),
            origin_id: Some("o2".into()),
            changes_subject: true,
        },
        RoomAction::PrivateMessage {
            nick: "rom".into(),
            stanza: message(),
            origin_id: Some("o3".into()),
        },
    ]
}

fn of_moderators() -> Vec<RoomAction> {
    let invitee = Invitee {
        jid: romeo().into(),
        reason: Some("come".into()),
        continued: Some("thread".into()),
    };
    let item = AdminItem {
        nick: Some("rom".into()),
        jid: Some(romeo().into()),
        role: Some(Role::Visitor),
        affiliation: Some(Affiliation::Member),
        reason: Some("why not".into()),
    };
    vec![
        RoomAction::Invite {
            invitees: vec![invitee],
            id: Some("i1".into()),
        },
        RoomAction::Decline {
            inviter: romeo(),
            reason: Some("no time".into()),
        },
        RoomAction::RequestVoice,
        RoomAction::GrantVoice {
            nick: "rom".into(),
            allow: true,
        },
        RoomAction::Admin { items: vec![item] },
        RoomAction::Configure {
            fields: FormFields(vec![("muc#roomconfig_roomname".into(), vec!["Den".into()])]),
        },
        RoomAction::CancelConfiguration,
        RoomAction::Destroy {
            alternate: Some(den().into()),
            reason: Some("moved".into()),
            password: Some(Secret("pass".into())),
        },
        RoomAction::RemoveUnclaimed {
            occupants: vec![(balcony(), 2, 5)],
        },
    ]
}

fn of_rooms() -> impl Iterator<Item = Command> {
    let actions = of_occupants().into_iter().chain(of_moderators());
    actions.map(|action| {
        is_known_action(&action);
        Command::Room(RoomCommand {
            room: den(),
            by: balcony(),
            account: 4,
            action,
        })
    })
}

#[test]
fn golden_bytes_of_entries() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<StoredEntry>);

    impl Record for Samples {
        const VERSION: u8 = StoredEntry::VERSION;
        const NAME: &'static str = "partition-entries";
    }

    let commands = of_users()
        .into_iter()
        .chain(of_messages())
        .chain(of_rooms());
    let origins = [
        LinkOrigin::Node(2),
        LinkOrigin::Partition(3),
        LinkOrigin::Owner,
    ];
    let proposals = commands.zip(origins.into_iter().cycle()).zip(1..);
    let proposals = proposals.map(|((command, origin), sequence)| {
        is_known(&command);
        Proposal {
            origin,
            incarnation: 5,
            sequence,
            command,
        }
    });
    let begin = Entry::OwnerBegin {
        node: 2,
        incarnation: 5,
        time_ms: 1_700_000_000_000,
    };
    let batch = Entry::Batch(Batch {
        epoch: 77,
        time_ms: 1_700_000_000_001,
        proposals: proposals.collect(),
    });
    let samples = Samples(vec![StoredEntry(begin), StoredEntry(batch)]);
    storage::golden!("../tests/goldens/partition.txt", &samples);
}

/// What came later has lines of its own: those of what was there before stay.
#[test]
fn golden_bytes_of_moving_sessions() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Command, StoredRow);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "partition-moving";
    }

    let (from, to) = ((2, 5, 9), (3, 6, 11));
    let command = Command::Room(RoomCommand {
        room: den(),
        by: balcony(),
        account: 4,
        action: RoomAction::Move { from, to },
    });
    let row = StoredRow(ArchiveRow {
        key: den(),
        seq: 8_195,
        time_ms: 1_700_000_000_000,
        record: ArchiveRecord::Room(RoomEvent::Moved {
            occupant: occupant(),
            from,
            joined: 8_193,
        }),
    });
    let samples = Samples(command, row);
    storage::golden!("../tests/goldens/partition.txt", &samples);
}

/// An event that is not in [`events`] does not compile here.
fn is_known_event(event: &RoomEvent) {
    match event {
        RoomEvent::Message { .. }
        | RoomEvent::Subject { .. }
        | RoomEvent::Joined { .. }
        | RoomEvent::Changed { .. }
        | RoomEvent::Renamed { .. }
        | RoomEvent::Left { .. }
        | RoomEvent::Affiliated { .. }
        | RoomEvent::Configured { .. }
        | RoomEvent::Moved { .. }
        | RoomEvent::Destroyed { .. } => {}
    }
}

fn events() -> Vec<RoomEvent> {
    let (sender, nick, occupant_id) = (balcony(), "jules".to_owned(), "abc".to_owned());
    let (actor, reason) = (Some("rom".to_owned()), Some("why".to_owned()));
    vec![
        RoomEvent::Message {
            sender: sender.clone(),
            nick: nick.clone(),
            occupant_id: occupant_id.clone(),
            stanza: message(),
            archived: true,
        },
        RoomEvent::Subject {
            sender,
            nick,
            occupant_id,
            stanza: message(),
            archived: false,
        },
        RoomEvent::Joined {
            occupant: occupant(),
            own_codes: vec![110, 201],
            announced: true,
        },
        RoomEvent::Changed {
            occupant: occupant(),
            actor: actor.clone(),
            reason: reason.clone(),
        },
        RoomEvent::Renamed {
            old_nick: "julia".into(),
            occupant: occupant(),
        },
        RoomEvent::Left {
            occupant: occupant(),
            presence: presence(),
            codes: vec![307],
            actor,
            reason: reason.clone(),
            announced: true,
        },
        RoomEvent::Affiliated {
            jid: romeo().into(),
            affiliation: Affiliation::Outcast,
            reason: reason.clone(),
        },
        RoomEvent::Configured { codes: vec![104] },
        RoomEvent::Destroyed {
            occupants: vec![occupant()],
            alternate: Some(den().into()),
            reason,
            password: Some(Secret("pass".into())),
        },
    ]
}

#[test]
fn golden_bytes_of_archive_rows() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<StoredRow>);

    impl Record for Samples {
        const VERSION: u8 = StoredRow::VERSION;
        const NAME: &'static str = "archive-rows";
    }

    let row = |key: BareJid, record| {
        StoredRow(ArchiveRow {
            key,
            seq: 8_194,
            time_ms: 1_700_000_000_000,
            record,
        })
    };
    let sent = MessageRecord {
        sent: true,
        peer: romeo().into(),
        sender: Some(balcony()),
        stanza: message(),
    };
    let mut rows = vec![row(juliet(), ArchiveRecord::Message(sent))];
    rows.extend(events().into_iter().map(|event| {
        is_known_event(&event);
        row(den(), ArchiveRecord::Room(event))
    }));
    storage::golden!("../tests/goldens/partition.txt", &Samples(rows));
}

fn with_users(state: &mut State) {
    state.accounts.insert(
        juliet(),
        Account {
            credentials: credentials(),
            created_ms: 1_700_000_000_000,
            generation: 4,
        },
    );
    state.removed.insert(
        romeo(),
        RemovedAccount {
            generation: 3,
            time_ms: 1_700_000_000_002,
        },
    );
    state.logs.insert(
        juliet(),
        UserLog {
            head: 4_099,
            delivered: 4_098,
            roster_version: 4_097,
            streams: vec![StreamCount {
                stream: StreamId(7),
                handled: 3,
                within_s: 300,
                said_ms: 1_700_000_000_001,
            }],
        },
    );
    let request = SubscriptionRequest {
        id: Some("s1".into()),
        lang: Some("en".into()),
        payload: Bytes::from_static(b"<status>please</status>"),
    };
    state.roster.insert(
        (juliet(), romeo()),
        RosterItem {
            name: Some("Romeo".into()),
            groups: ["Montagues".into()].into(),
            to: true,
            from: false,
            pending_out: false,
            pending_in: Some(Box::new(request)),
            approved: true,
            listed: true,
            version: 4_097,
        },
    );
    state.blocks.insert((juliet(), romeo().into()), ());
    let (private, vcard) = (Bytes::from_static(b"<e/>"), Bytes::from_static(b"<vCard/>"));
    state.private.insert((juliet(), "u:e e".into()), private);
    state.vcards.insert(juliet(), vcard);
    let sent = state
        .sent_ids
        .get_or_insert_with(&juliet(), Default::default);
    sent.record(&romeo(), "o1", 4_099, 1_700_000_000_000);
    state.imports.insert(romeo(), 7);
    state.online.insert(
        balcony(),
        OnlineRecord {
            node: 2,
            incarnation: 5,
        },
    );
}

fn with_rooms(state: &mut State) {
    state.rooms.insert(
        den(),
        RoomRecord {
            created_ms: 1_700_000_000_000,
            locked: true,
            config: RoomConfig {
                name: "Den".into(),
                password: Some(Secret("pass".into())),
                ..RoomConfig::default()
            },
            subject: Subject {
                nick: "jules".into(),
                occupant_id: "abc".into(),
                stanza: Some(message()),
                time_ms: 1_700_000_000_001,
            },
            base: 8_192,
            head: 8_194,
            depth: LogDepth::default(),
        },
    );
    state.departures.insert((den(), 8_193), "nurse".into());
    state.affiliations.insert(
        (den(), juliet()),
        AffiliationRecord {
            affiliation: Affiliation::Owner,
            reason: Some("founder".into()),
        },
    );
    state.occupants.insert((den(), balcony()), occupant());
}

fn with_links(state: &mut State) {
    let record = PartitionRecord {
        epoch: 77,
        owner: 2,
        time_ms: 1_700_000_000_000,
        behaviour: 1,
    };
    state.partition.insert((), record);
    let mut link = LinkRecord {
        incarnation: 5,
        ..LinkRecord::default()
    };
    link.record(messaging::command::Answer::Done { seq: 4_099 });
    link.record(messaging::command::Answer::Reply(Bytes::from_static(
        b"<q/>",
    )));
    link.record(messaging::command::Answer::Refused(refused()));
    state.links.insert(LinkOrigin::Node(2), link);
    let answers = [
        OnAnswer::Nothing,
        OnAnswer::Bounce {
            sender: balcony(),
            stanza: Box::new(message()),
        },
        OnAnswer::ShowPresence { user: juliet() },
        OnAnswer::NotInvited {
            sender: balcony(),
            stanza: Box::new(message()),
        },
    ];
    for (on_answer, sequence) in answers.into_iter().zip(1..) {
        let entry = OutboxEntry {
            target: romeo(),
            command: Command::Nothing,
            on_answer,
        };
        state.outbox.insert((3, sequence), entry);
    }
    state.outbox_next.insert(3, 4);
}

#[test]
fn golden_bytes_of_state_rows() {
    /// Table, key and value.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<(u8, Vec<u8>, Vec<u8>)>);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "state-rows";
    }

    let mut state = State::default();
    with_links(&mut state);
    with_users(&mut state);
    with_rooms(&mut state);
    let mut rows = Vec::new();
    state.visit(&StateRows, &mut |table, key, value| {
        rows.push((table, key.to_vec(), value.to_vec()));
    });
    let mut tables: Vec<u8> = rows.iter().map(|(table, ..)| *table).collect();
    tables.dedup();
    assert_eq!(tables, State::TABLES, "a row of every table");
    let mut loaded = State::default();
    for (table, key, value) in &rows {
        assert!(loaded.load(&StateRows, *table, key, value).unwrap());
    }
    let mut again = Vec::new();
    loaded.visit(&StateRows, &mut |table, key, value| {
        again.push((table, key.to_vec(), value.to_vec()));
    });
    assert_eq!(rows, again);
    storage::golden!("../tests/goldens/partition.txt", &Samples(rows));
}

#[test]
fn golden_bytes_of_a_version() {
    let entry = Entry::Version { version: 2 };
    let layout = Layout {
        name: "partition-version",
        version: 1,
        written: &encode_entry(entry.clone(), 1).unwrap(),
    };
    let read = |bytes: Vec<u8>| decode_entry(&bytes).ok();
    storage::golden_layout!("../tests/goldens/versions.txt", layout, &entry, read);
}
