//! What the elements of a user mean, as pieces of an import.
//!
//! Messages go as they come, in batches; the rest is kept until the user ends. What waits to be delivered comes behind the
//! archive, wherever the file has it, and not at all if the archive has it, too.
//!
//! Invariants: a message has a place among the others only if the node takes it: whether it does is judged here by the node's own
//! code. However long the file is, no more is kept of a user than the constants here say; what is beyond is passed over, and said.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use web::report::imports::{ImportPiece, ImportedContact, ImportedKeys, ImportedMessage};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::scan::{Document, Element};
use xmpp::timestamp::Timestamp;

use super::NS_SCRAM;
use super::reader::Within;
use super::skipped::Skipped;
use crate::backend::importing;

/// XEP-0016.
const NS_PRIVACY: &str = "jabber:iq:privacy";

/// Messages in a piece, and their bytes as they are sent: within JSON, and well below what the control port takes.
const MESSAGES: usize = 64;
const PIECE_BYTES: usize = 640 * 1024;

/// Bytes of what a roster says of a contact, and of what the contact asked for, as they are sent.
const CONTACT_BYTES_MAX: usize = PIECE_BYTES / 2;

/// Bytes of a key or salt, in base64 (and once more).
const KEY_BYTES_MAX: usize = 1024;

/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The most bytes of JSON around the texts of a message, and of a contact.
const AROUND_MESSAGE: usize = 64;
const AROUND_CONTACT: usize = 256;

/// Contacts in a piece, and blocked addresses.
const CONTACTS: usize = 64;

/// Bytes of waiting messages that are kept until the archive has ended.
const OFFLINE_BYTES_MAX: usize = 64 << 20;

/// Bytes of all else that is kept until the user ends: contacts, blocked addresses, private elements.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Messages of the archive that are remembered until the user ends; each takes about 16 bytes.
const SEEN_MAX: usize = (64 << 20) / 16;

/// What a user has, so far.
pub(crate) struct Collector {
    user: BareJid,
    password: Option<String>,
    keys: Vec<ImportedKeys>,
    contacts: BTreeMap<String, ImportedContact>,
    blocked: BTreeSet<String>,
    private: Vec<String>,
    vcard: Option<String>,
    batch: Batch,
    /// Messages of the archive, by their hashes.
    seen: BTreeSet<u64>,
    /// Whether the archive has more than were remembered.
    forgets: bool,
    /// What waits, with its hash.
    offline: Vec<(ImportedMessage, u64)>,
    offline_bytes: usize,
    /// Of contacts, blocked addresses and private elements.
    kept_bytes: usize,
    /// No message is from later than this.
    now_ms: u64,
    /// What is passed over.
    pub(crate) skipped: Skipped,
    /// What was taken.
    pub(crate) taken: Taken,
}

/// Counts of what was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Taken {
    pub(crate) contacts: u64,
    pub(crate) messages: u64,
    pub(crate) waiting: u64,
    pub(crate) blocked: u64,
    pub(crate) private: u64,
    pub(crate) vcard: bool,
}

/// Messages that go together.
#[derive(Default)]
struct Batch {
    after: u64,
    bytes: usize,
    last_ms: u64,
    messages: Vec<ImportedMessage>,
}

impl Batch {
    /// Adds a message, with a time not before that of the last; gives what it has no more room in.
    fn push(&mut self, mut message: ImportedMessage, waiting: bool) -> Option<ImportPiece> {
        message.time_ms = message.time_ms.max(self.last_ms);
        self.last_ms = message.time_ms;
        let bytes = AROUND_MESSAGE + in_json(&message.message);
        let is_full = self.messages.len() >= MESSAGES || self.bytes + bytes > PIECE_BYTES;
        let full = if is_full { self.take(waiting) } else { None };
        self.bytes += bytes;
        self.messages.push(message);
        full
    }

