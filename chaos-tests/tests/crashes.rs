//! What a client is told of a session that died with its node (XEP-0198 §5, ADR 0028): `<failed/>` with a count that covers all
//! that was acknowledged, and nothing that is not done.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::Client;
use chaos_tests::load::read_archive;
use chaos_tests::peer::{Came, Peer, message};
use chaos_tests::pool::{Pool, PoolSettings, ROOMS};
use chaos_tests::wait::until;
use tokio::time::timeout;
use xmpp::ns;
use xmpp::scan::Document;

const LIMIT: Duration = Duration::from_secs(20);

const JULIET: &str = "juliet@localhost";

/// Messages of each kind at a time.
const SOME: usize = 8;

/// What dies with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its node, which is not its user's owner.
    Node,
    /// Its node, which is its user's owner.
    Owner,
    /// All nodes.
    Pool,
}

fn den() -> String {
    format!("den@{ROOMS}")
}

/// A client that writes to a friend and in a room, with what is in no archive in between.
struct Writer {
    peer: Peer,
    said: usize,
}

impl Writer {
    async fn enter(&mut self) -> Result<()> {
        let join = format!(
            "<presence to='{}/juliet'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>",
            den()
        );
        self.peer.send("<presence/>".into()).await?;
        self.peer.send(join).await?;
        let subject =
            |_: &Peer, stanza: &Document| stanza.root().child("subject", ns::CLIENT).is_some();
        self.peer.find("subject", subject).await?;
        Ok(())
    }

    async fn says_some(&mut self) -> Result<()> {
        for _ in 0..SOME {
            self.said += 1;
            let number = self.said;
            let typing = "<message to='romeo@localhost' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>";
            self.peer.send(typing.into()).await?;
            let chat = message("romeo@localhost", "chat", &format!("chat {number}"));
            self.peer.send(chat).await?;
            let post = message(&den(), "groupchat", &format!("post {number}"));
            self.peer.send(post).await?;
        }
        let request = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        self.peer.wire()?.send(request.as_bytes()).await
    }

    async fn is_acknowledged(&mut self) -> Result<()> {
        let all = |peer: &Peer, _: &Document| peer.acked == peer.sent;
        self.peer.find("acknowledgement of all", all).await?;
        Ok(())
    }

    /// Reads until the connection is gone.
    async fn reads_the_rest(&mut self) -> Result<()> {
        loop {
            match timeout(LIMIT, self.peer.next()).await {
                Ok(Ok(Came::Stanza(_) | Came::Other(_))) => {}
                Ok(Ok(Came::End) | Err(_)) => break,
                Err(_) => bail!("the connection outlives its node"),
            }
        }
        self.peer.wire = None;
        Ok(())
    }

    /// Asks for the session at a node until there is an answer, takes what it says for done, and begins anew with the rest.
    async fn begins_anew(&mut self, pool: &Pool, node: u64) -> Result<()> {
        let login = pool.login(node, "juliet");
        let peer = &mut self.peer;
        let answer = until("an answer to <resume/>", LIMIT, async || {
            // Who can't tell now ends the stream.
            let answer = peer.ask(&login).await.ok()?;
            (answer.root().ns() == ns::STREAM_MANAGEMENT).then_some(answer)
        });
        let answer = answer.await?;
        let before = peer.acked;
        let h = peer.lost(&answer)?;
        let h = h.with_context(|| format!("no count: {}", answer.source()))?;
        println!("{before} acknowledged, {h} handled, {} sent", peer.sent);
        let mut rest = std::mem::take(&mut peer.unacked);
        rest.retain(|stanza| stanza.contains("<body>"));
        peer.bind().await?;
        self.enter().await?;
        for stanza in rest {
            self.peer.send(stanza).await?;
        }
        self.says_some().await?;
        self.is_acknowledged().await
    }
}

/// A session that begins at one node, goes on at another and dies there, in the middle of what its client says.
async fn dies(pool: &mut Pool, writer: &mut Writer, death: Death) -> Result<()> {
    let owner = pool.owner_of(JULIET, 1).await?.context("no owner")?;
    let others: Vec<u64> = pool.ids().into_iter().filter(|id| *id != owner).collect();
    let [first, second] = others[..] else {
        bail!("not three nodes");
    };
    let (node, next) = match death {
        Death::Owner => (owner, first),
        Death::Node | Death::Pool => (first, second),
    };
    writer.peer.wire = None;
    let login = pool.login(node, "juliet");
    let peer = &mut writer.peer;
    until("the session", LIMIT, async || {
        peer.resume(&login).await.ok()
    })
    .await?;
    writer.says_some().await?;
    writer.is_acknowledged().await?;
    writer.says_some().await?;
    let dead = match death {
        Death::Node | Death::Owner => vec![node],
        Death::Pool => pool.ids(),
    };
    for node in &dead {
        pool.kill(*node)?;
    }
    writer.reads_the_rest().await?;
    if death == Death::Pool {
        pool.start_all()?;
        pool.all_ready().await?;
    }
    writer.begins_anew(pool, next).await?;
    if death != Death::Pool {
        pool.spawn(node)?;
        pool.ready(node).await?;
    }
    Ok(())
}

async fn story() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.owners_settled().await?;
    pool.add_users(["romeo", "juliet"]).await?;
    let mut romeo = Client::connect(&pool.login(1, "romeo")).await?;
    romeo
        .send(&format!(
            "<presence to='{}/romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>",
            den()
        ))
        .await?;
    romeo
        .iq_ok("set", Some(&den()), "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query>")
        .await?;
    romeo.close().await?;
    let mut peer = Peer::begin(&pool.login(1, "juliet")).await?;
    peer.origin_ids = true;
    let mut writer = Writer { peer, said: 0 };
    writer.enter().await?;
    for death in [Death::Node, Death::Owner, Death::Pool] {
        println!("{death:?}");
        let died = dies(&mut pool, &mut writer, death).await;
        died.with_context(|| format!("{death:?}"))?;
    }
    let mut reader = Client::connect(&pool.login(2, "juliet")).await?;
    for (archive, kind) in [(JULIET.to_owned(), "chat"), (den(), "post")] {
        let rows = read_archive(&mut reader, &archive, true).await?;
        let found: Vec<String> = rows.into_iter().map(|(body, _)| body).collect();
        let said: Vec<String> = (1..=writer.said).map(|n| format!("{kind} {n}")).collect();
        ensure!(found == said, "{archive} has {found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_node_died_is_told_what_was_handled() {
    story().await.expect("nothing is lost or doubled");
}
