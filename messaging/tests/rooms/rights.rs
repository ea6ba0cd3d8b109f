//! The matrices of XEP-0045 §5, row by row.

use messaging::command::Answer;
use messaging::room::command::{HistoryRequest, RoomAction};
use messaging::room::refusal::Refusal;
use messaging::room::rights::{
    Standing, may_change_affiliation, may_change_role, may_enter, may_read_list, role_after,
    role_on_entry,
};
use messaging::room::state::{Affiliation, Role, RoomConfig};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::Condition;

use crate::stage::{Stage, bare, full};

const OK: Result<(), Refusal> = Ok(());
const FORBIDDEN: Result<(), Refusal> = Err(Refusal::Forbidden);
const NOT_ALLOWED: Result<(), Refusal> = Err(Refusal::NotAllowed);

/// `admin:moderator`
fn standing(text: &str) -> Standing {
    let (affiliation, role) = text.split_once(':').unwrap();
    Standing {
        role: Role::from_name(role).unwrap(),
        affiliation: Affiliation::from_name(affiliation).unwrap(),
    }
}

#[test]
fn roles_on_entry_5_1_2() {
    let check = |affiliation: &str, moderated: &str, unmoderated: &str| {
        let affiliation = Affiliation::from_name(affiliation).unwrap();
        assert_eq!(role_on_entry(affiliation, true).name(), moderated);
        assert_eq!(role_on_entry(affiliation, false).name(), unmoderated);
    };
    check("outcast", "none", "none");
    check("none", "visitor", "participant");
    check("member", "participant", "participant");
    check("admin", "moderator", "moderator");
    check("owner", "moderator", "moderator");
}

#[test]
fn entering_5_2_1() {
    let check =
        |affiliation: &str, open: Result<(), Refusal>, members_only: Result<(), Refusal>| {
            let affiliation = Affiliation::from_name(affiliation).unwrap();
            assert_eq!(may_enter(affiliation, false), open);
            assert_eq!(may_enter(affiliation, true), members_only);
        };
    check("outcast", Err(Refusal::Banned), Err(Refusal::Banned));
    check("none", OK, Err(Refusal::MembersOnly));
    check("member", OK, OK);
    check("admin", OK, OK);
    check("owner", OK, OK);
}

#[test]
fn changing_roles_5_1_3() {
    let check = |actor: &str, target: &str, new: &str, expect: Result<(), Refusal>| {
        let found = may_change_role(
            standing(actor),
            standing(target),
            Role::from_name(new).unwrap(),
        );
        assert_eq!(found, expect, "{actor} gives {target} {new}");
    };
    // Whoever isn't a moderator changes nothing.
    for actor in [
        "none:visitor",
        "none:participant",
        "member:participant",
        "none:none",
    ] {
        for new in ["none", "visitor", "participant", "moderator"] {
            check(actor, "none:visitor", new, FORBIDDEN);
        }
    }
    // §8.2: kick.
    check("none:moderator", "none:visitor", "none", OK);
    check("none:moderator", "none:participant", "none", OK);
    check("none:moderator", "none:moderator", "none", NOT_ALLOWED);
    check("none:moderator", "member:participant", "none", NOT_ALLOWED);
    check("member:moderator", "member:participant", "none", OK);
    check("member:moderator", "admin:moderator", "none", NOT_ALLOWED);
    check("member:moderator", "owner:moderator", "none", NOT_ALLOWED);
    check("admin:moderator", "none:moderator", "none", OK);
    check("admin:moderator", "admin:moderator", "none", OK);
    check("admin:moderator", "owner:moderator", "none", NOT_ALLOWED);
    check("owner:moderator", "admin:moderator", "none", OK);
    check("owner:moderator", "owner:moderator", "none", OK);
    // §8.3: grant voice.
    check("none:moderator", "none:visitor", "participant", OK);
    check("none:moderator", "member:visitor", "participant", OK);
    check("none:moderator", "none:participant", "participant", OK);
    // §8.4: revoke voice.
    check("none:moderator", "none:participant", "visitor", OK);
    check(
        "none:moderator",
        "member:participant",
        "visitor",
        NOT_ALLOWED,
    );
    check(
        "member:moderator",
        "member:participant",
        "visitor",
        NOT_ALLOWED,
    );
    check("member:moderator", "none:participant", "visitor", OK);
    check("admin:moderator", "member:participant", "visitor", OK);
    check("admin:moderator", "admin:moderator", "visitor", NOT_ALLOWED);
    check("owner:moderator", "admin:moderator", "visitor", NOT_ALLOWED);
    check("owner:moderator", "owner:moderator", "visitor", NOT_ALLOWED);
    // §9.6–9.7: moderator status.
    check("none:moderator", "none:participant", "moderator", FORBIDDEN);
    check(
        "member:moderator",
        "none:participant",
        "moderator",
        FORBIDDEN,
    );
    check("admin:moderator", "none:visitor", "moderator", OK);
    check("owner:moderator", "member:participant", "moderator", OK);
    check("none:moderator", "none:moderator", "participant", FORBIDDEN);
    check("admin:moderator", "none:moderator", "participant", OK);
    check("admin:moderator", "member:moderator", "visitor", OK);
    check(
        "admin:moderator",
        "admin:moderator",
        "participant",
        NOT_ALLOWED,
    );
    check(
        "owner:moderator",
        "admin:moderator",
        "participant",
        NOT_ALLOWED,
    );
    check(
        "admin:moderator",
        "owner:moderator",
        "participant",
        NOT_ALLOWED,
    );
}