    fn take(&mut self, waiting: bool) -> Option<ImportPiece> {
        if self.messages.is_empty() {
            return None;
        }
        let messages = std::mem::take(&mut self.messages);
        let after = self.after;
        self.after += messages.len() as u64;
        self.bytes = 0;
        Some(ImportPiece::Messages {
            after,
            waiting,
            messages,
        })
    }
}

impl Collector {
    /// A user begins.
    pub(crate) fn new(user: BareJid, password: Option<String>, now_ms: u64) -> Collector {
        let mut collector = Collector {
            user,
            password: None,
            keys: Vec::new(),
            contacts: BTreeMap::new(),
            blocked: BTreeSet::new(),
            private: Vec::new(),
            vcard: None,
            batch: Batch::default(),
            seen: BTreeSet::new(),
            forgets: false,
            offline: Vec::new(),
            offline_bytes: 0,
            kept_bytes: 0,
            now_ms,
            skipped: Skipped::default(),
            taken: Taken::default(),
        };
        match password.as_deref().and_then(ejabberd_keys) {
            Some(keys) => collector.keys.push(keys),
            None => collector.password = password.filter(|password| !password.is_empty()),
        }
        collector
    }

    fn skip(&mut self, line: u64, what: impl Into<String>) {
        self.skipped.note(line, what);
    }

    /// Whether something is kept that has so many bytes, within JSON; else it is passed over.
    fn keeps(&mut self, bytes: usize, what: &str, line: u64) -> bool {
        let all = self.kept_bytes.saturating_add(bytes);
        let why = if bytes > PIECE_BYTES {
            "it is too large"
        } else if all > KEPT_BYTES_MAX {
            "there is too much of this user"
        } else {
            self.kept_bytes = all;
            return true;
        };
        self.skip(line, format!("{what}: {why}"));
        false
    }

    /// Takes an element: the first child of the document's root. Gives messages that are to be sent.
    pub(crate) fn element(
        &mut self,
        within: Within,
        document: &Document,
        line: u64,
    ) -> Option<ImportPiece> {
        let wrapper = document.root();
        let element = wrapper.children().next()?;
        match (within, element.name(), element.ns()) {
            (Within::Archive, "result", _) => return self.archived(&element, line),
            (Within::Offline, "message", ns::CLIENT) => self.waits(&element, line),
            (Within::User, "query", ns::ROSTER) => self.roster(&element, line),
            (Within::User, "presence", ns::CLIENT) => self.request(&element, line),
            (Within::User, "query", ns::PRIVATE) => self.private_elements(&element, line),
            (Within::User, "vCard", ns::VCARD) => {
                let text = text_of(&element);
                if self.keeps(in_json(&text), "the vCard", line) {
                    self.vcard = Some(text);
                }
            }
            (Within::User, "blocklist", ns::BLOCKING) => {
                let items = element.children().filter(|item| item.name() == "item");
                let jids: Vec<_> = items.filter_map(|item| item.attr("jid")).collect();
                jids.iter().for_each(|jid| self.block(jid, line));
            }
            (Within::User, "query", NS_PRIVACY) => self.privacy(&element, line),
            (Within::User, "scram-credentials", NS_SCRAM) => self.scram(&element, line),
            (_, name, ns) => self.skip(line, format!("{name} of {ns}: not kept here")),
        }
        None
    }

    /// XEP-0227 §4.11.
    fn archived(&mut self, result: &Element<'_>, line: u64) -> Option<ImportPiece> {
        let forwarded = result.child("forwarded", ns::FORWARD);
        let message = forwarded.and_then(|forwarded| forwarded.child("message", ns::CLIENT));
        let (Some(forwarded), Some(message)) = (forwarded, message) else {
            self.skip(line, "a result of the archive without a message");
            return None;
        };
        let time = time_of(&forwarded);
        let (message, hash) = self.message(&message, time, line)?;
        match self.seen.len() < SEEN_MAX {
            true => _ = self.seen.insert(hash),
            false => self.forgets = true,
        }
        self.taken.messages += 1;
        self.batch.push(message, false)
    }

