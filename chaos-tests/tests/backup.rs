//! Backups of pools that run, new pools made of them, and folders that are looked through.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::client::{Client, Login};
use chaos_tests::load::{Audience, Seat, join, read_archive};
use chaos_tests::people::online;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS, binary, run};
use chaos_tests::trial::Trial;
use chaos_tests::wait::until;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const LIMIT: Duration = Duration::from_secs(60);

/// Texts and archive ids, oldest first.
type Rows = Vec<(String, String)>;

/// The room that is created with an owner, a member and an outcast.
fn closed_room() -> String {
    format!("council@{ROOMS}")
}

/// Members of the rooms, and two users who write to each other.
fn seats() -> Vec<Seat> {
    let pair = |user: &str, other: &str, home: u64| Seat {
        user: user.to_owned(),
        audience: Audience::User,
        to: format!("{other}@{DOMAIN}"),
        writer: Some(other.to_owned()),
        home,
        stream_management: true,
        forgetful: false,
        lasting: false,
        secured: false,
    };
    let mut seats = Trial::seats_on(&[1, 2]);
    seats.extend([pair("ring-a", "ring-b", 3), pair("ring-b", "ring-a", 2)]);
    seats
}

fn ctl(pool: &Pool, node: u64, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(binary()?);
    command
        .args(["ctl", "--config"])
        .arg(&pool.node(node).config)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// Waits for a program without holding up the crowd.
async fn ended(child: Child) -> Result<Output> {
    Ok(tokio::task::spawn_blocking(|| child.wait_with_output()).await??)
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("test folders have plain names")
}

/// What all archives of the trial hold, by whose they are.
async fn archives(pool: &Pool, node: u64, seats: &[Seat]) -> Result<BTreeMap<String, Rows>> {
    let mut found = BTreeMap::new();
    for seat in seats {
        let key = match seat.audience {
            Audience::Room => seat.to.clone(),
            Audience::User => format!("{}@{DOMAIN}", seat.user),
        };
        if found.contains_key(&key) {
            continue;
        }
        let mut reader = Client::connect(&pool.login(node, &seat.user)).await?;
        let rows = read_archive(&mut reader, &key, true).await?;
        reader.close().await?;
        found.insert(key, rows);
    }
    Ok(found)
}

/// A room with an owner, a member and an outcast, which nobody is in afterwards.
async fn found_council(pool: &Pool) -> Result<()> {
    chaos_tests::load::create_room(pool, &closed_room(), "chair", 1).await?;
    let mut chair = Client::connect(&pool.login(1, "chair")).await?;
    let item = |user: &str, affiliation: &str| {
        format!("<item affiliation='{affiliation}' jid='{user}@{DOMAIN}'/>")
    };
    let items = [item("scribe", "member"), item("rogue", "outcast")].concat();
    let query = format!("<query xmlns='http://jabber.org/protocol/muc#admin'>{items}</query>");
    chair.iq_ok("set", Some(&closed_room()), &query).await?;
    let form = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'>\
        <field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>\
        <field var='muc#roomconfig_persistentroom'><value>1</value></field>\
        <field var='muc#roomconfig_roomname'><value>The council</value></field></x></query>";
    chair.iq_ok("set", Some(&closed_room()), form).await?;
    chair.close().await
}

/// The room is as it was founded.
async fn council_is_there(pool: &Pool) -> Result<()> {
    let mut chair = Client::connect(&pool.login(1, "chair")).await?;
    for (affiliation, user) in [
        ("owner", "chair"),
        ("member", "scribe"),
        ("outcast", "rogue"),
    ] {
        let query = format!(
            "<query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='{affiliation}'/></query>"
        );
        let answer = chair.iq_ok("get", Some(&closed_room()), &query).await?;
        let listed = answer.source().contains(&format!("{user}@{DOMAIN}"));
        ensure!(listed, "{affiliation}: {}", answer.source());
    }
    let owner = "<query xmlns='http://jabber.org/protocol/muc#owner'/>";
    let form = chair.iq_ok("get", Some(&closed_room()), owner).await?;
    ensure!(form.source().contains("The council"), "{}", form.source());
    chair.close().await
}

/// Who is in a room, as its service says it (XEP-0045 §6.4).
async fn occupants(client: &mut Client, room: &str) -> Result<String> {
    let query = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
    let answer = client.iq_ok("get", Some(room), query).await?;
    Ok(answer.source().to_owned())
}

/// All that was there before is there with its id, and of what came after nothing is half there.
fn agree(
    restored: &BTreeMap<String, Rows>,
    before: &BTreeMap<String, Rows>,
    after: &BTreeMap<String, Rows>,
) -> Result<()> {
    for (key, rows) in restored {
        let (old, all) = (&before[key], &after[key]);
        ensure!(
            rows.len() >= old.len() && all.starts_with(rows),
            "{key}: {} rows before, {} restored, {} later",
            old.len(),
            rows.len(),
            all.len()
        );
    }
    let texts = |user: &str| -> Result<BTreeSet<&String>> {
        let rows = restored.get(&format!("{user}@{DOMAIN}"));
        Ok(rows
            .context("an archive")?
            .iter()
            .map(|(text, _)| text)
            .collect())
    };
    let (a, b) = (texts("ring-a")?, texts("ring-b")?);
    let half: Vec<_> = a.symmetric_difference(&b).collect();
    ensure!(half.is_empty(), "only one side has {half:?}");
    Ok(())
}

/// People go on in the new pool, and nothing that they write gets a number that was used.
async fn life_goes_on(pool: &Pool, seats: &[Seat], after: &BTreeMap<String, Rows>) -> Result<()> {
    let mut a = online(&pool.login(1, "ring-a")).await?;
    let mut b = online(&pool.login(1, "ring-b")).await?;
    a.send(&format!(
        "<message type='chat' to='ring-b@{DOMAIN}' id='anew'><body>in the new pool</body></message>"
    ))
    .await?;
    let came = |document: &xmpp::scan::Document| {
        document.source().contains("in the new pool").then_some(())
    };
    b.find("a message in the new pool", LIMIT, came).await?;
    let room = seats.iter().find(|seat| seat.audience == Audience::Room);
    let room = &room.context("a seat in a room")?.to;
    let inside = occupants(&mut a, room).await?;
    ensure!(!inside.contains("<item"), "from the old pool: {inside}");
    join(&mut a, room, "newcomer").await?;
    a.send(&format!(
        "<message type='groupchat' to='{room}' id='room-anew'><body>in the new pool</body></message>"
    ))
    .await?;
    a.find("the room's echo", LIMIT, came).await?;
    a.close().await?;
    b.close().await?;
    let now = archives(pool, 1, seats).await?;
    for key in [
        room.clone(),
        format!("ring-a@{DOMAIN}"),
        format!("ring-b@{DOMAIN}"),
    ] {
        let (last, id) = now[&key].last().context("a row")?;
        ensure!(last == "in the new pool", "{key} ends with {last}");
        ensure!(
            after[&key].iter().all(|(_, used)| used != id),
            "{key}: the id {id} was used before"
        );
    }
    Ok(())
}

/// A kill in the middle leaves something that can be told from a backup.
async fn an_interrupted_backup(trial: &mut Trial, dir: &Path) -> Result<()> {
    let place = text(dir)?;
    let mut child = ctl(&trial.pool, 3, &["backup", place, "--mib-per-second", "1"])?;
    until("the backup has begun", LIMIT, async || {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(Err(anyhow::anyhow!("it ended with {status}")));
        }
        dir.join("incomplete").exists().then_some(Ok(()))
    })
    .await??;
    trial.crowd.node_dies(3);
    trial.fault("kill of the node that serves a backup".to_owned());
    trial.pool.kill(3)?;
    let output = ended(child).await?;
    ensure!(!output.status.success(), "{}", said(&output));
    ensure!(said(&output).contains("incomplete"), "{}", said(&output));
    let to = dir.with_extension("made");
    let refused = run(&["restore", place, "--dir", text(&to)?])?;
    ensure!(
        !refused.status.success() && said(&refused).contains("incomplete"),
        "{}",
        said(&refused)
    );
    ensure!(!to.exists(), "something was made of it");
    trial.bring_back(3).await
}

