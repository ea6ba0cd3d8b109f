//! Blocklists: XEP-0191.

use bytes::Bytes;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza_error::Condition;
use xmpp::write::XmlWriter;

use crate::apply::Context;
use crate::command::Answer;
use crate::effect::UserEffect;
use crate::refusal::{refuse, refuse_because};
use crate::state::State;

/// How many JIDs a user may block.
const BLOCKED_MAX: usize = 1_000;

/// Whether the user's list matches this JID. XEP-0191 §5: the full JID, the bare one or the domain may be listed.
///
/// One's own resources are never blocked, whatever is listed (§4).
pub fn is_blocked(state: &State, user: &BareJid, jid: &Jid) -> bool {
    // Most users block nobody: no other key is built for them.
    if state.blocks.rows_of(user).next().is_none() {
        return false;
    }
    let bare = jid.bare();
    if bare == *user {
        return false;
    }
    let listed = |jid: Jid| state.blocks.contains(&(user.clone(), jid));
    listed(jid.clone())
        || (!jid.is_bare() && listed(bare.clone().into()))
        || (jid.local().is_some() && listed(bare.to_domain().into()))
}

/// [`crate::command::Command::Block`]. XEP-0191 §3.2.
pub(crate) fn block(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    items: Vec<Jid>,
) -> Answer {
    if items.is_empty() {
        return refuse(Condition::BadRequest);
    }
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    let mut added: Vec<Jid> = Vec::new();
    for jid in &items {
        if !added.contains(jid) && !state.blocks.contains(&(user.clone(), jid.clone())) {
            added.push(jid.clone());
        }
    }
    if state.blocks.rows_of(&user).count() + added.len() > BLOCKED_MAX {
        return refuse_because(
            Condition::ResourceConstraint,
            "The blocklist holds as many JIDs as it may.",
        );
    }
    for jid in &added {
        state.blocks.insert((user.clone(), jid.clone()), ());
    }
    let payload = list_payload("block", items.iter());
    ctx.user_effect(
        &user,
        UserEffect::BlocklistPush {
            payload,
            blocked: added,
            unblocked: Vec::new(),
        },
    );
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::Unblock`]. XEP-0191 §3.3; no items: everybody (§3.4).
pub(crate) fn unblock(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    items: Vec<Jid>,
) -> Answer {
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    let payload = list_payload("unblock", items.iter());
    let candidates = match items.is_empty() {
        true => state
            .blocks
            .rows_of(&user)
            .map(|(jid, ())| jid.clone())
            .collect(),
        false => items,
    };
    let mut removed = Vec::new();
    for jid in candidates {
        if state.blocks.remove(&(user.clone(), jid.clone())).is_some() {
            removed.push(jid);
        }
    }
    ctx.user_effect(
        &user,
        UserEffect::BlocklistPush {
            payload,
            blocked: Vec::new(),
            unblocked: removed,
        },
    );
    Answer::Done { seq: 0 }
}

/// The payload of the answer to a request for the list. XEP-0191 §3.1.
pub(crate) fn blocklist_payload(state: &State, user: &BareJid) -> Bytes {
    list_payload("blocklist", state.blocks.rows_of(user).map(|(jid, ())| jid))
}

fn list_payload<'a>(name: &str, items: impl Iterator<Item = &'a Jid>) -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns(name, ns::BLOCKING);
    for jid in items {
        out.start("item").attr("jid", jid.as_str()).end();
    }
    out.end();
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listed: &str, jid: &str, expect: bool) {
        let user = BareJid::parse("alice@localhost").unwrap();
        let mut state = State::default();
        state
            .blocks
            .insert((user.clone(), Jid::parse(listed).unwrap()), ());
        assert_eq!(
            is_blocked(&state, &user, &Jid::parse(jid).unwrap()),
            expect,
            "{listed} listed, {jid}"
        );
        let other = BareJid::parse("bob@localhost").unwrap();
        assert!(
            !is_blocked(&state, &other, &Jid::parse(jid).unwrap()),
            "another user's list"
        );
    }

    #[test]
    fn jids_match_as_in_section_5() {
        check("eve@evil.example/a", "eve@evil.example/a", true);
        check("eve@evil.example/a", "eve@evil.example/b", false);
        check("eve@evil.example/a", "eve@evil.example", false);
        check("eve@evil.example", "eve@evil.example", true);
        check("eve@evil.example", "eve@evil.example/a", true);
        check("eve@evil.example", "mallory@evil.example", false);
        check("evil.example/a", "evil.example/a", true);
        check("evil.example/a", "evil.example/b", false);
        check("evil.example/a", "eve@evil.example/a", false);
        check("evil.example", "evil.example", true);
        check("evil.example", "evil.example/a", true);
        check("evil.example", "eve@evil.example", true);
        check("evil.example", "eve@evil.example/a", true);
        check("evil.example", "eve@sub.evil.example", false);
    }

    #[test]
    fn ones_own_resources_are_never_blocked() {
        check("localhost", "alice@localhost/phone", false);
        check("alice@localhost", "alice@localhost/phone", false);
        check("localhost", "carol@localhost", true);
    }
}
