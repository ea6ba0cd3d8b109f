//! RFC 6120 §10.1: what a client sends is processed, and reaches others, in the order in which it was sent, whatever way
//! each stanza takes through the pool. Everything that belongs together leaves in one write.

use std::time::Duration;

use anyhow::{Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use xmpp::ns;
use xmpp::scan::Document;

const LIMIT: Duration = Duration::from_secs(15);

/// How often each row is tried by each sender.
const TIMES: usize = 10;

const SENDERS: [&str; 3] = ["alice", "erin", "mallory"];

const PAUSED: &str = "<paused xmlns='http://jabber.org/protocol/chatstates'/>";

/// The kinds of stanzas to a user, by what tells their ways apart: through two logs, through none, and presence.
fn stanza(kind: usize, id: &str, to: &str) -> String {
    match kind % 6 {
        0 => format!("<message type='chat' id='{id}' to='{to}'><body>hi</body></message>"),
        1 => format!("<message type='chat' id='{id}' to='{to}'>{PAUSED}</message>"),
        2 => format!("<iq type='set' id='{id}' to='{to}'><jingle xmlns='urn:xmpp:jingle:1'/></iq>"),
        3 => format!("<presence id='{id}' to='{to}'/>"),
        4 => format!("<message type='headline' id='{id}' to='{to}'><body>hi</body></message>"),
        _ => format!("<iq type='result' id='{id}' to='{to}'/>"),
    }
}

fn id_of(came: &Document) -> String {
    let id = came.root().attr("id");
    id.map(|id| id.into_owned()).unwrap_or_default()
}

/// Reads until all of these ids have come, and says in which order.
async fn order(client: &mut Client, ids: &[String]) -> Result<Vec<String>> {
    let mut seen: Vec<String> = Vec::new();
    let what = format!("all of {ids:?}");
    let all = client.find(&what, LIMIT, |came| {
        let id = id_of(came);
        if ids.contains(&id) && !seen.contains(&id) {
            seen.push(id);
        }
        (seen.len() == ids.len()).then_some(())
    });
    all.await?;
    Ok(seen)
}

async fn in_order(client: &mut Client, ids: &[String], what: &str) -> Result<()> {
    let seen = order(client, ids).await?;
    ensure!(seen == ids, "{what}: sent {ids:?}, came {seen:?}");
    Ok(())
}

async fn online(pool: &Pool, node: u64, user: &str) -> Result<Client> {
    let mut client = Client::connect(&pool.login(node, user)).await?;
    client.send("<presence id='here'/>").await?;
    in_order(&mut client, &["here".to_owned()], "the own presence").await?;
    Ok(client)
}

/// One shows itself to the other, who may then send iqs to it (RFC 6121 §8.5.3.1).
async fn shared(contact: &mut Client, sender: &mut Client) -> Result<()> {
    let to = sender.jid().to_string();
    let id = format!("shown-to-{to}");
    contact
        .send(&format!("<presence id='{id}' to='{to}'/>"))
        .await?;
    in_order(sender, &[id], "directed presence").await
}

/// The answer to an iq, whatever came before it.
async fn answer(client: &mut Client, id: &str) -> Result<Document> {
    client
        .find(id, LIMIT, |came| {
            let root = came.root();
            (root.name() == "iq" && id_of(came) == id).then(|| came.clone())
        })
        .await
}

/// Pairs of kinds, and one long row of all kinds.
async fn to_a_user(sender: &mut Client, contact: &mut Client, name: &str) -> Result<()> {
    let to = contact.jid().to_string();
    for time in 0..TIMES {
        for kind in 1..6 {
            let ids = [0, 1].map(|n| format!("{name}-{time}-{kind}-{n}"));
            let first = stanza(0, &ids[0], &to);
            sender
                .send_raw(&(first + &stanza(kind, &ids[1], &to)))
                .await?;
            in_order(contact, &ids, "a message and what is in no log").await?;
        }
        let ids: Vec<String> = (0..24).map(|n| format!("{name}-{time}-all-{n}")).collect();
        let kinds = (0..24).map(|n| n * (time + 1) + n / 6);
        let row: String = kinds
            .zip(&ids)
            .map(|(kind, id)| stanza(kind, id, &to))
            .collect();
        sender.send_raw(&row).await?;
        in_order(contact, &ids, "all kinds").await?;
    }
    Ok(())
}

/// What is stored is there for the question behind it.
async fn own_account(sender: &mut Client) -> Result<()> {
    let own = sender.jid().bare().to_string();
    for time in 0..TIMES {
        let set = |id: &str, payload: &str| format!("<iq type='set' id='{id}'>{payload}</iq>");
        let get = |id: &str, payload: &str| format!("<iq type='get' id='{id}'>{payload}</iq>");
        let item = format!(
            "<query xmlns='jabber:iq:roster'><item jid='z@{DOMAIN}' name='v{time}'/></query>"
        );
        let row = set("s", &item) + &get("roster", "<query xmlns='jabber:iq:roster'/>");
        sender.send_raw(&row).await?;
        let roster = answer(sender, "roster").await?;
        ensure!(
            roster.source().contains(&format!("'v{time}'")),
            "an old roster"
        );

        let stored = |payload: &str| {
            format!("<query xmlns='jabber:iq:private'><e xmlns='u:e'>{payload}</e></query>")
        };
        let row = set("s", &stored(&format!("v{time}"))) + &get("private", &stored(""));
        sender.send_raw(&row).await?;
        let private = answer(sender, "private").await?;
        ensure!(
            private.source().contains(&format!(">v{time}<")),
            "old private data"
        );

        let message = format!("<message type='chat' to='{own}'><body>b{time}</body></message>");
        let newest = "<query xmlns='urn:xmpp:mam:2'>\
                      <set xmlns='http://jabber.org/protocol/rsm'><max>1</max><before/></set></query>";
        sender.send_raw(&(message + &set("page", newest))).await?;
        let body = format!("<body>b{time}</body>");
        let mut found = false;
        sender
            .find("the newest row", LIMIT, |came| {
                let row = came.root().child("result", ns::MAM).is_some();
                found |= row && came.source().contains(&body);
                (id_of(came) == "page").then_some(())
            })
            .await?;
        ensure!(found, "the newest message is not in the archive");
    }
    Ok(())
}

/// A room that a third person is in.
async fn room(sender: &mut Client, other: &mut Client, name: &str) -> Result<()> {
    let room = format!("{name}@{ROOMS}");
    let join = |nick: &str, id: &str| {
        format!(
            "<presence to='{room}/{nick}' id='{id}'><x xmlns='{}'/></presence>",
            ns::MUC
        )
    };
    let said = |id: &str, payload: &str| {
        format!("<message type='groupchat' id='{id}' to='{room}'>{payload}</message>")
    };
    other.send(&join("other", "join")).await?;
    let form = format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'/></query>",
        ns::MUC_OWNER
    );
    other.iq_ok("set", Some(&room), &form).await?;
    for time in 0..TIMES {
        let ids = ["soft", "body", "paused"].map(|what| format!("{name}-{time}-{what}"));
        // Enters, speaks at once, is asked whether it is in, and goes.
        let ping =
            format!("<iq type='get' id='ping' to='{room}/me'><ping xmlns='urn:xmpp:ping'/></iq>");
        let leave = format!("<presence type='unavailable' to='{room}/me'/>");
        let row = join("me", "in")
            + &said(&ids[0], PAUSED)
            + &ping
            + &said(&ids[1], "<body>hi</body>")
            + &said(&ids[2], PAUSED)
            + &leave;
        sender.send_raw(&row).await?;
        in_order(other, &ids, "in a room").await?;
        let ping = answer(sender, "ping").await?;
        let kind = ping.root().attr("type").map(|kind| kind.into_owned());
        ensure!(
            kind.as_deref() == Some("result"),
            "not in the room: {}",
            ping.source()
        );
    }
    Ok(())
}