/// What ejabberd 23.01 writes (`export_piefxis`), but for white space.
const OF_EJABBERD: &str = "<?xml version='1.0' encoding='UTF-8'?>\
    <host xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude' jid='localhost'><user name='romeo'>\
    <scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>4096</iter-count>\
    <salt>WlJDQU15TDE3V25rYzhMeWZKMDNDQT09</salt><server-key>WWllaCt0d3RiOU5CSGpvNGdVVURDSE8zL3VvPQ==</server-key>\
    <stored-key>ZjA2Z0V4Q01YbEtOZnFWcW1jZjBEdHR5U084PQ==</stored-key></scram-credentials>\
    <offline-messages><message to='romeo@localhost' from='juliet@localhost' type='chat' id='6075764826743058333' xmlns='jabber:client'>\
    <archived by='romeo@localhost' id='1796065497881179' xmlns='urn:xmpp:mam:tmp'/>\
    <stanza-id by='romeo@localhost' id='1796065497881179' xmlns='urn:xmpp:sid:0'/>\
    <delay from='localhost' stamp='2026-11-30T19:04:58.356275Z' xmlns='urn:xmpp:delay'>Offline storage</delay>\
    <body>waiting for you</body></message></offline-messages><vCard xmlns='vcard-temp'><FN>Romeo M</FN></vCard>\
    <query xmlns='jabber:iq:roster'><item subscription='both' name='Juliet' jid='juliet@localhost'><group>Friends</group></item></query>\
    </user><user name='juliet@elsewhere'/></host>";

