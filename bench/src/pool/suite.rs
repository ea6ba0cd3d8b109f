//! The suite: each budget's scenario once, short, in an order that leaves the figures of memory clean.

use std::sync::Arc;

use crate::cli::TargetArgs;
use crate::pool::{Pool, PoolArgs};
use crate::report::Row;
use crate::scenario::{chat, durable, idle, login, presence, room};
use crate::target::{Security, Target};

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Idle sessions without TLS
    IdlePlain,
    /// Idle sessions with TLS
    IdleTls,
    /// Logins without TLS
    LoginPlain,
    /// Logins with TLS
    LoginTls,
    /// Chat at a rate, not archived
    ChatOpen,
    /// Chat in closed loops, not archived
    ChatClosed,
    /// Chat at a rate, archived
    ChatArchived,
    /// Rooms
    Room,
    /// Rooms with ten times the messages
    RoomBusy,
    /// Presence
    Presence,
    /// Acknowledged messages in closed loops
    Durable,
    /// Acknowledged messages at a rate
    DurableOpen,
}

impl Part {
    /// In this order. Memory comes first, because what other parts have freed would be used again; parts that need the
    /// same kind of pool stand together.
    const ALL: [Part; 12] = [
        Part::IdleTls,
        Part::IdlePlain,
        Part::LoginPlain,
        Part::LoginTls,
        Part::ChatOpen,
        Part::ChatClosed,
        Part::ChatArchived,
        Part::Room,
        Part::RoomBusy,
        Part::Presence,
        Part::Durable,
        Part::DurableOpen,
    ];

    /// Whether it wants a pool in which nothing has happened.
    fn wants_fresh_pool(self) -> bool {
        matches!(self, Part::IdleTls | Part::IdlePlain)
    }

    fn security(self, load: Security) -> Security {
        match self {
            Part::IdlePlain | Part::LoginPlain => Security::Plain,
            Part::IdleTls | Part::LoginTls => Security::Tls,
            _ => load,
        }
    }
}

/// Runs all parts that are wanted.
pub(crate) async fn run(args: &PoolArgs, target_args: &TargetArgs) -> anyhow::Result<Vec<Row>> {
    let load = target_args.security.unwrap_or(Security::Plain);
    let wanted = |part: &Part| args.only.is_empty() || args.only.contains(part);
    let mut rows = Vec::new();
    let mut running: Option<Pool> = None;
    let mut targets: Vec<(Security, Arc<Target>)> = Vec::new();
    for part in Part::ALL.into_iter().filter(wanted) {
        let kept = running.take();
        let pool = match kept {
            Some(pool) if !part.wants_fresh_pool() => pool,
            old => {
                if let Some(old) = old {
                    old.stop().await?;
                }
                targets.clear();
                Pool::start(args).await?
            }
        };
        let security = part.security(load);
        let known = targets.iter().find(|(known, _)| *known == security);
        let target = match known {
            Some((_, target)) => Arc::clone(target),
            None => {
                let target = pool.target(security, target_args)?;
                targets.push((security, Arc::clone(&target)));
                target
            }
        };
        eprintln!("{part:?} …");
        rows.push(one(part, args, &target).await?);
        running = Some(pool);
    }
    if let Some(pool) = running {
        pool.stop().await?;
    }
    Ok(rows)
}

async fn one(part: Part, args: &PoolArgs, target: &Arc<Target>) -> anyhow::Result<Row> {
    let seconds = args.seconds;
    match part {
        Part::IdlePlain | Part::IdleTls => {
            let sessions = args.idle_sessions;
            let idle = idle::IdleArgs {
                sessions,
                settle: 5,
                no_stream_management: false,
            };
            Box::pin(idle::run(target, &idle)).await
        }
        Part::LoginPlain | Part::LoginTls => {
            let login = login::LoginArgs {
                logins: 300,
                no_stream_management: false,
            };
            Box::pin(login::run(target, &login)).await
        }
        Part::ChatOpen | Part::ChatClosed | Part::ChatArchived => {
            Box::pin(chat::run(target, &chat_args(part, seconds))).await
        }
        Part::Room | Part::RoomBusy => Box::pin(room::run(target, &room_args(part, seconds))).await,
        Part::Presence => {
            let presence = presence::PresenceArgs {
                users: 200,
                contacts: 20,
                rate: 50.0,
                seconds,
                no_stream_management: false,
            };
            Box::pin(presence::run(target, &presence)).await
        }
        Part::Durable | Part::DurableOpen => {
            let rate = (part == Part::DurableOpen).then_some(1000.0);
            let durable = durable::DurableArgs {
                senders: 256,
                rate,
                seconds,
                origin_id: true,
            };
            Box::pin(durable::run(target, &durable)).await
        }
    }
}

fn chat_args(part: Part, seconds: u64) -> chat::ChatArgs {
    let archived = part == Part::ChatArchived;
    chat::ChatArgs {
        pairs: 50,
        rate: if archived { 100.0 } else { 500.0 },
        closed: part == Part::ChatClosed,
        seconds,
        no_store: !archived,
        origin_id: archived,
        no_stream_management: false,
    }
}

fn room_args(part: Part, seconds: u64) -> room::RoomArgs {
    room::RoomArgs {
        rooms: 20,
        occupants: 50,
        sessions: None,
        rate: if part == Part::RoomBusy { 200.0 } else { 20.0 },
        seconds,
        no_store: false,
        no_stream_management: false,
    }
}