async fn befriend(sender: &mut Client, contact: &mut Client) -> Result<()> {
    let (own, other) = (sender.jid().bare(), contact.jid().bare());
    contact
        .send(&format!("<presence type='subscribe' to='{own}'/>"))
        .await?;
    let asked = |came: &Document| {
        let kind = came.root().attr("type");
        (kind.as_deref() == Some("subscribe")).then_some(())
    };
    sender.find("a request", LIMIT, asked).await?;
    sender
        .send(&format!("<presence type='subscribed' to='{other}'/>"))
        .await?;
    let told = |came: &Document| {
        let root = came.root();
        let from = root
            .attr("from")
            .is_some_and(|from| *from == *sender.jid().as_str());
        (root.name() == "presence" && from && root.attr("type").is_none()).then_some(())
    };
    contact.find("the presence", LIMIT, told).await
}

/// The last words come before the news that who said them is gone, by presence or by the end of the stream.
async fn last_words(pool: &Pool, node: u64, user: &str, contact: &mut Client) -> Result<()> {
    let to = contact.jid().to_string();
    let mut sender = online(pool, node, user).await?;
    befriend(&mut sender, contact).await?;
    for time in 0..TIMES {
        let ids = [0, 1].map(|n| format!("{user}-bye-{time}-{n}"));
        let row = stanza(0, &ids[0], &to)
            + &format!("<presence type='unavailable' id='{}'/><presence/>", ids[1]);
        sender.send_raw(&row).await?;
        in_order(contact, &ids, "the last words").await?;
    }
    for time in 0..TIMES {
        let body = format!("{user}-end-{time}");
        let soft = format!("{user}-end-{time}-soft");
        let row = stanza(0, &body, &to) + &stanza(1, &soft, &to) + "</stream:stream>";
        sender.send_raw(&row).await?;
        let from = sender.jid().to_string();
        let mut seen = Vec::new();
        contact
            .find("the end", LIMIT, |came| {
                let id = id_of(came);
                if id == body || id == soft {
                    seen.push(id);
                }
                let root = came.root();
                let gone = root.attr("type").as_deref() == Some("unavailable");
                (gone && root.attr("from").is_some_and(|jid| *jid == *from)).then_some(())
            })
            .await?;
        ensure!(seen == [body, soft], "gone after {seen:?}");
        sender = online(pool, node, user).await?;
    }
    Ok(())
}