/// The same, and one more message waits: a legal one, whose parts all name their namespace when they are written down.
fn of_ejabberd() -> String {
    let parts = "<v xmlns='urn:v'/>".repeat(40);
    let more = format!(
        "<message to='romeo@localhost' from='juliet@localhost' type='chat' id='parts' xmlns='jabber:client'>\
         <delay from='localhost' stamp='2026-11-30T19:05:00Z' xmlns='urn:xmpp:delay'/>{parts}<body>of many parts</body></message>"
    );
    let end = "</offline-messages>";
    OF_EJABBERD.replace(end, &format!("{more}{end}"))
}

const VCARD: &str = "<vCard xmlns='vcard-temp'><FN>The chair</FN></vCard>";
const PRIVATE: &str = "<query xmlns='jabber:iq:private'><v xmlns='urn:v'>kept</v></query>";

/// What a user has besides messages.
async fn furnish(pool: &Pool) -> Result<()> {
    let mut chair = Client::connect(&pool.login(1, "chair")).await?;
    let contact = format!(
        "<query xmlns='jabber:iq:roster'><item jid='scribe@{DOMAIN}' name='The scribe'><group>Council</group></item></query>"
    );
    let block = format!("<block xmlns='urn:xmpp:blocking'><item jid='rogue@{DOMAIN}'/></block>");
    for set in [contact.as_str(), &block, VCARD, PRIVATE] {
        chair.iq_ok("set", None, set).await?;
    }
    chair.close().await
}

/// All of [`furnish`] is there.
async fn is_furnished(pool: &Pool) -> Result<()> {
    let mut chair = Client::connect(&pool.login(1, "chair")).await?;
    for (query, words) in [
        (
            "<query xmlns='jabber:iq:roster'/>",
            ["The scribe", "Council"],
        ),
        ("<blocklist xmlns='urn:xmpp:blocking'/>", ["rogue@", "item"]),
        ("<vCard xmlns='vcard-temp'/>", ["The chair", "FN"]),
        (
            "<query xmlns='jabber:iq:private'><v xmlns='urn:v'/></query>",
            ["kept", "urn:v"],
        ),
    ] {
        let answer = chair.iq_ok("get", None, query).await?;
        for words in words {
            ensure!(answer.source().contains(words), "{}", answer.source());
        }
    }
    chair.close().await
}

