//! Who may do what to whom: the matrices of XEP-0045 §5 as pure functions.

use super::refusal::Refusal;
use super::state::{Affiliation, Role, RoomConfig};

/// What somebody is in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The role; an admin or owner who isn't in the room counts as moderator.
    pub role: Role,
    /// The affiliation.
    pub affiliation: Affiliation,
}

/// §5.1.2: the role with which one enters.
pub fn role_on_entry(affiliation: Affiliation, moderated: bool) -> Role {
    match affiliation {
        Affiliation::Outcast => Role::None,
        Affiliation::None if moderated => Role::Visitor,
        Affiliation::None | Affiliation::Member => Role::Participant,
        Affiliation::Admin | Affiliation::Owner => Role::Moderator,
    }
}

/// §5.2.1: whether one may enter a room that is open or members-only.
///
/// # Errors
/// [`Refusal::Banned`] (§7.2.7) or [`Refusal::MembersOnly`] (§7.2.6).
pub fn may_enter(affiliation: Affiliation, members_only: bool) -> Result<(), Refusal> {
    match affiliation {
        Affiliation::Outcast => Err(Refusal::Banned),
        Affiliation::None if members_only => Err(Refusal::MembersOnly),
        _ => Ok(()),
    }
}

/// §5.1.3, §8.2–8.5, §9.6–9.8: whether `actor` may give `target` another role.
///
/// # Errors
/// [`Refusal::Forbidden`] where the actor's own standing is too low for the deed, [`Refusal::NotAllowed`] where it is
/// the target's that protects it.
pub fn may_change_role(actor: Standing, target: Standing, new: Role) -> Result<(), Refusal> {
    if actor.role < Role::Moderator {
        return Err(Refusal::Forbidden);
    }
    let is_admin = actor.affiliation >= Affiliation::Admin;
    match new {
        // §8.2: kick. §5.1.3: a moderator is kicked by an admin or owner only.
        Role::None => {
            let protected = target.affiliation > actor.affiliation
                || (target.role == Role::Moderator && !is_admin);
            if protected {
                Err(Refusal::NotAllowed)
            } else {
                Ok(())
            }
        }
        // §9.6: moderators are made by admins.
        Role::Moderator => {
            if is_admin {
                Ok(())
            } else {
                Err(Refusal::Forbidden)
            }
        }
        Role::Visitor | Role::Participant => may_lower_or_grant(actor, target, new),
    }
}

/// §8.3 (grant voice), §8.4 (revoke voice) and §9.7 (revoke moderator status).
fn may_lower_or_grant(actor: Standing, target: Standing, new: Role) -> Result<(), Refusal> {
    let raises = new > target.role;
    if raises || new == target.role {
        return Ok(());
    }
    // §8.4, §9.7: neither voice nor moderator status is ever taken from an admin or owner.
    if target.affiliation >= Affiliation::Admin {
        return Err(Refusal::NotAllowed);
    }
    if target.role == Role::Moderator && actor.affiliation < Affiliation::Admin {
        return Err(Refusal::Forbidden);
    }
    // §8.4: "at or above the moderator's level". Those without an affiliation have no level: otherwise a moderator
    // without one could silence nobody, against §5.1.1.
    if target.affiliation > Affiliation::None && target.affiliation >= actor.affiliation {
        return Err(Refusal::NotAllowed);
    }
    Ok(())
}

/// §5.2.2: whether somebody of affiliation `actor` may change an affiliation from `old` to `new`.
///
/// # Errors
/// [`Refusal::Forbidden`] where the list is not the actor's to edit, [`Refusal::NotAllowed`] for a ban upward (§9.1).
pub fn may_change_affiliation(
    actor: Affiliation,
    old: Affiliation,
    new: Affiliation,
) -> Result<(), Refusal> {
    match actor {
        Affiliation::Owner => Ok(()),
        Affiliation::Admin => match (old, new) {
            (Affiliation::Admin | Affiliation::Owner, Affiliation::Outcast) => {
                Err(Refusal::NotAllowed)
            }
            (Affiliation::Admin | Affiliation::Owner, _)
            | (_, Affiliation::Admin | Affiliation::Owner) => Err(Refusal::Forbidden),
            _ => Ok(()),
        },
        _ => Err(Refusal::Forbidden),
    }
}

/// §5.1.3: the role of an occupant whose affiliation has changed; `Role::None`: out (ban §9.1, lost membership §9.4).
pub fn role_after(old: Standing, new: Affiliation, config: &RoomConfig) -> Role {
    match new {
        Affiliation::Outcast => Role::None,
        Affiliation::None if config.members_only => Role::None,
        Affiliation::Admin | Affiliation::Owner => Role::Moderator,
        // Moderator status that came with the affiliation goes with it; what a moderator granted stays.
        Affiliation::Member | Affiliation::None if old.affiliation >= Affiliation::Admin => {
            role_on_entry(new, config.moderated)
        }
        Affiliation::Member => old.role.max(Role::Participant),
        Affiliation::None => old.role,
    }
}

/// §9.5, §10.5, §10.8: whether somebody may read the list of an affiliation.
///
/// # Errors
/// [`Refusal::Forbidden`].
pub fn may_read_list(
    asker: Affiliation,
    list: Affiliation,
    non_anonymous: bool,
) -> Result<(), Refusal> {
    let allowed = match list {
        Affiliation::Owner | Affiliation::Admin => {
            asker == Affiliation::Owner || (non_anonymous && asker >= Affiliation::Member)
        }
        Affiliation::Member => {
            asker >= Affiliation::Admin || (non_anonymous && asker >= Affiliation::Member)
        }
        Affiliation::Outcast | Affiliation::None => asker >= Affiliation::Admin,
    };
    if allowed {
        Ok(())
    } else {
        Err(Refusal::Forbidden)
    }
}
