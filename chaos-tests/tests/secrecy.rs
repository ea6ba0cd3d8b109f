//! What nodes say of themselves, at their most talkative, holds no password, key, token or message; and one line a session.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chaos_tests::client::{Client, Hash, Login, Mechanism, Security, features};
use chaos_tests::control::ControlPort;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use chaos_tests::wire::Wire;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(15);

/// Every planted secret ends with the same random word, so that one search finds them all.
struct Plant {
    word: String,
}

impl Plant {
    fn secret(&self, what: &str) -> String {
        format!("{what}{}", self.word)
    }
}

/// How bytes may look in a log: as they are, in hexadecimal digits, as a list of numbers, in base64 at any place.
fn looks(secret: &[u8]) -> Vec<String> {
    let hex = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
    let mut looks = vec![hex, numbers.join(", ")];
    if let Ok(text) = str::from_utf8(secret) {
        looks.push(text.to_owned());
    }
    for shift in 0..3 {
        let encoded = BASE64.encode([&vec![0; shift][..], secret].concat());
        // Without the characters in which other bytes have a part.
        let from = (shift * 8).div_ceil(6);
        let to = (shift + secret.len()) * 8 / 6;
        looks.extend(encoded.get(from..to).map(str::to_owned));
    }
    looks
}

#[test]
fn a_secret_is_known_in_every_look() {
    let secret = b"rosebud-1941";
    let found = |text: &str| looks(secret).iter().any(|look| text.contains(look));
    for text in [
        "password=rosebud-1941!",
        &format!("{:?}", secret),
        &BASE64.encode("\0alice\0rosebud-1941"),
        &BASE64.encode("\0al\0rosebud-1941"),
        &BASE64.encode("\0a\0rosebud-1941"),
        "726f73656275642d31393431",
    ] {
        assert!(found(text), "{text}");
    }
    assert!(!found("rosebud"));
    assert!(!found(&BASE64.encode("\0alice\0rosemud-1941")));
}

/// Keys and tokens that the pool has by itself.
fn own_secrets(pool: &Pool) -> Result<Vec<(String, Vec<String>)>> {
    let root = pool.root();
    let mut secrets = Vec::new();
    let pool_file: toml::Table = fs::read_to_string(root.join("node-1/pool.toml"))?.parse()?;
    for key in ["id_key", "secret"] {
        let hex = pool_file["pool"][key].as_str().context("a secret")?;
        let bytes = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16))
            .collect::<Result<Vec<u8>, _>>()?;
        secrets.push((key.to_owned(), looks(&bytes)));
    }
    for id in pool.ids() {
        let token = &pool.node(id).control.token;
        secrets.push((format!("token of node {id}"), looks(token.as_bytes())));
        for name in ["cluster", "clients", "control"] {
            let file = root.join(format!("node-{id}/{name}-key.pem"));
            secrets.push((file.display().to_string(), vec![key_line(&file)?]));
        }
    }
    let ca = root.join("ca/ca-key.pem");
    secrets.push((ca.display().to_string(), vec![key_line(&ca)?]));
    Ok(secrets)
}

/// The line of a PEM file that differs from key to key.
fn key_line(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().nth(2).context("a key has two lines")?;
    Ok(line.to_owned())
}

/// Operators make accounts and change passwords; strangers and clumsy programs try to.
async fn operate(control: &ControlPort, plant: &Plant) -> Result<()> {
    let account = |user: &str, password: String| json!({ "user": format!("{user}@{DOMAIN}"), "password": password });
    for user in ["alice", "bob", "carol"] {
        let body = account(user, plant.secret("first"));
        control.ok("POST", "/v1/users", Some(&body)).await?;
        let body = json!({ "password": plant.secret(user) });
        let path = format!("/v1/users/{user}@{DOMAIN}/password");
        control.ok("PUT", &path, Some(&body)).await?;
    }
    let stranger = ControlPort {
        token: plant.secret("token-of-a-stranger-who-guesses-"),
        ..control.clone()
    };
    for (port, status, body) in [
        (control, 409, account("bob", plant.secret("again"))),
        (control, 422, account("b@b", plant.secret("nobody"))),
        (
            control,
            400,
            json!({ "user": 1, "password": plant.secret("number") }),
        ),
        (
            control,
            400,
            json!({ "name": "x", "password": plant.secret("field") }),
        ),
        (&stranger, 401, account("eve", plant.secret("stranger"))),
    ] {
        let answer = port.request("POST", "/v1/users", Some(&body)).await?;
        ensure!(answer.status == status, "{answer:?} where {status} is due");
    }
    Ok(())
}

