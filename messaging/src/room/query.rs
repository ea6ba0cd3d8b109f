//! Questions about rooms.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};
use xmpp::ns;
use xmpp::stream::features::{Place, namespaces_at};
use xmpp::write::XmlWriter;

use super::config_form;
use super::refusal::Refusal;
use super::rights::{Standing, may_read_list};
use super::state::{Affiliation, Occupant, Role, RoomRecord};
use super::transaction::affiliation;
use super::views::OccupantView;
use crate::query::Reply;
use crate::state::State;

/// What may be asked about rooms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomQuery {
    /// §6.3: the public rooms of this partition (disco#items of the service), with names: `<item/>` elements that the
    /// shell puts into one `<query/>` with those of the other partitions.
    Rooms {
        /// Who asks: members see hidden rooms they are in.
        asker: BareJid,
    },
    /// §6.4: disco#info of a room: the payload of the result.
    Info {
        /// Which.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// §6.5: disco#items of a room.
    Items {
        /// Which.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// §9.5 ff.: the list of an affiliation.
    Affiliations {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
        /// Which list.
        affiliation: Affiliation,
    },
    /// §8.5 etc.: the list of a role.
    Roles {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
        /// Which list.
        role: Role,
    },
    /// §10.2: the configuration form.
    ConfigurationForm {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// XEP-0410: is this session in the room under this nickname? Answered with an empty payload; the ping of another
    /// occupant's nickname is answered like [`RoomQuery::OccupantSession`].
    SelfPing {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
        /// The nickname.
        nick: String,
    },
    /// §17.4: to which session an iq to an occupant goes: [`Reply::Occupant`].
    OccupantSession {
        /// Which room.
        room: BareJid,
        /// Who asks: must be an occupant.
        asker: FullJid,
        /// The nickname.
        nick: String,
        /// Whether it is service discovery: then who isn't in asks wrongly (§6.6).
        discovery: bool,
    },
    /// The registered nickname, if the room keeps one (`x-roomuser-item`).
    ReservedNick {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// XEP-0199 to the room itself: answered with an empty payload.
    Ping {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
}

/// Answers a question about a room.
pub fn answer(state: &State, query: &RoomQuery) -> Reply {
    let answer = match query {
        RoomQuery::Rooms { asker } => Ok(Reply::Payload(rooms(state, asker))),
        RoomQuery::Info { room, asker } => {
            scene(state, room, asker).map(|scene| Reply::Payload(info(&scene)))
        }
        RoomQuery::Items { room, asker } => {
            scene(state, room, asker).map(|scene| Reply::Payload(items(&scene)))
        }
        RoomQuery::Affiliations {
            room,
            asker,
            affiliation,
        } => scene(state, room, asker).and_then(|scene| affiliations(state, &scene, *affiliation)),
        RoomQuery::Roles { room, asker, role } => {
            scene(state, room, asker).and_then(|scene| roles(&scene, *role))
        }
        RoomQuery::ConfigurationForm { room, asker } => {
            scene(state, room, asker).and_then(|scene| form(&scene))
        }
        RoomQuery::SelfPing { room, asker, nick } => {
            scene(state, room, asker).and_then(|scene| self_ping(&scene, nick))
        }
        RoomQuery::OccupantSession {
            room,
            asker,
            nick,
            discovery,
        } => scene(state, room, asker).and_then(|scene| match scene.own() {
            Err(_) if *discovery => Err(Refusal::BadRequest),
            _ => session(&scene, nick),
        }),
        RoomQuery::ReservedNick { room, asker } => {
            scene(state, room, asker).map(|_| Reply::Payload(no_nick()))
        }
        RoomQuery::Ping { room, asker } => {
            scene(state, room, asker).map(|_| Reply::Payload(Bytes::new()))
        }
    };
    answer.unwrap_or_else(|refusal| Reply::Refused(Box::new(refusal.to_stanza_error())))
}

/// A room as one asker finds it.
struct Scene<'a> {
    room: &'a BareJid,
    record: &'a RoomRecord,
    asker: &'a FullJid,
    standing: Standing,
    occupants: OccupantView,
}

/// §7.2.10: a locked room exists for its owners only.
fn scene<'a>(
    state: &'a State,
    room: &'a BareJid,
    asker: &'a FullJid,
) -> Result<Scene<'a>, Refusal> {
    let record = state.rooms.get(room).ok_or(Refusal::NoSuchRoom)?;
    let person = asker.bare();
    let affiliation = affiliation(state, room, &person);
    if record.locked && affiliation != Affiliation::Owner {
        return Err(Refusal::NoSuchRoom);
    }
    let occupants = state.room_views.peek(&state.occupants, room);
    let role = occupants
        .iter()
        .filter(|o| o.jid.bare() == person)
        .map(|o| o.role)
        .max();
    let outside = if affiliation >= Affiliation::Admin {
        Role::Moderator
    } else {
        Role::None
    };
    let standing = Standing {
        role: role.unwrap_or(outside),
        affiliation,
    };
    Ok(Scene {
        room,
        record,
        asker,
        standing,
        occupants,
    })
}

impl Scene<'_> {
    fn own(&self) -> Result<&Occupant, Refusal> {
        self.occupants
            .iter()
            .map(AsRef::as_ref)
            .find(|o| o.jid == *self.asker)
            .ok_or(Refusal::NotOccupant)
    }
}

