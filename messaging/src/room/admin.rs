//! Changes of roles and affiliations: all of a request or nothing. XEP-0045 §8.2–8.5, §9, §10.3–10.8.

use std::collections::BTreeMap;
use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid, Jid};

use super::command::AdminItem;
use super::event::RoomEvent;
use super::invite;
use super::leave::{Removal, remove};
use super::refusal::Refusal;
use super::rights::{Standing, may_change_affiliation, may_change_role, role_after};
use super::state::{Affiliation, Occupant, Role, RoomConfig};
use super::transaction::Transaction;

/// A checked change of a role.
struct RoleChange {
    sessions: Vec<Arc<Occupant>>,
    role: Role,
    reason: Option<String>,
}

/// A checked change of an affiliation.
struct AffiliationChange {
    jid: BareJid,
    old: Affiliation,
    new: Affiliation,
    reason: Option<String>,
}

/// A request with a list of changes.
pub(super) fn change(tx: &mut Transaction<'_, '_>, items: Vec<AdminItem>) -> Result<u64, Refusal> {
    if tx.record().is_none() {
        return Err(Refusal::NoSuchRoom);
    }
    let actor = tx.sender_standing();
    if actor.role < Role::Moderator && actor.affiliation < Affiliation::Admin {
        return Err(Refusal::Forbidden);
    }
    let mut roles = Vec::new();
    let mut affiliations: BTreeMap<BareJid, AffiliationChange> = BTreeMap::new();
    for item in items {
        match (item.role, item.affiliation) {
            (Some(role), None) => roles.push(check_role(tx, actor, &item, role)?),
            (None, Some(new)) => {
                let jid = target_jid(tx, &item)?;
                // A later item on the same JID starts from what an earlier one makes of it.
                let old = affiliations
                    .get(&jid)
                    .map_or_else(|| tx.listed(&jid), |earlier| earlier.new);
                check_affiliation(tx, actor.affiliation, &jid, old, new)?;
                let old = affiliations.get(&jid).map_or(old, |earlier| earlier.old);
                let change = AffiliationChange {
                    jid: jid.clone(),
                    old,
                    new,
                    reason: item.reason,
                };
                affiliations.insert(jid, change);
            }
            // §17.4: neither both nor none.
            _ => return Err(Refusal::BadRequest),
        }
    }
    // A list is of roles or of affiliations: each role was judged by the affiliation as it is, not as it may become.
    if !roles.is_empty() && !affiliations.is_empty() {
        return Err(Refusal::BadRequest);
    }
    check_an_owner_remains(tx, &affiliations)?;
    check_new_members_can_be_told(tx, &affiliations)?;
    let mut seq = 0;
    for change in affiliations.into_values() {
        seq = apply_affiliation(tx, change).max(seq);
    }
    for change in roles {
        seq = apply_role(tx, change).max(seq);
    }
    Ok(seq)
}

fn check_role(
    tx: &mut Transaction<'_, '_>,
    actor: Standing,
    item: &AdminItem,
    role: Role,
) -> Result<RoleChange, Refusal> {
    let nick = item.nick.as_deref().ok_or(Refusal::BadRequest)?;
    let sessions = tx.sessions_under(nick);
    let target = sessions.first().ok_or(Refusal::NoSuchOccupant)?;
    let standing = Standing {
        role: target.role,
        affiliation: target.affiliation,
    };
    may_change_role(actor, standing, role)?;
    // §8.2: nobody kicks themselves.
    if role == Role::None && target.jid.bare() == tx.by.bare() {
        return Err(Refusal::Conflict);
    }
    Ok(RoleChange {
        sessions,
        role,
        reason: item.reason.clone(),
    })
}

/// By JID, else by the nickname of somebody who is here. §10.3: a full JID stands for its bare one.
fn target_jid(tx: &mut Transaction<'_, '_>, item: &AdminItem) -> Result<BareJid, Refusal> {
    if let Some(jid) = &item.jid {
        return Ok(jid.bare());
    }
    let nick = item.nick.as_deref().ok_or(Refusal::BadRequest)?;
    let sessions = tx.sessions_under(nick);
    sessions
        .first()
        .map(|occupant| occupant.jid.bare())
        .ok_or(Refusal::NoSuchOccupant)
}

