//! The binary `muster`: command line, configuration, start-up and shutdown.
//!
//! ```text
//!  muster init ──► folders: CA, pool file, a muster.toml and certificates a node
//!  muster join ──► one more folder, with what the pool answers to a token
//!  muster restore ► the folder of a new pool's first node, out of a backup of another
//!  muster run ───► config ─► data folder ─► actors::runtime + web::ControlServer ─► signal ─► graceful stop
//!  muster ctl ───► HTTPS ──► the control port of a running node
//! ```
//!
//! - [`cli`]: what may be typed; [`exit`]: what a failure says and which code it ends with.
//! - [`config`]: `muster.toml` and the pool file; [`check`]: `muster check-config`.
//! - [`certificate`]: a certificate from files; [`identities`]: all of a node's; [`rotation`]: others take their place;
//!   [`renew`]: `muster renew` makes them.
//! - [`tickets`]: clients resume TLS on any node.
//! - [`init`]: new pools; [`join`]: new nodes of them; [`issuing`]: what lets those in; [`authority`]: CAs and issuers; [`secret_file`]: files for the owner's eyes.
//! - [`backup_files`]: what a backup is on disk; [`restore`]: new pools made of one; [`export`]: users out of one, in the form that
//!   [`pie`] knows.
//! - [`check_data`]: `muster check`.
//! - [`run`]: one life of a node; [`disk`]: a full disk explained; [`logging`]: what it says meanwhile; [`backend`]: the node behind its control port.
//! - [`ctl`]: operators' commands.
//!
//! Only this crate knows files, the environment and the process.

mod cli;
mod exit;

mod certificate;
mod check;
mod check_data;
mod config;
mod identities;
mod rotation;
mod tickets;

mod authority;
mod backup_files;
mod export;
mod init;
mod issuing;
mod join;
mod pie;
mod renew;
mod restore;
mod secret_file;

mod backend;
mod disk;
mod logging;
mod machine;
mod run;

mod ctl;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, ConfigCommand};

/// A fifth of the CPU of a busy node was glibc's allocator (docs/adr/0011).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Init(args) => init::init(&args),
        Command::Join(args) => join::join(&args),
        Command::Restore(args) => restore::restore(&args),
        Command::Run(args) => run::run(&args),
        Command::Renew(args) => renew::renew(&args),
        Command::Ctl(args) => match ctl::ctl(&args) {
            Err(failure) if args.json => return failure.report_json(),
            outcome => outcome,
        },
        Command::Export(args) => export::export(&args),
        Command::Check(args) => return check_data::check_data(&args),
        Command::CheckConfig { file } => check::check_config(&file),
        Command::Config {
            command: ConfigCommand::Reference,
        } => exit::print(&config::reference::reference()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