fn login(pool: &Pool, plant: &Plant, node: u64, user: &str) -> Login {
    Login {
        password: plant.secret(user),
        security: Security::StartTls,
        mechanism: Mechanism::Scram(Hash::Sha256),
        stream_management: true,
        ..pool.login(node, user)
    }
}

/// Right and wrong passwords by every mechanism.
async fn log_in(pool: &Pool, plant: &Plant) -> Result<()> {
    for mechanism in [Mechanism::Plain, Mechanism::Scram(Hash::Sha1)] {
        let good = Login {
            address: pool.node(1).clients_tls,
            security: Security::DirectTls,
            mechanism,
            ..login(pool, plant, 1, "carol")
        };
        Client::connect(&good).await?.close().await?;
        let wrong = Login {
            password: plant.secret("wrong"),
            ..good
        };
        ensure!(Client::connect(&wrong).await.is_err(), "a wrong password");
    }
    let metrics = pool.node(1).control.ok("GET", "/metrics", None).await?.body;
    let counted = metrics.contains("\nmuster_wrong_passwords_total 2\n");
    ensure!(counted, "the wrong passwords are counted: {metrics}");
    Ok(())
}

/// In-band registration (XEP-0077) of a new name and of one that is taken, and a change of the own password.
async fn register(pool: &Pool, plant: &Plant) -> Result<()> {
    for (user, kind) in [("dave", "result"), ("carol", "error")] {
        let mut wire = Wire::plain(pool.node(2).clients).await?;
        features(&mut wire, DOMAIN).await?;
        let password = plant.secret("registered");
        let request = format!(
            "<iq type='set' id='1' to='{DOMAIN}'><query xmlns='jabber:iq:register'><username>{user}</username>\
             <password>{password}</password></query></iq>"
        );
        wire.send(request.as_bytes()).await?;
        let answer = wire.element("the answer").await?;
        ensure!(
            answer.root().attr("type").as_deref() == Some(kind),
            "{user}"
        );
    }
    let dave = Login {
        password: plant.secret("registered"),
        ..login(pool, plant, 1, "dave")
    };
    let mut client = Client::connect(&dave).await?;
    let change = format!(
        "<query xmlns='jabber:iq:register'><username>dave</username><password>{}</password></query>",
        plant.secret("dave")
    );
    client.iq_ok("set", Some(DOMAIN), &change).await?;
    client.close().await?;
    let again = login(pool, plant, 2, "dave");
    Client::connect(&again).await?.close().await
}

fn message(to: &str, kind: &str, id: &str, text: &str) -> String {
    format!("<message to='{to}' type='{kind}' id='{id}'><body>{text}</body></message>")
}

/// Waits for a message with this text.
async fn read(client: &mut Client, text: &str) -> Result<()> {
    client
        .find(text, LIMIT, |document| {
            document.source().contains(text).then_some(())
        })
        .await
}

/// Messages to users on other nodes, to users who are away, to nobody, and to a room with a password.
async fn talk(alice: &mut Client, bob: &mut Client, plant: &Plant) -> Result<()> {
    let bare = bob.jid().bare().to_string();
    let chat = plant.secret("chat");
    alice.send(&message(&bare, "chat", "m1", &chat)).await?;
    read(bob, &chat).await?;
    for to in ["carol", "nobody"] {
        let to = format!("{to}@{DOMAIN}");
        alice
            .send(&message(&to, "chat", to.as_str(), &plant.secret("away")))
            .await?;
    }
    let room = format!("den@{ROOMS}");
    let join = |nick: &str, password: &str| {
        format!(
            "<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'><password>{password}</password></x>\
             </presence>"
        )
    };
    let password = plant.secret("room");
    alice.send(&join("alice", &password)).await?;
    let form = format!(
        "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field \
         var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field \
         var='muc#roomconfig_passwordprotectedroom'><value>1</value></field><field \
         var='muc#roomconfig_roomsecret'><value>{password}</value></field></x></query>"
    );
    alice.iq_ok("set", Some(&room), &form).await?;
    bob.send(&join("bob", &plant.secret("guess"))).await?;
    bob.send(&join("bob", &password)).await?;
    let said = plant.secret("said");
    alice
        .send(&message(&room, "groupchat", "m2", &said))
        .await?;
    read(bob, &said).await?;
    let subject = plant.secret("subject");
    alice
        .send(&format!(
            "<message to='{room}' type='groupchat' id='m3'><subject>{subject}</subject></message>"
        ))
        .await?;
    read(bob, &subject).await?;
    let whispered = plant.secret("whispered");
    let private = message(&format!("{room}/bob"), "chat", "m4", &whispered);
    alice.send(&private).await?;
    read(bob, &whispered).await?;
    let note = plant.secret("note");
    let private_xml =
        format!("<query xmlns='jabber:iq:private'><n xmlns='x:note'>{note}</n></query>");
    alice.iq_ok("set", None, &private_xml).await?;
    alice
        .iq_ok("set", None, "<query xmlns='urn:xmpp:mam:2'/>")
        .await?;
    Ok(())
}