fn check_affiliation(
    tx: &Transaction<'_, '_>,
    actor: Affiliation,
    jid: &BareJid,
    old: Affiliation,
    new: Affiliation,
) -> Result<(), Refusal> {
    // §9.1: nobody bans themselves.
    if new == Affiliation::Outcast && *jid == tx.by.bare() && actor >= Affiliation::Admin {
        return Err(Refusal::Conflict);
    }
    // §9.2: a whole domain can be banned, and nothing else.
    if jid.is_domain() && !matches!(new, Affiliation::Outcast | Affiliation::None) {
        return Err(Refusal::BadRequest);
    }
    may_change_affiliation(actor, old, new)
}

/// §10.4, §10.5.
fn check_an_owner_remains(
    tx: &Transaction<'_, '_>,
    changes: &BTreeMap<BareJid, AffiliationChange>,
) -> Result<(), Refusal> {
    let lost = changes
        .values()
        .any(|change| change.old == Affiliation::Owner && change.new != Affiliation::Owner);
    if !lost {
        return Ok(());
    }
    let gained = changes
        .values()
        .any(|change| change.new == Affiliation::Owner);
    let kept = tx.state.affiliations.rows_of(tx.room).any(|(jid, record)| {
        record.affiliation == Affiliation::Owner && !changes.contains_key(jid)
    });
    if gained || kept {
        Ok(())
    } else {
        Err(Refusal::Conflict)
    }
}

/// §9.5: each new member may have to be invited.
fn check_new_members_can_be_told(
    tx: &mut Transaction<'_, '_>,
    changes: &BTreeMap<BareJid, AffiliationChange>,
) -> Result<(), Refusal> {
    let members_only = tx.record().is_some_and(|room| room.config.members_only);
    let told: Vec<&BareJid> = changes
        .values()
        .filter(|change| is_invited(tx, members_only, &change.jid, change.old, change.new))
        .map(|change| &change.jid)
        .collect();
    if tx.ctx.outbox_has_room(tx.state, told) {
        Ok(())
    } else {
        Err(Refusal::WayFull)
    }
}

/// Takes somebody off the list who will not come back. Where that was the last owner, the admins become owners: a room
/// can't be without one (§10.4).
pub(super) fn forget(tx: &mut Transaction<'_, '_>, person: &BareJid) {
    let old = tx.listed(person);
    if tx.record().is_none() || old == Affiliation::None {
        return;
    }
    if old == Affiliation::Owner && owners_but(tx, person) == 0 {
        let admins: Vec<BareJid> = tx
            .state
            .affiliations
            .rows_of(tx.room)
            .filter(|(_, record)| record.affiliation == Affiliation::Admin)
            .map(|(jid, _)| jid.clone())
            .collect();
        for jid in admins {
            let heir = AffiliationChange {
                jid,
                old: Affiliation::Admin,
                new: Affiliation::Owner,
                reason: None,
            };
            apply_affiliation(tx, heir);
        }
    }
    let gone = AffiliationChange {
        jid: person.clone(),
        old,
        new: Affiliation::None,
        reason: None,
    };
    apply_affiliation(tx, gone);
}

/// Whether the room has an owner.
pub(super) fn has_owner(tx: &Transaction<'_, '_>) -> bool {
    let mut listed = tx.state.affiliations.rows_of(tx.room);
    listed.any(|(_, record)| record.affiliation == Affiliation::Owner)
}

fn owners_but(tx: &Transaction<'_, '_>, person: &BareJid) -> usize {
    let listed = tx.state.affiliations.rows_of(tx.room);
    listed
        .filter(|(jid, record)| record.affiliation == Affiliation::Owner && *jid != person)
        .count()
}

fn apply_affiliation(tx: &mut Transaction<'_, '_>, change: AffiliationChange) -> u64 {
    let AffiliationChange {
        jid,
        old,
        new,
        reason,
    } = change;
    tx.set_affiliation(&jid, new, reason.clone());
    if old == new {
        return 0;
    }
    let Some(config) = tx.record().map(|record| record.config.clone()) else {
        return 0;
    };
    let concerned: Vec<Arc<Occupant>> = tx
        .occupants()
        .iter()
        .filter(|o| is_covered(&o.jid, &jid))
        .map(Arc::clone)
        .collect();
    if concerned.is_empty() {
        invite_new_member(tx, &config, &jid, old, new);
        let affiliated = RoomEvent::Affiliated {
            jid: Jid::from(&jid),
            affiliation: new,
            reason,
        };
        return tx.log(affiliated);
    }
    settle(tx, &config, &concerned, reason)
}

