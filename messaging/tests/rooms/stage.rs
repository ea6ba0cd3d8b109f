//! A stage for conversations: clients send stanzas, the room's partition applies them, and what everybody receives is
//! written down in short lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use messaging::apply::{Context, PoolConstants, Surroundings, apply};
use messaging::archive::ArchiveRow;
use messaging::command::{Answer, Batch, Command, Entry, Proposal};
use messaging::effect::Effect;
use messaging::link_record::LinkOrigin;
use messaging::query::Reply;
use messaging::room::command::{RoomAction, RoomCommand};
use messaging::room::effect::{RoomEffect, Welcome};
use messaging::room::parse::{RoomRequest, Sender, parse};
use messaging::room::passing::pass;
use messaging::room::query::answer;
use messaging::room::render::{Renderer, Rendering, history_rows_max};
use messaging::slot::{PartitionId, PartitionTable};
use messaging::state::State;
use messaging::table::RowCodec;
use xmpp::jid::{BareJid, FullJid};
use xmpp::ns;
use xmpp::scan::{Document, Element, Limits};
use xmpp::stanza::Stanza;
use xmpp::stanza_error::{Condition, StanzaError};

pub(crate) const ROOM: &str = "den@rooms.example";

/// Rows as JSON: enough to compare and to load again.
pub(crate) struct Json;

impl RowCodec for Json {
    type Error = serde_json::Error;

    fn encode<T: serde::Serialize>(&self, row: &T) -> Vec<u8> {
        serde_json::to_vec(row).unwrap()
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Self::Error> {
        serde_json::from_slice(bytes)
    }
}

/// Every row of a state, encoded.
pub(crate) fn rows(state: &State) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    state.visit(&Json, &mut |table, key, value| {
        rows.push((table, key.to_vec(), value.to_vec()))
    });
    rows
}

pub(crate) fn bare(text: &str) -> BareJid {
    BareJid::parse(text).unwrap()
}

/// `alice/pc` is `alice@example.org/pc`.
pub(crate) fn full(who: &str) -> FullJid {
    let (user, resource) = who.split_once('/').unwrap();
    FullJid::parse(&format!("{user}@example.org/{resource}")).unwrap()
}

pub(crate) fn pool() -> PoolConstants {
    PoolConstants {
        id_key: [7; 16],
        domain: "example.org".into(),
        rooms_domain: "rooms.example".into(),
        contacts_max: 250,
        occupants_max: 1_000,
        rooms_owned_max: 100,
    }
}

/// The partition of one room, and its archive.
pub(crate) struct Stage {
    pub(crate) state: State,
    pub(crate) renderer: Renderer,
    pub(crate) archive: BTreeMap<u64, Arc<ArchiveRow>>,
    pub(crate) pool: PoolConstants,
    /// Where each session is held: node and incarnation.
    pub(crate) homes: BTreeMap<String, (u64, u64)>,
    table: PartitionTable,
    index: u64,
    pub(crate) time_ms: u64,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage {
            state: State::default(),
            renderer: Renderer::new(&[7; 16]),
            archive: BTreeMap::new(),
            pool: pool(),
            homes: BTreeMap::new(),
            table: PartitionTable::even(16),
            index: 10,
            time_ms: 1_700_000_000_000,
        }
    }
}

impl Stage {
    /// A room that alice has made and unlocked; nothing of it is written down.
    pub(crate) fn with_room(fields: &[(&str, &str)]) -> Stage {
        let mut stage = Stage::default();
        stage.join("alice/pc", "alice");
        stage.configure("alice/pc", fields);
        stage
    }

    /// Applies a command and gives its answer and effects.
    pub(crate) fn apply(&mut self, by: &FullJid, action: RoomAction) -> (Answer, Vec<Effect>) {
        self.apply_to(&bare(ROOM), by, action)
    }

