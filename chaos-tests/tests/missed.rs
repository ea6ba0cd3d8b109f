//! A node misses more of a room than the room's log keeps, and its clients are still in: what they see when it is back.
//! See `docs/adr/0013-a-rooms-log-is-kept-1000-events-deep.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::load::read_archive;
use chaos_tests::pool::{Pool, PoolSettings, ROOMS};
use chaos_tests::wait::until;
use serde_json::json;
use xmpp::ns;
use xmpp::scan::Document;

/// How long each step may take: generous because tests share two cores.
const LIMIT: Duration = Duration::from_secs(20);

/// So many come into the room and go again, two events each. Their departures are remembered; of the events a thousand
/// stay, and less than a hundred more.
const GUESTS: usize = 700;
const EVENTS_LEFT_MAX: usize = 1_099;

/// Messages in the room with an archive, between those events.
const SAID: usize = 140;

/// Messages in the room without one: more than stay.
const UNARCHIVED: usize = 1_200;

fn room(name: &str) -> String {
    format!("{name}@{ROOMS}")
}

fn said(room: &str, body: &str) -> String {
    format!("<message type='groupchat' to='{room}' id='{body}'><body>{body}</body></message>")
}

/// What an occupant's client knows of a room.
#[derive(Debug, Default)]
struct Picture {
    /// Who is in, and what they say of themselves.
    occupants: BTreeMap<String, String>,
    /// Bodies and their ids in the archive.
    messages: Vec<(String, String)>,
    /// Presences that said that somebody is in, of each nickname.
    shown: BTreeMap<String, usize>,
    gone: BTreeSet<String>,
    /// The codes with which this occupant was taken out.
    taken_out: Option<Vec<String>>,
}

impl Picture {
    fn take(&mut self, room: &str, came: &Document) {
        let root = came.root();
        let from = root.attr("from").unwrap_or_default();
        let Some(rest) = from.strip_prefix(room) else {
            return;
        };
        let nick = rest.trim_start_matches('/').to_owned();
        match (root.name(), root.attr("type").as_deref()) {
            ("presence", None) => {
                let show = root.child("show", ns::CLIENT);
                let show = show.map(|show| show.text().into_owned());
                *self.shown.entry(nick.clone()).or_default() += 1;
                self.occupants.insert(nick, show.unwrap_or_default());
            }
            ("presence", Some("unavailable")) => {
                let codes = codes(came);
                if codes.iter().any(|code| code == "110") {
                    self.taken_out = Some(codes);
                }
                self.occupants.remove(&nick);
                self.gone.insert(nick);
            }
            ("message", Some("groupchat")) => {
                let id = root.child("stanza-id", ns::STANZA_ID);
                let id = id.and_then(|id| id.attr("id")).unwrap_or_default();
                if let Some(body) = root.child("body", ns::CLIENT) {
                    self.messages
                        .push((body.text().into_owned(), id.into_owned()));
                }
            }
            _ => {}
        }
    }
}

/// The status codes of an occupant's presence.
fn codes(came: &Document) -> Vec<String> {
    let user = came.root().child("x", ns::MUC_USER);
    let statuses = user.into_iter().flat_map(|user| user.children());
    statuses
        .filter(|child| child.name() == "status")
        .filter_map(|status| status.attr("code").map(|code| code.into_owned()))
        .collect()
}

fn is_said(came: &Document, room: &str, body: &str) -> Option<()> {
    let root = came.root();
    let from_room = root.attr("from").is_some_and(|from| from.starts_with(room));
    let text = root.child("body", ns::CLIENT)?.text().into_owned();
    (from_room && text == body).then_some(())
}

fn joins(room: &str, nick: &str) -> String {
    format!(
        "<presence to='{room}/{nick}'><x xmlns='{}'><history maxstanzas='0'/></x></presence>",
        ns::MUC
    )
}

/// Enters a room; what was seen of it up to the subject, which ends the join (XEP-0045 §7.1).
async fn enter(client: &mut Client, room: &str, nick: &str) -> Result<Picture> {
    let mut picture = Picture::default();
    client.send(&joins(room, nick)).await?;
    client
        .find("the end of the join", LIMIT, |came| {
            picture.take(room, came);
            came.root().child("subject", ns::CLIENT).map(drop)
        })
        .await?;
    Ok(picture)
}

/// Makes a room with an archive or without.
async fn make(client: &mut Client, room: &str, nick: &str, archived: bool) -> Result<()> {
    enter(client, room, nick).await?;
    let form = format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value></field>\
         <field var='muc#roomconfig_enablelogging'><value>{}</value></field></x></query>",
        ns::MUC_OWNER,
        ns::MUC_ROOM_CONFIG,
        u8::from(archived)
    );
    client.iq_ok("set", Some(room), &form).await.map(drop)
}