/// §6.3: hidden rooms are shown to those who are in or belong to them.
fn rooms(state: &State, asker: &BareJid) -> Bytes {
    let mut writer = XmlWriter::new(ns::DISCO_ITEMS);
    for (room, record) in state.rooms.iter().filter(|(_, record)| !record.locked) {
        let knows = || {
            affiliation(state, room, asker) >= Affiliation::Member
                || state
                    .room_views
                    .peek(&state.occupants, room)
                    .iter()
                    .any(|o| o.jid.bare() == *asker)
        };
        if record.config.public || knows() {
            writer
                .start("item")
                .attr("jid", room.as_str())
                .attr("name", name(room, record))
                .end();
        }
    }
    writer.finish()
}

fn name<'a>(room: &'a BareJid, record: &'a RoomRecord) -> &'a str {
    if record.config.name.is_empty() {
        room.local().unwrap_or(room.as_str())
    } else {
        &record.config.name
    }
}

/// §6.4, §16.3, §16.5.4.
fn info(scene: &Scene<'_>) -> Bytes {
    let (record, config) = (scene.record, &scene.record.config);
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::DISCO_INFO).start("identity");
    writer
        .attr("category", "conference")
        .attr("type", "text")
        .attr("name", name(scene.room, record))
        .end();
    let of_archive = [ns::MAM, ns::MAM_EXTENDED];
    let features = namespaces_at(Place::DiscoRoom)
        .filter(|feature| config.archived || !of_archive.contains(feature));
    let choice = |on: bool, yes: &'static str, no: &'static str| if on { yes } else { no };
    // §15.3: its configuration.
    let kinds = [
        choice(config.public, "muc_public", "muc_hidden"),
        choice(config.members_only, "muc_membersonly", "muc_open"),
        choice(config.moderated, "muc_moderated", "muc_unmoderated"),
        choice(
            config.non_anonymous,
            "muc_nonanonymous",
            "muc_semianonymous",
        ),
        choice(
            config.password.is_some(),
            "muc_passwordprotected",
            "muc_unsecured",
        ),
        choice(config.persistent, "muc_persistent", "muc_temporary"),
    ];
    for feature in features.chain(kinds) {
        writer.start("feature").attr("var", feature).end();
    }
    room_info(scene, &mut writer);
    writer.end();
    writer.finish()
}

/// The `muc#roominfo` form. §16.5.4
fn room_info(scene: &Scene<'_>, writer: &mut XmlWriter) {
    let (record, config) = (scene.record, &scene.record.config);
    let switch = |on: bool| if on { "1" } else { "0" }.to_owned();
    let mut fields = vec![
        (
            "muc#roominfo_description",
            "text-single",
            config.description.clone(),
        ),
        ("muc#roominfo_lang", "text-single", config.lang.clone()),
        (
            "muc#roominfo_occupants",
            "text-single",
            scene.occupants.len().to_string(),
        ),
        (
            "muc#maxhistoryfetch",
            "text-single",
            config.history_max.to_string(),
        ),
        (
            "muc#roominfo_subjectmod",
            "boolean",
            switch(config.change_subject),
        ),
        (
            "muc#roomconfig_changesubject",
            "boolean",
            switch(config.change_subject),
        ),
        (
            "muc#roomconfig_roomname",
            "text-single",
            config.name.clone(),
        ),
    ];
    // What is said in a room is for those who may come in.
    let is_open = !config.members_only && config.password.is_none();
    if is_open
        || scene.standing.affiliation >= Affiliation::Member
        || scene.standing.role > Role::None
    {
        fields.push(("muc#roominfo_subject", "text-single", subject(record)));
    }
    writer.start_ns("x", ns::DATA_FORM).attr("type", "result");
    writer
        .start("field")
        .attr("var", "FORM_TYPE")
        .attr("type", "hidden")
        .leaf("value", ns::MUC_ROOM_INFO)
        .end();
    for (var, kind, value) in fields {
        writer
            .start("field")
            .attr("var", var)
            .attr("type", kind)
            .leaf("value", &value)
            .end();
    }
    writer.end();
}

