//! `muster-bench`: a load generator for XMPP servers, from the outside, over real sockets.
//!
//! ```text
//!  cli ─► target ─► crowd (accounts, logins) ─► scenario (load, ledger, CPU, memory) ─► report
//!  suite ─► server ─┘ (Muster, ejabberd, Prosody: started, loaded, stopped)          pool, compare ─► tables and pages
//! ```
//!
//! - [`cli`]: what may be typed; [`target`]: the server and its users.
//! - [`server`], [`pool`]: servers started for the purpose; [`suite`]: what is measured on each; [`compare`]: side by side.
//! - [`wire`], [`sasl`], [`login`], [`session`], [`crowd`]: a client, and many of them.
//! - [`scenario`]: what they do; [`pace`]: when; [`ledger`]: what of it came.
//! - [`lync`], [`growth`]: a whole pool's load, and what becomes of costs where there is more of something; [`found`]: the many
//!   accounts for that; [`kernel`]: what the machine must allow; [`outage`]: nodes that die or stand still.
//! - [`histogram`], [`processes`], [`machine`], [`disk`], [`report`]: what it took, where, and how that is told.
//!
//! Results are printed and never asserted. It knows nothing of any server but the protocol, so that the same load can
//! be put on others.

mod cli;
mod target;

mod crowd;
mod login;
mod sasl;
mod session;
mod site;
mod wire;

mod histogram;
mod ledger;
mod pace;
mod processes;

mod found;
mod growth;
mod lync;
mod outage;
mod pool;
mod progress;
mod scenario;
mod server;
mod suite;

mod compare;
mod disk;
mod kernel;
mod machine;
mod report;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command};
use machine::Machine;
use report::Report;

fn main() -> ExitCode {
    match measured() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measured() -> anyhow::Result<()> {
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
    let text = runtime.block_on(until_signal(run(&cli, machine)))??;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Does the work unless a signal ends it: then all that was started ends with what is dropped here.
async fn until_signal<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        done = work => Ok(done),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            anyhow::bail!("interrupted; what was started is stopped")
        }
        _ = terminate.recv() => anyhow::bail!("terminated; what was started is stopped"),
        _ = hangup.recv() => anyhow::bail!("hung up; what was started is stopped"),
    }
}

/// What was typed: into `scripts/bench`, which says it, or here.
fn command() -> String {
    match std::env::var("MUSTER_BENCH_COMMAND") {
        Ok(typed) => cli::shown(typed.split(' ').map(str::to_owned)),
        Err(_) => cli::shown(std::env::args()),
    }
}

/// Gives what is to be printed.
async fn run(cli: &Cli, machine: Machine) -> anyhow::Result<String> {
    let command = command();
    match &cli.command {
        Command::Compare(args) => {
            let compared = Box::pin(compare::run(args, &cli.target, machine, command)).await?;
            compared.shown(cli.json, &args.output)
        }
        Command::Growth(args) => {
            let grown = Box::pin(growth::run(args, &cli.target, machine, command)).await?;
            grown.shown(cli.json, &args.output)
        }
        Command::Kernel(args) => kernel::told(args),
        Command::Report(args) => {
            compare::Comparison::read(&args.file)?.shown(cli.json, &args.output)
        }
        _ => {
            let (server, rows) = Box::pin(measure(cli)).await?;
            let report = Report {
                machine,
                command,
                server,
                rows,
            };
            Ok(match cli.json {
                true => format!("{}\n", serde_json::to_string_pretty(&report)?),
                false => report.table(),
            })
        }
    }
}

async fn measure(cli: &Cli) -> anyhow::Result<(String, Vec<report::Row>)> {
    if let Command::Pool(args) = &cli.command {
        return Box::pin(pool::run(args, &cli.target)).await;
    }
    if let Command::Lync(args) = &cli.command {
        return Box::pin(lync::run(args, &cli.target)).await;
    }
    if let Command::Outage(args) = &cli.command {
        return Box::pin(outage::run(args, &cli.target)).await;
    }
    let target = cli.target.target()?;
    let row = match &cli.command {
        Command::Idle(args) => Box::pin(scenario::idle::run(&target, args)).await?,
        Command::Login(args) => Box::pin(scenario::login::run(&target, args)).await?,
        Command::Chat(args) => Box::pin(scenario::chat::run(&target, args)).await?,
        Command::Room(args) => Box::pin(scenario::room::run(&target, args)).await?,
        Command::Durable(args) => Box::pin(scenario::durable::run(&target, args)).await?,
        Command::Presence(args) => Box::pin(scenario::presence::run(&target, args)).await?,
        Command::Churn(args) => Box::pin(scenario::churn::run(&target, args)).await?,
        Command::Archive(args) => Box::pin(scenario::archive::run(&target, args)).await?,
        Command::Pool(_)
        | Command::Lync(_)
        | Command::Growth(_)
        | Command::Outage(_)
        | Command::Kernel(_)
        | Command::Compare(_)
        | Command::Report(_) => {
            anyhow::bail!("this is no single scenario")
        }
    };
    let server = format!(
        "{} process(es), {} node address(es)",
        target.processes.len(),
        target.nodes.len()
    );
    Ok((server, vec![row]))
}