/// XEP-0191 §3.2: from the block on nothing goes out, of no kind, and who sends is told; also in one write with the block.
async fn blocked(sender: &mut Client, contact: &mut Client, name: &str) -> Result<()> {
    let (bare, full) = (contact.jid().bare().to_string(), contact.jid().to_string());
    let list = |name: &str, id: &str| {
        format!(
            "<iq type='set' id='{id}'><{name} xmlns='urn:xmpp:blocking'><item jid='{bare}'/></{name}></iq>"
        )
    };
    let no_store = "<body>hi</body><no-store xmlns='urn:xmpp:hints'/>";
    for time in 0..TIMES {
        let id = |n: usize| format!("{name}-blocked-{time}-{n}");
        let mut row = list("block", "block");
        let kinds = 9;
        for n in 0..6 {
            row += &stanza(n, &id(n), &full);
        }
        row += &format!(
            "<message type='chat' id='{}' to='{bare}'>{no_store}</message>",
            id(6)
        );
        row += &format!(
            "<message type='error' id='{}' to='{full}'><error type='cancel'/></message>",
            id(7)
        );
        row += &format!(
            "<iq type='get' id='{}' to='{bare}'><vCard xmlns='vcard-temp'/></iq>",
            id(8)
        );
        row += &list("unblock", "unblock");
        let after = format!("{name}-unblocked-{time}");
        row += &stanza(1, &after, &full);
        sender.send_raw(&row).await?;
        let refused: Vec<String> = [0, 1, 2, 3, 4, 6, 8].map(id).to_vec();
        let mut told = Vec::new();
        sender
            .find("the refusals", LIMIT, |came| {
                let source = came.source();
                let why = source.contains("<not-acceptable ")
                    && source.contains("<blocked xmlns='urn:xmpp:blocking:errors'/>");
                if why {
                    told.push(id_of(came));
                }
                (told.len() == refused.len()).then_some(())
            })
            .await?;
        told.sort();
        ensure!(told == refused, "refused were {told:?}");
        contact
            .find("what came after the block", LIMIT, |came| {
                let id_came = id_of(came);
                assert!(
                    !(0..kinds).any(|n| id(n) == id_came),
                    "came: {}",
                    came.source()
                );
                (id_came == after).then_some(())
            })
            .await?;
    }
    Ok(())
}

async fn story(nodes: u16) -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(nodes)).await?;
    pool.add_users(SENDERS.into_iter().chain(["bob"])).await?;
    let node = |place: usize| 1 + place as u64 % u64::from(nodes);
    let mut contact = online(&pool, 1, "bob").await?;
    for (place, user) in SENDERS.into_iter().enumerate() {
        let mut sender = online(&pool, node(place), user).await?;
        shared(&mut contact, &mut sender).await?;
        to_a_user(&mut sender, &mut contact, user).await?;
        own_account(&mut sender).await?;
        room(&mut sender, &mut contact, user).await?;
        blocked(&mut sender, &mut contact, user).await?;
        sender.close().await?;
        last_words(&pool, node(place), user, &mut contact).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stanzas_stay_in_order_on_one_node() {
    story(1).await.expect("everything in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stanzas_stay_in_order_over_three_nodes() {
    story(3).await.expect("everything in order");
}
