//! A session's first presence.

use expect_test::expect;

use super::conversations::{Stage, check};
use super::*;
use crate::effect::UserEffect;

/// A node and an owner that died together right after a login left a ghost: the next owner knew nothing of the session.
#[test]
fn nobody_is_shown_a_session_before_the_log_has_it() {
    let mut stage = Stage::new();
    let home = key(1, 1, "home");
    stage.bind(&home);
    let comes = |key: &SessionKey, payload| SessionEvent::Presence {
        key: key.clone(),
        stanza: presence("", payload),
    };
    let first = stage.user.event(comes(&home, ""), &stage.contacts);
    check(
        &first,
        expect![[r#"
            note +home
            home <- presence from romeo/home
            probe nurse
        "#]],
    );
    // Nor by a change, to another session, or to who asks.
    let busy = comes(&home, "<show>dnd</show>");
    check(
        &stage.user.event(busy, &stage.contacts),
        expect![[r#"
        home <- presence from romeo/home
    "#]],
    );
    let juliet = bare("juliet@capulet.lit");
    check(&stage.user.probe(&juliet, &stage.contacts), expect![""]);
    let work = key(2, 2, "work");
    stage.bind(&work);
    check(
        &stage.user.event(comes(&work, ""), &stage.contacts),
        expect![[r#"
            note +work
            work <- presence from romeo/work
            probe nurse
        "#]],
    );
    let committed = UserEffect::Noted(home.jid.clone());
    check(
        &stage.user.once(committed, &stage.contacts),
        expect![[r#"
            broadcast juliet presence from romeo/home
            work <- presence from romeo/home
        "#]],
    );
    // Who goes before it is committed is not shown any more.
    check(
        &stage.user.event(
            SessionEvent::Presence {
                key: work.clone(),
                stanza: presence("unavailable", ""),
            },
            &stage.contacts,
        ),
        expect![[r#"
            work <- presence unavailable from romeo/work
            broadcast juliet presence unavailable from romeo/work
            home <- presence unavailable from romeo/work
            note -work
        "#]],
    );
    let committed = UserEffect::Noted(work.jid);
    check(&stage.user.once(committed, &stage.contacts), expect![""]);
}
