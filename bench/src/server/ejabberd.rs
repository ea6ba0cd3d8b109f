//! ejabberd as Debian packages it, run in the foreground as `ejabberdctl foreground` does, but without `epmd`, which would
//! stay behind: one node has no distribution, and those of a cluster know each other's port.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::server::{Certificates, DOMAIN, Ports, package};

/// A node of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The port of the distribution, the same on all nodes, each of which has an address of its own.
    pub(super) port: u16,
    /// What they know each other by.
    pub(super) cookie: String,
    /// The cluster's first node, if this is not it and has yet to join.
    pub(super) joins: Option<Ipv4Addr>,
}

/// In the folder of a node that has joined.
pub(super) const JOINED: &str = "joined";

/// What a node of a cluster is called.
fn name(host: Ipv4Addr) -> String {
    format!("ejabberd@{host}")
}

impl Member {
    fn arguments(&self, folder: &Path, host: Ipv4Addr) -> Vec<String> {
        let interface = host.to_string().replace('.', ",");
        let mut arguments: Vec<String> = [
            "-name",
            &name(host),
            "-setcookie",
            &self.cookie,
            "-start_epmd",
            "false",
            "-erl_epmd_port",
            &self.port.to_string(),
            "-kernel",
            "inet_dist_use_interface",
            &format!("{{{interface}}}"),
            "-s",
            "ejabberd",
        ]
        .map(str::to_owned)
        .into();
        if let Some(first) = self.joins {
            let (first, joined) = (name(first), folder.join(JOINED));
            // As `ejabberdctl join_cluster` does. The application is stopped and started by it.
            let joins = format!(
                "ok = ejabberd_cluster:join('{first}'), ok = file:write_file(\"{}\", <<>>).",
                joined.display()
            );
            arguments.extend(["-eval".to_owned(), joins]);
        }
        arguments
    }
}

/// Writes its configuration, and gives the command that runs it.
pub(super) fn prepare(
    folder: &Path,
    ports: Ports,
    certificates: &Certificates,
    member: Option<&Member>,
) -> anyhow::Result<Command> {
    let file = folder.join("ejabberd.yml");
    std::fs::write(&file, configuration(folder, ports, certificates))?;
    let database = folder.join("mnesia");
    std::fs::create_dir_all(&database)?;
    let mut command = Command::new("erl");
    // What /usr/sbin/ejabberdctl and /etc/ejabberd/ejabberdctl.cfg of the package pass on.
    command
        .args(["+K", "true", "+P", "250000", "-noinput"])
        .args(["-env", "ERL_CRASH_DUMP_BYTES", "0"])
        .arg("-mnesia")
        .arg("dir")
        .arg(format!("\"{}\"", database.display()))
        .args(match member {
            Some(member) => member.arguments(folder, ports.host),
            None => ["-s", "ejabberd"].map(str::to_owned).into(),
        })
        .env("EJABBERD_CONFIG_PATH", &file)
        .env("EJABBERD_LOG_PATH", folder.join("ejabberd.log"))
        .env("ERL_LIBS", libraries())
        .env("ERL_MAX_PORTS", "32000")
        .env("ERL_MAX_ETS_TABLES", "1400")
        .env("HOME", folder)
        .current_dir(folder);
    Ok(command)
}

/// Where Debian puts Erlang's libraries that belong to an architecture.
fn libraries() -> String {
    let architecture = std::env::consts::ARCH;
    format!("/usr/lib/{architecture}-linux-gnu:/usr/lib/erlang/lib")
}

/// What it is.
pub(super) fn description() -> anyhow::Result<String> {
    Ok(format!(
        "ejabberd {}, Erlang {}; archives in SQLite ({}), everything else in Mnesia, its defaults",
        package("ejabberd")?,
        package("erlang-base")?,
        package("erlang-p1-sqlite3")?
    ))
}

/// What it does for clients.
const MODULES: &str = "\
modules:
  mod_blocking: {}
  mod_caps: {}
  mod_carboncopy: {}
  mod_client_state: {}
  mod_disco: {}
  mod_last: {}
  mod_mam:
    db_type: sql
    default: always
  mod_muc:
    access: all
    access_create: all
    max_user_conferences: 1000
    default_room_options:
      mam: true
  mod_offline: {}
  mod_ping: {}
  mod_privacy: {}
  mod_private: {}
  mod_pubsub:
    plugins:
      - flat
      - pep
  mod_register:
    access: register
    ip_access: all
  mod_roster: {}
  mod_stream_mgmt: {}
  mod_time: {}
  mod_vcard: {}
  mod_version: {}
";

/// `ejabberd.yml`: the modules of the package's own configuration that concern clients, archives on, shapers off.
fn configuration(folder: &Path, ports: Ports, certificates: &Certificates) -> String {
    let Ports { host, plain, tls } = ports;
    let archive = folder.join("archive.db");
    let (archive, certificate, ca) = (archive.display(), certificates.both(), certificates.ca());
    let (certificate, ca) = (certificate.display(), ca.display());
    format!(
        r#"hosts:
  - {DOMAIN}
loglevel: error
log_rotate_count: 0
certfiles:
  - "{certificate}"
ca_file: "{ca}"
acme:
  auto: false
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha
sql_type: sqlite
sql_database: "{archive}"
registration_timeout: infinity
listen:
  - port: {plain}
    ip: "{host}"
    module: ejabberd_c2s
    max_stanza_size: 262144
    access: c2s
    shaper: c2s_shaper
    starttls: true
  - port: {tls}
    ip: "{host}"
    module: ejabberd_c2s
    max_stanza_size: 262144
    access: c2s
    shaper: c2s_shaper
    tls: true
access_rules:
  c2s:
    allow: all
  register:
    allow: all
shaper_rules:
  c2s_shaper: none
  max_user_sessions: 10
  max_user_offline_messages: 100000
{MODULES}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_what_every_server_has() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(dir.path()).unwrap();
        let ports = Ports {
            host: std::net::Ipv4Addr::LOCALHOST,
            plain: 10_001,
            tls: 10_002,
        };
        let command = prepare(dir.path(), ports, &certificates, None).unwrap();
        assert_eq!(command.get_program(), "erl");
        let text = std::fs::read_to_string(dir.path().join("ejabberd.yml")).unwrap();
        for wanted in [
            "port: 10001",
            "port: 10002",
            "tls: true",
            "mod_stream_mgmt",
            "mod_carboncopy",
            "default: always",
            "mam: true",
            "c2s_shaper: none",
            "auth_scram_hash: sha\n",
            certificates.both().to_str().unwrap(),
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(dir.path().join("mnesia").is_dir());
    }

    #[test]
    fn a_member_joins_the_first_one_once() {
        let host = Ipv4Addr::new(127, 0, 0, 2);
        let member = |joins| Member {
            port: 4370,
            cookie: "c".to_owned(),
            joins,
        };
        let arguments = |joins| member(joins).arguments(Path::new("/f"), host).join(" ");
        let first = arguments(None);
        assert!(first.contains("-name ejabberd@127.0.0.2"), "{first}");
        assert!(first.contains("{127,0,0,2}"), "{first}");
        assert!(!first.contains("-eval"), "{first}");
        let second = arguments(Some(Ipv4Addr::LOCALHOST));
        assert!(second.contains("join('ejabberd@127.0.0.1')"), "{second}");
        assert!(second.contains("\"/f/joined\""), "{second}");
    }
}
