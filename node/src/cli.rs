//! What may be typed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster::version::BUILD_NAME;

use crate::exit::EXIT_CODES;

/// Muster: a clustered XMPP server for instant messaging and presence
#[derive(Debug, Parser)]
#[command(name = "muster", version = BUILD_NAME, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a new pool: CA, certificates, keys, a configuration and a data folder for each node
    Init(InitArgs),
    /// Makes this machine a node of a pool that is there, with a token of `muster ctl node token`
    Join(JoinArgs),
    /// Makes a new pool of one node out of a backup of another; it grows by `muster join`
    Restore(RestoreArgs),
    /// Runs one node until SIGINT or SIGTERM; a second signal ends it at once
    Run(RunArgs),
    /// Makes new certificates and keys for a node, under the names of the old ones
    Renew(RenewArgs),
    /// Operates a running node over its control port
    Ctl(CtlArgs),
    /// Writes users out of a backup, in the portable form of XEP-0227
    Export(ExportArgs),
    /// Looks through a stopped node's data folder; ends with 0: sound, 1: damaged, 2: it can't be looked at
    Check(CheckArgs),
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
    #[arg(long, num_args = 1.., value_parser = listed::<IpAddr>)]
    pub(crate) bind: Vec<Listed<IpAddr>>,
    /// Where operators reach a node: one IP address a node, with commas [default: on the loopback]
    #[arg(long, num_args = 1.., value_parser = listed::<IpAddr>)]
    pub(crate) control_bind: Vec<Listed<IpAddr>>,
    /// Further names and IP addresses of the certificate that clients see, with commas
    #[arg(long, num_args = 1.., value_parser = listed::<String>)]
    pub(crate) names: Vec<Listed<String>>,
    #[command(flatten)]
    pub(crate) ports: PortArgs,
}

/// Which ports a new node has.
#[derive(Debug, Clone, Args)]
pub(crate) struct PortArgs {
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

/// A list with commas; people put spaces behind them, and then a shell makes several words of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed<T>(Vec<T>);

impl<T> Listed<T> {
    /// A list of one.
    pub(crate) fn one(word: T) -> Listed<T> {
        Listed(vec![word])
    }
}

impl<T: Clone> Listed<T> {
    /// All of them in one list.
    pub(crate) fn flat(lists: &[Listed<T>]) -> Vec<T> {
        lists.iter().flat_map(|list| list.0.clone()).collect()
    }
}

fn listed<T: FromStr>(text: &str) -> Result<Listed<T>, T::Err> {
    let words = text.split(',').map(str::trim);
    let words = words.filter(|word| !word.is_empty());
    words.map(str::parse).collect::<Result<_, _>>().map(Listed)
}

/// `muster join`
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// What `muster ctl node token` has shown; `-` reads it from standard input
    #[arg(long)]
    pub(crate) token: String,
    /// The folder to make the node in; it must not be there yet
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// This machine's IP address, at which the other nodes and clients reach it
    #[arg(long)]
    pub(crate) bind: IpAddr,
    /// Where operators reach the node [default: on the loopback]
    #[arg(long)]
    pub(crate) control_bind: Option<IpAddr>,
    /// Control ports of the pool, HOST:PORT with commas, instead of those that the token names
    #[arg(long, num_args = 1.., value_parser = listed::<String>)]
    pub(crate) server: Vec<Listed<String>>,
    #[command(flatten)]
    pub(crate) ports: PortArgs,
}

/// `muster restore`
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The folder of the backup, of `muster ctl backup`
    pub(crate) backup: PathBuf,
    /// The folder to make the pool in; it must not hold a pool yet
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The IP address at which other nodes and clients will reach the node
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
    /// Where operators reach the node [default: on the loopback]
    #[arg(long)]
    pub(crate) control_bind: Option<IpAddr>,
    /// Further names and IP addresses of the certificate that clients see, with commas
    #[arg(long, num_args = 1.., value_parser = listed::<String>)]
    pub(crate) names: Vec<Listed<String>>,
    #[command(flatten)]
    pub(crate) ports: PortArgs,
}