    /// XEP-0227 §4.4.
    fn waits(&mut self, message: &Element<'_>, line: u64) {
        let Some(message) = self.message(message, time_of(message), line) else {
            return;
        };
        let bytes = self.offline_bytes + message.0.message.len() + size_of_val(&message);
        if bytes > OFFLINE_BYTES_MAX {
            self.skip(line, "a waiting message: too many wait");
            return;
        }
        self.offline_bytes = bytes;
        // The archive may follow: whether it has the message is seen in the end.
        self.offline.push(message);
    }

    /// A message of the user, and what tells it from others.
    fn message(
        &mut self,
        message: &Element<'_>,
        time: Option<u64>,
        line: u64,
    ) -> Option<(ImportedMessage, u64)> {
        let Some(time_ms) = time else {
            self.skip(line, "a message without its time");
            return None;
        };
        if matches!(message.attr("type").as_deref(), Some("groupchat" | "error")) {
            self.skip(line, "a message of a room, or an error");
            return None;
        }
        let address = |name: &str| message.attr(name).and_then(|jid| Jid::parse(&jid).ok());
        let (from, to) = (address("from"), address("to"));
        let is_user = |jid: &Option<Jid>| jid.as_ref().is_some_and(|jid| jid.bare() == self.user);
        let (Some(_), Some(_), true) = (&from, &to, is_user(&from) || is_user(&to)) else {
            self.skip(line, "a message neither from nor to the user");
            return None;
        };
        let text = text_of(message);
        if text.len() > MESSAGE_BYTES_MAX {
            self.skip(line, "a message that is too large");
            return None;
        }
        if let Err(error) = importing::record(&self.user, &text) {
            self.skip(line, format!("a message: {error}"));
            return None;
        }
        let hash = hash_of(message);
        let time_ms = time_ms.min(self.now_ms);
        let message = ImportedMessage {
            time_ms,
            message: text,
        };
        Some((message, hash))
    }

    /// XEP-0049.
    fn private_elements(&mut self, query: &Element<'_>, line: u64) {
        for child in query.children() {
            let text = text_of(&child);
            if self.keeps(in_json(&text), "a private element", line) {
                self.private.push(text);
            }
        }
    }

    /// A contact, of which so many bytes are kept besides its address.
    fn contact(&mut self, jid: &str, bytes: usize, line: u64) -> Option<&mut ImportedContact> {
        let parsed = Jid::parse(jid).map(|jid| jid.bare());
        let address = match parsed {
            Ok(address) if address != self.user => address.to_string(),
            Ok(_) => {
                self.skip(line, "the user as a contact of its own");
                return None;
            }
            Err(error) => {
                self.skip(line, format!("a contact {jid:?}: {error}"));
                return None;
            }
        };
        let bytes = bytes + in_json(&address) + AROUND_CONTACT;
        if bytes > CONTACT_BYTES_MAX {
            self.skip(line, format!("a contact {jid:?}: it is too large"));
            return None;
        }
        if !self.keeps(bytes, "a contact", line) {
            return None;
        }
        let contact = self.contacts.entry(address.clone());
        Some(contact.or_insert_with(|| ImportedContact {
            address,
            name: None,
            groups: Vec::new(),
            subscription: "none".to_owned(),
            asks: false,
            approved: false,
            listed: false,
            request: None,
        }))
    }

