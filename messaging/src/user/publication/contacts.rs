//! What a publication reads of the replicated state.

use std::sync::Arc;

use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::Stanza;

use crate::archive::ArchiveRow;
use crate::state::State;
use crate::user::blocking;

/// What the publication needs of the replicated state, read at the moment of use.
pub trait Contacts {
    /// Contacts that may see the user (`from` or `both`), not blocked.
    fn watchers(&self, user: &BareJid) -> Vec<BareJid>;
    /// Contacts whom the user may see (`to` or `both`), not blocked.
    fn watched(&self, user: &BareJid) -> Vec<BareJid>;
    /// May `asker` see the user? Blocks are disregarded.
    fn may_see(&self, user: &BareJid, asker: &BareJid) -> bool;
    /// Does the user block this JID?
    fn blocks(&self, user: &BareJid, other: &Jid) -> bool;
    /// Subscription requests that wait for the user's answer, as stanzas (RFC 6121 §3.1.3: shown again at each log-in).
    fn requests(&self, user: &BareJid) -> Vec<Stanza>;
    /// Contacts with a subscription to the user (`from` or `both`), blocked ones too.
    fn subscribers(&self, user: &BareJid) -> Vec<BareJid>;
    /// The roster version at which a listed contact last changed; `None`: it isn't listed.
    fn item_version(&self, user: &BareJid, contact: &BareJid) -> Option<u64>;
    /// Whether there is such an account.
    fn exists(&self, user: &BareJid) -> bool;
    /// The delivery cursor and the head of the user's log.
    fn positions(&self, user: &BareJid) -> (u64, u64);
}

/// A row as it was read back.
pub type Row = Arc<ArchiveRow>;

impl Contacts for State {
    fn watchers(&self, user: &BareJid) -> Vec<BareJid> {
        let mut watchers = Contacts::subscribers(self, user);
        watchers.retain(|contact| !Contacts::blocks(self, user, &Jid::from(contact)));
        watchers
    }

    fn watched(&self, user: &BareJid) -> Vec<BareJid> {
        self.roster
            .rows_of(user)
            .filter(|(_, item)| item.to)
            .map(|(contact, _)| contact)
            .filter(|contact| !Contacts::blocks(self, user, &Jid::from(*contact)))
            .cloned()
            .collect()
    }

    fn may_see(&self, user: &BareJid, asker: &BareJid) -> bool {
        let item = self.roster.get(&(user.clone(), asker.clone()));
        user == asker || item.is_some_and(|item| item.from)
    }

    fn blocks(&self, user: &BareJid, other: &Jid) -> bool {
        blocking::is_blocked(self, user, other)
    }

    fn requests(&self, user: &BareJid) -> Vec<Stanza> {
        let waiting = self.roster.rows_of(user).filter_map(|(contact, item)| {
            let request = item.pending_in.as_ref()?;
            let blocked = Contacts::blocks(self, user, &Jid::from(contact));
            (!blocked).then(|| request.stanza(contact, user))
        });
        waiting.collect()
    }

    fn subscribers(&self, user: &BareJid) -> Vec<BareJid> {
        let from = self.roster.rows_of(user).filter(|(_, item)| item.from);
        from.map(|(contact, _)| contact.clone()).collect()
    }

    fn item_version(&self, user: &BareJid, contact: &BareJid) -> Option<u64> {
        let item = self.roster.get(&(user.clone(), contact.clone()))?;
        item.listed.then_some(item.version)
    }

    fn exists(&self, user: &BareJid) -> bool {
        self.accounts.contains(user)
    }

    fn positions(&self, user: &BareJid) -> (u64, u64) {
        let log = self.logs.get(user);
        log.map_or((0, 0), |log| (log.delivered, log.head))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::user::log::UserLog;
    use crate::user::roster::RosterItem;
    use crate::user::subscription::SubscriptionRequest;

    #[test]
    fn the_state_says_who_sees_whom() {
        let bare = |text: &str| BareJid::parse(text).unwrap();
        let user = bare("romeo@montague.lit");
        let mut state = State::default();
        let mut contact = |name: &str, to, from, asks: bool| {
            let request = SubscriptionRequest {
                id: Some("r1".into()),
                lang: Some("it".into()),
                payload: Bytes::from_static(b"<status>hi</status>"),
            };
            let pending_in = asks.then(|| Box::new(request));
            let item = RosterItem {
                to,
                from,
                pending_in,
                ..RosterItem::default()
            };
            state.roster.insert((user.clone(), bare(name)), item);
        };
        contact("both@capulet.lit", true, true, false);
        contact("blocked@verona.lit", true, true, true);
        contact("from@capulet.lit", false, true, false);
        contact("to@capulet.lit", true, false, true);
        state
            .blocks
            .insert((user.clone(), Jid::parse("verona.lit").unwrap()), ());
        state.logs.insert(
            user.clone(),
            UserLog {
                head: 9,
                delivered: 7,
                roster_version: 1,
                streams: Vec::new(),
            },
        );
        let names = |jids: Vec<BareJid>| -> Vec<String> {
            jids.iter()
                .filter_map(|jid| jid.local().map(str::to_owned))
                .collect()
        };
        let contacts: &dyn Contacts = &state;
        assert_eq!(names(contacts.watchers(&user)), ["both", "from"]);
        assert_eq!(
            names(contacts.subscribers(&user)),
            ["blocked", "both", "from"]
        );
        assert_eq!(names(contacts.watched(&user)), ["both", "to"]);
        assert!(contacts.may_see(&user, &bare("from@capulet.lit")));
        assert!(contacts.may_see(&user, &user));
        assert!(!contacts.may_see(&user, &bare("to@capulet.lit")));
        let requests = contacts.requests(&user);
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].from, Some(Jid::from(bare("to@capulet.lit"))));
        assert_eq!(requests[0].payload, "<status>hi</status>");
        let (id, lang) = (requests[0].id.as_deref(), requests[0].lang.as_deref());
        assert_eq!((id, lang), (Some("r1"), Some("it")), "complete: §3.1.3");
        assert_eq!(contacts.positions(&user), (7, 9));
        assert_eq!(contacts.positions(&bare("nobody@montague.lit")), (0, 0));
        assert!(!contacts.exists(&user));
    }
}