/// Users leave by a file, and come into another pool by it; others come from another server.
async fn users_move(
    backup: &Path,
    seats: &[Seat],
    (before, restored): (&BTreeMap<String, Rows>, &BTreeMap<String, Rows>),
) -> Result<()> {
    let file = backup.with_extension("xml");
    let output = run(&["export", text(backup)?, "--out", text(&file)?])?;
    ensure!(output.status.success(), "{}", said(&output));
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    let import = async |file: &Path| -> Result<(Option<i32>, String)> {
        let output = ended(ctl(&pool, 1, &["import", text(file)?])?).await?;
        Ok((output.status.code(), said(&output)))
    };
    let (code, words) = import(&file).await?;
    ensure!(
        code == Some(0) && words.contains("0 refused"),
        "{code:?}: {words}"
    );
    let (code, words) = import(&file).await?;
    ensure!(
        code == Some(0) && words.contains("\n0 users imported"),
        "{code:?}: {words}"
    );
    is_furnished(&pool).await?;
    let pairs: Vec<Seat> = seats
        .iter()
        .filter(|seat| seat.audience == Audience::User)
        .cloned()
        .collect();
    for (key, rows) in archives(&pool, 1, &pairs).await? {
        let texts = |rows: &Rows| -> BTreeSet<String> {
            rows.iter().map(|(text, _)| text.clone()).collect()
        };
        // A backup's captures are of moments close to each other, and what is restored is of the line behind them.
        let here = texts(&rows);
        ensure!(
            here.is_superset(&texts(&before[&key])) && here.is_subset(&texts(&restored[&key])),
            "{key}: {} rows; {} before, {} restored",
            rows.len(),
            before[&key].len(),
            restored[&key].len()
        );
        ensure!(rows.len() == here.len(), "{key}: something is there twice");
    }
    for user in ["chair", &pairs[0].user] {
        one_user_leaves(&pool, user, &std::fs::read_to_string(&file)?).await?;
    }
    std::fs::write(&file, of_ejabberd())?;
    let (code, words) = import(&file).await?;
    ensure!(
        code == Some(7) && words.contains("1 users imported, 0 exist already, 1 refused"),
        "{code:?}: {words}"
    );
    let romeo = Login {
        password: "pw-romeo".to_owned(),
        ..pool.login(1, "romeo")
    };
    let mut romeo = online(&romeo).await?;
    for text in ["waiting for you", "of many parts"] {
        let waited = |came: &xmpp::scan::Document| came.source().contains(text).then_some(());
        romeo.find("what waited", LIMIT, waited).await?;
    }
    romeo.close().await
}

/// What a file says of a user.
fn element_of<'a>(user: &str, file: &'a str) -> Result<&'a str> {
    let begin = file.find(&format!("<user name='{user}'"));
    let element = begin.and_then(|begin| file.get(begin..));
    let element = element.and_then(|rest| rest.split_once("</user>"));
    Ok(element.context("the user is in the file")?.0)
}

/// The texts of all messages, in order.
fn texts_of(element: &str) -> Vec<&str> {
    let bodies = element.split("<body>").skip(1);
    let mut texts: Vec<&str> = bodies.filter_map(|rest| rest.split('<').next()).collect();
    texts.sort_unstable();
    texts
}

/// A pool that runs says of a user what the backup said that the user came from. What waited in the backup came behind the
/// archive when it was imported.
async fn one_user_leaves(pool: &Pool, user: &str, all: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("one.xml");
    let jid = format!("{user}@{DOMAIN}");
    let export = async |jid: &str| {
        let child = ctl(pool, 1, &["export-user", jid, "--out", text(&file)?])?;
        ended(child).await
    };
    let output = export(&jid).await?;
    ensure!(output.status.success(), "{}", said(&output));
    let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    let one = std::fs::read_to_string(&file)?;
    ensure!(one.matches("<user ").count() == 1, "others are in it");
    let (here, there) = (element_of(user, &one)?, element_of(user, all)?);
    let (texts, expected) = (texts_of(here), texts_of(there));
    ensure!(texts == expected, "{texts:?}\n\n{expected:?}");
    ensure!(!expected.is_empty() || here == there, "{here}\n\n{there}");
    let again = export(&jid).await?;
    ensure!(said(&again).contains("there already"), "{}", said(&again));
    std::fs::remove_file(&file)?;
    let nobody = export(&format!("nobody@{DOMAIN}")).await?;
    ensure!(
        nobody.status.code() == Some(7) && said(&nobody).contains("is not there"),
        "{}",
        said(&nobody)
    );
    ensure!(
        std::fs::read_dir(folder.path())?.next().is_none(),
        "something was left behind"
    );
    Ok(())
}