/// What ends a stream, with a message in the middle of it: XML that is none, and a stanza that is too long.
async fn break_off(pool: &Pool, plant: &Plant) -> Result<()> {
    let text = plant.secret("broken");
    let broken = format!("<message to='bob@{DOMAIN}'><body>{text}</bod></message>");
    let long = message(
        "bob@localhost",
        "chat",
        "m9",
        &format!("{text}{}", "x".repeat(300 << 10)),
    );
    for stanza in [broken, long] {
        let mut carol = Client::connect(&login(pool, plant, 2, "carol")).await?;
        carol.send_raw(&stanza).await?;
        let error = carol.next_element(LIMIT).await?;
        ensure!(error.root().name() == "error", "{}", error.source());
    }
    Ok(())
}

/// A node dies and comes back: what is under way is resent, handed over, replayed and caught up with.
async fn survive(
    pool: &mut Pool,
    alice: &mut Client,
    bob: &mut Client,
    plant: &Plant,
) -> Result<()> {
    pool.kill(3)?;
    for number in 0..20 {
        let text = plant.secret(&format!("after{number}."));
        let to = bob.jid().bare().to_string();
        alice.send(&message(&to, "chat", &text, &text)).await?;
        read(bob, &text).await?;
    }
    pool.spawn(3)?;
    pool.ready(3).await
}

async fn story() -> Result<()> {
    let settings = PoolSettings::nodes(3)
        .set("clients", "registration", true)
        .set("log", "filter", "trace");
    let mut pool = Pool::start(&settings).await?;
    let [high, low] = rand::random::<[u64; 2]>();
    let plant = Plant {
        word: format!("{high:016x}{low:016x}"),
    };
    let control = pool.node(1).control.clone();
    operate(&control, &plant).await?;
    log_in(&pool, &plant).await?;
    register(&pool, &plant).await?;
    let mut alice = Client::connect(&login(&pool, &plant, 1, "alice")).await?;
    let mut bob = Client::connect(&login(&pool, &plant, 2, "bob")).await?;
    alice.send("<presence/>").await?;
    bob.send("<presence/>").await?;
    talk(&mut alice, &mut bob, &plant).await?;
    break_off(&pool, &plant).await?;
    survive(&mut pool, &mut alice, &mut bob, &plant).await?;
    alice.close().await?;
    bob.close().await?;
    for id in pool.ids() {
        pool.stop(id).await?;
    }

    let mut secrets = own_secrets(&pool)?;
    secrets.push(("what was planted".to_owned(), looks(plant.word.as_bytes())));
    let mut sessions = [
        ("alice", 1, 0),
        ("bob", 1, 0),
        ("dave", 2, 0),
        ("carol", 4, 0),
    ];
    for id in pool.ids() {
        let log = fs::read(pool.node(id).log_file())?;
        let log = String::from_utf8_lossy(&log);
        ensure!(log.contains(" TRACE "), "node {id} says too little");
        let guesses = log.matches("a wrong password").count();
        ensure!(
            guesses == if id == 1 { 2 } else { 0 },
            "node {id}: {guesses} guesses"
        );
        for (what, looks) in &secrets {
            let line = log
                .lines()
                .find(|line| looks.iter().any(|look| line.contains(look)));
            ensure!(line.is_none(), "node {id} tells {what}: {line:?}");
        }
        let lines = log.lines().filter(|line| line.contains(" INFO "));
        for line in lines {
            for (user, _, seen) in &mut sessions {
                *seen += usize::from(line.contains(&format!("jid={user}@{DOMAIN}/")));
            }
        }
    }
    for (user, had, seen) in sessions {
        ensure!(had == seen, "{user} had {had} sessions, and {seen} lines");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_hold_no_secrets() {
    story().await.expect("the story ends well");
}
