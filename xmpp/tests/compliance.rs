//! docs/compliance.md says what the registry of features says, no more and no less.
//!
//! `UPDATE_DOCS=1 cargo test --release -p muster-xmpp --test compliance` writes the page anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use xmpp::stream::features::{FEATURES, Feature, Place};

const HEAD: &str = "\
# Compliance

This page is generated from the registry of features, `xmpp/src/stream/features.rs`, from which stream features and
service discovery are answered as well: `UPDATE_DOCS=1 cargo test --release -p muster-xmpp --test compliance`. What is not
listed is not advertised to clients. A specification that is listed need not be implemented to its last optional part.

| specification | feature | namespace | advertised in |
|---|---|---|---|
";

const FOOT: &str = "
Streams advertise registration only where the setting `[clients] registration` allows it. A room's own answer to disco#info also
names its configuration, and is made in `messaging/src/room/query.rs`.

## Choices

Where a specification leaves a choice, or is not followed to the letter, this is what is done, and why.

- RFC 6121 §2.6.3: the current roster version is answered with an empty result, any other with the whole roster.
- RFC 6121 §3.1.2 and §8.5.1: a request to an account that does not exist is ignored, so that it looks like one that waits.
- RFC 6121 §3.1.3: of a request all is kept until it is answered, but of one larger than 4 KiB only the fact. At most 200 wait.
- RFC 6121 §3.4.2: a pre-approval is kept after it was used, until `unsubscribed`.
- RFC 6121 A.3.2: no `unsubscribed` answers `unsubscribe`. Both rosters always agree, and it could overtake the next request.
- RFC 6121 §4.3.2: who is not subscribed gets no answer to a probe; an answer tells no time of the last presence.
- RFC 6121 §8.5.2.1.1: the most available sessions are all whose priority is not negative.
- RFC 6121 §8.5.3.1: an iq request reaches only a session that has shown its presence to the asker.
- RFC 6121 §8.5.3.2.1 and RFC 6120 §10.5.4: a message with a body, of type chat or normal, for a session that is gone goes to
  the others or waits: its sender has been told that it is accepted. Without a body a normal one is refused.
- RFC 6121 §8.5.2.2.1: what is not kept and finds no session comes back, but chat states, receipts, markers and what says that it
  need not be stored.
- RFC 6121 §8.5.4: what is for an account that does not exist comes back, but headlines and errors.
- A wait error says that a message was not taken, with one exception: a message that is sent again on another node, because the
  first one died, can meet that node's pace for new recipients (`[shaping]`) though its first sending had been committed. Sent once
  more it is recognised by its origin-id, and nothing is doubled.
- Presence, chat states and other stanzas that are not kept are taken exactly once under one owner of a partition. What is not
  answered yet when the owner changes is sent to the next one, and so may come once more: whether the old owner had passed it
  on could only be known from a log, which such stanzas are not worth. For presence, the same said twice changes nothing.
  Roster and blocklist pushes, requests and the errors of chats that the old owner may not have told are told by the next; a node
  leaves out those it has heard, and the owner those that a later one has overtaken.
- XEP-0045 §5.1, §16.5: rooms are non-anonymous or semi-anonymous, never fully anonymous (174 is not sent).
- XEP-0045 §7.2.13: the history of a join is what the archive has; a room that archives nothing shows none.
- XEP-0045 §7.8.2: an invitation to somebody who does not exist, or who blocks the room or the inviter, comes back as
  item-not-found. That somebody declines is told to the inviter's sessions in the room; a room keeps no list of invitations, so
  it carries nothing to people who have left. Who is banned declines nothing.
- XEP-0045 §7.10, §7.12: there is no registration with rooms and there are no reserved nicknames; who wants to know is told so.
- XEP-0045 §8.2: nobody kicks themselves (conflict).
- XEP-0045 §9.5, §17: somebody outside who becomes a member of a members-only room gets the invitation, and no message
  with status 101 besides; other changes of affiliation are told to those who are in.
- XEP-0045 §10.4: when the account of the last owner is removed, the admins become owners. A removed account's affiliations,
  bans too, are gone before its name can be registered again.
- XEP-0045 §15.6.2: a node that stops ends no room, so 332 is not sent: its occupants' streams end, and who does not come back
  within 60 s leaves with 333. So do occupants whose node has missed more of a room's log than is kept.
- XEP-0191 §3.2: iqs to the bare JID of somebody whom the user blocks are refused, too, and those of somebody who is blocked are
  answered as if nobody answered for the account.
- XEP-0191 §3.3: after unblocking, contacts are asked for their presence, since what they said meanwhile was dropped.
- XEP-0198 §5: a session is resumed on any node of the pool, with an exact `h`. Who resumes the same session twice at once has it
  once: the other one is told item-not-found, or `conflict` when its stream is open already. No `location` is given. After the
  death of a session's node `<failed/>` has an `h` that covers all that was acknowledged and nothing that is not handled (ADR 0028);
  where none is known (the session ended in another way, its time is long over, or its user has had sixteen others since) it has none.
  Three ids that lead nowhere end a stream with policy-violation.