/// The people of the story, and where they are.
struct Story {
    pool: Pool,
    yard: String,
    cellar: String,
    /// The node that will stand still; it owns neither room.
    away: u64,
    alice: Client,
    carol: Client,
    dave: Client,
    guest: Client,
    bob: Client,
    /// What bob's client knows of the rooms.
    yard_of_bob: Picture,
    cellar_of_bob: Picture,
}

impl Story {
    async fn begin() -> Result<Story> {
        let pool = Pool::start(&PoolSettings::nodes(3)).await?;
        pool.add_users(["alice", "bob", "carol", "dave", "guest"])
            .await?;
        pool.owners_settled().await?;
        let (yard, cellar) = (room("yard"), room("cellar"));
        let owners = [
            pool.owner_of(&yard, 1).await?,
            pool.owner_of(&cellar, 1).await?,
        ];
        let away = pool
            .ids()
            .into_iter()
            .find(|id| !owners.contains(&Some(*id)));
        let away = away.context("two rooms have two owners at most")?;
        let near = pool
            .ids()
            .into_iter()
            .filter(|id| *id != away)
            .collect::<Vec<_>>();
        let mut alice = Client::connect(&pool.login(near[0], "alice")).await?;
        let mut carol = Client::connect(&pool.login(near[1], "carol")).await?;
        let dave = Client::connect(&pool.login(near[0], "dave")).await?;
        let guest = Client::connect(&pool.login(near[1], "guest")).await?;
        let mut bob = Client::connect(&pool.login(away, "bob")).await?;
        make(&mut alice, &yard, "alice", true).await?;
        make(&mut alice, &cellar, "alice", false).await?;
        enter(&mut carol, &yard, "carol").await?;
        let yard_of_bob = enter(&mut bob, &yard, "bob").await?;
        let cellar_of_bob = enter(&mut bob, &cellar, "bob").await?;
        let known: Vec<&str> = yard_of_bob.occupants.keys().map(String::as_str).collect();
        ensure!(known == ["alice", "bob", "carol"], "{known:?}");
        Ok(Story {
            pool,
            yard,
            cellar,
            away,
            alice,
            carol,
            dave,
            guest,
            bob,
            yard_of_bob,
            cellar_of_bob,
        })
    }