fn subject(record: &RoomRecord) -> String {
    let document = record
        .subject
        .stanza
        .as_ref()
        .and_then(|stanza| stanza.payload_document().ok());
    let subject = document
        .as_ref()
        .and_then(|d| d.roots().find(|e| e.is("subject", ns::CLIENT)));
    subject
        .map(|element| element.text().into_owned())
        .unwrap_or_default()
}

/// §6.5: the list of occupants is private: only those who are in get it.
fn items(scene: &Scene<'_>) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::DISCO_ITEMS);
    if scene.own().is_ok() {
        let nicks: std::collections::BTreeSet<&str> =
            scene.occupants.iter().map(|o| o.nick.as_str()).collect();
        for jid in nicks
            .into_iter()
            .filter_map(|nick| scene.room.with_resource(nick).ok())
        {
            writer
                .start("item")
                .attr("jid", jid.as_str())
                .attr("name", jid.resource())
                .end();
        }
    }
    writer.end();
    writer.finish()
}

/// §9.2, §9.5, §10.5, §10.8; §17.4: with the bare JID, and the nickname of those who are in (never of outcasts).
fn affiliations(state: &State, scene: &Scene<'_>, list: Affiliation) -> Result<Reply, Refusal> {
    may_read_list(
        scene.standing.affiliation,
        list,
        scene.record.config.non_anonymous,
    )?;
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::MUC_ADMIN);
    for (jid, record) in state
        .affiliations
        .rows_of(scene.room)
        .filter(|(_, r)| r.affiliation == list)
    {
        let occupant = scene
            .occupants
            .iter()
            .find(|occupant| occupant.jid.bare() == *jid);
        writer
            .start("item")
            .attr("affiliation", list.name())
            .attr("jid", jid.as_str());
        writer.attr_opt("nick", occupant.map(|occupant| occupant.nick.as_str()));
        if let Some(reason) = &record.reason {
            writer.leaf("reason", reason);
        }
        writer.end();
    }
    writer.end();
    Ok(Reply::Payload(writer.finish()))
}

/// §8.5: the voice list is for moderators; §9.8: that of moderators for admins.
fn roles(scene: &Scene<'_>, list: Role) -> Result<Reply, Refusal> {
    let allowed = match list {
        Role::Moderator => scene.standing.affiliation >= Affiliation::Admin,
        _ => scene.standing.role >= Role::Moderator,
    };
    if !allowed {
        return Err(Refusal::Forbidden);
    }
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::MUC_ADMIN);
    for occupant in scene
        .occupants
        .iter()
        .filter(|occupant| occupant.role == list)
    {
        writer
            .start("item")
            .attr("affiliation", occupant.affiliation.name())
            .attr("jid", occupant.jid.as_str());
        writer
            .attr("nick", &occupant.nick)
            .attr("role", occupant.role.name())
            .end();
    }
    writer.end();
    Ok(Reply::Payload(writer.finish()))
}

fn form(scene: &Scene<'_>) -> Result<Reply, Refusal> {
    if scene.standing.affiliation != Affiliation::Owner {
        return Err(Refusal::Forbidden);
    }
    Ok(Reply::Payload(config_form::form(&scene.record.config)))
}

/// XEP-0410 §3.3: who isn't in gets not-acceptable, so that the client joins again.
fn self_ping(scene: &Scene<'_>, nick: &str) -> Result<Reply, Refusal> {
    if scene.own()?.nick == nick {
        Ok(Reply::Payload(Bytes::new()))
    } else {
        session(scene, nick)
    }
}

fn session(scene: &Scene<'_>, nick: &str) -> Result<Reply, Refusal> {
    let own = scene.own()?;
    let sessions = scene
        .occupants
        .iter()
        .filter(|occupant| occupant.nick == nick);
    let newest = sessions
        .max_by_key(|occupant| occupant.joined)
        .ok_or(Refusal::NoSuchOccupant)?;
    Ok(Reply::Occupant {
        session: newest.jid.clone(),
        asker_nick: own.nick.clone(),
    })
}

/// §7.12: rooms reserve no nicknames yet.
fn no_nick() -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("query", ns::DISCO_INFO)
        .attr("node", "x-roomuser-item")
        .end();
    writer.finish()
}