/// `muster export`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The folder of the backup, of `muster ctl backup`
    pub(crate) backup: PathBuf,
    /// The file to make, for the owner's eyes only: credentials and messages are in it
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Only this user; may be given several times [default: all users]
    #[arg(long = "user")]
    pub(crate) users: Vec<String>,
}

/// `muster check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The data folder of a node that does not run; several, of nodes of one pool, are compared as well
    #[arg(long, required = true, num_args = 1..)]
    pub(crate) data: Vec<PathBuf>,
    /// Where the state stores and the archive's newest rows are copied to for a while [default: the system's folder for that]
    #[arg(long)]
    pub(crate) scratch: Option<PathBuf>,
    /// Prints JSON, at the end
    #[arg(long)]
    pub(crate) json: bool,
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
    /// The nodes of the pool: let in, drain, remove, replace
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// The version of the pool: which builds its nodes run, and the end of an upgrade
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Who may operate the pool
    Operator {
        #[command(subcommand)]
        command: OperatorCommand,
    },
    /// Makes a backup of the pool while it runs: all accounts with their credentials, all rooms, all messages
    Backup {
        /// The folder to make it in: a new or empty one, or one where a backup was cut short
        dir: PathBuf,
        /// How fast it is fetched
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        mib_per_second: u32,
    },
    /// Writes all there is of a user into a file in the portable form of XEP-0227, while the pool runs
    ExportUser {
        /// The user's address
        jid: String,
        /// The file to make, for the owner's eyes only: credentials and messages are in it
        #[arg(long)]
        out: PathBuf,
    },
    /// Imports the users of a file in the portable form of XEP-0227; a run that was cut short is begun again
    Import {
        /// The file, as muster export, muster ctl export-user, Prosody or ejabberd write it
        file: PathBuf,
    },
    /// Shows what operators have changed, the newest records last
    Audit {
        /// All records with higher numbers [default: the newest 100]
        #[arg(long)]
        after: Option<u64>,
    },
}

/// What an operator may do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Lists the members of the pool
    List,
    /// Lets a new machine join: shows what that moves, makes a token for it, and how far it has come
    Add(AddArgs),
    /// Makes a token that lets one new machine join; it is shown this once
    Token {
        /// How long it lets a node in: 90s, 30m, 1h, 7d
        #[arg(long, default_value = "1h", value_parser = time_to_live)]
        ttl: u64,
        /// Where the new machine reaches control ports of the pool, HOST:PORT with commas [default: this node's own]
        #[arg(long, num_args = 1.., value_parser = listed::<String>)]
        address: Vec<Listed<String>>,
    },
    /// Lists the tokens that let nodes join
    Tokens,
    /// Makes a token useless
    Revoke {
        /// The token's name, as `tokens` shows it
        token: String,
    },
    /// Empties a node of sessions and of what it leads; it keeps its replicas
    Drain {
        /// The node's id
        node: u64,
        /// Sessions moved a second [default: as the node is set]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        sessions_per_second: Option<u32>,
        #[command(flatten)]
        how: OperationArgs,
    },
    /// Takes a drain back, or a removal that is not done
    Undrain {
        /// The node's id
        node: u64,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Drains a node, moves its replicas to others, and lets it go for good
    Remove {
        /// The node's id
        node: u64,
        /// It is dead and will not come back: do not wait for it
        #[arg(long)]
        dead: bool,
        #[command(flatten)]
        how: OperationArgs,
    },
    /// Removes a node, dead or alive, and gives its replicas to another that has joined
    Replace {
        /// The id of the node that goes
        node: u64,
        /// The id of the node that gets its replicas
        #[arg(long)]
        with: u64,
        #[command(flatten)]
        how: OperationArgs,
    },
    /// Shows how far what is under way has come, until it is done
    Progress,
}

/// How a new machine is let in.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Where the other nodes will reach the new one, IP:PORT
    pub(crate) at: String,
    /// How long the new machine may take to join: 90s, 30m, 1h, 7d
    #[arg(long, default_value = "1h", value_parser = time_to_live)]
    pub(crate) ttl: u64,
    /// Where the new machine reaches control ports of the pool, HOST:PORT with commas [default: this node's own]
    #[arg(long, num_args = 1.., value_parser = listed::<String>)]
    pub(crate) address: Vec<Listed<String>>,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Wait until it has joined and everything has moved, also without a terminal
    #[arg(long)]
    pub(crate) wait: bool,
}