    /// The node stands still, and the others have no connection to it any more: nothing of what follows waits in a socket
    /// for it.
    async fn stands_still(&self) -> Result<()> {
        self.pool.pause(self.away)?;
        for id in self.pool.ids().into_iter().filter(|id| *id != self.away) {
            until("the node is missed", LIMIT, async || {
                let status = self.pool.status(id).await.ok()?;
                let members = status["members"].as_array()?;
                let member = members
                    .iter()
                    .find(|member| member["id"] == json!(self.away))?;
                (member["connected"] == json!(false)).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Much happens in the yard: first what must survive as a difference, then what drives it out of the log.
    async fn much_happens(&mut self) -> Result<()> {
        let yard = &self.yard;
        self.carol
            .send(&format!("<presence type='unavailable' to='{yard}/carol'/>"))
            .await?;
        enter(&mut self.dave, yard, "dave").await?;
        self.alice
            .send(&format!(
                "<presence to='{yard}/alice'><show>away</show></presence>"
            ))
            .await?;
        let mut number = 0;
        for guest in 0..GUESTS {
            let nick = format!("guest-{guest}");
            self.guest.send(&joins(yard, &nick)).await?;
            let leaves = format!("<presence type='unavailable' to='{yard}/{nick}'/>");
            self.guest.send(&leaves).await?;
            if guest.is_multiple_of(GUESTS / SAID) {
                self.alice
                    .send(&said(yard, &format!("yard-{number}")))
                    .await?;
                number += 1;
            }
        }
        let last = format!("{yard}/guest-{}", GUESTS - 1);
        self.guest
            .find("the last guest's end", LIMIT, |came| {
                let root = came.root();
                let is_last = root.attr("from").as_deref() == Some(&last);
                (is_last && root.attr("type").as_deref() == Some("unavailable")).then_some(())
            })
            .await?;
        self.alice.send(&said(yard, "yard-end")).await?;
        self.alice
            .find("the end", LIMIT, |came| is_said(came, yard, "yard-end"))
            .await
    }

    /// Much is said in the cellar that no archive has.
    async fn much_is_said(&mut self) -> Result<()> {
        let cellar = &self.cellar;
        for number in 1..=UNARCHIVED {
            self.alice
                .send(&said(cellar, &format!("cellar-{number}")))
                .await?;
        }
        let last = format!("cellar-{UNARCHIVED}");
        self.alice
            .find("the end", LIMIT, |came| is_said(came, cellar, &last))
            .await
    }

    /// What bob's client is shown: every message, and where the other events led.
    async fn the_yard_is_right(&mut self) -> Result<()> {
        let (yard, picture) = (&self.yard, &mut self.yard_of_bob);
        self.bob
            .find("the end of what was missed", LIMIT, |came| {
                picture.take(yard, came);
                self.cellar_of_bob.take(&self.cellar, came);
                is_said(came, yard, "yard-end")
            })
            .await?;
        ensure!(
            picture.taken_out.is_none(),
            "taken out: {:?}",
            picture.taken_out
        );
        let archive = read_archive(&mut self.carol, yard, true).await?;
        let bodies: Vec<&str> = archive.iter().map(|(body, _)| body.as_str()).collect();
        let mut sent: Vec<String> = (0..SAID).map(|number| format!("yard-{number}")).collect();
        sent.push("yard-end".into());
        ensure!(bodies == sent, "the archive: {bodies:?}");
        ensure!(picture.messages == archive, "shown: {:?}", picture.messages);
        let occupants = [("alice", "away"), ("bob", ""), ("dave", "")];
        let occupants = occupants.map(|(nick, show)| (nick.to_owned(), show.to_owned()));
        ensure!(
            picture.occupants == BTreeMap::from(occupants),
            "in: {:?}",
            picture.occupants
        );
        // The events themselves were gone, or this was no bridge: most guests were never shown, but each as gone.
        let is_guest = |nick: &&String| nick.starts_with("guest-");
        let shown = picture.shown.keys().filter(is_guest).count();
        ensure!(2 * shown <= EVENTS_LEFT_MAX, "{shown} guests were shown");
        let gone = picture.gone.iter().filter(is_guest).count();
        ensure!(
            gone == GUESTS && picture.gone.contains("carol"),
            "{gone} guests are gone"
        );
        Ok(())
    }

    /// Who was away is an occupant as before.
    async fn bob_is_still_in(&mut self) -> Result<()> {
        let yard = &self.yard;
        self.bob.send(&said(yard, "back")).await?;
        for client in [&mut self.bob, &mut self.alice, &mut self.dave] {
            client
                .find("bob's words", LIMIT, |came| is_said(came, yard, "back"))
                .await?;
        }
        Ok(())
    }

    /// Where messages are lost for good nobody is left in the belief to have seen them: status 333, and bob joins again.
    async fn the_cellar_begins_anew(&mut self) -> Result<()> {
        let (cellar, picture) = (&self.cellar, &mut self.cellar_of_bob);
        if picture.taken_out.is_none() {
            self.bob
                .find("bob is taken out", LIMIT, |came| {
                    picture.take(cellar, came);
                    picture.taken_out.as_ref().map(drop)
                })
                .await?;
        }
        let taken_out = picture.taken_out.take().unwrap_or_default();
        ensure!(taken_out.iter().any(|code| code == "333"), "{taken_out:?}");
        ensure!(
            picture.messages.is_empty(),
            "after a gap: {:?}",
            picture.messages
        );
        let bob_there = format!("{cellar}/bob");
        let of_bob = |came: &Document, kind: Option<&str>| {
            let root = came.root();
            let is_his = root.attr("from").as_deref() == Some(&bob_there);
            (is_his && root.name() == "presence" && root.attr("type").as_deref() == kind)
                .then(|| codes(came))
        };
        let left = self
            .alice
            .find("bob's end", LIMIT, |came| of_bob(came, Some("unavailable")));
        let left = left.await?;
        ensure!(left.iter().any(|code| code == "333"), "{left:?}");
        let again = enter(&mut self.bob, cellar, "bob").await?;
        let known: Vec<&str> = again.occupants.keys().map(String::as_str).collect();
        ensure!(known == ["alice", "bob"], "{known:?}");
        self.alice
            .find("bob again", LIMIT, |came| of_bob(came, None))
            .await?;
        self.alice.send(&said(cellar, "welcome")).await?;
        self.bob
            .find("a word", LIMIT, |came| is_said(came, cellar, "welcome"))
            .await
    }
}

async fn story() -> Result<()> {
    let mut story = Story::begin().await?;
    story.stands_still().await?;
    story.much_happens().await.context("in the yard")?;
    story.much_is_said().await.context("in the cellar")?;
    story.pool.resume(story.away)?;
    story
        .the_yard_is_right()
        .await
        .context("the yard, on the node that is back")?;
    story
        .the_cellar_begins_anew()
        .await
        .context("the cellar, on the node that is back")?;
    story.bob_is_still_in().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_more_than_a_room_keeps_shows_where_it_led() {
    story().await.expect("the rooms are right again");
}