/// Whether an entry of the list is about this session: by its bare JID, or by its domain (§9.2).
fn is_covered(session: &FullJid, listed: &BareJid) -> bool {
    session.bare() == *listed || (listed.is_domain() && session.domain() == listed.domain())
}

/// Brings occupants in line with the affiliation that now counts for them: another role (§5.1.3), or out.
fn settle(
    tx: &mut Transaction<'_, '_>,
    config: &RoomConfig,
    concerned: &[Arc<Occupant>],
    reason: Option<String>,
) -> u64 {
    let actor = tx.actor();
    let (mut banned, mut no_longer_members, mut seq) = (Vec::new(), Vec::new(), 0);
    for occupant in concerned {
        let affiliation = tx.affiliation(&occupant.jid.bare());
        let old = Standing {
            role: occupant.role,
            affiliation: occupant.affiliation,
        };
        if affiliation == old.affiliation {
            continue;
        }
        let role = role_after(old, affiliation, config);
        match (role, affiliation) {
            (_, Affiliation::Outcast) => banned.push(occupant.jid.clone()),
            // §9.4: only the removal is shown, not the lost affiliation before it.
            (Role::None, _) => no_longer_members.push(occupant.jid.clone()),
            _ => {
                let occupant = Occupant {
                    role,
                    affiliation,
                    ..Occupant::clone(occupant)
                };
                tx.put_occupant(&occupant);
                seq = tx.log(RoomEvent::Changed {
                    occupant,
                    actor: actor.clone(),
                    reason: reason.clone(),
                });
            }
        }
    }
    for (sessions, code) in [(banned, 301), (no_longer_members, 321)] {
        let removal = Removal {
            codes: vec![code],
            actor: actor.clone(),
            reason: reason.clone(),
        };
        if !sessions.is_empty() {
            seq = remove(tx, &sessions, &removal).max(seq);
        }
    }
    seq
}

/// §9.5: who becomes a member of a members-only room without being in it is invited.
fn invite_new_member(
    tx: &mut Transaction<'_, '_>,
    config: &RoomConfig,
    jid: &BareJid,
    old: Affiliation,
    new: Affiliation,
) {
    if is_invited(tx, config.members_only, jid, old, new) {
        invite::tell_new_member(tx, jid, config.password.as_ref());
    }
}

fn is_invited(
    tx: &Transaction<'_, '_>,
    members_only: bool,
    jid: &BareJid,
    old: Affiliation,
    new: Affiliation,
) -> bool {
    let is_local = jid.domain() == tx.ctx.pool.domain;
    members_only && old == Affiliation::None && new == Affiliation::Member && is_local
}

fn apply_role(tx: &mut Transaction<'_, '_>, change: RoleChange) -> u64 {
    if change.role != Role::None {
        return give_role(tx, &change.sessions, change.role, change.reason);
    }
    let sessions: Vec<FullJid> = change
        .sessions
        .iter()
        .map(|occupant| occupant.jid.clone())
        .collect();
    remove(
        tx,
        &sessions,
        &Removal {
            codes: vec![307],
            actor: tx.actor(),
            reason: change.reason,
        },
    )
}

/// Gives all sessions under one nickname a role. A session that has gone meanwhile (in the same request) stays out.
pub(super) fn give_role(
    tx: &mut Transaction<'_, '_>,
    sessions: &[Arc<Occupant>],
    role: Role,
    reason: Option<String>,
) -> u64 {
    let (actor, mut seq) = (tx.actor(), 0);
    for session in sessions {
        let Some(now) = tx.occupant(&session.jid).cloned() else {
            continue;
        };
        if now.role == role {
            continue;
        }
        let occupant = Occupant { role, ..now };
        tx.put_occupant(&occupant);
        seq = tx.log(RoomEvent::Changed {
            occupant,
            actor: actor.clone(),
            reason: reason.clone(),
        });
    }
    seq
}
