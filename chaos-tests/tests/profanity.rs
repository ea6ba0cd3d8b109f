//! Two profanity clients on two nodes, with TLS verified against the pool's CA, before and after the third node's death.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use chaos_tests::pool::{Pool, PoolSettings, ROOMS, password};
use chaos_tests::terminal::Terminal;
use chaos_tests::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

/// Starts profanity with a home of its own; it trusts the given certificates and nothing else.
fn profanity(pool: &Pool, user: &str, node: u64, home: &Path, trusted: &Path) -> Result<Terminal> {
    let address = pool.node(node).clients;
    let jid = format!("{user}@localhost");
    let folder = home.join("data/profanity");
    std::fs::create_dir_all(&folder)?;
    std::fs::create_dir_all(home.join("config/profanity"))?;
    let account = format!(
        "[{jid}]\nenabled=true\njid={jid}\nserver={}\nport={}\npassword={}\ntls.policy=force\nresource=profanity\n",
        address.ip(),
        address.port(),
        password(user)
    );
    std::fs::write(folder.join("accounts"), account)?;
    std::fs::write(home.join("config/profanity/profrc"), "[ui]\nsplash=false\n")?;
    let place = |path: &Path| path.to_str().map(str::to_owned).context("a plain path");
    let environment = [
        ("HOME", place(home)?),
        ("XDG_DATA_HOME", place(&home.join("data"))?),
        ("XDG_CONFIG_HOME", place(&home.join("config"))?),
        ("SSL_CERT_FILE", place(trusted)?),
        ("SSL_CERT_DIR", place(&home.join("no-certificates"))?),
        ("LANG", "C.UTF-8".to_owned()),
    ];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    Terminal::start(&environment, &["profanity", "-a", &jid])
}

async fn story() -> Result<()> {
    let settings = PoolSettings::nodes(3)
        .set("clients", "tls_required", true)
        .set("clients", "allow_plaintext_auth", false);
    let mut pool = Pool::start(&settings).await?;
    pool.add_users(["alice", "bob", "mallory"]).await?;
    let homes = tempfile::tempdir()?;
    let room = format!("parlour@{ROOMS}");
    // The node that dies owns the room; alice and bob are on the two others.
    let dying = until("the room's partition has an owner", LIMIT, async || {
        pool.owner_of(&room, 1).await.ok().flatten()
    })
    .await?;
    let living: Vec<u64> = pool.ids().into_iter().filter(|id| *id != dying).collect();

    // Who does not trust the CA is warned: the check is real.
    let nothing = homes.path().join("nothing.pem");
    std::fs::write(&nothing, "")?;
    let mallory = profanity(
        &pool,
        "mallory",
        living[0],
        &homes.path().join("mallory"),
        &nothing,
    )?;
    mallory
        .shows("TLS certificate verification failed", LIMIT)
        .await?;
    drop(mallory);

    let ca = pool.ca_file();
    let alice = profanity(&pool, "alice", living[0], &homes.path().join("alice"), &ca)?;
    let bob = profanity(&pool, "bob", living[1], &homes.path().join("bob"), &ca)?;
    alice
        .shows("alice@localhost/profanity logged in successfully", LIMIT)
        .await?;
    bob.shows("bob@localhost/profanity logged in successfully", LIMIT)
        .await?;
    alice.type_line(&format!("/join {room} nick Alice"))?;
    alice.shows("/room accept", LIMIT).await?;
    alice.type_line("/room accept")?;
    alice.shows("unlocked", LIMIT).await?;
    bob.type_line(&format!("/join {room} nick Bob"))?;
    // The list of occupants at the side.
    alice.shows("  Bob", LIMIT).await?;
    bob.shows("  Alice", LIMIT).await?;
    alice.type_line("before the death")?;
    let before = bob.shows("Alice: before the death", LIMIT).await?;
    println!("bob's screen before:\n{before}");

    pool.kill(dying)?;
    alice.type_line("after the death")?;
    let after = bob.shows("Alice: after the death", LIMIT).await?;
    bob.type_line("still here")?;
    alice.shows("Bob: still here", LIMIT).await?;
    println!("bob's screen after:\n{after}");
    for (name, screen) in [("alice", alice.screen()?), ("bob", bob.screen()?)] {
        for sign in ["has left the room", "Lost connection", "rror"] {
            anyhow::ensure!(!screen.contains(sign), "{name} sees {sign:?}:\n{screen}");
        }
        for occupant in ["  Alice", "  Bob"] {
            anyhow::ensure!(
                screen.contains(occupant),
                "{name} lacks {occupant}:\n{screen}"
            );
        }
        let once = screen.matches("after the death").count();
        anyhow::ensure!(once == 1, "{name} sees the message {once} times:\n{screen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profanity_keeps_its_room_when_a_node_dies() {
    story().await.expect("the story ends well");
}
