//! What may be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};

use crate::compare::{CompareArgs, ReportArgs};
use crate::growth::GrowthArgs;
use crate::kernel::KernelArgs;
use crate::lync::LyncArgs;
use crate::outage::OutageArgs;
use crate::pool::PoolArgs;
use crate::processes::Processes;
use crate::sasl::{Mechanism, SaltedPasswords};
use crate::scenario::archive::ArchiveArgs;
use crate::scenario::chat::ChatArgs;
use crate::scenario::churn::ChurnArgs;
use crate::scenario::durable::DurableArgs;
use crate::scenario::idle::IdleArgs;
use crate::scenario::login::LoginArgs;
use crate::scenario::presence::PresenceArgs;
use crate::scenario::room::RoomArgs;
use crate::target::{Security, Target, trust};

/// Loads an XMPP server on this machine and measures what that costs it.
///
/// Results are printed, never judged; a row with lost, doubled or late messages says that it is void.
#[derive(Debug, Parser)]
#[command(name = "muster-bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Memory of a session that does nothing
    Idle(IdleArgs),
    /// CPU of a login
    Login(LoginArgs),
    /// Messages between pairs of users
    Chat(ChatArgs),
    /// Messages in rooms
    Room(RoomArgs),
    /// Messages acknowledged with stream management
    Durable(DurableArgs),
    /// Changes of presence to contacts
    Presence(PresenceArgs),
    /// Logins and logouts at a rate
    Churn(ChurnArgs),
    /// Pages of archives
    Archive(ArchiveArgs),
    /// Starts a Muster pool of its own, runs a short suite on it, and stops it
    Pool(PoolArgs),
    /// The load of a whole pool of Lync Server on a Muster pool of three nodes on this machine
    Lync(LyncArgs),
    /// What becomes of costs where there is more of something: sessions, messages, occupants, nodes, partitions, time
    Growth(GrowthArgs),
    /// Nodes that are killed or stand still, on Muster and on a cluster of ejabberd in turn
    Outage(OutageArgs),
    /// Says what the kernel must allow for so many sessions, and fails where they could not be carried
    Kernel(KernelArgs),
    /// Runs the suite on ejabberd, Prosody and Muster in turn, and puts them side by side
    Compare(CompareArgs),
    /// Shows again what a comparison found
    Report(ReportArgs),
}

/// Where the server is and how it is entered.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Where clients connect: 127.0.0.1:5222; once for each node [pool: its own]
    #[arg(long, global = true)]
    node: Vec<SocketAddr>,
    /// The domain of the users
    #[arg(long, global = true, default_value = "localhost")]
    domain: String,
    /// The domain of the rooms [default: conference.DOMAIN]
    #[arg(long, global = true)]
    rooms_domain: Option<String>,
    /// How streams are protected [default: starttls; pool: plain, but for the parts that say otherwise]
    #[arg(long, global = true, value_enum)]
    pub(crate) security: Option<Security>,
    /// The CA certificate to trust, PEM
    #[arg(long, global = true)]
    ca: Option<PathBuf>,
    /// The SASL mechanism [default: the best offered]
    #[arg(long, global = true, value_enum)]
    pub(crate) mechanism: Option<Mechanism>,
    /// Users are called this and a number from 0 on
    #[arg(long, global = true, default_value = "bench")]
    user_prefix: String,
    /// The password of all users
    #[arg(long, global = true, default_value = "bench-password")]
    password: String,
    /// Make missing accounts in-band (XEP-0077)
    #[arg(long, global = true)]
    register: bool,
    /// Logins under way at once
    #[arg(long, global = true, default_value_t = 16)]
    pub(crate) logins_at_once: usize,
    /// A process of the server, to measure its CPU and memory; once for each
    #[arg(long, global = true)]
    pid: Vec<u32>,
}

impl TargetArgs {
    /// The server they describe.
    pub(crate) fn target(&self) -> anyhow::Result<Arc<Target>> {
        if self.node.is_empty() {
            bail!("no node is given: --node 127.0.0.1:5222");
        }
        let security = self.security.unwrap_or(Security::Starttls);
        let tls = match (&self.ca, security) {
            (_, Security::Plain) => None,
            (Some(ca), security) => Some(trust(ca, security)?),
            (None, _) => bail!("TLS needs the server's CA: --ca FILE"),
        };
        let rooms_domain = self.rooms_domain.clone();
        let target = Target {
            nodes: self.node.clone(),
            rooms_domain: rooms_domain.unwrap_or_else(|| format!("conference.{}", self.domain)),
            domain: self.domain.clone(),
            security,
            tls,
            mechanism: self.mechanism,
            user_prefix: self.user_prefix.clone(),
            users: None,
            many_sources: false,
            password: self.password.clone(),
            register: self.register,
            registered: AtomicUsize::new(0),
            logins_at_once: self.logins_at_once,
            processes: Processes::new(self.pid.clone()),
            salted_passwords: SaltedPasswords::default(),
        };
        target.refuse_other_machines()?;
        Ok(Arc::new(target))
    }
}

/// A command line as it may be shown: without the password.
pub(crate) fn shown(args: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut is_password = false;
    for word in args {
        words.push(match word.split_once('=') {
            _ if is_password => "…".to_owned(),
            Some(("--password", _)) => "--password=…".to_owned(),
            _ => word.clone(),
        });
        is_password = word == "--password";
    }
    words.join(" ")
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
        check(
            "muster-bench idle --node 127.0.0.1:5222 --pid 1 --pid 2 --security plain",
            true,
        );
        check("muster-bench chat --closed --seconds 5 --json", true);
        check("muster-bench chat --closed --rate 5", false);
        check("muster-bench chat --seconds 0", false);
        check("muster-bench room --rooms 2 --occupants 3 --no-store", true);
        check("muster-bench durable --senders 256", true);
        check("muster-bench pool --nodes 3", true);
        check("muster-bench pool --nodes 2", false);
        check("muster-bench churn --rate 5 --stay 0.5", true);
        check("muster-bench archive --messages 100 --archives 2", true);
        check("muster-bench archive --page 0", false);
        check("muster-bench compare --quick --only chat-open,room", true);
        check(
            "muster-bench compare --servers muster-1,prosody --markdown",
            true,
        );
        check("muster-bench compare --only no-such-part", false);
        check("muster-bench lync --scale 0.05 --seconds 60", true);
        check("muster-bench lync --scale 0", false);
        check("muster-bench lync --scale x", false);
        check("muster-bench outage --servers ejabberd --seconds 100", true);
        check("muster-bench outage --servers prosody", false);
        check("muster-bench growth sessions archive --max 1000", true);
        check("muster-bench growth no-such-curve", false);
        check("muster-bench kernel --sessions 152000 --with-clients", true);
        check("muster-bench report a.json --html b.html", true);
        check("muster-bench", false);
    }

    #[test]
    fn a_shown_command_has_no_password() {
        let check = |line: &str, expect: &str| {
            assert_eq!(shown(line.split(' ').map(str::to_owned)), expect);
        };
        check(
            "b chat --password secret --rate 5",
            "b chat --password … --rate 5",
        );
        check("b --password=secret chat", "b --password=… chat");
        check("b chat", "b chat");
    }

    #[test]
    fn only_this_machine_is_loaded() {
        let check = |node: &str, good: bool| {
            let line = format!("muster-bench idle --security plain --node {node}");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.target.target().is_ok(), good, "{node}");
        };
        check("127.0.0.1:5222", true);
        check("127.0.0.3:5222", true);
        check("[::1]:5222", true);
        check("192.0.2.1:5222", false);
        check("0.0.0.0:5222", false);
    }
}