    /// XEP-0227 §4.3.
    fn roster(&mut self, query: &Element<'_>, line: u64) {
        for item in query.children().filter(|item| item.name() == "item") {
            let jid = item.attr("jid").unwrap_or_default();
            let subscription = item.attr("subscription").unwrap_or("none".into());
            if !matches!(subscription.as_ref(), "none" | "to" | "from" | "both") {
                self.skip(
                    line,
                    format!("a contact with subscription {subscription:?}"),
                );
                continue;
            }
            let mut groups: Vec<String> = Vec::new();
            for group in item.children().filter(|group| group.name() == "group") {
                let group = group.text().into_owned();
                if !group.is_empty() && !groups.contains(&group) {
                    groups.push(group);
                }
            }
            let name = item.attr("name").map(|name| name.into_owned());
            let bytes = groups.iter().chain(&name).map(|text| in_json(text)).sum();
            let Some(contact) = self.contact(&jid, bytes, line) else {
                continue;
            };
            contact.name = name;
            contact.groups = groups;
            contact.subscription = subscription.into_owned();
            contact.asks = item.attr("ask").as_deref() == Some("subscribe");
            contact.approved = matches!(item.attr("approved").as_deref(), Some("true" | "1"));
            contact.listed = true;
        }
    }

    /// XEP-0227 §4.8.
    fn request(&mut self, presence: &Element<'_>, line: u64) {
        let from = presence.attr("from").unwrap_or_default();
        if presence.attr("type").as_deref() != Some("subscribe") {
            return self.skip(line, "a presence that is no request");
        }
        let text = text_of(presence);
        if let Some(contact) = self.contact(&from, in_json(&text), line) {
            contact.request = Some(text);
        }
    }

    fn block(&mut self, jid: &str, line: u64) {
        match Jid::parse(jid) {
            Ok(jid) => {
                if self.keeps(in_json(jid.as_str()), "a blocked address", line) {
                    self.blocked.insert(jid.to_string());
                }
            }
            Err(error) => self.skip(line, format!("a blocked {jid:?}: {error}")),
        }
    }

    /// XEP-0227 §4.7: of the list that is in force, whom it denies everything. The rest has nothing like it here.
    fn privacy(&mut self, query: &Element<'_>, line: u64) {
        let default = query.child("default", NS_PRIVACY);
        let default = default.and_then(|default| default.attr("name"));
        for list in query.children().filter(|list| list.name() == "list") {
            if list.attr("name") != default || default.is_none() {
                self.skip(line, "a privacy list that is not in force");
                continue;
            }
            for item in list.children().filter(|item| item.name() == "item") {
                let is_of_jid = item.attr("type").as_deref() == Some("jid");
                let denies = item.attr("action").as_deref() == Some("deny");
                match item.attr("value") {
                    Some(jid) if is_of_jid && denies && item.children().next().is_none() => {
                        self.block(&jid, line);
                    }
                    _ => self.skip(line, "a rule of a privacy list that is no block"),
                }
            }
        }
    }

    /// XEP-0227 §4.2.
    fn scram(&mut self, element: &Element<'_>, line: u64) {
        let mechanism = element.attr("mechanism").unwrap_or_default().into_owned();
        let known = ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"];
        let text = |name: &str| {
            let child = element.child(name, NS_SCRAM)?;
            let text = child.text().trim().to_owned();
            (text.len() <= KEY_BYTES_MAX).then_some(text)
        };
        let iterations = text("iter-count").and_then(|count| count.parse().ok());
        match (
            iterations,
            text("salt"),
            text("stored-key"),
            text("server-key"),
        ) {
            (Some(iterations), Some(salt), Some(stored_key), Some(server_key))
                if known.contains(&mechanism.as_str())
                    && self.keys.iter().all(|keys| keys.mechanism != mechanism) =>
            {
                self.keys.push(ImportedKeys {
                    mechanism,
                    salt,
                    iterations,
                    stored_key,
                    server_key,
                });
            }
            _ => self.skip(line, format!("credentials for {mechanism:?}")),
        }
    }

