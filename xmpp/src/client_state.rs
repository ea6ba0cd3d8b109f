//! XEP-0352: what a client that nobody looks at need not be woken for.
//!
//! Presence and chat states wait, of each sender the newest; everything else takes along what waited, so that nothing is
//! overtaken by what was sent after it. What a room says of the client's own stay does not wait.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::ns;
use crate::scan::{Document, Element, Limits};
use crate::stanza::{PresenceType, Stanza, StanzaKind};

/// Stanzas that wait at most, and their bytes: then all of them go.
const HELD_MAX: usize = 256;
const HELD_BYTES_MAX: usize = 64 * 1024;

/// What waits for a client's attention.
#[derive(Default)]
pub struct Quiet {
    next: u64,
    held: BTreeMap<u64, (Subject, Bytes)>,
    newest: HashMap<Subject, u64>,
    bytes: usize,
}

/// Of what the newest word counts.
type Subject = (StanzaKind, String);

/// What becomes of a stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It waits.
    Held,
    /// It goes at once, behind all that waited.
    Passes(Bytes),
}

impl Quiet {
    /// A stanza for the client.
    pub fn offer(&mut self, stanza: Bytes) -> Offer {
        let Some(subject) = subject(&stanza) else {
            return Offer::Passes(stanza);
        };
        if let Some(older) = self.newest.remove(&subject)
            && let Some((_, older)) = self.held.remove(&older)
        {
            self.bytes -= older.len();
        }
        if self.held.len() >= HELD_MAX || self.bytes + stanza.len() > HELD_BYTES_MAX {
            return Offer::Passes(stanza);
        }
        self.bytes += stanza.len();
        self.newest.insert(subject.clone(), self.next);
        self.held.insert(self.next, (subject, stanza));
        self.next += 1;
        Offer::Held
    }

    /// Everything that waited, in the order in which it came.
    pub fn release(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        self.bytes = 0;
        self.newest = HashMap::new();
        let held = std::mem::take(&mut self.held);
        held.into_values().map(|(_, stanza)| stanza)
    }
}

/// What a stanza that can wait is about; `None`: it can't.
fn subject(stanza: &Bytes) -> Option<Subject> {
    if stanza.starts_with(b"<iq") {
        return None;
    }
    let document = Document::parse_fragment(stanza.clone(), &Limits::OWN).ok()?;
    let element = document.roots().next()?;
    let stanza = Stanza::from_element(&element).ok()?;
    let can_wait = match stanza.kind {
        StanzaKind::Presence => {
            let said = stanza.presence_type();
            matches!(said, PresenceType::Available | PresenceType::Unavailable)
                && !element.children().any(has_status)
        }
        StanzaKind::Message => is_chat_state(&element),
        StanzaKind::Iq => false,
    };
    let from = stanza.from.filter(|_| can_wait)?;
    Some((stanza.kind, from.as_str().to_owned()))
}

/// A room says more than who is there: of the client's own stay, or why somebody went.
fn has_status(element: Element<'_>) -> bool {
    element.is("x", ns::MUC_USER) && element.child("status", ns::MUC_USER).is_some()
}

/// XEP-0085 §5.5: a chat state and nothing else that a person would read.
fn is_chat_state(message: &Element<'_>) -> bool {
    let mut state = false;
    for child in message.children() {
        match child.ns() {
            ns::CHAT_STATES => state = true,
            ns::HINTS | ns::OCCUPANT_ID | ns::STANZA_ID => {}
            ns::CLIENT if child.name() == "thread" => {}
            ns::MUC_USER if child.is_empty() => {}
            _ => return false,
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the stanzas wait, and what is released in the end.
    fn check(stanzas: &[(&str, bool)], expect: &[&str]) {
        let mut quiet = Quiet::default();
        for (stanza, waits) in stanzas {
            let offer = quiet.offer(Bytes::copy_from_slice(stanza.as_bytes()));
            assert_eq!(offer == Offer::Held, *waits, "{stanza}");
        }
        let released: Vec<Bytes> = quiet.release().collect();
        assert_eq!(released, expect);
        assert_eq!(quiet.release().count(), 0);
        assert_eq!(quiet.bytes, 0);
    }

    const AWAY: &str = "<presence from='bob@localhost/pc'><show>away</show></presence>";
    const BACK: &str = "<presence from='bob@localhost/pc'/>";
    const GONE: &str = "<presence from='carol@localhost/pc' type='unavailable'/>";
    const TYPING: &str = "<message from='bob@localhost/pc' type='chat'>\
        <composing xmlns='http://jabber.org/protocol/chatstates'/></message>";

    #[test]
    fn of_each_sender_the_newest_waits() {
        check(&[], &[]);
        check(
            &[(AWAY, true), (GONE, true), (BACK, true), (TYPING, true)],
            &[GONE, BACK, TYPING],
        );
    }

    #[test]
    fn what_a_person_or_a_client_waits_for_passes() {
        let x = "http://jabber.org/protocol/muc#user";
        let own =
            format!("<presence from='r@c/n'><x xmlns='{x}'><status code='110'/></x></presence>");
        let other =
            format!("<presence from='r@c/n'><x xmlns='{x}'><item role='none'/></x></presence>");
        let with_body = "<message from='bob@localhost/pc' type='chat'><body>hi</body>\
            <active xmlns='http://jabber.org/protocol/chatstates'/></message>";
        let receipt = "<message from='bob@localhost/pc'>\
            <received xmlns='urn:xmpp:receipts' id='1'/></message>";
        check(
            &[
                (with_body, false),
                (receipt, false),
                ("<message from='bob@localhost/pc'/>", false),
                ("<iq from='localhost' type='result' id='1'/>", false),
                ("<presence from='bob@localhost' type='subscribe'/>", false),
                ("<presence from='bob@localhost/pc' type='error'/>", false),
                (&own, false),
                (&other, true),
            ],
            &[&other],
        );
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut quiet = Quiet::default();
        let of = |n: usize, show: &str| {
            Bytes::from(format!(
                "<presence from='u{n}@localhost/pc'>{show}</presence>"
            ))
        };
        for n in 0..HELD_MAX {
            assert_eq!(quiet.offer(of(n, "")), Offer::Held);
        }
        assert_eq!(quiet.offer(of(7, "<show>dnd</show>")), Offer::Held);
        let more = of(HELD_MAX, "");
        assert_eq!(quiet.offer(more.clone()), Offer::Passes(more));
        assert_eq!(quiet.release().count(), HELD_MAX);
        let large = of(
            1,
            &format!("<status>{}</status>", "x".repeat(HELD_BYTES_MAX)),
        );
        assert_eq!(quiet.offer(large.clone()), Offer::Passes(large));
    }
}
