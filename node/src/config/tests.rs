//! What a configuration may say, and the exact sentence for each thing it may not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;

use super::*;
use crate::authority::Authority;
use crate::cli::{Cli, Command};

const GOOD: &str = r#"
[node]
id = 1
[pool]
file = "pool.toml"
[cluster]
listen = "127.0.0.1:7400"
members = ["1=127.0.0.1:7400", "2=127.0.0.2:7400"]
[clients]
listen = ["127.0.0.1:5222"]
[control]
listen = "127.0.0.1:7480"
"#;

/// The file with one text in place of another.
fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    match ConfigFile::parse(Path::new("m.toml"), &GOOD.replacen(from, to, 1)) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn files_are_refused_in_words() {
    let check = |from: &str, to: &str, message: &str| assert_eq!(refusal(from, to), message);
    check("id = 1", "id = 1", "");
    check("id = 1", "id = 1\ndata_dir = \"/srv/muster\"", "");
    check(
        "id = 1",
        "",
        "m.toml: [node] needs id: a whole number, not negative",
    );
    check(
        "id = 1",
        "id = -1",
        "m.toml: [node] id is -1, but must be a whole number, not negative",
    );
    check(
        "id = 1",
        "id = \"1\"",
        "m.toml: [node] id is \"1\", but must be a whole number, not negative",
    );
    check(
        "id = 1",
        "id = 1\ndata_dri = \"x\"",
        "m.toml: [node] has no key \"data_dri\"; did you mean \"data_dir\"?",
    );
    check(
        "id = 1",
        "id = 1\ncolour = 1",
        "m.toml: [node] has no key \"colour\"; there is: id, data_dir",
    );
    check(
        "[control]",
        "[contorl]",
        "m.toml: there is no section [contorl]; did you mean \"control\"?",
    );
    check(
        "[control]",
        "[s3]",
        "m.toml: there is no section [s3]; there is: node, pool, cluster, clients, negotiation, limits_before_auth, \
         limits_after_auth, shaping, stream_management, control, storage, raft, log",
    );
    check(
        "[node]\nid = 1",
        "node = 1",
        "m.toml: not TOML: node must be a section: [node]",
    );
    check(
        "listen = [\"127.0.0.1:5222\"]",
        "listen = \"127.0.0.1:5222\"",
        "m.toml: [clients] listen is \"127.0.0.1:5222\", but must be a list of addresses and ports such as [\"127.0.0.1:5222\"]",
    );
    check(
        "listen = \"127.0.0.1:7480\"",
        "listen = \"localhost\"",
        "m.toml: [control] listen is \"localhost\", but must be an address and port such as \"127.0.0.1:5222\" or \"[::1]:5222\"",
    );
    check(
        "[clients]",
        "[clients]\ntls_required = \"no\"",
        "m.toml: [clients] tls_required is \"no\", but must be true or false",
    );
    check(
        "[clients]",
        "[clients]\noutgoing_bytes_max = 4096",
        "m.toml: [clients] outgoing_bytes_max is 4096, but must be a size such as \"512 B\", \"64 KiB\", \"16 MiB\" or \"1 GiB\"",
    );
    check(
        "[control]",
        "[raft]\nheartbeat = \"0.25 s\"\n[control]",
        "m.toml: [raft] heartbeat is \"0.25 s\", but must be a time such as \"250 ms\", \"30 s\", \"15 min\" or \"1 h\"",
    );
    check(
        "[control]",
        "[storage]\nstate_engine = \"rocksdb\"\n[control]",
        "m.toml: [storage] state_engine is \"rocksdb\", but must be \"sled\" or \"fjall\"",
    );
    let broken = refusal("id = 1", "id = ");
    assert!(broken.starts_with("m.toml: not TOML: line 3: "), "{broken}");
}

/// A pool of two nodes in a folder of its own.
struct Pool {
    dir: tempfile::TempDir,
}

impl Pool {
    fn new() -> Pool {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let line = ["muster", "init", "--nodes", "2", "--dir"];
        let cli = Cli::parse_from(line.iter().copied().chain([run.to_str().unwrap()]));
        let Command::Init(args) = cli.command else {
            panic!()
        };
        crate::init::make(&args).unwrap();
        Pool { dir }
    }

    fn node(&self, file: &str) -> PathBuf {
        self.dir.path().join("run/node-1").join(file)
    }

    /// Changes a file of node 1.
    fn replace(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.node(file)).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(self.node(file), text.replacen(from, to, 1)).unwrap();
    }

    /// Puts another file in the place of one of node 1.
    fn put(&self, from: &str, to: &str) {
        fs::copy(self.node(from), self.node(to)).unwrap();
    }

    /// The sentence, with the folder left out.
    fn refusal(&self) -> String {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let checked = ConfigFile::load(&self.node("muster.toml"))
            .and_then(|file| NodeConfig::validate(&file, provider));
        match checked {
            Ok(_) => String::new(),
            Err(error) => {
                let folder = self.node("");
                error.to_string().replace(folder.to_str().unwrap(), "")
            }
        }
    }
}

