//! What was committed and stands in no row: told when it happens, and again to a node that may have missed it.

use std::collections::BTreeSet;

use xmpp::jid::{BareJid, Jid};

use super::{Actions, Contacts, Publication, PublicationAction};
use crate::effect::UserEffect;
use crate::user::subscription::SubscriptionType;

impl Publication {
    /// Tells an effect of an entry that was just applied. Rows have a way of their own: [`Publication::logged`].
    pub fn once(&mut self, effect: UserEffect, contacts: &dyn Contacts) -> Vec<PublicationAction> {
        match effect {
            UserEffect::Logged { .. } => Vec::new(),
            UserEffect::Noted(session) => self.noted(&session, contacts),
            UserEffect::RosterPush {
                contact,
                item,
                version,
            } => self.roster_push(&contact, item.as_ref(), version),
            UserEffect::BlocklistPush {
                payload,
                blocked,
                unblocked,
            } => self.blocklist_push(payload, &blocked, &unblocked, contacts),
            UserEffect::Subscription(stanza) => self.subscription(stanza),
            UserEffect::PresenceTo(contact) => self.presence_to(&contact, contacts),
            UserEffect::UnavailableTo(contact) => self.unavailable_to(&contact, contacts),
            UserEffect::Bounce { session, stanza } => self.bounce(&session, stanza),
            UserEffect::AccountRemoved => {
                let sessions = self.sessions();
                sessions.cloned().map(PublicationAction::Expel).collect()
            }
        }
    }

    /// Tells effects of the last seconds once more, in log order, as far as they concern the sessions of a node that has
    /// attached, and still hold. `None`: those of sessions that are expected, at the begin of a reign.
    ///
    /// Doing so twice is harmless ([`crate::effect::Effect::once`]), and the last of them is the newest word: they end
    /// where the log does.
    pub fn once_again(
        &mut self,
        node: Option<u64>,
        effects: Vec<UserEffect>,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        for effect in effects {
            if let Some(effect) = self.as_it_holds(effect, contacts) {
                let told = self.once(effect, contacts);
                out.extend(told);
            }
        }
        self.keep_what_concerns(node, &mut out);
        out
    }

    /// What of it is still true. A push that a later one has overtaken would roll the client back, and who is no longer
    /// blocked must not be shown as gone once more.
    fn as_it_holds(&self, mut effect: UserEffect, contacts: &dyn Contacts) -> Option<UserEffect> {
        if let UserEffect::BlocklistPush {
            blocked, unblocked, ..
        } = &mut effect
        {
            blocked.retain(|jid| contacts.blocks(&self.user, jid));
            unblocked.retain(|jid| !contacts.blocks(&self.user, jid));
        }
        self.still_holds(&effect, contacts).then_some(effect)
    }

    fn still_holds(&self, effect: &UserEffect, contacts: &dyn Contacts) -> bool {
        let may_see = |contact: &BareJid| contacts.may_see(&self.user, contact);
        match effect {
            UserEffect::PresenceTo(contact) => may_see(contact),
            UserEffect::UnavailableTo(contact) => !may_see(contact),
            UserEffect::Subscription(stanza) => {
                // Answered meanwhile: the user need not be asked again.
                let requests = || contacts.requests(&self.user);
                SubscriptionType::of(stanza) != Some(SubscriptionType::Subscribe)
                    || requests().iter().any(|open| open.from == stanza.from)
            }
            UserEffect::RosterPush {
                contact,
                item,
                version,
            } => match contacts.item_version(&self.user, contact) {
                Some(now) => item.is_some() && now == *version,
                None => item.is_none(),
            },
            UserEffect::AccountRemoved => !contacts.exists(&self.user),
            UserEffect::Logged { .. }
            | UserEffect::Noted(_)
            | UserEffect::BlocklistPush { .. }
            | UserEffect::Bounce { .. } => true,
        }
    }

    fn keep_what_concerns(&self, node: Option<u64>, out: &mut Actions) {
        let told_of: BTreeSet<Jid> = match node {
            Some(_) => {
                let sessions = self.sessions().filter(|key| Some(key.node) == node);
                sessions.map(|key| Jid::from(&key.jid)).collect()
            }
            None => {
                let expected = self.expected.iter();
                expected.map(|expected| Jid::from(&expected.jid)).collect()
            }
        };
        out.retain_mut(|action| match action {
            PublicationAction::Deliver { sessions, .. } => {
                sessions.retain(|key| Some(key.node) == node);
                !sessions.is_empty()
            }
            PublicationAction::Broadcast { stanza, .. } => stanza
                .from
                .as_ref()
                .is_some_and(|from| told_of.contains(from)),
            PublicationAction::Expel(key) => Some(key.node) == node,
            _ => true,
        });
    }
}
