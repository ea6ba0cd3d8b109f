//! What may be typed.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit::EXIT_CODES;

/// Muster: a clustered XMPP server for instant messaging and presence
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a new pool: CA, certificates, keys, a configuration and a data folder for each node
    Init(InitArgs),
    /// Runs one node until SIGINT or SIGTERM; a second signal ends it at once
    Run(RunArgs),
    /// Makes new certificates and keys for a node, under the names of the old ones
    Renew(RenewArgs),
    /// Operates a running node over its control port
    Ctl(CtlArgs),
    /// Says whether a node could start with this configuration
    CheckConfig {
        /// The node's muster.toml
        file: PathBuf,
    },
    /// About the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// About the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the reference of muster.toml
    Reference,
}

/// `muster init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder to make it in; it must not hold a pool yet
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// The domain of the users
    #[arg(long, default_value = "localhost")]
    pub(crate) domain: String,
    /// The domain of the rooms [default: conference.DOMAIN]
    #[arg(long)]
    pub(crate) rooms_domain: Option<String>,
    /// Into how many Raft groups users and rooms are spread; fixed for ever
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) partitions: u16,
    /// One IP address a node, with commas; of one for all nodes each gets ports of its own [default: 127.0.0.1,127.0.0.2,…]
    #[arg(long, value_delimiter = ',')]
    pub(crate) bind: Vec<IpAddr>,
    /// Where operators reach a node: one IP address a node, with commas [default: on the loopback]
    #[arg(long, value_delimiter = ',')]
    pub(crate) control_bind: Vec<IpAddr>,
    /// Further names and IP addresses of the certificate that clients see, with commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) names: Vec<String>,
    /// Where clients connect and turn to TLS
    #[arg(long, default_value_t = 5222, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) client_port: u16,
    /// Where clients connect with TLS from the first byte
    #[arg(long, default_value_t = 5223, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) direct_tls_port: u16,
    /// Where nodes reach each other
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) cluster_port: u16,
    /// Where operators reach a node
    #[arg(long, default_value_t = 7480, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) control_port: u16,
    /// Take the next free port where one is in use
    #[arg(long)]
    pub(crate) next_free_ports: bool,
}

/// `muster run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The node's configuration
    #[arg(long, default_value = "muster.toml")]
    pub(crate) config: PathBuf,
    /// Make the data folder if there is none: only for a node that has never run
    #[arg(long)]
    pub(crate) new_data: bool,
}

/// `muster renew`
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// The node's configuration: says where its certificates are
    #[arg(long, default_value = "muster.toml")]
    pub(crate) config: PathBuf,
    /// The folder with the pool's ca.pem and ca-key.pem
    #[arg(long)]
    pub(crate) ca: PathBuf,
}

/// `muster ctl`
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The node's configuration: says where its control port is
    #[arg(long, global = true, default_value = "muster.toml", conflicts_with_all = ["url", "token_file", "ca"])]
    pub(crate) config: PathBuf,
    /// The control port, https://127.0.0.1:7480
    #[arg(long, global = true, requires = "token_file", requires = "ca")]
    pub(crate) url: Option<String>,
    /// The file with the control port's token
    #[arg(long, global = true, requires = "url")]
    pub(crate) token_file: Option<PathBuf>,
    /// The CA certificate to trust
    #[arg(long, global = true, requires = "url")]
    pub(crate) ca: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

/// What an operator may ask.
#[derive(Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// Shows the pool as this node sees it
    Status,
    /// Shows what this node's replicas hold, as hashes: nodes that have applied as much must show the same
    Hashes,
    /// Accounts
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
}

/// What an operator may do with accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Makes an account
    Add {
        /// The user's address, alice@example.org
        jid: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
    /// Lists all accounts
    List,
    /// Removes an account and all that belongs to it
    Remove {
        /// The user's address
        jid: String,
    },
    /// Gives an account another password
    Password {
        /// The user's address
        jid: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_may_be_typed() {
        let check = |line: &str, good: bool| {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert_eq!(parsed.is_ok(), good, "{line} {parsed:?}");
        };
        check("muster init --dir run", true);
        check(
            "muster init --dir run --bind 10.0.0.1,10.0.0.2 --nodes 2",
            true,
        );
        check("muster init", false);
        check("muster init --dir run --nodes 0", false);
        check("muster init --dir run --partitions 65", false);
        check("muster init --dir run --client-port 0", false);
        check("muster run --config a.toml", true);
        check("muster renew --config a.toml --ca ca", true);
        check("muster renew --config a.toml", false);
        check("muster ctl status", true);
        check("muster ctl --config a hashes --json", true);
        check("muster ctl --config a status --json", true);
        check("muster ctl user add alice@localhost --password-stdin", true);
        check(
            "muster ctl --url https://x:1 --token-file t --ca c user list",
            true,
        );
        check("muster ctl --url https://x:1 status", false);
        check("muster ctl --token-file t status", false);
        check("muster ctl", false);
        check("muster config reference", true);
        check("muster check-config a.toml", true);
    }
}
