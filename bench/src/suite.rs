//! The suite: each budget's scenario once, in an order that leaves the figures of memory clean.

use std::sync::Arc;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::cli::TargetArgs;
use crate::report::Row;
use crate::scenario::{archive, chat, churn, durable, failover, idle, login, presence, room};
use crate::server::{Kind, Server};
use crate::site::Site;
use crate::target::{Security, Target};

/// A part of the suite.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// Idle sessions with TLS
    IdleTls,
    /// Idle sessions without TLS
    IdlePlain,
    /// Logins without TLS
    LoginPlain,
    /// Logins with TLS
    LoginTls,
    /// Logins and logouts at a rate
    Churn,
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
    /// Pages of an archive
    Archive,
    /// A node is killed while rooms are written to; three nodes only
    Failover,
}

impl Part {
    /// In this order. Memory comes first, because what other parts have freed would be used again; parts that need the
    /// same kind of server stand together, and what kills nodes stands last.
    pub(crate) const ALL: [Part; 15] = [
        Part::IdleTls,
        Part::IdlePlain,
        Part::LoginPlain,
        Part::LoginTls,
        Part::Churn,
        Part::ChatOpen,
        Part::ChatClosed,
        Part::ChatArchived,
        Part::Room,
        Part::RoomBusy,
        Part::Presence,
        Part::Durable,
        Part::DurableOpen,
        Part::Archive,
        Part::Failover,
    ];

    /// Those that are named, or all if none is.
    pub(crate) fn chosen(named: &[Part]) -> Vec<Part> {
        let is_chosen = |part: &Part| named.is_empty() || named.contains(part);
        Part::ALL.into_iter().filter(is_chosen).collect()
    }

    /// Whether it wants a server on which nothing has happened.
    fn wants_fresh_server(self) -> bool {
        matches!(self, Part::IdleTls | Part::IdlePlain)
    }

    /// Whether it makes sense for this server.
    fn fits(self, kind: Kind) -> bool {
        self != Part::Failover || kind == Kind::Muster3
    }

    fn security(self, load: Security) -> Security {
        match self {
            Part::IdlePlain | Part::LoginPlain => Security::Plain,
            Part::IdleTls | Part::LoginTls => Security::Tls,
            _ => load,
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Scale {
    /// Seconds of load in each part
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) seconds: u64,
    /// Sessions of the idle parts
    #[arg(long, default_value_t = 1000)]
    pub(crate) idle_sessions: usize,
    /// Seconds from the last login to the measurement of memory
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) idle_settle: u64,
    /// Logins of the login parts
    #[arg(long, default_value_t = 300)]
    pub(crate) logins: usize,
    /// Rooms of the room parts
    #[arg(long, default_value_t = 20)]
    pub(crate) rooms: usize,
    /// Occupants of each room
    #[arg(long, default_value_t = 50)]
    pub(crate) occupants: usize,
    /// Users of the presence part, each with 20 contacts
    #[arg(long, default_value_t = 200)]
    pub(crate) presence_users: usize,
    /// Senders of the durable parts
    #[arg(long, default_value_t = 256)]
    pub(crate) senders: usize,
    /// Messages in the archives whose pages are read
    #[arg(long, default_value_t = 5000)]
    pub(crate) archived_messages: usize,
}

impl Scale {
    /// A few seconds a part: whether all works, not what it costs.
    pub(crate) const QUICK: Scale = Scale {
        seconds: 2,
        idle_sessions: 100,
        idle_settle: 2,
        logins: 50,
        rooms: 5,
        occupants: 10,
        presence_users: 30,
        senders: 32,
        archived_messages: 500,
    };
}

/// What is run on a server.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) parts: Vec<Part>,
    pub(crate) scale: Scale,
    /// How clients connect in the parts that do not say it by their name.
    pub(crate) security: Security,
}

/// What a part found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) part: Part,
    pub(crate) row: Row,
}