    /// The user ends: what is still to be sent, in this order. `None` at the end: without credentials nobody can log in.
    pub(crate) fn finish(&mut self, line: u64) -> Vec<ImportPiece> {
        let mut pieces = Vec::new();
        pieces.extend(self.batch.take(false));
        let offline = std::mem::take(&mut self.offline);
        if self.forgets && !offline.is_empty() {
            let what = "the archive is too long to see which of its messages wait: some may be there twice";
            self.skip(line, what);
        }
        for (message, hash) in offline {
            if self.seen.contains(&hash) {
                continue;
            }
            self.taken.waiting += 1;
            pieces.extend(self.batch.push(message, true));
        }
        pieces.extend(self.batch.take(true));
        let contacts = std::mem::take(&mut self.contacts);
        self.taken.contacts = contacts.len() as u64;
        pieces.extend(contact_pieces(contacts.into_values()));
        let blocked: Vec<String> = std::mem::take(&mut self.blocked).into_iter().collect();
        self.taken.blocked = blocked.len() as u64;
        let chunks = blocked.chunks(CONTACTS);
        pieces.extend(chunks.map(|chunk| ImportPiece::Blocked {
            addresses: chunk.to_vec(),
        }));
        let private = std::mem::take(&mut self.private);
        self.taken.private = private.len() as u64;
        let private = private.into_iter();
        pieces.extend(private.map(|element| ImportPiece::Private { element }));
        self.taken.vcard = self.vcard.is_some();
        let vcard = self.vcard.take();
        pieces.extend(vcard.map(|element| ImportPiece::Vcard { element }));
        let password = self.password.take();
        let scram = std::mem::take(&mut self.keys);
        if password.is_none() && scram.is_empty() {
            self.skip(
                line,
                "the credentials: there are none, so nobody can log in yet",
            );
        } else {
            pieces.push(ImportPiece::Finish { password, scram });
        }
        pieces
    }
}

/// Contacts in pieces, none of which is too large.
fn contact_pieces(contacts: impl Iterator<Item = ImportedContact>) -> Vec<ImportPiece> {
    let (mut pieces, mut room) = (Vec::<Vec<ImportedContact>>::new(), 0);
    for contact in contacts {
        let texts = contact.groups.iter().chain(&contact.name);
        let texts = texts.chain(&contact.request).chain([&contact.address]);
        let bytes = AROUND_CONTACT + texts.map(|text| in_json(text)).sum::<usize>();
        match pieces.last_mut() {
            Some(piece) if piece.len() < CONTACTS && bytes <= room => {
                room -= bytes;
                piece.push(contact);
            }
            _ => {
                room = PIECE_BYTES.saturating_sub(bytes);
                pieces.push(vec![contact]);
            }
        }
    }
    let pieces = pieces.into_iter();
    pieces
        .map(|contacts| ImportPiece::Contacts { contacts })
        .collect()
}

/// The most bytes that a text has within JSON (RFC 8259 §7), with the marks around it.
fn in_json(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | 8..=10 | 12 | 13 => 2,
        0..0x20 => 6,
        _ => 1,
    });
    "\"\",".len() + bytes.sum::<usize>()
}

/// An element as it stands alone within `jabber:client`.
fn text_of(element: &Element<'_>) -> String {
    let mut out = Vec::new();
    element.write_canonical(&mut out, ns::CLIENT);
    String::from_utf8_lossy(&out).into_owned()
}

/// XEP-0203: the time of the first delay in an element.
fn time_of(element: &Element<'_>) -> Option<u64> {
    let delay = element.child("delay", ns::DELAY)?;
    let stamp = Timestamp::parse(&delay.attr("stamp")?).ok()?;
    u64::try_from(stamp.as_millis()).ok()
}

/// What tells a message from others: who to whom, its id and what it says.
fn hash_of(message: &Element<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in ["from", "to"] {
        let jid = message.attr(name).and_then(|jid| Jid::parse(&jid).ok());
        jid.map(|jid| jid.bare().to_string()).hash(&mut hasher);
    }
    message.attr("id").hash(&mut hasher);
    let body = message.child("body", ns::CLIENT);
    body.map(|body| body.text().into_owned()).hash(&mut hasher);
    hasher.finish()
}