async fn backup_and_restore() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["chair", "scribe", "rogue"]).await?;
    found_council(&pool).await?;
    furnish(&pool).await?;
    let seats = seats();
    let mut trial = Trial::seated(pool, seats.clone()).await?;
    trial.crowd.acks(100, LIMIT).await?;

    let backups = tempfile::tempdir()?;
    let (dir, broken) = (backups.path().join("one"), backups.path().join("two"));
    let before = archives(&trial.pool, 2, &seats).await?;
    let child = ctl(&trial.pool, 1, &["backup", text(&dir)?])?;
    let output = ended(child).await?;
    ensure!(output.status.success(), "{}", said(&output));
    trial.crowd.acks(50, LIMIT).await?;
    let after = archives(&trial.pool, 2, &seats).await?;
    an_interrupted_backup(&mut trial, &broken).await?;

    let restored = Pool::restored(&dir).await?;
    // What was on its way when the line was drawn still comes.
    let agreed = until("both sides have everything", LIMIT, async || {
        let rows = archives(&restored, 1, &seats).await.ok()?;
        let agreed = agree(&rows, &before, &after);
        if let Err(error) = &agreed {
            println!("{error}");
        }
        agreed.ok().map(|()| rows)
    });
    let rows = agreed.await?;
    council_is_there(&restored).await?;
    let wrong = Login {
        password: "another".to_owned(),
        ..restored.login(1, "chair")
    };
    ensure!(Client::connect(&wrong).await.is_err(), "any password does");
    life_goes_on(&restored, &seats, &after).await?;
    is_furnished(&restored).await?;
    drop(restored);
    users_move(&dir, &seats, (&before, &rows)).await?;

    let data = trial.pool.data_dir(1);
    let in_use = run(&["check", "--data", text(&data)?])?;
    ensure!(
        in_use.status.code() == Some(2) && said(&in_use).contains("in use"),
        "{}",
        said(&in_use)
    );
    trial.judge("backups under load", Dose::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_restored_from_a_backup_made_under_load() {
    backup_and_restore()
        .await
        .expect("nothing is lost, and nothing is half there");
}

/// Every file of a folder and the hash of its bytes.
fn files(dir: &Path) -> Result<BTreeMap<PathBuf, [u8; 32]>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = Sha256::digest(std::fs::read(&path)?).into();
                found.insert(path, hash);
            }
        }
    }
    Ok(found)
}

/// The first file below a folder whose name fits and in which a text stands, and where.
fn find(dir: &Path, fits: &str, needle: &[u8]) -> Result<(PathBuf, usize)> {
    let mut named: Vec<PathBuf> = files(dir)?.into_keys().collect();
    named.retain(|path| path.to_string_lossy().contains(fits));
    for path in named {
        let bytes = std::fs::read(&path)?;
        let at = bytes.windows(needle.len()).position(|at| at == needle);
        if let Some(at) = at {
            return Ok((path, at));
        }
    }
    bail!("no file with {fits} in its name holds it")
}

/// A whole snapshot of a group, in a data folder.
fn snapshot(data: &Path, group: u32) -> Result<PathBuf> {
    let mut all = files(&data.join("snapshots"))?.into_keys();
    let prefix = format!("group-{group}-");
    let found = all.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(".snapshot")
    });
    found.context("a snapshot")
}

/// Flips a bit of a file.
fn flip((path, at): &(PathBuf, usize)) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    *bytes.get_mut(*at).context("a byte")? ^= 1;
    Ok(std::fs::write(path, bytes)?)
}

fn cut(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path)?;
    Ok(std::fs::write(path, &bytes[..bytes.len() / 2])?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    let copied = copied.context("cp runs")?;
    ensure!(copied.success(), "{copied}");
    Ok(())
}

/// The code and what is said of a folder.
fn look(data: &Path) -> Result<(Option<i32>, String)> {
    let output = run(&["check", "--data", text(data)?])?;
    Ok((output.status.code(), said(&output)))
}

/// A kind of damage, and what the check says of it.
struct Planted {
    name: &'static str,
    plant: fn(&Path) -> Result<()>,
    said: &'static [&'static str],
}

const PLANTED: [Planted; 8] = [
    Planted {
        name: "a bit of an entry",
        plant: |data| {
            flip(&find(
                &data.join("log"),
                ".segment",
                b"number 7 of the values",
            )?)
        },
        said: &["damage: log/", "records before this place are lost"],
    },
    Planted {
        name: "a log without its segments",
        plant: |data| {
            let log = data.join("log");
            let names = files(&log)?.into_keys();
            names
                .filter(|path| path.extension().is_some_and(|kind| kind == "segment"))
                .try_for_each(|path| Ok(std::fs::remove_file(path)?))
        },
        said: &["damage: folder", "is empty"],
    },
    Planted {
        name: "a segment's header",
        plant: |data| {
            let segment = find(&data.join("log"), ".segment", b"MUSTERWL")?.0;
            flip(&(segment.clone(), 9))?;
            flip(&(segment, 521))
        },
        said: &["damage: log/", "its header does not read"],
    },
    Planted {
        name: "a snapshot's row",
        plant: |data| {
            let snapshot = snapshot(data, 1)?;
            let middle = std::fs::metadata(&snapshot)?.len() / 2;
            flip(&(snapshot, usize::try_from(middle)?))
        },
        said: &["damage: snapshots/group-1-"],
    },
    Planted {
        name: "a snapshot's end",
        plant: |data| cut(&snapshot(data, 1)?),
        said: &["damage: snapshots/group-1-"],
    },
    Planted {
        name: "a message",
        plant: |data| flip(&find(&data.join("archive"), "", b"kept for good")?),
        said: &["damage: archive"],
    },
    Planted {
        name: "the identity",
        plant: |data| flip(&(data.join("identity"), 20)),
        said: &["damage: folder", "identity file"],
    },
    Planted {
        name: "the archive",
        plant: |data| Ok(std::fs::remove_dir_all(data.join("archive"))?),
        said: &["damage: archive: it is not there"],
    },
];

