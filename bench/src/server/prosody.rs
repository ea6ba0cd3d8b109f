//! Prosody as Debian packages it, run in the foreground with a configuration of its own.

use std::path::Path;
use std::process::Command;

use crate::server::{Certificates, DOMAIN, Ports, SCRAM_ITERATIONS, package};

/// Writes its configuration, and gives the command that runs it.
pub(super) fn prepare(
    folder: &Path,
    ports: Ports,
    certificates: &Certificates,
) -> anyhow::Result<Command> {
    let file = folder.join("prosody.cfg.lua");
    std::fs::write(&file, configuration(folder, ports, certificates))?;
    std::fs::create_dir(folder.join("data"))?;
    let mut command = Command::new("prosody");
    command
        .arg("-F")
        .arg("--config")
        .arg(&file)
        .current_dir(folder);
    Ok(command)
}

/// What it is.
pub(super) fn description() -> anyhow::Result<String> {
    Ok(format!(
        "Prosody {}, Lua {}; archives in SQLite ({}), everything else in files, its defaults",
        package("prosody")?,
        package("lua5.4")?,
        package("lua-dbi-sqlite3")?
    ))
}

/// `prosody.cfg.lua`: the modules that are on by default and concern clients, with archives; no limits.
fn configuration(folder: &Path, ports: Ports, certificates: &Certificates) -> String {
    let Ports { plain, tls, .. } = ports;
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let (folder, certificate, key) = (folder.display(), certificate.display(), key.display());
    format!(
        r#"run_as_root = true
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ warn = "{folder}/prosody.log" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {plain} }}
c2s_direct_tls_ports = {{ {tls} }}
s2s_ports = {{}}
http_ports = {{}}
https_ports = {{}}
ssl = {{ certificate = "{certificate}", key = "{key}" }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
default_iteration_count = {SCRAM_ITERATIONS}
allow_registration = true
modules_disabled = {{ "s2s" }}
modules_enabled = {{
    "roster", "saslauth", "tls", "disco", "carbons", "pep", "private", "blocklist", "vcard4", "vcard_legacy",
    "version", "time", "ping", "register", "mam", "smacks", "csi_simple", "offline",
}}
default_archive_policy = true
storage = {{ archive = "sql", muc_log = "sql" }}
sql = {{ driver = "SQLite3", database = "{folder}/archive.sqlite" }}

VirtualHost "{DOMAIN}"

Component "conference.{DOMAIN}" "muc"
    modules_enabled = {{ "muc_mam" }}
"#
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
        let command = prepare(dir.path(), ports, &certificates).unwrap();
        assert_eq!(command.get_program(), "prosody");
        let text = std::fs::read_to_string(dir.path().join("prosody.cfg.lua")).unwrap();
        for wanted in [
            "c2s_ports = { 10001 }",
            "c2s_direct_tls_ports = { 10002 }",
            "\"smacks\"",
            "\"carbons\"",
            "\"mam\"",
            "\"muc_mam\"",
            "default_iteration_count = 4096",
            certificates.key().to_str().unwrap(),
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(!text.contains("\"limits\""));
    }
}