/// Runs the parts that fit on a server of this kind, each on a fresh one if it wants that. What was found until an error is
/// in `all`.
pub(crate) async fn run(
    kind: Kind,
    site: &Site,
    plan: &Plan,
    args: &TargetArgs,
    all: &mut Vec<Measured>,
) -> anyhow::Result<()> {
    let password = format!("{:016x}", rand::rng().random::<u64>());
    let mut running: Option<Server> = None;
    let mut targets: Vec<(Security, Arc<Target>)> = Vec::new();
    for part in plan.parts.iter().copied().filter(|part| part.fits(kind)) {
        let mut server = match running.take() {
            Some(server) if !part.wants_fresh_server() => server,
            old => {
                if let Some(old) = old {
                    old.stop().await?;
                }
                targets.clear();
                Server::start(kind, site, args).await?
            }
        };
        let security = part.security(plan.security);
        let known = targets.iter().find(|(known, _)| *known == security);
        let target = match known {
            Some((_, target)) => Arc::clone(target),
            None => {
                let target = server.target(security, site, &password, args)?;
                targets.push((security, Arc::clone(&target)));
                target
            }
        };
        eprintln!("{}: {part:?} …", kind.name());
        let row = one(part, &plan.scale, &target, &mut server).await?;
        // What is left undone of it would be in the next part's way.
        let is_spent = row.void;
        all.push(Measured { part, row });
        match is_spent {
            true => server.stop().await?,
            false => running = Some(server),
        }
    }
    if let Some(server) = running {
        server.stop().await?;
    }
    Ok(())
}

async fn one(
    part: Part,
    scale: &Scale,
    target: &Arc<Target>,
    server: &mut Server,
) -> anyhow::Result<Row> {
    match part {
        Part::IdlePlain | Part::IdleTls => Box::pin(idle::run(target, &idle_args(scale))).await,
        Part::LoginPlain | Part::LoginTls => {
            let login = login::LoginArgs {
                logins: scale.logins,
                no_stream_management: false,
            };
            Box::pin(login::run(target, &login)).await
        }
        Part::Churn => Box::pin(churn::run(target, &churn_args(scale))).await,
        Part::ChatOpen | Part::ChatClosed | Part::ChatArchived => {
            Box::pin(chat::run(target, &chat_args(part, scale.seconds))).await
        }
        Part::Room | Part::RoomBusy => Box::pin(room::run(target, &room_args(part, scale))).await,
        Part::Presence => Box::pin(presence::run(target, &presence_args(scale))).await,
        Part::Durable | Part::DurableOpen => {
            Box::pin(durable::run(target, &durable_args(part, scale))).await
        }
        Part::Archive => Box::pin(archive::run(target, &archive_args(scale))).await,
        Part::Failover => match server {
            Server::Muster(pool) => {
                Box::pin(failover::run(target, &failover_args(scale), pool)).await
            }
            Server::Peer(_) => anyhow::bail!("only a pool that was started here loses nodes"),
        },
    }
}

fn idle_args(scale: &Scale) -> idle::IdleArgs {
    idle::IdleArgs {
        sessions: scale.idle_sessions,
        settle: scale.idle_settle,
        no_stream_management: false,
    }
}

fn churn_args(scale: &Scale) -> churn::ChurnArgs {
    churn::ChurnArgs {
        users: scale.logins.max(100),
        rate: 50.0,
        stay: 1.0,
        seconds: scale.seconds,
        settle: scale.idle_settle,
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

fn room_args(part: Part, scale: &Scale) -> room::RoomArgs {
    room::RoomArgs {
        rooms: scale.rooms,
        occupants: scale.occupants,
        sessions: None,
        rate: if part == Part::RoomBusy { 200.0 } else { 20.0 },
        seconds: scale.seconds,
        no_store: false,
        no_stream_management: false,
    }
}

fn presence_args(scale: &Scale) -> presence::PresenceArgs {
    presence::PresenceArgs {
        users: scale.presence_users,
        contacts: 20,
        rate: 50.0,
        seconds: scale.seconds,
        no_stream_management: false,
    }
}

fn durable_args(part: Part, scale: &Scale) -> durable::DurableArgs {
    durable::DurableArgs {
        senders: scale.senders,
        rate: (part == Part::DurableOpen).then_some(1000.0),
        seconds: scale.seconds,
        origin_id: true,
    }
}

fn archive_args(scale: &Scale) -> archive::ArchiveArgs {
    archive::ArchiveArgs {
        messages: scale.archived_messages,
        archives: 4,
        page: 50,
        readers: 4,
        seconds: scale.seconds,
    }
}

fn failover_args(scale: &Scale) -> failover::FailoverArgs {
    failover::FailoverArgs {
        trouble: failover::Trouble::Killed,
        rooms: 30,
        occupants: 6,
        rate: 600.0,
        turns: 3,
        seconds: scale.seconds.max(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_part_is_run_and_in_order() {
        assert_eq!(Part::value_variants(), Part::ALL);
        assert_eq!(Part::chosen(&[]), Part::ALL);
        assert_eq!(
            Part::chosen(&[Part::Room, Part::IdleTls]),
            [Part::IdleTls, Part::Room]
        );
        assert!(Part::Failover.fits(Kind::Muster3) && !Part::Failover.fits(Kind::Prosody));
    }
}