    /// The same for another room of the partition.
    pub(crate) fn apply_to(
        &mut self,
        room: &BareJid,
        by: &FullJid,
        action: RoomAction,
    ) -> (Answer, Vec<Effect>) {
        self.index += 1;
        self.time_ms += 1_000;
        let mut effects = Vec::new();
        let mut ctx = Context {
            index: self.index,
            partition: PartitionId(0),
            table: &self.table,
            pool: &self.pool,
            time_ms: self.time_ms,
            effects: &mut effects,
        };
        let command = RoomCommand {
            room: room.clone(),
            by: by.clone(),
            account: 1,
            action,
        };
        let answer = messaging::room::apply(&mut self.state, &mut ctx, command);
        for effect in &effects {
            match effect {
                Effect::Archive(row) => {
                    assert!(
                        self.archive.insert(row.seq, Arc::clone(row)).is_none(),
                        "a sequence is used once"
                    );
                }
                Effect::DropArchive { .. } => self.archive.clear(),
                Effect::TrimEvents { upto, .. } => self
                    .archive
                    .retain(|seq, row| row.is_message() || seq > upto),
                _ => {}
            }
        }
        (answer, effects)
    }

    /// The first outbox entry is refused by its target; what everybody receives.
    pub(crate) fn refuse_outbox(&mut self, condition: Condition) -> String {
        let surroundings = Surroundings {
            partition: PartitionId(0),
            table: self.table.clone(),
            pool: self.pool.clone(),
        };
        let (partition, sequence) = *self.state.outbox.iter().next().unwrap().0;
        let refused = Some(Box::new(StanzaError::new(condition)));
        let command = Command::OutboxAnswered {
            partition,
            sequence,
            refused,
        };
        let (epoch, time_ms) = (self.index + 1, self.time_ms);
        self.index += 2;
        let begin = Entry::OwnerBegin {
            node: 1,
            incarnation: 1,
            time_ms,
        };
        apply(&mut self.state, &surroundings, epoch, begin);
        let proposal = Proposal {
            origin: LinkOrigin::Owner,
            incarnation: epoch,
            sequence: 1,
            command,
        };
        let batch = Batch {
            epoch,
            time_ms,
            proposals: vec![proposal],
        };
        let effects = apply(
            &mut self.state,
            &surroundings,
            self.index,
            Entry::Batch(batch),
        );
        let mut out = String::new();
        self.show(&effects, &mut out);
        out
    }

    /// A client sends a stanza; what everybody receives.
    pub(crate) fn send(&mut self, who: &str, xml: &str) -> String {
        let mut out = String::new();
        let by = full(who);
        let document = Document::parse(Bytes::from(xml.to_owned()), &Limits::AFTER_AUTH).unwrap();
        let stanza = Stanza::from_element(&document.root()).unwrap();
        let (node, incarnation) = self.homes.get(who).copied().unwrap_or((1, 1));
        let request = match parse(
            &stanza,
            &Sender {
                jid: by.clone(),
                node,
                incarnation,
                session: 1,
            },
        ) {
            Ok(request) => request,
            Err(refusal) => {
                let error = refusal.to_stanza_error();
                return format!("{who} ! {} {}\n", error.kind.name(), error.condition.name());
            }
        };
        match request {
            RoomRequest::Action(action) => {
                let (answer, effects) = self.apply(&by, action);
                if let Answer::Refused(error) = answer {
                    writeln!(
                        out,
                        "{who} ! {} {}",
                        error.kind.name(),
                        error.condition.name()
                    )
                    .unwrap();
                }
                self.show(&effects, &mut out);
            }
            RoomRequest::Query(query) => match answer(&self.state, &query) {
                Reply::Payload(payload) => {
                    let document = Document::parse_fragment(payload.clone(), &Limits::OWN).unwrap();
                    assert!(document.roots().count() <= 1);
                    writeln!(out, "{who} = {}", String::from_utf8_lossy(&payload)).unwrap();
                }
                Reply::Refused(error) => {
                    writeln!(
                        out,
                        "{who} ! {} {}",
                        error.kind.name(),
                        error.condition.name()
                    )
                    .unwrap();
                }
                other => writeln!(out, "{who} = {other:?}").unwrap(),
            },
            RoomRequest::Passing(passing) => {
                match pass(&self.state, &self.renderer, &bare(ROOM), &by, &passing) {
                    Ok(renderings) => self.show_renderings(&renderings, &mut out),
                    Err(refusal) => {
                        let error = refusal.to_stanza_error();
                        writeln!(
                            out,
                            "{who} ! {} {}",
                            error.kind.name(),
                            error.condition.name()
                        )
                        .unwrap();
                    }
                }
            }
            RoomRequest::Ignored => writeln!(out, "ignored").unwrap(),
            RoomRequest::Unhandled => writeln!(out, "unhandled").unwrap(),
        }
        out
    }

