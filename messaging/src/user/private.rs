//! Private elements (XEP-0049) and vCards (XEP-0054): stored as they come, within limits.

use bytes::Bytes;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza_error::Condition;
use xmpp::write::XmlWriter;

use crate::command::Answer;
use crate::refusal::{refuse, refuse_because};
use crate::state::State;

/// Private elements a user may store.
const ELEMENTS_MAX: usize = 100;

/// Bytes of private elements that a user may store.
const ELEMENTS_BYTES_MAX: usize = 1024 * 1024;

/// Bytes in a vCard: a photo of 100 KB as base64, and the rest.
const VCARD_BYTES_MAX: usize = 160 * 1024;

/// [`crate::command::Command::SetPrivate`].
pub(crate) fn set_private(
    state: &mut State,
    user: BareJid,
    name: String,
    element: Bytes,
) -> Answer {
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    // XEP-0049 §2.3: an element needs a namespace of its own; these belong to what wraps it.
    let owned = ["", ns::CLIENT, ns::PRIVATE];
    let namespace = name
        .strip_prefix('{')
        .and_then(|rest| rest.split_once('}'))
        .map(|(namespace, _)| namespace);
    if namespace.is_none_or(|namespace| owned.contains(&namespace)) {
        return refuse(Condition::NotAcceptable);
    }
    let (mut elements, mut bytes) = (1, name.len() + element.len());
    for (other, stored) in state.private.rows_of(&user) {
        if *other != name {
            elements += 1;
            bytes += other.len() + stored.len();
        }
    }
    if elements > ELEMENTS_MAX || bytes > ELEMENTS_BYTES_MAX {
        return refuse_because(
            Condition::ResourceConstraint,
            "The private storage is full.",
        );
    }
    state.private.insert((user, name), element);
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::SetVcard`].
pub(crate) fn set_vcard(state: &mut State, user: BareJid, element: Bytes) -> Answer {
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    if element.len() > VCARD_BYTES_MAX {
        return refuse_because(Condition::NotAcceptable, "The vCard is too large.");
    }
    state.vcards.insert(user, element);
    Answer::Done { seq: 0 }
}

/// The payload of the answer to a request for a private element; `empty` is what was asked for. XEP-0049 §2.2.
pub(crate) fn private_payload(state: &State, user: &BareJid, name: &str, empty: &Bytes) -> Bytes {
    let stored = state.private.get(&(user.clone(), name.to_owned()));
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns("query", ns::PRIVATE)
        .raw(stored.unwrap_or(empty))
        .end();
    out.finish()
}