#[test]
fn changing_affiliations_5_2_2() {
    // Rows: what was; columns: outcast, none, member, admin, owner.
    let check = |actor: &str, old: &str, expect: [Result<(), Refusal>; 5]| {
        let (actor, old) = (
            Affiliation::from_name(actor).unwrap(),
            Affiliation::from_name(old).unwrap(),
        );
        for (new, expect) in Affiliation::ALL.into_iter().zip(expect) {
            assert_eq!(
                may_change_affiliation(actor, old, new),
                expect,
                "{actor:?}: {old:?} to {new:?}"
            );
        }
    };
    for old in Affiliation::ALL {
        for actor in ["outcast", "none", "member"] {
            check(actor, old.name(), [FORBIDDEN; 5]);
        }
        check("owner", old.name(), [OK; 5]);
    }
    check("admin", "outcast", [OK, OK, OK, FORBIDDEN, FORBIDDEN]);
    check("admin", "none", [OK, OK, OK, FORBIDDEN, FORBIDDEN]);
    check("admin", "member", [OK, OK, OK, FORBIDDEN, FORBIDDEN]);
    check(
        "admin",
        "admin",
        [NOT_ALLOWED, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN],
    );
    check(
        "admin",
        "owner",
        [NOT_ALLOWED, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN],
    );
}

#[test]
fn roles_after_a_change_of_affiliation_5_1_3() {
    let check = |old: &str, new: &str, expect: [&str; 3]| {
        let new = Affiliation::from_name(new).unwrap();
        let open = RoomConfig::default();
        let moderated = RoomConfig {
            moderated: true,
            ..open.clone()
        };
        let members_only = RoomConfig {
            members_only: true,
            ..open.clone()
        };
        for (config, expect) in [open, moderated, members_only].iter().zip(expect) {
            assert_eq!(
                role_after(standing(old), new, config).name(),
                expect,
                "{old} becomes {new:?}"
            );
        }
    };
    check("none:participant", "outcast", ["none"; 3]);
    check("owner:moderator", "outcast", ["none"; 3]);
    check("none:visitor", "member", ["participant"; 3]);
    check("none:moderator", "member", ["moderator"; 3]);
    check("none:visitor", "admin", ["moderator"; 3]);
    check("member:participant", "owner", ["moderator"; 3]);
    check("owner:moderator", "admin", ["moderator"; 3]);
    check("admin:moderator", "member", ["participant"; 3]);
    check(
        "admin:moderator",
        "none",
        ["participant", "visitor", "none"],
    );
    check(
        "member:participant",
        "none",
        ["participant", "participant", "none"],
    );
    check(
        "member:moderator",
        "none",
        ["moderator", "moderator", "none"],
    );
}

#[test]
fn reading_lists_9_5_10_5() {
    // Columns: may outcast, none, member, admin, owner read it?
    let check = |list: &str, non_anonymous: bool, expect: [bool; 5]| {
        let list = Affiliation::from_name(list).unwrap();
        for (asker, expect) in Affiliation::ALL.into_iter().zip(expect) {
            assert_eq!(
                may_read_list(asker, list, non_anonymous).is_ok(),
                expect,
                "{asker:?} reads {list:?}"
            );
        }
    };
    check("owner", false, [false, false, false, false, true]);
    check("admin", false, [false, false, false, false, true]);
    check("member", false, [false, false, false, true, true]);
    check("outcast", false, [false, false, false, true, true]);
    check("owner", true, [false, false, true, true, true]);
    check("admin", true, [false, false, true, true, true]);
    check("member", true, [false, false, true, true, true]);
    check("outcast", true, [false, false, false, true, true]);
}

/// Whether somebody makes a room of this name.
fn makes_room(stage: &mut Stage, who: &str, room: &str) -> bool {
    let action = RoomAction::Join {
        nick: "maker".to_owned(),
        presence: Stanza::new(StanzaKind::Presence),
        password: None,
        history: HistoryRequest::default(),
        node: 1,
        incarnation: 1,
        session: 1,
    };
    match stage.apply_to(&bare(room), &full(who), action).0 {
        Answer::Done { .. } => true,
        Answer::Refused(error) => {
            assert_eq!(error.condition, Condition::NotAllowed);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_owns_as_many_rooms_as_may_be_makes_no_more() {
    let mut stage = Stage::with_room(&[]);
    stage.pool.rooms_owned_max = 1;
    assert!(!makes_room(&mut stage, "alice/pc", "parlour@rooms.example"));
    assert_eq!(stage.state.rooms.len(), 1, "a refusal leaves no trace");
    assert!(makes_room(&mut stage, "bob/pc", "parlour@rooms.example"));
    assert!(!makes_room(&mut stage, "bob/phone", "attic@rooms.example"));
    // A room that is gone doesn't count.
    let leave = RoomAction::Leave {
        presence: Stanza::new(StanzaKind::Presence),
        of: None,
    };
    stage.apply_to(&bare("parlour@rooms.example"), &full("bob/pc"), leave);
    assert_eq!(stage.state.rooms.len(), 1);
    assert!(makes_room(&mut stage, "bob/phone", "attic@rooms.example"));
    // Nor does one that was given away, and one that was given to somebody does.
    stage.admin(
        "alice/pc",
        "<item affiliation='owner' jid='carol@example.org'/>",
    );
    stage.admin(
        "alice/pc",
        "<item affiliation='none' jid='alice@example.org'/>",
    );
    assert!(makes_room(&mut stage, "alice/pc", "cellar@rooms.example"));
    assert!(!makes_room(&mut stage, "carol/pc", "stable@rooms.example"));
}
