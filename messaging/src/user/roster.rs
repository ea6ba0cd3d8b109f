//! Rosters: RFC 6121 §2, with versions (§2.6).
//!
//! An item exists for every contact the user listed, and unlisted for strangers whose request waits. What clients see of
//! an item is [`RosterItem::is_shown_alike`]; each visible change raises the roster's version by one and is pushed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::stanza_error::Condition;
use xmpp::write::XmlWriter;

use super::log::UserLog;
use super::subscription::{self, SubscriptionRequest, SubscriptionType};
use crate::apply::Context;
use crate::command::Answer;
use crate::effect::UserEffect;
use crate::outbox::OnAnswer;
use crate::refusal::{refuse, refuse_because, refuse_way_full};
use crate::state::State;

/// Bytes in a contact's name or a group's name.
const NAME_BYTES_MAX: usize = 1_023;

/// Groups that one contact may be in.
const GROUPS_MAX: usize = 64;

/// What a user is told whose roster is full.
pub(crate) const FULL: &str = "The roster holds as many contacts as it may.";

/// RFC 6121 §2.1.2.5, both directions and what is pending. RFC 6121 appendix A's nine states.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterItem {
    /// The name the user gave.
    pub name: Option<Box<str>>,
    /// The groups the user put it in.
    pub groups: Box<[Box<str>]>,
    /// The user sees the contact's presence.
    pub to: bool,
    /// The contact sees the user's presence.
    pub from: bool,
    /// The user asked to see the contact and waits (`ask='subscribe'`).
    pub pending_out: bool,
    /// The contact asked to see the user and waits; shown again at each log-in. Almost no contact does, and there are millions.
    pub pending_in: Option<Box<SubscriptionRequest>>,
    /// RFC 6121 §3.4: approved before it was asked.
    pub approved: bool,
    /// Whether the item is shown in the roster; an item with only `pending_in` isn't.
    pub listed: bool,
    /// The roster version at which the item last changed.
    pub version: u64,
}

// A request's text isn't shown.
impl std::fmt::Debug for RosterItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RosterItem")
            .field("name", &self.name)
            .field("groups", &self.groups)
            .field("subscription", &self.subscription())
            .field("pending_out", &self.pending_out)
            .field("pending_in", &self.pending_in.is_some())
            .field("approved", &self.approved)
            .field("listed", &self.listed)
            .field("version", &self.version)
            .finish()
    }
}

impl RosterItem {
    /// The attribute `subscription`. RFC 6121 §2.1.2.5.
    pub fn subscription(&self) -> &'static str {
        match (self.to, self.from) {
            (false, false) => "none",
            (true, false) => "to",
            (false, true) => "from",
            (true, true) => "both",
        }
    }

    /// Writes `<item/>` in the roster's namespace. RFC 6121 §2.1.2.
    pub fn write(&self, contact: &BareJid, out: &mut XmlWriter) {
        out.start("item")
            .attr("jid", contact.as_str())
            .attr_opt("name", self.name.as_deref());
        out.attr("subscription", self.subscription());
        if self.pending_out {
            out.attr("ask", "subscribe");
        }
        if self.approved {
            out.attr("approved", "true");
        }
        for group in &self.groups {
            out.leaf("group", group);
        }
        out.end();
    }

    /// Whether clients see no difference between the two.
    fn is_shown_alike(&self, other: &RosterItem) -> bool {
        if !self.listed && !other.listed {
            return true;
        }
        self.listed == other.listed
            && self.name == other.name
            && self.groups == other.groups
            && self.subscription() == other.subscription()
            && self.pending_out == other.pending_out
            && self.approved == other.approved
    }

    /// How the user names and sorts it; no room is kept for more.
    pub(crate) fn set_label(&mut self, name: Option<String>, groups: Vec<String>) {
        let name = name.filter(|name| !name.is_empty());
        self.name = name.map(String::into_boxed_str);
        self.groups = groups.into_iter().map(String::into_boxed_str).collect();
    }

    /// Whether nothing is left to remember.
    fn is_empty(&self) -> bool {
        !(self.listed || self.to || self.from || self.pending_out || self.approved)
            && self.pending_in.is_none()
    }
}

/// The payload of a roster result. RFC 6121 §2.1.4; `version` where the client asked with one (§2.6.2).
pub fn result_payload<'a>(
    items: impl Iterator<Item = (&'a BareJid, &'a RosterItem)>,
    version: Option<u64>,
) -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns("query", ns::ROSTER);
    if let Some(version) = version {
        out.attr("ver", &version.to_string());
    }
    for (contact, item) in items.filter(|(_, item)| item.listed) {
        item.write(contact, &mut out);
    }
    out.end();
    out.finish()
}

/// The payload of a roster push. RFC 6121 §2.1.6; no item: the contact is gone (§2.5).
pub fn push_payload(contact: &BareJid, item: Option<&RosterItem>, version: u64) -> Bytes {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns("query", ns::ROSTER)
        .attr("ver", &version.to_string());
    match item {
        Some(item) => item.write(contact, &mut out),
        None => {
            out.start("item")
                .attr("jid", contact.as_str())
                .attr("subscription", "remove")
                .end();
        }
    }
    out.end();
    out.finish()
}