/// A fresh pool, changed, is refused with this sentence.
fn check(change: impl Fn(&Pool), message: &str) {
    let pool = Pool::new();
    change(&pool);
    assert_eq!(pool.refusal(), message);
}

fn check_config(from: &str, to: &str, message: &str) {
    check(|pool| pool.replace("muster.toml", from, to), message);
}

#[test]
fn what_init_makes_is_good() {
    check(|_| {}, "");
}

#[test]
fn values_must_go_together() {
    check_config(
        "[clients]",
        "[clients]\nallow_plaintext_auth = true",
        "muster.toml: [clients] allow_plaintext_auth: passwords without TLS need tls_required = false",
    );
    check_config(
        "[clients]",
        "[clients]\nallow_plaintext_auth = true\ntls_required = false",
        "",
    );
    check_config(
        "[clients]",
        "[clients]\nscram_iterations = 100",
        "muster.toml: [clients] scram_iterations: 100 is not 4096 to 1000000",
    );
    check_config(
        "[clients]",
        "[clients]\nresources_max = 0",
        "muster.toml: [clients] resources_max: must be at least 1",
    );
    for (written, sentence) in [
        (
            "probe_after = \"500 ms\"",
            "probe_after: must be 1 s to 9 h",
        ),
        ("queued_max = 0", "queued_max: must be at least 1"),
        (
            "address = \"xmpp://host\"",
            "address: must be a host, or host:port; an IPv6 address stands in brackets",
        ),
        (
            "archive_queries_max = 0",
            "archive_queries_max: must be at least 1",
        ),
        (
            "registrations_within = \"0 s\"",
            "registrations_within: must be above zero",
        ),
        (
            "retired_domains = [\"a@b\"]",
            "retired_domains: a@b is no domain",
        ),
        ("retired_domains = [\"\"]", "retired_domains:  is no domain"),
        (
            "retired_domains = [\"LOCALHOST\"]",
            "retired_domains: LOCALHOST is the domain of this pool",
        ),
        ("proxy_networks = [\"10.0.0.0/8\"]", ""),
        ("retired_domains = [\"old.example\"]", ""),
    ] {
        let expected = match sentence {
            "" => String::new(),
            sentence => format!("muster.toml: [clients] {sentence}"),
        };
        check_config("[clients]", &format!("[clients]\n{written}"), &expected);
    }
    check_config(
        "[clients]",
        "[shaping]\nstanzas_burst = 0\n[clients]",
        "muster.toml: [shaping] stanzas_burst: must be above zero; what comes before it, at 0, means no bound",
    );
    check_config(
        "[clients]",
        "[shaping]\nbytes_per_second = \"1 KiB\"\n[clients]",
        "muster.toml: [shaping] bytes_per_second: must be 0, for no bound, or at least 4 KiB",
    );
    check_config(
        "[clients]",
        "[shaping]\nbytes_per_second = \"0 B\"\njoins_per_minute = 0\njoins_burst = 0\n[clients]",
        "",
    );
    check_config(
        "[clients]",
        "[clients]\noutgoing_bytes_max = \"1 KiB\"",
        "muster.toml: [clients] outgoing_bytes_max: must hold two stanzas of [limits_after_auth] stanza_bytes_max",
    );
    check_config(
        "[clients]",
        "[limits_after_auth]\nstanza_bytes_max = \"4 KiB\"\n[clients]",
        "muster.toml: [limits_after_auth] stanza_bytes_max: 4096 B is not 10000 to 1048576",
    );
    check_config(
        "[clients]",
        "[raft]\nelection_min = \"700 ms\"\n[clients]",
        "muster.toml: [raft] election_min: must be at least three heartbeats, which leave every 280 ms: 840 ms",
    );
    check_config(
        "[clients]",
        "[raft]\nthreads = 257\n[clients]",
        "muster.toml: [raft] threads: at most 256",
    );
    check_config(
        "[clients]",
        "[storage]\nlog_sync_interval = \"1 s\"\n[clients]",
        "muster.toml: [storage] log_sync_interval: must be at most 100 ms",
    );
    check_config(
        "[clients]",
        "[storage]\nlog_share_within = \"101 ms\"\n[clients]",
        "muster.toml: [storage] log_share_within: must be at most 100 ms",
    );
    check_config(
        "[clients]",
        "[storage]\nlog_segment_bytes = \"1 KiB\"\n[clients]",
        "muster.toml: [storage] log_segment_bytes: must be 8 KiB to 1 GiB",
    );
    check_config(
        "127.0.0.1:5223",
        "127.0.0.1:5222",
        "muster.toml: [clients] listen_tls: 127.0.0.1:5222 is used twice in this file",
    );
    check_config(
        "127.0.0.1:5223",
        "127.0.0.1:0",
        "muster.toml: [clients] listen_tls: 127.0.0.1:0 names no port",
    );
    check_config(
        "\"2=127.0.0.2:7400\"",
        "\"1=127.0.0.2:7400\"",
        "muster.toml: [cluster] members: an id or an address is there twice",
    );
}