/// ejabberd's way to put SCRAM keys where the password stands: `scram:`, then StoredKey, ServerKey, salt and iterations with
/// commas, in front of them the hash function unless it is SHA-1.
fn ejabberd_keys(password: &str) -> Option<ImportedKeys> {
    let mut fields: Vec<&str> = password.strip_prefix("scram:")?.split(',').collect();
    let mechanism = match (fields.len(), fields.first()) {
        (4, _) => "SCRAM-SHA-1",
        (5, Some(&"sha1" | &"sha")) => "SCRAM-SHA-1",
        (5, Some(&"sha256")) => "SCRAM-SHA-256",
        (5, Some(&"sha512")) => "SCRAM-SHA-512",
        _ => return None,
    };
    if fields.len() == 5 {
        fields.remove(0);
    }
    let [stored_key, server_key, salt, iterations] = fields[..] else {
        return None;
    };
    Some(ImportedKeys {
        mechanism: mechanism.to_owned(),
        salt: salt.to_owned(),
        iterations: iterations.parse().ok()?,
        stored_key: stored_key.to_owned(),
        server_key: server_key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pie::reader::{Piece, Reader};

    const NOW: u64 = 2_000_000_000_000;

    /// The pieces of the one user in a file, as JSON, and what was passed over.
    fn pieces(user: &str, attributes: &str) -> (Vec<serde_json::Value>, Vec<String>) {
        let text = format!(
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='a.b'><user name='me'{attributes}>{user}</user></host></server-data>"
        );
        let mut reader = Reader::new(text.as_bytes());
        let (mut collector, mut sent) = (None::<Collector>, Vec::new());
        loop {
            match reader.next().unwrap() {
                Piece::User { password, .. } => {
                    let user = BareJid::parse("me@a.b").unwrap();
                    collector = Some(Collector::new(user, password, NOW));
                }
                Piece::Element {
                    within,
                    element,
                    line,
                } => sent.extend(collector.as_mut().unwrap().element(within, &element, line)),
                Piece::UserEnd => sent.extend(collector.as_mut().unwrap().finish(9)),
                Piece::Skipped { .. } => {}
                Piece::End => break,
            }
        }
        let sent = sent
            .iter()
            .map(|piece| serde_json::to_value(piece).unwrap());
        let skipped = collector.unwrap().skipped.lines.into_iter();
        (sent.collect(), skipped.map(|(_, what)| what).collect())
    }

    #[test]
    fn all_that_a_user_has_becomes_pieces() {
        let (pieces, skipped) = pieces(
            "<query xmlns='jabber:iq:roster'><item jid='x@y' name='X' subscription='both' ask='subscribe'><group>G</group><group>G</group></item>\
             <item jid='me@a.b'/><item jid='q@y' subscription='remove'/></query>\
             <presence xmlns='jabber:client' type='subscribe' from='z@y/r'><status>hi</status></presence>\
             <offline-messages><message xmlns='jabber:client' from='x@y/r' to='me@a.b' id='2'><body>waits</body>\
             <delay xmlns='urn:xmpp:delay' stamp='2020-01-01T00:00:00Z'/></message>\
             <message xmlns='jabber:client' from='x@y/r' to='me@a.b' id='1'><body>kept</body>\
             <delay xmlns='urn:xmpp:delay' stamp='2020-01-01T00:00:00Z'/></message></offline-messages>\
             <query xmlns='jabber:iq:private'><a xmlns='urn:a'/><b xmlns='urn:b'>c</b></query>\
             <vCard xmlns='vcard-temp'><FN>Me</FN></vCard>\
             <query xmlns='jabber:iq:privacy'><default name='d'/><list name='d'><item type='jid' value='evil@y' action='deny' order='1'/>\
             <item action='allow' order='2'/></list></query>\
             <blocklist xmlns='urn:xmpp:blocking'><item jid='bad@y'/></blocklist>\
             <pubsub xmlns='http://jabber.org/protocol/pubsub'/>\
             <archive xmlns='urn:xmpp:pie:0#mam'><result xmlns='urn:xmpp:mam:2' id='1'><forwarded xmlns='urn:xmpp:forward:0'>\
             <delay xmlns='urn:xmpp:delay' stamp='2021-01-01T00:00:00.5Z'/><message xmlns='jabber:client' from='x@y/r' to='me@a.b' id='1'>\
             <body>kept</body></message></forwarded></result></archive>",
            " password='secret'",
        );
        let names: Vec<&str> = pieces
            .iter()
            .map(|piece| piece["piece"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "messages", "messages", "contacts", "blocked", "private", "private", "vcard",
                "finish"
            ]
        );
        assert_eq!(pieces[0]["messages"][0]["time_ms"], 1_609_459_200_500_u64);
        assert_eq!(pieces[0]["waiting"], false);
        // In the order of the archive, and once.
        assert_eq!(pieces[1]["after"], 1);
        assert_eq!(pieces[1]["waiting"], true);
        assert_eq!(pieces[1]["messages"].as_array().unwrap().len(), 1);
        assert_eq!(pieces[1]["messages"][0]["time_ms"], 1_609_459_200_500_u64);
        assert_eq!(pieces[2]["contacts"][0]["groups"], serde_json::json!(["G"]));
        assert_eq!(pieces[2]["contacts"][1]["listed"], false);
        assert_eq!(
            pieces[3]["addresses"],
            serde_json::json!(["bad@y", "evil@y"])
        );
        assert_eq!(pieces[7]["password"], "secret");
        assert_eq!(
            skipped,
            [
                "the user as a contact of its own",
                "a contact with subscription \"remove\"",
                "a rule of a privacy list that is no block",
                "pubsub of http://jabber.org/protocol/pubsub: not kept here",
            ]
        );
    }

    #[test]
    fn credentials_are_found_where_servers_put_them() {
        let keys = |pieces: &[serde_json::Value]| pieces[0]["scram"].clone();
        let (prosody, _) = pieces(
            "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>10000</iter-count>\
             <salt>c2FsdA==</salt><server-key>c2VydmVy</server-key><stored-key>c3RvcmVk</stored-key></scram-credentials>",
            "",
        );
        let expected = serde_json::json!([{
            "mechanism": "SCRAM-SHA-1", "salt": "c2FsdA==", "iterations": 10_000, "stored_key": "c3RvcmVk", "server_key": "c2VydmVy",
        }]);
        assert_eq!(keys(&prosody), expected);
        let (ejabberd, _) = pieces("", " password='scram:c3RvcmVk,c2VydmVy,c2FsdA==,10000'");
        assert_eq!(keys(&ejabberd), expected);
        let (none, skipped) = pieces("", "");
        assert_eq!((none.len(), skipped.len()), (0, 1));
    }

    fn archived(id: &str, body: &str) -> String {
        format!(
            "<result xmlns='urn:xmpp:mam:2'><forwarded xmlns='urn:xmpp:forward:0'>\
             <delay xmlns='urn:xmpp:delay' stamp='2021-01-01T00:00:00Z'/>\
             <message xmlns='jabber:client' from='x@y/r' to='me@a.b' id='{id}'>{body}</message></forwarded></result>"
        )
    }

    fn of_archive(results: &str) -> String {
        format!("<archive xmlns='urn:xmpp:pie:0#mam'>{results}</archive>")
    }

    /// The ids of all messages, and that each piece is behind those before it and not too large.
    fn ids(pieces: &[serde_json::Value]) -> Vec<String> {
        let mut ids = Vec::new();
        for piece in pieces.iter().filter(|piece| piece["piece"] == "messages") {
            assert_eq!(piece["after"], ids.len());
            let bytes = serde_json::to_string(piece).unwrap().len();
            assert!(bytes <= PIECE_BYTES + 1024, "{bytes}");
            for message in piece["messages"].as_array().unwrap() {
                let text = message["message"].as_str().unwrap();
                let id = text.split_once("id='").unwrap().1;
                ids.push(id.split_once('\'').unwrap().0.to_owned());
            }
        }
        ids
    }

    /// What the node would refuse has no place among the others, so nothing behind it is lost.
    #[test]
    fn a_bad_message_is_passed_over_alone() {
        let numbers: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let mut results: Vec<String> = numbers
            .iter()
            .map(|number| archived(number, "<body>hi</body>"))
            .collect();
        results.insert(70, archived("large", &"x".repeat(MESSAGE_BYTES_MAX)));
        // Legal, and over what a client may send in this form.
        let siblings = "<p:a xmlns:p='urn:p'/>".repeat(40);
        results.insert(100, archived("siblings", &siblings));
        let (pieces, skipped) = pieces(&of_archive(&results.concat()), " password='x'");
        let mut expected = numbers.clone();
        expected.insert(99, "siblings".to_owned());
        assert_eq!(ids(&pieces), expected);
        assert_eq!(skipped, ["a message that is too large"]);
        assert_eq!(pieces.last().unwrap()["piece"], "finish");
    }

    #[test]
    fn pieces_are_bounded_as_they_are_sent() {
        let body = format!("<body>{}</body>", "\"\\".repeat(100_000));
        let results: Vec<String> = (0..5).map(|id| archived(&id.to_string(), &body)).collect();
        let contact = |number: u32| {
            let name = "\\".repeat(150_000);
            format!("<item jid='c{number}@y' name='{name}'/>")
        };
        let roster: String = (0..5).map(contact).collect();
        let rest = format!(
            "<query xmlns='jabber:iq:roster'>{roster}<item jid='large@y' name='{0}'/></query>\
             <vCard xmlns='vcard-temp'>{0}{0}</vCard>",
            "\\".repeat(200_000)
        );
        let user = of_archive(&results.concat()) + &rest;
        let (pieces, skipped) = pieces(&user, " password='x'");
        assert_eq!(ids(&pieces).len(), 5);
        let of = |kind: &str| -> Vec<usize> {
            let pieces = pieces.iter().filter(|piece| piece["piece"] == kind);
            let bytes = pieces.map(|piece| serde_json::to_string(piece).unwrap().len());
            bytes.collect()
        };
        assert_eq!((of("messages").len(), of("contacts").len()), (5, 3));
        assert!(
            of("contacts")
                .iter()
                .all(|bytes| *bytes < PIECE_BYTES + 1024)
        );
        let expected = [
            "a contact \"large@y\": it is too large",
            "the vCard: it is too large",
        ];
        assert_eq!(skipped, expected);
    }

    #[test]
    fn no_more_is_kept_of_a_user_than_fits() {
        let mut collector = Collector::new(BareJid::parse("me@a.b").unwrap(), None, NOW);
        let element = format!("<a xmlns='urn:a'>{}</a>", "x".repeat(500_000));
        let text = format!("<w><query xmlns='jabber:iq:private'>{element}</query></w>");
        let document = Document::parse_in(text.into(), &xmpp::scan::Limits::OWN, "").unwrap();
        for line in 0..140 {
            collector.element(Within::User, &document, line);
        }
        let kept: usize = collector.private.iter().map(String::len).sum();
        assert!(
            kept <= KEPT_BYTES_MAX && kept > KEPT_BYTES_MAX - 1_000_000,
            "{kept}"
        );
        assert_eq!(
            collector.private.len() as u64 + collector.skipped.count(),
            140
        );
        let (_, said) = collector.skipped.lines.first().unwrap();
        assert_eq!(said, "a private element: there is too much of this user");
        let contact = "<w><query xmlns='jabber:iq:roster'><item jid='x@y'/></query></w>";
        let document = Document::parse_in(contact.into(), &xmpp::scan::Limits::OWN, "").unwrap();
        let before = collector.skipped.count();
        for line in 0..3_000 {
            collector.element(Within::User, &document, line);
        }
        assert!(collector.skipped.count() > before && collector.kept_bytes <= KEPT_BYTES_MAX);
    }
}
