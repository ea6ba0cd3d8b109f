//! What the kernel must allow before so many sessions fit on one machine, and what to do where it does not.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::target::SESSIONS_PER_SOURCE;

/// Open files of a process beside its sessions: logs, stores, links, the control port. Muster keeps as many back.
const OTHER_FILES: u64 = 1024;

/// Open files of all else on the machine.
const SYSTEM_FILES: u64 = 16_384;

/// What one session takes of the machine's memory, all of it together: three nodes' and the generator's part, the kernel's two
/// sockets, and of its user's contacts and seats in rooms what falls to it. KiB; rounded.
const SESSION_KIB: u64 = 128;

/// What three nodes and a generator take without sessions. KiB.
const BASE_KIB: u64 = 1 << 20;

/// Connections that wait to be accepted while many log in.
const ACCEPTS: u64 = 1024;

/// What this machine's kernel allows. `None`: it does not say, or there is no such bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Open files of a process, at most (`ulimit -Hn`).
    pub(crate) files: Option<u64>,
    /// How far a process may raise that if it is allowed to (`fs.nr_open`).
    pub(crate) files_raised: Option<u64>,
    /// Open files of all processes (`fs.file-max`).
    pub(crate) files_all: Option<u64>,
    /// Ports for outgoing connections, first and last (`net.ipv4.ip_local_port_range`).
    pub(crate) ports: Option<(u64, u64)>,
    /// `net.core.somaxconn`
    pub(crate) accepts: Option<u64>,
    /// Connections that the firewall follows (`net.netfilter.nf_conntrack_max`); none where it is not loaded.
    pub(crate) followed: Option<u64>,
    /// Memory that can be had, in KiB.
    pub(crate) memory_kib: Option<u64>,
}

/// What is to be carried.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct KernelArgs {
    /// Sessions, on all nodes together
    #[arg(long, default_value_t = 1000)]
    pub(crate) sessions: u64,
    /// Nodes on this machine
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) nodes: u64,
    /// The clients run on this machine, too, as those of `muster-bench lync` do
    #[arg(long)]
    pub(crate) with_clients: bool,
}

/// Something that the kernel does not allow yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// What is short, by how much, and what is to be done.
    pub(crate) what: String,
    /// Nothing works without it; else it works worse.
    pub(crate) is_fatal: bool,
}

impl Kernel {
    /// This machine's, now.
    pub(crate) fn now() -> Kernel {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Kernel {
            files: getrlimit(Resource::Nofile).maximum.or(Some(u64::MAX)),
            files_raised: number("fs/nr_open"),
            files_all: number("fs/file-max"),
            ports: sysctl("net/ipv4/ip_local_port_range").and_then(|text| pair(&text)),
            accepts: number("net/core/somaxconn"),
            followed: number("net/netfilter/nf_conntrack_max"),
            memory_kib: kib(&meminfo, "MemAvailable:"),
        }
    }

    /// What is missing for these sessions.
    pub(crate) fn shortfalls(&self, args: &KernelArgs) -> Vec<Shortfall> {
        let mut found = Vec::new();
        self.files(args, &mut found);
        self.connections(args, &mut found);
        let needed = BASE_KIB.saturating_add(args.sessions.saturating_mul(SESSION_KIB));
        if args.with_clients
            && let Some(memory) = self.memory_kib.filter(|memory| *memory < needed)
        {
            let (needed, memory) = (needed >> 10, memory >> 10);
            found.push(Shortfall {
                what: format!(
                    "memory: {needed} MiB are needed, {memory} can be had: fewer sessions, or a larger machine"
                ),
                is_fatal: true,
            });
        }
        found
    }

    fn files(&self, args: &KernelArgs, found: &mut Vec<Shortfall>) {
        let a_node = args.sessions.div_ceil(args.nodes.max(1));
        let mut check = |whose: &str, sessions: u64| {
            let needed = sessions.saturating_add(OTHER_FILES);
            if let Some(files) = self.files.filter(|files| *files < needed) {
                let raise = match self.files_raised.filter(|raised| *raised < needed) {
                    Some(_) => format!("sysctl -w fs.nr_open={needed}, then ulimit -n {needed}"),
                    None => format!("ulimit -n {needed}"),
                };
                let what = format!(
                    "open files of {whose}: {needed} are needed, {files} are allowed: {raise} as root before the start (for good: \
                     nofile in /etc/security/limits.conf, LimitNOFILE= in a unit, --ulimit nofile= of a container)"
                );
                found.push(Shortfall {
                    what,
                    is_fatal: true,
                });
            }
        };
        check("a node", a_node);
        if args.with_clients {
            check("the generator", args.sessions);
        }
        let ends = if args.with_clients { 2 } else { 1 };
        let needed = args
            .sessions
            .saturating_mul(ends)
            .saturating_add(SYSTEM_FILES);
        if let Some(all) = self.files_all.filter(|all| *all < needed) {
            found.push(Shortfall {
                what: format!(
                    "open files of all processes: {needed} are needed, {all} are allowed: sysctl -w fs.file-max={needed}"
                ),
                is_fatal: true,
            });
        }
    }