async fn damage_is_found() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("raft", "snapshot_interval", "1 s");
    let mut pool = Pool::start(&settings).await?;
    pool.add_users(["alice", "bob"]).await?;
    let mut alice = Client::connect(&pool.login(1, "alice")).await?;
    for number in 0..20 {
        let name = format!("number {number} of the values");
        let value = format!("<query xmlns='jabber:iq:private'><v xmlns='urn:v'>{name}</v></query>");
        alice.iq_ok("set", None, &value).await?;
    }
    alice
        .send(&format!(
            "<message to='bob@{DOMAIN}' id='m'><body>kept for good</body></message>"
        ))
        .await?;
    let bob = format!("bob@{DOMAIN}");
    until("the message is kept", LIMIT, async || {
        let mut reader = Client::connect(&pool.login(1, "bob")).await.ok()?;
        let rows = read_archive(&mut reader, &bob, true).await.ok()?;
        (!rows.is_empty()).then_some(())
    })
    .await?;
    let data = pool.data_dir(1);
    until("there are snapshots", LIMIT, async || {
        snapshot(&data, 1).ok()
    })
    .await?;
    pool.kill(1)?;
    let before = files(&data)?;
    let (code, said) = look(&data)?;
    ensure!(
        code == Some(0) && said.contains("sound"),
        "{code:?}: {said}"
    );
    ensure!(files(&data)? == before, "the check has changed the folder");

    let kept = data.with_extension("kept");
    std::fs::rename(&data, &kept)?;
    for planted in PLANTED {
        copy(&kept, &data)?;
        (planted.plant)(&data).with_context(|| planted.name.to_owned())?;
        let (code, said) = look(&data)?;
        ensure!(code == Some(1), "{}: {code:?}: {said}", planted.name);
        for words in planted.said {
            ensure!(said.contains(words), "{}: {said}", planted.name);
        }
        std::fs::remove_dir_all(&data)?;
    }
    let (code, said) = look(&pool.root())?;
    ensure!(
        code == Some(2) && said.contains("no identity"),
        "{code:?}: {said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_planted_damage_and_changes_nothing() {
    damage_is_found().await.expect("all of it is found");
}

/// The folders of nodes that were stopped in turn are sound, and what they hold of the same entries is the same.
async fn replicas_are_compared() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.owners_settled().await?;
    let users: Vec<String> = (0..24).map(|number| format!("user{number}")).collect();
    pool.add_users(users.iter().map(String::as_str)).await?;
    let mut client = Client::connect(&pool.login(1, "user0")).await?;
    for user in &users {
        let message = format!(
            "<message to='{user}@{DOMAIN}' id='{user}'><body>for the archive</body></message>"
        );
        client.send(&message).await?;
    }
    client
        .iq_ok("get", None, "<ping xmlns='urn:xmpp:ping'/>")
        .await?;
    client.close().await?;
    until("the replicas are the same", LIMIT, async || {
        pool.replicas_agree().await.ok().map(drop)
    })
    .await?;
    for id in pool.ids() {
        pool.stop(id).await?;
    }
    let folders: Vec<PathBuf> = pool.ids().iter().map(|id| pool.data_dir(*id)).collect();
    let mut words = vec!["check", "--json", "--data"];
    for folder in &folders {
        words.push(text(folder)?);
    }
    let output = run(&words)?;
    ensure!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["differences"] == json!([]), "{report:#}");
    let compared = report["compared"].as_u64().context("a number")?;
    // Those at least that the last one led: nothing was written to them any more.
    ensure!(compared >= 1, "{report:#}");
    println!("FIGURES {compared} partitions of stopped nodes compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_of_stopped_nodes_are_compared() {
    replicas_are_compared().await.expect("they are the same");
}