#[test]
fn certificates_are_looked_at_before_anything_starts() {
    check(
        |pool| fs::remove_file(pool.node("clients.pem")).unwrap(),
        "muster.toml: [clients] certificate: there is no file clients.pem",
    );
    check(
        |pool| fs::write(pool.node("clients.pem"), "").unwrap(),
        "clients.pem: no certificate in PEM form: there is none",
    );
    check(
        |pool| pool.put("control-key.pem", "clients-key.pem"),
        "clients.pem: the key in clients-key.pem does not belong to this certificate",
    );
    check(
        |pool| {
            pool.put("control.pem", "clients.pem");
            pool.put("control-key.pem", "clients-key.pem");
            pool.replace("pool.toml", "\"localhost\"", "\"example.org\"");
        },
        "clients.pem: the certificate is for 127.0.0.1, localhost, but must name example.org",
    );
    check(
        |pool| {
            let other = Pool::new();
            fs::copy(other.node("ca.pem"), pool.node("ca.pem")).unwrap();
        },
        "cluster.pem: the certificate was not issued by the CA in ca.pem",
    );
    let pool = Pool::new();
    for file in ["cluster.pem", "cluster-key.pem"] {
        fs::copy(pool.node(&format!("../node-2/{file}")), pool.node(file)).unwrap();
    }
    let message = pool.refusal();
    assert!(
        message.starts_with("cluster.pem: the certificate is for node-2.muster-"),
        "{message}"
    );
    assert!(
        message.contains(", but must name node-1.muster-"),
        "{message}"
    );
}

#[test]
fn certificates_out_of_their_time_are_refused() {
    let check = |days_from: i64, days_to: i64, words: &str| {
        let pool = Pool::new();
        let issued = Authority::expired_or_future("localhost", days_from, days_to);
        fs::write(pool.node("clients.pem"), issued.certificate).unwrap();
        fs::write(pool.node("clients-key.pem"), issued.key).unwrap();
        let message = pool.refusal();
        assert!(message.starts_with(words), "{message}");
    };
    check(-9, -2, "clients.pem: the certificate has expired on ");
    check(2, 9, "clients.pem: the certificate is not valid before ");
    check(-2, 9, "");
}

#[test]
fn secrets_that_others_may_read_are_refused() {
    for file in [
        "pool.toml",
        "cluster-key.pem",
        "clients-key.pem",
        "control-key.pem",
    ] {
        let pool = Pool::new();
        fs::set_permissions(pool.node(file), fs::Permissions::from_mode(0o640)).unwrap();
        let expected = format!("{file}: others may read it, and it is secret: chmod 600 {file}");
        assert_eq!(pool.refusal(), expected);
    }
}

#[test]
fn pool_files_are_refused_in_words() {
    let text = fs::read_to_string(Pool::new().node("pool.toml")).unwrap();
    let check = |from: &str, to: &str, message: &str| {
        assert!(text.contains(from));
        let parsed = pool_file::PoolFile::parse(Path::new("p.toml"), &text.replacen(from, to, 1));
        let found = parsed.map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(found, message);
    };
    check("16", "16", "");
    check(
        "partitions = 16",
        "partitions = 65",
        "p.toml: [pool] partitions: 65 is not 1 to 64",
    );
    check(
        "\"localhost\"",
        "\"a@b\"",
        "p.toml: [pool] domain: \"a@b\" is no domain",
    );
    check(
        "\"conference.localhost\"",
        "\"LOCALHOST\"",
        "p.toml: [pool] rooms_domain: rooms need a domain of their own",
    );
    check(
        "[pool]",
        "[pol]",
        "p.toml: there is no section [pol]; did you mean \"pool\"?",
    );
    let secret = text
        .lines()
        .find_map(|line| line.strip_prefix("secret = \""))
        .unwrap();
    let damaged = text.replace(secret, "12\"");
    let error = pool_file::PoolFile::parse(Path::new("p.toml"), &damaged).unwrap_err();
    assert_eq!(
        error.to_string(),
        "p.toml: [pool] secret is something else (not shown), but must be the hexadecimal digits that `muster init` wrote"
    );
}

#[test]
fn pool_files_come_back_and_stay_hidden() {
    let path = Path::new("p.toml");
    let pool =
        pool_file::PoolFile::new(path, "p-1", "Example.ORG", "rooms.example.org", 3).unwrap();
    let again = pool_file::PoolFile::parse(path, &pool.text()).unwrap();
    assert_eq!((again.text(), again.digest()), (pool.text(), pool.digest()));
    assert_eq!(
        (pool.constants.domain.as_str(), pool.partitions),
        ("example.org", 3)
    );
    let other =
        pool_file::PoolFile::new(path, "p-1", "example.org", "rooms.example.org", 3).unwrap();
    assert_ne!(other.digest(), pool.digest());
    assert_eq!(format!("{pool:?}"), "PoolFile { id: PoolId(\"p-1\"), .. }");
}