    fn connections(&self, args: &KernelArgs, found: &mut Vec<Shortfall>) {
        if let Some((first, last)) = self.ports {
            let ports = last.saturating_sub(first) + 1;
            let a_node = args.sessions.div_ceil(args.nodes.max(1));
            let per_source = SESSIONS_PER_SOURCE as u64;
            // Ports of connections that have ended are not free for a minute.
            if args.with_clients && ports < per_source.min(args.sessions).saturating_mul(3) / 2 {
                found.push(Shortfall {
                    what: format!(
                        "ports: {ports} for outgoing connections are few for {per_source} sessions from each of the loopback's \
                         addresses: sysctl -w net.ipv4.ip_local_port_range='32768 60999'"
                    ),
                    is_fatal: true,
                });
            }
            if !args.with_clients && a_node > ports {
                found.push(Shortfall {
                    what: format!(
                        "ports: one client address has {ports} for a node's port, and {a_node} sessions are to come: let clients come \
                         from several addresses, or sysctl -w net.ipv4.ip_local_port_range='1024 65535' where they run"
                    ),
                    is_fatal: false,
                });
            }
        }
        if let Some(accepts) = self.accepts.filter(|accepts| *accepts < ACCEPTS) {
            found.push(Shortfall {
                what: format!(
                    "somaxconn: {accepts} connections may wait to be accepted, and more come at once when many log in: sysctl -w \
                     net.core.somaxconn={ACCEPTS}"
                ),
                is_fatal: false,
            });
        }
        let needed = args.sessions.saturating_mul(5) / 4;
        if let Some(followed) = self.followed.filter(|followed| *followed < needed) {
            found.push(Shortfall {
                what: format!(
                    "connections that the firewall follows: {needed} are needed, {followed} are allowed, and what is beyond is dropped: \
                     sysctl -w net.netfilter.nf_conntrack_max={needed}"
                ),
                is_fatal: true,
            });
        }
    }

    /// All of it on one line, for a report.
    pub(crate) fn line(&self) -> String {
        let shown = |value: Option<u64>| match value {
            Some(u64::MAX) => "no bound".to_owned(),
            Some(value) => value.to_string(),
            None => "–".to_owned(),
        };
        let (first, last) = self.ports.unwrap_or_default();
        format!(
            "ulimit -n {}, fs.file-max {}, ports {first}–{last}, somaxconn {}, nf_conntrack_max {}",
            shown(self.files),
            shown(self.files_all),
            shown(self.accepts),
            shown(self.followed)
        )
    }
}

/// What `muster-bench kernel` prints; an error if something is missing without which nothing works.
pub(crate) fn told(args: &KernelArgs) -> anyhow::Result<String> {
    let shortfalls = Kernel::now().shortfalls(args);
    let lines: Vec<&str> = shortfalls.iter().map(|one| one.what.as_str()).collect();
    let text = lines.join("\n");
    if shortfalls.iter().any(|one| one.is_fatal) {
        anyhow::bail!(
            "this machine does not carry {} sessions yet:\n{text}",
            args.sessions
        );
    }
    Ok(match text.is_empty() {
        true => String::new(),
        false => format!("{text}\n"),
    })
}

/// Kernel memory for objects (sockets, files, and all else), in KiB.
pub(crate) fn slab_kib() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:")
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()
}

fn number(name: &str) -> Option<u64> {
    sysctl(name)?.trim().parse().ok()
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Debian's defaults for root on a machine of 24 GiB.
    fn debian() -> Kernel {
        Kernel {
            files: Some(1_048_576),
            files_raised: Some(1_048_576),
            files_all: Some(2_466_174),
            ports: Some((32_768, 60_999)),
            accepts: Some(4096),
            followed: Some(262_144),
            memory_kib: Some(22 << 20),
        }
    }

    fn found(kernel: &Kernel, sessions: u64, with_clients: bool) -> Vec<(bool, String)> {
        let args = KernelArgs {
            sessions,
            nodes: 3,
            with_clients,
        };
        let shortfalls = kernel.shortfalls(&args).into_iter();
        let word = |what: &str| what.split(':').next().unwrap_or_default().to_owned();
        shortfalls
            .map(|one| (one.is_fatal, word(&one.what)))
            .collect()
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |change: fn(&mut Kernel), sessions, with_clients, expect: &[(bool, &str)]| {
            let mut kernel = debian();
            change(&mut kernel);
            let expect: Vec<(bool, String)> = expect
                .iter()
                .map(|(is_fatal, word)| (*is_fatal, (*word).to_owned()))
                .collect();
            assert_eq!(found(&kernel, sessions, with_clients), expect, "{kernel:?}");
        };
        check(|_| {}, 152_000, true, &[]);
        check(|_| {}, 0, true, &[]);
        check(
            |kernel| kernel.files = Some(20_000),
            152_000,
            true,
            &[
                (true, "open files of a node"),
                (true, "open files of the generator"),
            ],
        );
        check(|kernel| kernel.files = Some(20_000), 15_200, true, &[]);
        check(
            |kernel| kernel.files = Some(1024),
            1000,
            false,
            &[(true, "open files of a node")],
        );
        check(
            |kernel| kernel.files_all = Some(100_000),
            152_000,
            true,
            &[(true, "open files of all processes")],
        );
        check(
            |kernel| kernel.ports = Some((50_000, 60_000)),
            152_000,
            true,
            &[(true, "ports")],
        );
        check(|_| {}, 152_000, false, &[(false, "ports")]);
        check(
            |kernel| kernel.accepts = Some(128),
            152_000,
            true,
            &[(false, "somaxconn")],
        );
        check(
            |kernel| kernel.followed = Some(65_536),
            152_000,
            true,
            &[(true, "connections that the firewall follows")],
        );
        check(
            |kernel| kernel.memory_kib = Some(4 << 20),
            152_000,
            true,
            &[(true, "memory")],
        );
        check(|kernel| *kernel = Kernel::default(), u64::MAX, true, &[]);
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(pair("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(pair("1"), None);
        assert_eq!(kib("A: 1 kB\nSlab:   77 kB\n", "Slab:"), Some(77));
        assert_eq!(kib("Slab: x kB", "Slab:"), None);
        let now = Kernel::now();
        assert!(now.files.is_some() && now.memory_kib.is_some(), "{now:?}");
        assert!(slab_kib().is_some());
    }
}