/// What an operator may do about versions.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Shows the version that the pool is at, and the build of each member
    Version,
    /// Brings the pool to a version that the builds of all members support; there is no way back
    Finalize {
        /// The version [default: the newest that a member supports]
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        version: Option<u16>,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// How an operation is begun.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OperationArgs {
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Wait until it is done, also without a terminal
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do it though the other nodes can't carry what this one has
    #[arg(long)]
    pub(crate) over_capacity: bool,
}

/// What an operator may do with operators.
#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Makes an operator; their token is shown this once
    Add {
        /// Their name: a-z, 0-9, '.', '_' and '-'
        name: String,
        /// What they may do
        #[arg(long, value_enum)]
        role: RoleName,
    },
    /// Lists the operators
    List,
    /// Takes an operator's token away
    Revoke {
        /// Their name
        name: String,
    },
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Everything
    Operator,
    /// See the pool, and change accounts
    Support,
    /// See everything, the audit log included, and change nothing
    Auditor,
}

/// A time with its unit, in seconds.
fn time_to_live(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a time has a unit: 90s, 30m, 1h, 7d".to_owned()),
    };
    let number: Option<u64> = number.parse().ok();
    let found = number.and_then(|number| number.checked_mul(seconds));
    found
        .filter(|found| (1..=30 * 86_400).contains(found))
        .ok_or_else(|| "a token lasts 1s to 30d".to_owned())
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
    fn lists_may_have_spaces() {
        let check = |line: &[&str], expect: &[&str]| {
            let words = ["muster", "init", "--dir", "run"].iter().chain(line);
            let Command::Init(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("{line:?}")
            };
            let found: Vec<String> = Listed::flat(&args.bind)
                .iter()
                .map(IpAddr::to_string)
                .collect();
            assert_eq!(found, expect, "{line:?}");
        };
        let both = ["10.0.0.1", "10.0.0.2"];
        check(&["--bind", "10.0.0.1,10.0.0.2"], &both);
        check(&["--bind", "10.0.0.1, 10.0.0.2"], &both);
        check(&["--bind", "10.0.0.1,", "10.0.0.2"], &both);
        check(&["--bind", "10.0.0.1", "--bind", "10.0.0.2"], &both);
        check(&[], &[]);
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
        check(
            "muster init --dir run --bind 10.0.0.1, 10.0.0.2 --nodes 2",
            true,
        );
        check("muster init --dir run --bind 10.0.0.1,x --nodes 2", false);
        check("muster join --token t --dir d --bind 10.0.0.4", true);
        check("muster join --token t --dir d", false);
        check(
            "muster join --token t --dir d --bind 10.0.0.4 --server a:1,b:2",
            true,
        );
        check("muster ctl node list --json", true);
        check("muster ctl node token --ttl 1h", true);
        check("muster ctl node token --ttl 1", false);
        check("muster ctl node token --ttl 31d", false);
        check("muster ctl node token --ttl 0s", false);
        check("muster ctl node token --ttl 99999999999999999999d", false);
        check("muster ctl node token --ttl 90s --address a:1, b:2", true);
        check("muster ctl node drain 3 --dry-run --yes --wait", true);
        check("muster ctl node drain 3 --over-capacity", true);
        check("muster ctl node drain three", false);
        check("muster ctl node drain 3 --sessions-per-second 0", false);
        check("muster ctl node replace 3", false);
        check("muster ctl node replace 3 --with 4", true);
        check("muster ctl node remove 3 --dead", true);
        check("muster ctl cluster version --json", true);
        check("muster ctl cluster finalize --dry-run", true);
        check("muster ctl cluster finalize --version 2 --yes", true);
        check("muster ctl cluster finalize --version 0", false);
        check("muster ctl cluster", false);
        check("muster ctl operator add anna --role support", true);
        check("muster ctl operator add anna --role root", false);
        check("muster ctl operator add anna", false);
        check("muster ctl audit --after 7", true);
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