- XEP-0237 is part of RFC 6121 §2.6, as above. XEP-0153's hashes and XEP-0115's capabilities pass through unchanged.
- XEP-0313: who asks for somebody else's archive is forbidden, whether or not there is such an account.
- XEP-0313 §4.1.1: in a room's archive `with` finds by occupant JID, and by real JID for who may see real JIDs.
- XEP-0313 §6 (preferences) is not offered: everything with a body, and direct invitations, is archived, unless a
  hint of XEP-0334 says no.

## What clients need on the first day

Each is shown by a scripted conversation in `node/tests/scenarios`, played against one node and against three.

| what | where |
|---|---|
| disco#info of the server, the own account, the rooms' service, a room | `disco_server`, `disco_account`, `disco_rooms_service`, `disco_room` |
| disco#items lists the rooms' service; others' accounts and unknown nodes | `disco_server`, `disco_of_others_is_hidden`, `disco_unknown_node` |
| `<session/>` is answered, though not advertised | `session_is_answered` |
| an unknown iq is service-unavailable; an answer is never answered | `iq_unknown_is_service_unavailable`, `iq_result_is_never_answered` |
| iqs to bare JIDs are the server's to answer | `vcard`, `vcard_of_others_is_read_only`, `disco_account`, `ping_server_and_self` |
| foreign domains are remote-server-not-found, for subscriptions too | `foreign_domain_is_not_found`, `foreign_domain_subscription` |
| the order of a join; history; the subject always, even empty | `muc_join_order`, `muc_history_limits`, `muc_subject` |
| 201 and instant rooms; unknown rooms are item-not-found | `muc_instant_room`, `muc_reserved_room`, `muc_unknown_room` |
| reflections keep `id`; `stanza-id` only from the archive | `muc_message_is_reflected`, `message_spoofed_stanza_id_is_stripped` |
| `<enabled/>` without `id` where resumption wasn't asked for; exact counts | `stream_management_counts`, `stream_management_acknowledges_durable_messages` |
| resumption, on the same node and on another, in rooms, with carbons | `resume_sends_again_what_is_unacknowledged`, `resume_elsewhere`, `resume_elsewhere_in_a_room`, `resume_elsewhere_unnoticed` |
| what can't be resumed; older streams | `resume_of_what_is_not_there`, `resume_ends_the_older_stream`, `resume_elsewhere_conflict`; times and crashes: `chaos-tests/tests/resumption.rs`, `crashes.rs` |
| blocking: both ways, presence, errors to either side | `blocking_stops_messages`, `blocking_hides_presence`, `blocking_errors`, `blocking_list` |
| roster: pushes, versions, errors | `roster_set_push_and_get`, `roster_versions`, `roster_set_errors`, `roster_remove` |
| carbons: received, sent, private, no-copy, by type | `carbons_received`, `carbons_sent`, `carbons_private_and_disabled`, `carbons_no_copy` |
| messages wait for an offline user and come once, with `<delay/>` | `offline_delivered_once`, `offline_skips_what_has_no_content`, `offline_invitation_waits` |
| vCards, avatar hashes, capabilities | `vcard`, `presence_avatar_hash` |
| private XML and its limits | `private_xml`; limits: `messaging/tests/users/accounts.rs` |
| every iq handler with a missing, empty or garbage attribute or child | `chaos-tests/tests/handlers.rs` |
| presence that may not be said | `presence_errors`, `presence_unknown_type` |
";

fn place(place: Place) -> &'static str {
    match place {
        Place::Stream(_) => "stream features",
        Place::DiscoServer => "server",
        Place::DiscoAccount => "account",
        Place::DiscoRooms => "rooms' service",
        Place::DiscoRoom => "room",
    }
}

/// Orders RFCs before XEPs, each by number.
fn page() -> String {
    let mut by_specification: BTreeMap<&str, Vec<&Feature>> = BTreeMap::new();
    for feature in FEATURES {
        by_specification
            .entry(feature.specification)
            .or_default()
            .push(feature);
    }
    let mut page = HEAD.to_owned();
    for (specification, features) in by_specification {
        for feature in features {
            let places: Vec<_> = feature.advertised.iter().copied().map(place).collect();
            let (name, namespace) = (feature.name, feature.namespace);
            writeln!(
                page,
                "| {specification} | {name} | `{namespace}` | {} |",
                places.join(", ")
            )
            .expect("a String takes all");
        }
    }
    page + FOOT
}

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compliance.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("docs/compliance.md can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, page,
        "docs/compliance.md is out of date; the head of this file says how to renew it"
    );
}
