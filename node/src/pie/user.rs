//! What the elements of a user mean, as pieces of an import.
//!
//! Messages go as they come, in batches; the rest is kept until the user ends. What waits to be delivered comes behind the
//! archive, wherever the file has it, and not at all if the archive has it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use web::report::imports::{ImportPiece, ImportedContact, ImportedKeys, ImportedMessage};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::scan::{Document, Element};
use xmpp::timestamp::Timestamp;

use super::NS_SCRAM;
use super::reader::Within;

/// XEP-0016.
const NS_PRIVACY: &str = "jabber:iq:privacy";

/// Messages in a piece, and their bytes.
const MESSAGES: usize = 64;
const MESSAGE_BYTES: usize = 256 * 1024;

/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Contacts in a piece, and blocked addresses.
const CONTACTS: usize = 64;

/// Bytes of waiting messages that are kept until the archive has ended.
const OFFLINE_BYTES_MAX: usize = 64 << 20;

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
    offline: Vec<ImportedMessage>,
    offline_bytes: usize,
    /// No message is from later than this.
    now_ms: u64,
    /// What is passed over, and in which line it stands.
    pub(crate) skipped: Vec<(u64, String)>,
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
    /// Adds a message, with a time not before that of the last; gives what is full.
    fn push(&mut self, mut message: ImportedMessage, waiting: bool) -> Option<ImportPiece> {
        message.time_ms = message.time_ms.max(self.last_ms);
        self.last_ms = message.time_ms;
        self.bytes += message.message.len();
        self.messages.push(message);
        let full = self.messages.len() >= MESSAGES || self.bytes >= MESSAGE_BYTES;
        if full { self.take(waiting) } else { None }
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
            offline: Vec::new(),
            offline_bytes: 0,
            now_ms,
            skipped: Vec::new(),
            taken: Taken::default(),
        };
        match password.as_deref().and_then(ejabberd_keys) {
            Some(keys) => collector.keys.push(keys),
            None => collector.password = password.filter(|password| !password.is_empty()),
        }
        collector
    }

    fn skip(&mut self, line: u64, what: impl Into<String>) {
        self.skipped.push((line, what.into()));
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
            (Within::User, "query", ns::PRIVATE) => {
                self.private
                    .extend(element.children().map(|child| text_of(&child)));
            }
            (Within::User, "vCard", ns::VCARD) => self.vcard = Some(text_of(&element)),
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
        self.seen.insert(hash);
        self.taken.messages += 1;
        self.batch.push(message, false)
    }

    /// XEP-0227 §4.4.
    fn waits(&mut self, message: &Element<'_>, line: u64) {
        let Some((message, _)) = self.message(message, time_of(message), line) else {
            return;
        };
        self.offline_bytes += message.message.len();
        if self.offline_bytes > OFFLINE_BYTES_MAX {
            self.skip(line, "a waiting message: too many wait");
            return;
        }
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
        let hash = hash_of(message);
        let time_ms = time_ms.min(self.now_ms);
        let message = ImportedMessage {
            time_ms,
            message: text,
        };
        Some((message, hash))
    }

    fn contact(&mut self, jid: &str, line: u64) -> Option<&mut ImportedContact> {
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
            let Some(contact) = self.contact(&jid, line) else {
                continue;
            };
            contact.name = item.attr("name").map(|name| name.into_owned());
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
        if let Some(contact) = self.contact(&from, line) {
            contact.request = Some(text);
        }
    }

    fn block(&mut self, jid: &str, line: u64) {
        match Jid::parse(jid) {
            Ok(jid) => drop(self.blocked.insert(jid.to_string())),
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
            Some(child.text().trim().to_owned())
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
        for message in std::mem::take(&mut self.offline) {
            let document = Document::parse_in(
                message.message.clone().into(),
                &xmpp::scan::Limits::AFTER_AUTH,
                ns::CLIENT,
            );
            let is_archived =
                document.is_ok_and(|document| self.seen.contains(&hash_of(&document.root())));
            if is_archived {
                continue;
            }
            self.taken.waiting += 1;
            pieces.extend(self.batch.push(message, true));
        }
        pieces.extend(self.batch.take(true));
        let contacts: Vec<ImportedContact> =
            std::mem::take(&mut self.contacts).into_values().collect();
        self.taken.contacts = contacts.len() as u64;
        let chunks = contacts.chunks(CONTACTS);
        pieces.extend(chunks.map(|chunk| ImportPiece::Contacts {
            contacts: chunk.to_vec(),
        }));
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
        let skipped = collector.unwrap().skipped.into_iter();
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
}