    pub(crate) fn show(&self, effects: &[Effect], out: &mut String) {
        for effect in effects {
            match effect {
                Effect::Room(
                    _,
                    RoomEffect::Event {
                        row,
                        occupants,
                        non_anonymous,
                        welcome,
                        ..
                    },
                ) => {
                    self.show_renderings(&self.renderer.event(row, occupants, *non_anonymous), out);
                    if let Some(welcome) = welcome {
                        self.show_welcome(row, welcome, occupants, out);
                    }
                }
                Effect::Room(_, RoomEffect::Deliver { to, stanza }) => {
                    writeln!(out, "{}", line(to, &written(stanza))).unwrap();
                }
                Effect::Room(_, RoomEffect::ReflectAgain { to, seq }) => {
                    let stanza = self.renderer.message(&self.archive[seq]).unwrap();
                    writeln!(out, "again: {}", line(to, &written(&stanza))).unwrap();
                }
                Effect::Outbox { entry, .. } => {
                    let shown = match &entry.command {
                        Command::ReceiveMessage(receive) => ("outbox", written(&receive.stanza)),
                        Command::FileSent { stanza, .. } => ("filed", written(stanza)),
                        other => panic!("{other:?}"),
                    };
                    let to = entry.target.with_resource("-").unwrap();
                    writeln!(out, "{}: {}", shown.0, line(&to, &shown.1)).unwrap();
                    if let Command::ReceiveMessage(receive) = &entry.command {
                        for also in &receive.also {
                            writeln!(out, "outbox: also for {also}").unwrap();
                        }
                    }
                }
                Effect::DropArchive { key: room, .. } => {
                    writeln!(out, "{room} is gone").unwrap();
                }
                Effect::Archive(_) | Effect::TrimEvents { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn show_welcome(
        &self,
        row: &ArchiveRow,
        welcome: &Welcome,
        occupants: &[Arc<messaging::room::state::Occupant>],
        out: &mut String,
    ) {
        let messages = self
            .archive
            .values()
            .filter(|old| old.is_message() && old.seq < row.seq);
        let rows: Vec<_> = messages.cloned().collect();
        let skipped = rows
            .len()
            .saturating_sub(history_rows_max(welcome) as usize);
        for stanza in self
            .renderer
            .welcome(row, welcome, occupants, &rows[skipped..])
        {
            let to = stanza.to.as_ref().unwrap().to_full().unwrap();
            writeln!(out, "{}", line(&to, &written(&stanza))).unwrap();
        }
    }

    pub(crate) fn show_renderings(&self, renderings: &[Rendering], out: &mut String) {
        for rendering in renderings {
            for target in &rendering.targets {
                writeln!(out, "{}", line(target, &rendering.to_recipient(target))).unwrap();
            }
        }
    }

    pub(crate) fn join(&mut self, who: &str, nick: &str) -> String {
        self.join_with(who, nick, "")
    }

    pub(crate) fn join_with(&mut self, who: &str, nick: &str, inside: &str) -> String {
        self.send(who, &format!("<presence xmlns='jabber:client' to='{ROOM}/{nick}'><x xmlns='{}'>{inside}</x></presence>", ns::MUC))
    }

    pub(crate) fn leave(&mut self, who: &str) -> String {
        self.send(
            who,
            &format!("<presence xmlns='jabber:client' to='{ROOM}/x' type='unavailable'/>"),
        )
    }

    pub(crate) fn say(&mut self, who: &str, body: &str) -> String {
        self.send(who, &format!("<message xmlns='jabber:client' to='{ROOM}' type='groupchat' id='m'><body>{body}</body></message>"))
    }

    pub(crate) fn admin(&mut self, who: &str, items: &str) -> String {
        self.send(who, &format!("<iq xmlns='jabber:client' to='{ROOM}' type='set' id='a'><query xmlns='{}'>{items}</query></iq>", ns::MUC_ADMIN))
    }

    pub(crate) fn list(&mut self, who: &str, item: &str) -> String {
        self.send(who, &format!("<iq xmlns='jabber:client' to='{ROOM}' type='get' id='l'><query xmlns='{}'><item {item}/></query></iq>", ns::MUC_ADMIN))
    }

    pub(crate) fn configure(&mut self, who: &str, fields: &[(&str, &str)]) -> String {
        let fields: String = fields
            .iter()
            .map(|(var, value)| format!("<field var='muc#{var}'><value>{value}</value></field>"))
            .collect();
        self.owner(
            who,
            &format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>"),
        )
    }

    pub(crate) fn owner(&mut self, who: &str, inside: &str) -> String {
        self.send(who, &format!("<iq xmlns='jabber:client' to='{ROOM}' type='set' id='o'><query xmlns='{}'>{inside}</query></iq>", ns::MUC_OWNER))
    }

    pub(crate) fn message(&mut self, who: &str, to: &str, attrs: &str, inside: &str) -> String {
        self.send(
            who,
            &format!("<message xmlns='jabber:client' to='{to}' {attrs}>{inside}</message>"),
        )
    }
}

fn written(stanza: &Stanza) -> Bytes {
    let mut out = bytes::BytesMut::new();
    stanza.write(&mut out);
    out.freeze()
}

/// `bob/pc < presence alice owner/moderator 110`
fn line(to: &FullJid, bytes: &Bytes) -> String {
    let document = Document::parse(bytes.clone(), &Limits::OWN)
        .unwrap_or_else(|error| panic!("{error:?} {bytes:?}"));
    let stanza = document.root();
    let short = |jid: &str| {
        jid.replace("@example.org", "")
            .replace(ROOM, "den")
            .replace("den/", "")
    };
    let mut out = format!("{} < {}", short(to.as_str()), stanza.name());
    for attr in ["type", "from"] {
        if let Some(value) = stanza.attr(attr).filter(|value| value != "groupchat") {
            write!(out, " {}", short(&value)).unwrap();
        }
    }
    let ids = stanza
        .children()
        .filter(|child| child.ns() == ns::OCCUPANT_ID)
        .count();
    assert!(ids <= 1, "one occupant id: {bytes:?}");
    for child in stanza.children() {
        match (child.name(), child.ns()) {
            ("x", ns::MUC_USER) => child
                .children()
                .for_each(|child| said_by_room(&mut out, child, &short)),
            ("occupant-id", _) => {}
            ("stanza-id", _) => out.push_str(" sid"),
            ("delay", _) => out.push_str(" delayed"),
            ("body" | "status" | "subject", _) => {
                write!(out, " {}={:?}", child.name(), child.text()).unwrap()
            }
            ("error", _) => {
                let condition = child.children().next();
                let condition = condition.map_or("?", |condition| condition.name());
                write!(out, " +error {condition}").unwrap();
            }
            (name, _) => write!(out, " +{name}").unwrap(),
        }
    }
    out
}

fn said_by_room(out: &mut String, child: Element<'_>, short: &dyn Fn(&str) -> String) {
    match child.name() {
        "item" => {
            let role = child.attr("role").unwrap_or_default();
            write!(
                out,
                " {}/{role}",
                child.attr("affiliation").unwrap_or_default()
            )
            .unwrap();
            for attr in ["jid", "nick"] {
                if let Some(value) = child.attr(attr) {
                    write!(out, " {attr}={}", short(&value)).unwrap();
                }
            }
        }
        "status" => write!(out, " {}", child.attr("code").unwrap_or_default()).unwrap(),
        name => {
            write!(out, " {name}").unwrap();
            for attr in ["from", "jid"] {
                if let Some(value) = child.attr(attr) {
                    write!(out, " {attr}={}", short(&value)).unwrap();
                }
            }
        }
    }
    for inner in child.children() {
        let nick = inner.attr("nick").unwrap_or_default();
        write!(
            out,
            " {}={:?}",
            inner.name(),
            format!("{nick}{}", inner.text())
        )
        .unwrap();
    }
}
