//! One member's life: log in, join, talk, move.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};
use xmpp::ns;
use xmpp::scan::{Document, Element};

use super::session::{Memory, Session};
use super::{Audience, Phase, Seat, Stage, locked};
use crate::client::{Client, Lasting, Login, Security};
use crate::history::What;
use crate::people::presence_of;
use crate::pool::{Pool, password};

/// How long joining may take; a room without an owner answers after the next election.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// The pause before a node that refused is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Makes a persistent room for its owner, who leaves again.
pub async fn create_room(pool: &Pool, room: &str, owner: &str, node: u64) -> Result<()> {
    create_room_as(&pool.login(node, owner), room).await
}

/// As [`create_room`].
pub(crate) async fn create_room_as(login: &Login, room: &str) -> Result<()> {
    let mut client = Client::connect(login).await?;
    join(&mut client, room, "creator").await?;
    let form = format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value></field>\
         <field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query>",
        ns::MUC_OWNER,
        ns::MUC_ROOM_CONFIG
    );
    client.iq_ok("set", Some(room), &form).await?;
    client.close().await
}

/// Joins without history; gives the subject, which ends the join (XEP-0045 §7.1).
pub async fn join(client: &mut Client, room: &str, nick: &str) -> Result<String> {
    let presence = format!(
        "<presence to='{room}/{nick}'><x xmlns='{}'><history maxstanzas='0'/></x></presence>",
        ns::MUC
    );
    client.send(&presence).await?;
    client
        .find("the end of the join", JOIN_LIMIT, |document| {
            let root = document.root();
            let from_room = root.attr("from").is_some_and(|from| from.starts_with(room));
            match root.name() {
                "presence" if from_room && root.attr("type").as_deref() == Some("error") => {
                    Some(Err(document.source().to_owned()))
                }
                "message" if from_room => {
                    let subject = root.child("subject", ns::CLIENT)?;
                    Some(Ok(subject.text().into_owned()))
                }
                _ => None,
            }
        })
        .await?
        .map_err(|refused| anyhow::anyhow!("the join was refused: {refused}"))
}

/// Lives until the crowd ends.
pub(super) async fn live(stage: Arc<Stage>, seat: Seat) {
    let mut phase = stage.phase.clone();
    let mut memory = Memory::default();
    let mut tries = 0_usize;
    let mut pace = interval(TRY_AGAIN);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while *phase.borrow() != Phase::End {
        let Some(node) = choose(&stage, seat.home, tries) else {
            stage.does(&seat.user, "finds no node alive".into());
            pace.tick().await;
            continue;
        };
        stage.does(&seat.user, format!("goes in on node {node}, try {tries}"));
        match enter(&stage, &seat, node).await {
            Ok((client, lasting, early)) => {
                tries = 0;
                let id = stage.sessions.fetch_add(1, Ordering::Relaxed);
                stage.recorder.record(What::Named {
                    session: id,
                    user: seat.user.clone(),
                });
                stage.recorder.record(What::Joined {
                    session: id,
                    log: seat.hears(),
                    node,
                    home: seat.home,
                    stream_management: seat.stream_management,
                    reads_archive: seat.audience == Audience::User,
                });
                locked(&stage.inside).insert(seat.user.clone(), node);
                let mut session = Session::new(&stage, &seat, (id, node), client, &mut memory);
                session.lasting = lasting;
                session.run(early, &mut phase).await;
                while session.come_back(&phase).await {
                    session.run(Vec::new(), &mut phase).await;
                }
                session.leave();
                locked(&stage.inside).remove(&seat.user);
                stage.does(&seat.user, "has left".into());
            }
            Err(error) => {
                tries += 1;
                stage.does(
                    &seat.user,
                    format!("was not let in on node {node}: {error:#}"),
                );
                // XEP-0045 §7.2.8: nobody's own nickname is taken by the same user's lost session.
                if format!("{error:#}").contains("<conflict") {
                    stage.betray(format!("{} met a conflict: {error:#}", seat.user));
                }
                // Only what a living node refused is worth a line.
                if stage.is_alive(node) && tries.is_multiple_of(10) {
                    println!("{} cannot get in on node {node}: {error:#}", seat.user);
                }
                pace.tick().await;
            }
        }
    }
}

/// Home if it lives, else one of the others, another one each time.
fn choose(stage: &Stage, home: u64, tries: usize) -> Option<u64> {
    if stage.is_alive(home) && tries.is_multiple_of(2) {
        return Some(home);
    }
    let alive = stage.alive_nodes();
    alive
        .get((home as usize + tries) % alive.len().max(1))
        .copied()
}

/// A client that is in, and what it was sent before it knew that.
async fn enter(
    stage: &Stage,
    seat: &Seat,
    node: u64,
) -> Result<(Client, Option<Lasting>, Vec<Document>)> {
    let login = login(stage, seat, node)?;
    let (mut client, lasting) = match seat.lasting {
        true => {
            let (client, lasting) = Client::lasting(&login).await?;
            (client, Some(lasting))
        }
        false => (Client::connect(&login).await?, None),
    };
    let early = match seat.audience {
        Audience::Room => {
            join(&mut client, &seat.to, &seat.user).await?;
            Vec::new()
        }
        Audience::User => go_online(&mut client).await?,
    };
    Ok((client, lasting, early))
}

/// How a member logs in on a node.
pub(super) fn login(stage: &Stage, seat: &Seat, node: u64) -> Result<Login> {
    let found = stage.logins.iter().find(|(id, _)| *id == node);
    let (_, login) = found.context("a node of the pool")?;
    Ok(Login {
        stream_management: seat.stream_management,
        security: match seat.secured {
            true => Security::StartTls,
            false => login.security,
        },
        ..login_of(login, &seat.user)
    })
}

/// How another user logs in to the same node.
pub(crate) fn login_of(login: &Login, user: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: password(user),
        ..login.clone()
    }
}

/// Shows itself, and sees that by its own presence: what is sent to the user from now on is sent to this session, too.
async fn go_online(client: &mut Client) -> Result<Vec<Document>> {
    client.send("<presence/>").await?;
    let own = client.jid().as_str().to_owned();
    let deadline = Instant::now() + JOIN_LIMIT;
    let mut early = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let came = client
            .next_element(left)
            .await
            .context("the own presence")?;
        if presence_of(&came, &own, None).is_some() {
            return Ok(early);
        }
        early.push(came);
    }
}

/// Reads `what` from an element or says what is missing.
pub(super) fn required<'a>(element: Option<Element<'a>>, what: &str) -> Result<Element<'a>> {
    match element {
        Some(element) => Ok(element),
        None => bail!("{what} is missing"),
    }
}
