//! Random commands: what must hold holds after each.

use std::collections::BTreeMap;
use std::sync::Arc;

use messaging::effect::Effect;
use messaging::room::command::{AdminItem, FormFields, HistoryRequest, Invitee, RoomAction};
use messaging::room::effect::RoomEffect;
use messaging::room::state::{Affiliation, Role, Secret};
use messaging::state::State;
use proptest::prelude::*;
use xmpp::jid::{FullJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};

use crate::stage::{Json, ROOM, Stage, bare, full, rows};

const SESSIONS: [&str; 6] = [
    "alice/pc",
    "alice/phone",
    "bob/pc",
    "bob/phone",
    "carol/pc",
    "dave/pc",
];
const NICKS: [&str; 4] = ["a", "b", "c", "d"];

fn session() -> impl Strategy<Value = FullJid> {
    prop::sample::select(SESSIONS.to_vec()).prop_map(full)
}

fn nick() -> impl Strategy<Value = String> {
    prop::sample::select(NICKS.to_vec()).prop_map(str::to_owned)
}

fn message() -> Stanza {
    Stanza {
        payload: "<body>x</body>".into(),
        ..Stanza::new(StanzaKind::Message)
    }
}

fn item() -> impl Strategy<Value = AdminItem> {
    let affiliation = (
        session(),
        prop::sample::select(Affiliation::ALL.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(jid, affiliation, whole_domain)| {
            let jid = if whole_domain && affiliation < Affiliation::Member {
                Jid::parse("example.org").unwrap()
            } else {
                Jid::from(jid.bare())
            };
            AdminItem {
                nick: None,
                jid: Some(jid),
                role: None,
                affiliation: Some(affiliation),
                reason: None,
            }
        });
    let role =
        (nick(), prop::sample::select(Role::ALL.to_vec())).prop_map(|(nick, role)| AdminItem {
            nick: Some(nick),
            jid: None,
            role: Some(role),
            affiliation: None,
            reason: None,
        });
    prop_oneof![affiliation, role]
}

fn action() -> impl Strategy<Value = RoomAction> {
    let presence = || Stanza::new(StanzaKind::Presence);
    let join = (nick(), 1..3u64).prop_map(move |(nick, node)| RoomAction::Join {
        nick,
        presence: presence(),
        password: Some(Secret("s".into())),
        history: HistoryRequest::default(),
        node,
        incarnation: 1,
        session: 1,
    });
    let fields = prop::collection::vec(
        prop::sample::select(vec![
            ("muc#roomconfig_membersonly", "1"),
            ("muc#roomconfig_membersonly", "0"),
            ("muc#roomconfig_persistentroom", "1"),
            ("muc#roomconfig_persistentroom", "0"),
            ("muc#roomconfig_moderatedroom", "1"),
            ("muc#roomconfig_moderatedroom", "0"),
            ("muc#roomconfig_maxusers", "3"),
            ("muc#roomconfig_enablelogging", "0"),
            ("muc#roomconfig_allowinvites", "1"),
        ]),
        0..3,
    );
    let configure = fields.prop_map(|fields| {
        let fields = fields
            .into_iter()
            .map(|(var, value)| (var.to_owned(), vec![value.to_owned()]))
            .collect();
        RoomAction::Configure {
            fields: FormFields(fields),
        }
    });
    prop_oneof![
        6 => join,
        2 => nick().prop_map(move |nick| RoomAction::Presence { nick, presence: presence() }),
        2 => Just(RoomAction::Leave { presence: presence(), of: None }),
        3 => (prop::option::of(0..3u8), any::<bool>()).prop_map(|(id, changes_subject)| RoomAction::Message {
            stanza: message(),
            origin_id: id.map(|id| id.to_string()),
            changes_subject,
        }),
        1 => nick().prop_map(|nick| RoomAction::PrivateMessage { nick, stanza: message(), origin_id: None }),
        1 => session().prop_map(|jid| RoomAction::Invite {
            invitees: vec![Invitee { jid: Jid::from(jid.bare()), reason: None, continued: None }],
            id: None,
        }),
        1 => Just(RoomAction::RequestVoice),
        1 => nick().prop_map(|nick| RoomAction::GrantVoice { nick, allow: true }),
        6 => prop::collection::vec(item(), 1..4).prop_map(|items| RoomAction::Admin { items }),
        3 => configure,
        1 => Just(RoomAction::CancelConfiguration),
        1 => Just(RoomAction::Destroy { alternate: None, reason: None, password: None }),
        1 => (session(), 1..3u64).prop_map(|(jid, node)| RoomAction::RemoveUnclaimed { occupants: vec![(jid, node, 1)] }),
    ]
}

/// What holds in every state.
fn check_state(stage: &mut Stage) {
    let room = bare(ROOM);
    let occupants: Vec<_> = stage
        .state
        .occupants
        .rows_of(&room)
        .map(|(_, occupant)| occupant.clone())
        .collect();
    let Some(record) = stage.state.rooms.get(&room) else {
        assert!(
            occupants.is_empty() && stage.state.affiliations.is_empty(),
            "nothing outlives its room"
        );
        return;
    };
    let owners = stage
        .state
        .affiliations
        .iter()
        .filter(|(_, record)| record.affiliation == Affiliation::Owner);
    assert!(owners.count() >= 1, "a room has an owner");
    assert!(
        stage
            .state
            .affiliations
            .iter()
            .all(|(_, record)| record.affiliation != Affiliation::None)
    );
    assert!(
        !occupants.is_empty() || (record.config.persistent && !record.locked),
        "an empty room goes"
    );
    let mut nicks = BTreeMap::new();
    for occupant in &occupants {
        let holder = nicks
            .entry(occupant.nick.clone())
            .or_insert((occupant.jid.bare(), occupant.role));
        assert_eq!(
            *holder,
            (occupant.jid.bare(), occupant.role),
            "a nickname is one person's, in one role"
        );
        let listed = |jid| {
            stage
                .state
                .affiliations
                .get(&(room.clone(), jid))
                .map(|record| record.affiliation)
        };
        let person = occupant.jid.bare();
        let counts = listed(person.clone())
            .or_else(|| listed(person.to_domain()))
            .unwrap_or(Affiliation::None);
        assert_eq!(occupant.affiliation, counts);
        assert_ne!(counts, Affiliation::Outcast, "no outcast is in");
        assert!(
            !record.config.members_only || counts >= Affiliation::Member,
            "only members are in"
        );
        assert!(
            counts < Affiliation::Admin || occupant.role == Role::Moderator,
            "admins are moderators"
        );
        assert!(occupant.role > Role::None);
        assert!(occupant.joined > record.base && occupant.joined <= record.head);
    }
    let view = stage.state.room_views.of(&stage.state.occupants, &room);
    let view: Vec<_> = view
        .iter()
        .map(|occupant| messaging::room::state::Occupant::clone(occupant))
        .collect();
    assert_eq!(view, occupants, "the picture is the table");
}

/// Loads every stored row into a new state, as a restarted replica does.
fn reloaded(state: &State) -> State {
    let mut loaded = State::default();
    for (table, key, value) in rows(state) {
        assert!(loaded.load(&Json, table, &key, &value).unwrap());
    }
    loaded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn hold_under_any_commands(commands in prop::collection::vec((session(), action()), 1..80)) {
        let (mut stage, mut replica) = (Stage::default(), Stage::default());
        let mut last = 0;
        for (by, action) in commands {
            let (answer, effects) = stage.apply(&by, action.clone());
            let (again, other_effects) = replica.apply(&by, action);
            // One replica restarts again and again: nothing depends on what isn't stored.
            replica.state = reloaded(&replica.state);
            prop_assert_eq!(&answer, &again);
            prop_assert_eq!(effects.len(), other_effects.len());
            prop_assert_eq!(rows(&stage.state), rows(&replica.state));
            check_state(&mut stage);
            for effect in &effects {
                let Effect::Room(_, RoomEffect::Event { previous, row, occupants, non_anonymous, welcome }) = effect else {
                    continue;
                };
                prop_assert!(row.seq > last, "sequences rise, across rooms of one name too");
                prop_assert!(*previous == last || *previous < row.seq);
                prop_assert_eq!(previous + 1, row.seq);
                last = row.seq;
                // Everything that is shown can be read by a client.
                let mut shown = String::new();
                stage.show_renderings(&stage.renderer.event(row, occupants, *non_anonymous), &mut shown);
                if let Some(welcome) = welcome {
                    stage.show_welcome(row, welcome, &Arc::clone(occupants), &mut shown);
                }
            }
        }
    }
}
