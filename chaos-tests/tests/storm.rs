//! Everybody comes back at once: sessions whose node has died, and all of whom log in elsewhere.
//!
//! 1,000 here; `MUSTER_STORM` sets another number (10,000 in `scripts/chaos --long`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Login, Mechanism};
use chaos_tests::pool::{Pool, PoolSettings};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How many, unless something else is said.
const CLIENTS: usize = 1_000;

/// Accounts; each has some sessions.
const USERS: usize = 250;

/// All are back by then, on a machine that has nothing else to do.
const BACK: Duration = Duration::from_secs(60);

/// What a session may cost a node in memory while all of them come, generously: queues are bounded.
const KIB_A_SESSION: u64 = 96;

/// Logins under way before the storm, so that it is not one itself.
const CALM: usize = 32;

fn user(number: usize) -> String {
    format!("sailor-{}", number % USERS)
}

fn login(pool: &Pool, node: u64, number: usize) -> Login {
    Login {
        stream_management: true,
        // The client's own share of SCRAM would be measured as well.
        mechanism: Mechanism::Plain,
        ..pool.login(node, &user(number))
    }
}

/// What a process has in memory, in KiB.
fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.context("VmRSS")?.parse()?)
}

/// Logs all in on these nodes, so many at a time; gives the clients.
async fn all_in(pool: &Pool, nodes: &[u64], count: usize, at_once: usize) -> Result<Vec<Client>> {
    let permits = Arc::new(Semaphore::new(at_once));
    let mut running = JoinSet::new();
    for number in 0..count {
        let node = *nodes.get(number % nodes.len()).context("a node")?;
        let (login, permits) = (login(pool, node, number), Arc::clone(&permits));
        running.spawn(async move {
            let _permit = permits.acquire_owned().await?;
            let deadline = Instant::now() + 2 * BACK;
            loop {
                match Client::lasting(&login).await {
                    Ok((client, _)) => return anyhow::Ok(client),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    // As clients do: it was too much at once, and is tried again.
                    Err(_) => {}
                }
            }
        });
    }
    running.join_all().await.into_iter().collect()
}

async fn storm() -> Result<()> {
    let count = match std::env::var("MUSTER_STORM") {
        Ok(number) => number.parse().context("MUSTER_STORM")?,
        Err(_) => CLIENTS,
    };
    let settings = PoolSettings::nodes(3).set(
        "clients",
        "resources_max",
        i64::try_from(count / USERS * 2 + 10)?,
    );
    let mut pool = Pool::start(&settings).await?;
    let users: Vec<String> = (0..USERS).map(user).collect();
    pool.add_users(users.iter().map(String::as_str)).await?;
    let before = all_in(&pool, &[1], count, CALM).await?;
    let memory = [2, 3].map(|node| pool.pid(node).and_then(resident_kib));
    let [memory_2, memory_3] = memory;
    let (memory_2, memory_3) = (memory_2?, memory_3?);
    pool.kill(1)?;
    drop(before);
    let killed = Instant::now();
    let back = all_in(&pool, &[2, 3], count, count).await?;
    let took = killed.elapsed();
    let grown = (resident_kib(pool.pid(2)?)? + resident_kib(pool.pid(3)?)?)
        .saturating_sub(memory_2 + memory_3);
    println!(
        "FIGURES {count} clients of a killed node were back after {:.1} s; the other two nodes grew by {grown} KiB, {} KiB a session",
        took.as_secs_f64(),
        grown / count as u64
    );
    println!(
        "CHAOS {{\"config\": \"reconnects\", \"passed\": {}, \"acked\": \"{count} in {} ms\"}}",
        back.len() == count && took <= BACK,
        took.as_millis()
    );
    ensure!(back.len() == count, "only {} are back", back.len());
    ensure!(took <= BACK, "back after {took:?}");
    ensure!(
        grown / count as u64 <= KIB_A_SESSION,
        "{grown} KiB for {count} sessions"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_comes_back_at_once() {
    storm().await.expect("all are back");
}
