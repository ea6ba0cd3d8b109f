//! `muster-bench`: a load generator for XMPP servers, from the outside, over real sockets.
//!
//! ```text
//!  cli ─► target ─► crowd (accounts, logins) ─► scenario (load, ledger, CPU, memory) ─► report
//!             pool ─┘ (a Muster pool of its own)
//! ```
//!
//! - [`cli`]: what may be typed; [`target`]: the server and its users; [`pool`]: a Muster pool started for the purpose.
//! - [`wire`], [`sasl`], [`login`], [`session`], [`crowd`]: a client, and many of them.
//! - [`scenario`]: what they do; [`pace`]: when; [`ledger`]: what of it came.
//! - [`histogram`], [`processes`], [`machine`], [`report`]: what it took, where, and how that is told.
//!
//! Results are printed and never asserted. It knows nothing of any server but the protocol, so that the same load can
//! be put on others.

mod cli;
mod target;

mod crowd;
mod login;
mod sasl;
mod session;
mod wire;

mod histogram;
mod ledger;
mod pace;
mod processes;

mod pool;
mod scenario;

mod machine;
mod report;

use std::io::Write;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use cli::{Cli, Command};
use machine::Machine;
use report::Report;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let machine = Machine::now();
    let limit = getrlimit(Resource::Nofile);
    // Every session is an open file; with too few of them the run fails and says so.
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (server, rows) = runtime.block_on(measure(&cli))?;
    let report = Report {
        machine,
        command: cli::shown(std::env::args()),
        server,
        rows,
    };
    let text = match cli.json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => report.table(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

async fn measure(cli: &Cli) -> anyhow::Result<(String, Vec<report::Row>)> {
    if let Command::Pool(args) = &cli.command {
        return Box::pin(pool::run(args, &cli.target)).await;
    }
    let target = cli.target.target()?;
    let row = match &cli.command {
        Command::Idle(args) => Box::pin(scenario::idle::run(&target, args)).await?,
        Command::Login(args) => Box::pin(scenario::login::run(&target, args)).await?,
        Command::Chat(args) => Box::pin(scenario::chat::run(&target, args)).await?,
        Command::Room(args) => Box::pin(scenario::room::run(&target, args)).await?,
        Command::Durable(args) => Box::pin(scenario::durable::run(&target, args)).await?,
        Command::Presence(args) => Box::pin(scenario::presence::run(&target, args)).await?,
        Command::Pool(_) => anyhow::bail!("a pool is measured by its suite"),
    };
    let server = format!(
        "{} process(es), {} node address(es)",
        target.processes.len(),
        target.nodes.len()
    );
    Ok((server, vec![row]))
}
