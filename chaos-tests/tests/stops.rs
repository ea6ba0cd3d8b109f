//! A node that stops tells every client so, wherever its stream is: `system-shutdown` (RFC 6120 §4.9.3.20).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chaos_tests::client::{Client, Login, Security, authenticated, features};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wire::Wire;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use xmpp::ns;
use xmpp::scan::{Document, Frame};

const LIMIT: Duration = Duration::from_secs(15);

/// The condition that a stopping node gives.
const SHUTDOWN: &str = "<system-shutdown ";

async fn pool() -> Result<Pool> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    pool.add_users(["romeo"]).await?;
    Ok(pool)
}

/// What still comes is the condition and the end of the stream, after a header where none was sent before.
async fn told(mut wire: Wire) -> Result<()> {
    let mut error = None;
    loop {
        match wire.expect("the word of the stop", LIMIT).await? {
            Frame::Header(_) => {}
            Frame::Element(element) => error = Some(element.source().to_owned()),
            Frame::Close => break,
        }
    }
    let error = error.unwrap_or_default();
    ensure!(error.contains(SHUTDOWN), "not told of the stop: {error:?}");
    Ok(())
}

async fn every_step() -> Result<()> {
    let mut pool = pool().await?;
    let login = pool.login(1, "romeo");
    let tls = Login {
        address: pool.node(1).clients_tls,
        security: Security::DirectTls,
        ..login.clone()
    };
    let mut bound = Client::connect(&login).await?;
    let silent = Wire::plain(login.address).await?;
    let mut greeted = Wire::plain(login.address).await?;
    features(&mut greeted, &login.domain).await?;
    let proved = authenticated(&login).await?;
    let proved_tls = authenticated(&tls).await?;
    pool.stop(1).await?;
    let error = bound.next_element(LIMIT).await.context("bound")?;
    ensure!(
        error.source().contains(SHUTDOWN),
        "bound: {}",
        error.source()
    );
    told(silent).await.context("silent")?;
    told(greeted).await.context("greeted")?;
    told(proved).await.context("authenticated")?;
    told(proved_tls).await.context("authenticated over TLS")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_says_so() {
    every_step().await.expect("every stream is told");
}

/// How far a stream came that was opened while the node was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// The node was gone before it answered.
    NotServed,
    /// It was told of the stop while it negotiated.
    Negotiating,
    /// It was bound, and told then.
    Bound,
}

/// Takes features; `false`: the word of the stop came instead.
async fn features_or_stop(wire: &mut Wire) -> Result<bool> {
    match features(wire, DOMAIN).await {
        Ok(_) => Ok(true),
        Err(error) if format!("{error:#}").contains(SHUTDOWN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends a request whose answer must fit; `false`: the word of the stop came instead.
async fn ask_or_stop(wire: &mut Wire, request: &str, fits: fn(&Document) -> bool) -> Result<bool> {
    wire.send(request.as_bytes()).await?;
    let answer = wire.element(request).await?;
    let stopped = answer.source().contains(SHUTDOWN);
    ensure!(stopped || fits(&answer), "{}", answer.source());
    Ok(!stopped)
}

/// Logs in step by step and stays until the end of the stream.
async fn live(login: &Login, bound: &watch::Sender<usize>) -> Result<Came> {
    let Ok(mut wire) = Wire::plain(login.address).await else {
        return Ok(Came::NotServed);
    };
    match features_or_stop(&mut wire).await {
        Ok(true) => {}
        Ok(false) => return Ok(Came::Negotiating),
        // The system took the connection, and the node never did.
        Err(_) => return Ok(Came::NotServed),
    }
    let proof = BASE64.encode(format!("\0{}\0{}", login.user, login.password));
    let auth = format!(
        "<auth xmlns='{}' mechanism='PLAIN'>{proof}</auth>",
        ns::SASL
    );
    if !ask_or_stop(&mut wire, &auth, |answer| {
        answer.root().is("success", ns::SASL)
    })
    .await?
    {
        return Ok(Came::Negotiating);
    }
    wire.restart();
    if !features_or_stop(&mut wire).await? {
        return Ok(Came::Negotiating);
    }
    let bind = format!("<iq type='set' id='bind'><bind xmlns='{}'/></iq>", ns::BIND);
    wire.send(bind.as_bytes()).await?;
    let answer = wire.element(&bind).await?;
    if answer.source().contains(SHUTDOWN) {
        return Ok(Came::Negotiating);
    }
    let result = answer.root().attr("type").as_deref() == Some("result");
    ensure!(
        answer.root().is("iq", ns::CLIENT) && result,
        "{}",
        answer.source()
    );
    bound.send_modify(|bound| *bound += 1);
    told(wire).await?;
    Ok(Came::Bound)
}

/// Clients log in all at once, and the node is stopped at the moment when so many of them are bound.
async fn stop_among(pool: &mut Pool, users: &[String], bound_before: usize) -> Result<[usize; 3]> {
    let bound = watch::Sender::new(0);
    let mut running = JoinSet::new();
    for user in users {
        let (login, bound) = (pool.login(1, user), bound.clone());
        running.spawn(async move { live(&login, &bound).await });
    }
    let mut so_many = bound.subscribe();
    let reached = so_many.wait_for(|bound| *bound >= bound_before);
    timeout(LIMIT, reached)
        .await
        .context("clients are bound")??;
    pool.stop(1).await?;
    let ends: Vec<Came> = running
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let count = |came| ends.iter().filter(|end| **end == came).count();
    Ok([Came::NotServed, Came::Negotiating, Came::Bound].map(count))
}

async fn stops_among_logins() -> Result<()> {
    const CLIENTS: usize = 20;
    const ROUNDS: usize = 6;
    let mut pool = pool().await?;
    let users: Vec<String> = (0..CLIENTS)
        .map(|number| format!("user-{number}"))
        .collect();
    pool.add_users(users.iter().map(String::as_str)).await?;
    let mut sum = [0; 3];
    for round in 0..ROUNDS {
        let ends = stop_among(&mut pool, &users, 1 + round * 3).await?;
        sum = std::array::from_fn(|kind| sum[kind] + ends[kind]);
        pool.spawn(1)?;
        pool.ready(1).await?;
    }
    let [not_served, negotiating, bound] = sum;
    println!(
        "{ROUNDS} stops among {CLIENTS} logins: {bound} bound and {negotiating} negotiating streams were told, \
         {not_served} were never taken"
    );
    ensure!(bound >= ROUNDS, "no stream was bound");
    Ok(())
}

/// A client that was bound a moment ago, or is about to be, is no less told than others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_among_logins_tells_each() {
    stops_among_logins().await.expect("every stream is told");
}