/// [`crate::command::Command::SetContact`]. RFC 6121 §2.3 and §2.4.
pub(crate) fn set(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    contact: BareJid,
    name: Option<String>,
    groups: Vec<String>,
) -> Answer {
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    if user == contact {
        return refuse(Condition::NotAllowed);
    }
    if let Err(refusal) = check_item(name.as_deref(), &groups) {
        return refusal;
    }
    let mut item = state
        .roster
        .get(&(user.clone(), contact.clone()))
        .cloned()
        .unwrap_or_default();
    if !item.listed && is_full(state, ctx, &user) {
        return refuse_because(Condition::ResourceConstraint, FULL);
    }
    item.listed = true;
    item.set_label(name, groups);
    store(state, ctx, &user, &contact, item);
    Answer::Done { seq: 0 }
}

/// Whether a name and groups may be stored.
pub(crate) fn check_item(name: Option<&str>, groups: &[String]) -> Result<(), Answer> {
    check_groups(groups)?;
    match name {
        Some(name) if name.len() > NAME_BYTES_MAX => Err(refuse(Condition::NotAcceptable)),
        _ => Ok(()),
    }
}

/// RFC 6121 §2.3.3.
fn check_groups(groups: &[String]) -> Result<(), Answer> {
    if groups
        .iter()
        .any(|group| group.is_empty() || group.len() > NAME_BYTES_MAX)
        || groups.len() > GROUPS_MAX
    {
        return Err(refuse(Condition::NotAcceptable));
    }
    let mut sorted: Vec<&String> = groups.iter().collect();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(refuse(Condition::BadRequest));
    }
    Ok(())
}

/// [`crate::command::Command::RemoveContact`]. RFC 6121 §2.5: ends what there is, both ways.
pub(crate) fn remove(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    contact: BareJid,
) -> Answer {
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    let key = (user.clone(), contact.clone());
    let Some(item) = state.roster.get(&key).filter(|item| item.listed).cloned() else {
        return refuse(Condition::ItemNotFound);
    };
    let endings = endings(ctx, &contact, &item);
    if !ctx.outbox_has_room(state, endings.iter().map(|_| &contact)) {
        return refuse_way_full();
    }
    state.roster.remove(&key);
    let version = next_version(state, ctx, &user);
    ctx.user_effect(
        &user,
        UserEffect::RosterPush {
            contact: contact.clone(),
            item: None,
            version,
        },
    );
    end_subscriptions(state, ctx, &user, &contact, &item);
    Answer::Done { seq: 0 }
}

/// Tells the contact that both ways are over, as far as they were open, and hides the user from it.
pub(crate) fn end_subscriptions(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: &BareJid,
    contact: &BareJid,
    item: &RosterItem,
) {
    if item.from {
        ctx.user_effect(user, UserEffect::UnavailableTo(contact.clone()));
    }
    for ending in endings(ctx, contact, item) {
        let stanza = ending.stanza(user, contact);
        subscription::pass_on(state, ctx, user, contact, stanza, OnAnswer::Nothing);
    }
}

/// What tells the contact that the ways that are open end.
fn endings(ctx: &Context<'_>, contact: &BareJid, item: &RosterItem) -> Vec<SubscriptionType> {
    let local = contact.domain() == ctx.pool.domain;
    let mut endings = Vec::new();
    if local && (item.to || item.pending_out) {
        endings.push(SubscriptionType::Unsubscribe);
    }
    if local && (item.from || item.pending_in.is_some()) {
        endings.push(SubscriptionType::Unsubscribed);
    }
    endings
}

/// Stores an item; a change that clients see gets the next version and is pushed.
pub(crate) fn store(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: &BareJid,
    contact: &BareJid,
    mut item: RosterItem,
) {
    let key = (user.clone(), contact.clone());
    let before = state.roster.get(&key);
    if before == Some(&item) || (before.is_none() && item.is_empty()) {
        return;
    }
    let alike = match before {
        Some(before) => before.is_shown_alike(&item),
        None => !item.listed,
    };
    if alike {
        if item.is_empty() {
            state.roster.remove(&key);
        } else {
            state.roster.insert(key, item);
        }
        return;
    }
    let version = next_version(state, ctx, user);
    item.version = version;
    ctx.user_effect(
        user,
        UserEffect::RosterPush {
            contact: contact.clone(),
            item: Some(item.clone()),
            version,
        },
    );
    state.roster.insert(key, item);
}

/// Whether no further contact may be listed.
pub(crate) fn is_full(state: &State, ctx: &Context<'_>, user: &BareJid) -> bool {
    let listed = state
        .roster
        .rows_of(user)
        .filter(|(_, item)| item.listed)
        .count();
    listed >= ctx.pool.contacts_max as usize
}

fn next_version(state: &mut State, ctx: &Context<'_>, user: &BareJid) -> u64 {
    let log = state
        .logs
        .get_or_insert_with(user, || UserLog::created_at(ctx.index));
    log.roster_version += 1;
    log.roster_version
}
