//! Entering a room, creating it where there is none, and coming back to it. XEP-0045 §7.2, §10.1.

use std::sync::Arc;

use xmpp::stanza::Stanza;

use super::command::HistoryRequest;
use super::depth::LogDepth;
use super::effect::Welcome;
use super::event::RoomEvent;
use super::presence::{check_nick_free, checked_nick, rename};
use super::refusal::Refusal;
use super::rights::{may_enter, role_on_entry};
use super::state::{Affiliation, Occupant, RoomConfig, RoomRecord, Secret, Subject};
use super::transaction::Transaction;

/// Seats beyond the limit for admins and owners, so that a room stuffed with others can be tidied. §7.2.9
const RESERVED_SEATS: usize = 32;

/// The node that holds a session.
#[derive(Clone, Copy)]
pub(super) struct Home {
    pub(super) node: u64,
    pub(super) incarnation: u64,
    pub(super) session: u64,
}

/// §7.2.
pub(super) fn join(
    tx: &mut Transaction<'_, '_>,
    nick: String,
    presence: Stanza,
    password: Option<Secret>,
    history: HistoryRequest,
    home: Home,
) -> Result<u64, Refusal> {
    let nick = checked_nick(tx.room, nick)?;
    if tx.record().is_none() {
        check_may_create(tx)?;
        create(tx);
        return Ok(enter(tx, nick, presence, history, home, true));
    }
    if tx.sender().is_some() {
        return come_back(tx, nick, presence, history, home);
    }
    let affiliation = tx.affiliation(&tx.by.bare());
    check_entry(tx, affiliation, password.as_ref())?;
    check_nick_free(tx, &nick)?;
    Ok(enter(tx, nick, presence, history, home, false))
}

/// §10.1.1. What the person owns in other partitions no command of this one may know.
fn check_may_create(tx: &mut Transaction<'_, '_>) -> Result<(), Refusal> {
    let person = tx.by.bare();
    let owned = tx
        .state
        .room_views
        .rooms_owned(&tx.state.affiliations, &person);
    if owned >= tx.ctx.pool.rooms_owned_max {
        return Err(Refusal::TooManyRooms);
    }
    Ok(())
}

/// §10.1.1: locked until its owner has configured it.
fn create(tx: &mut Transaction<'_, '_>) {
    // Within one entry a room may go and be made again: the later one begins above the earlier one's rows.
    let base = (tx.ctx.index * 4_096).max(tx.state.room_views.gone_head(tx.ctx.index, tx.room));
    let record = RoomRecord {
        created_ms: tx.ctx.time_ms,
        locked: true,
        config: RoomConfig::default(),
        subject: Subject::default(),
        base,
        head: base,
        depth: LogDepth::default(),
    };
    tx.state.rooms.insert(tx.room.clone(), record);
    tx.set_affiliation(&tx.by.bare(), Affiliation::Owner, None);
}

/// §7.2.5–7.2.10: what may stand in the way.
fn check_entry(
    tx: &mut Transaction<'_, '_>,
    affiliation: Affiliation,
    password: Option<&Secret>,
) -> Result<(), Refusal> {
    let record = tx.record().ok_or(Refusal::NoSuchRoom)?;
    // A ban is told first: §9.1 wins over everything else that might refuse.
    may_enter(affiliation, record.config.members_only)?;
    if record.locked && affiliation != Affiliation::Owner {
        return Err(Refusal::NoSuchRoom);
    }
    if record.config.password.is_some() && record.config.password.as_ref() != password {
        return Err(Refusal::PasswordWrong);
    }
    let limit = occupants_limit(&record.config, tx.ctx.pool.occupants_max);
    let reserved = if affiliation >= Affiliation::Admin {
        RESERVED_SEATS
    } else {
        0
    };
    if tx.occupants().len() >= limit.saturating_add(reserved) {
        return Err(Refusal::Full);
    }
    Ok(())
}

/// The room's own limit within the pool's.
pub(super) fn occupants_limit(config: &RoomConfig, pool: u32) -> usize {
    let limit = if config.occupants_max == 0 {
        pool
    } else {
        config.occupants_max.min(pool)
    };
    limit as usize
}

fn enter(
    tx: &mut Transaction<'_, '_>,
    nick: String,
    presence: Stanza,
    history: HistoryRequest,
    home: Home,
    created: bool,
) -> u64 {
    let affiliation = tx.affiliation(&tx.by.bare());
    let moderated = tx.record().is_some_and(|record| record.config.moderated);
    // Sessions under one nickname are one occupant to the others, so they have one role.
    let shared = tx.sessions_under(&nick).first().map(|other| other.role);
    let occupant = Occupant {
        jid: tx.by.clone(),
        nick,
        role: shared.unwrap_or_else(|| role_on_entry(affiliation, moderated)),
        affiliation,
        presence: without_addresses(presence),
        joined: tx.next_seq(),
        node: home.node,
        incarnation: home.incarnation,
        session: home.session,
        account: tx.account,
    };
    tx.put_occupant(&occupant);
    log_join(tx, occupant, history, created, true)
}

/// §7.2.1: a client that is in and joins again has lost its picture: it gets the whole answer again.
fn come_back(
    tx: &mut Transaction<'_, '_>,
    nick: String,
    presence: Stanza,
    history: HistoryRequest,
    home: Home,
) -> Result<u64, Refusal> {
    let Some(before) = tx.sender().cloned() else {
        return Err(Refusal::NotOccupant);
    };
    if before.nick != nick {
        check_nick_free(tx, &nick)?;
        rename(tx, nick);
    }
    let Some(now) = tx.sender().cloned() else {
        return Err(Refusal::NotOccupant);
    };
    let presence = without_addresses(presence);
    let announced = presence.payload != now.presence.payload;
    let occupant = Occupant {
        presence,
        joined: tx.next_seq(),
        node: home.node,
        incarnation: home.incarnation,
        session: home.session,
        ..now
    };
    tx.put_occupant(&occupant);
    Ok(log_join(tx, occupant, history, false, announced))
}

fn log_join(
    tx: &mut Transaction<'_, '_>,
    occupant: Occupant,
    history: HistoryRequest,
    created: bool,
    announced: bool,
) -> u64 {
    let Some(room) = tx.record().cloned() else {
        return 0;
    };
    let own_codes = own_codes(&room.config, created);
    let welcome = Arc::new(Welcome { room, history });
    tx.log_with_welcome(
        RoomEvent::Joined {
            occupant,
            own_codes,
            announced,
        },
        Some(welcome),
    )
}

/// What the newcomer must know: §7.2.3 (100), §7.2.12 (170), §10.1.1 (201).
pub(super) fn own_codes(config: &RoomConfig, created: bool) -> Vec<u16> {
    let codes = [
        (config.non_anonymous, 100),
        (config.archived, 170),
        (created, 201),
    ];
    codes
        .into_iter()
        .filter(|(applies, _)| *applies)
        .map(|(_, code)| code)
        .collect()
}

/// Stanzas are kept without addresses: each recipient's copy gets its own.
pub(super) fn without_addresses(stanza: Stanza) -> Stanza {
    Stanza {
        from: None,
        to: None,
        ..stanza
    }
}
