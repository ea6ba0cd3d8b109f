//! Facts about the source that must stay true; `scripts/tidy` runs only these.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::Table;
use xmpp::ns;
use xmpp::stream::features::{FEATURES, Place, StreamFeature, stream_features};

/// The crates from left to right: each imports only what stands left of it.
const CHAIN: [&str; 8] = [
    // Only where bugs are planted: docs/adr/0024.
    "planted",
    "xmpp",
    "messaging",
    "storage",
    "cluster",
    "actors",
    "web",
    "node",
];

/// May import all.
const OUTSIDE: [&str; 2] = ["chaos-tests", "bench"];

/// Heavy dependencies and the only crate that knows each.
const KNOWN_BY: [(&str, &str); 6] = [
    ("openraft", "cluster"),
    ("fjall", "storage"),
    ("sled", "storage"),
    ("bincode", "storage"),
    ("actix", "actors"),
    ("actix-web", "web"),
];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file that git knows or would know, with its text.
fn files(accept: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    let listed = String::from_utf8(output.stdout).expect("names are UTF-8");
    let names: BTreeSet<&str> = listed.lines().filter(|name| accept(name)).collect();
    let read = |name: &str| std::fs::read_to_string(root().join(name)).ok();
    names
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), read(name)?)))
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    files(|name| name.ends_with(".rs"))
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Lines that hold a text, as file:line.
fn lines_with(
    files: &[(String, String)],
    needle: &str,
    fits: impl Fn(&str, &str) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in files {
        for (at, line) in text.lines().enumerate() {
            if line.contains(needle) && fits(name, line) {
                found.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    found
}

fn manifest(folder: &str) -> Table {
    let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
    text.parse().expect("a manifest is TOML")
}

fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = sections
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table());
    tables.flat_map(|table| table.keys().cloned()).collect()
}

/// Cargo is told which files are tests, and would leave out one that is not named without a word.
#[test]
fn every_file_of_tests_is_run() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("it is there");
    let (modules, manifest) = (
        read("chaos-tests/tests/pools.rs"),
        read("chaos-tests/Cargo.toml"),
    );
    let is_named = |test: &str| {
        modules.contains(&format!("\nmod {test};\n"))
            || manifest.contains(&format!("\n[[test]]\nname = \"{test}\"\n"))
    };
    let tests = rust_files().into_iter().filter_map(|(name, _)| {
        let test = name
            .strip_prefix("chaos-tests/tests/")?
            .strip_suffix(".rs")?;
        (!test.contains('/')).then(|| test.to_owned())
    });
    let (named, left_out): (Vec<String>, Vec<String>) = tests.partition(|test| is_named(test));
    none("these tests are run by nobody", &left_out);
    assert!(named.len() > 30, "{named:?}");
}

#[test]
fn crates_import_to_the_left() {
    let mut found = Vec::new();
    for (at, name) in CHAIN.iter().enumerate() {
        let own = dependencies(name);
        let right = CHAIN.iter().skip(at).chain(&OUTSIDE);
        found.extend(
            right
                .filter(|other| own.contains(**other))
                .map(|other| format!("{name} imports {other}")),
        );
    }
    none("imports against the chain", &found);
}

#[test]
fn one_crate_knows_each_heavy_dependency() {
    let mut found = Vec::new();
    for folder in CHAIN {
        let own = dependencies(folder);
        for (dependency, knows) in KNOWN_BY {
            if own.contains(dependency) && folder != knows {
                found.push(format!(
                    "{folder} depends on {dependency}, which only {knows} may know"
                ));
            }
        }
    }
    none("dependencies in the wrong crate", &found);
}

#[test]
fn every_folder_of_the_workspace_is_known_here() {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"]
        .as_array()
        .expect("members");
    let members: BTreeSet<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, CHAIN.iter().chain(&OUTSIDE).copied().collect());
}

/// Planted bugs are in the variant alone. That the released binary has none, `planted/main.rs` asserts.
#[test]
fn no_bug_is_planted_by_default() {
    let mut found = Vec::new();
    for folder in CHAIN {
        let manifest = manifest(folder);
        let features = manifest.get("features").and_then(toml::Value::as_table);
        let defaults = features.and_then(|features| features.get("default"));
        found.extend(defaults.map(|defaults| format!("{folder} has default features: {defaults}")));
        let planted = manifest
            .get("dependencies")
            .and_then(|all| all.get("planted"));
        let is_optional = |planted: &toml::Value| {
            planted.get("optional").and_then(toml::Value::as_bool) == Some(true)
        };
        if planted.is_some_and(|planted| !is_optional(planted)) {
            found.push(format!("{folder} depends on planted"));
        }
    }
    none("planted bugs", &found);
}

#[test]
fn files_are_short() {
    let long = rust_files()
        .into_iter()
        .map(|(name, text)| (text.lines().count(), name));
    let long: Vec<String> = long
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, name)| format!("{name}: {lines}"))
        .collect();
    none("files with more than 800 lines", &long);
}

/// Functions and their lengths, in formatted code: a function ends with a brace at its own indentation.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let words = ["pub ", "pub(crate) ", "pub(super) ", "async ", "const "];
        let mut rest = code;
        while let Some(next) = words.iter().find_map(|word| rest.strip_prefix(word)) {
            rest = next;
        }
        let Some(name) = rest.strip_prefix("fn ") else {
            continue;
        };
        if code.ends_with('}') || code.ends_with(';') {
            continue;
        }
        let end = lines[at + 1..].iter().position(|line| {
            let tail = line.strip_prefix(indent).unwrap_or("");
            tail == "}" || (tail.starts_with(')') && tail.ends_with(';'))
        });
        let name = name.split(['(', '<']).next().unwrap_or_default().to_owned();
        if let Some(end) = end.filter(|end| lines[at + 1 + end].trim() == "}") {
            found.push((at + 1, name, end + 2));
        }
    }
    found
}

/// Where tests begin in a file: at its first line, or at its `mod tests {`.
fn tests_begin(name: &str, text: &str) -> usize {
    let whole = ["/tests/", "/examples/"]
        .iter()
        .any(|part| name.contains(part));
    if whole || name.ends_with("tests.rs") {
        return 0;
    }
    let inner = text.lines().position(|line| line == "mod tests {");
    inner.unwrap_or(usize::MAX)
}

/// Tables and stories of tests may be longer; they are printed, longest last.
#[test]
fn functions_are_short() {
    let (mut long, mut of_tests) = (Vec::new(), Vec::new());
    for (file, text) in rust_files() {
        let tests = tests_begin(&file, &text);
        let too_long = functions(&text)
            .into_iter()
            .filter(|(_, _, length)| *length > FUNCTION_LINES_MAX);
        for (line, name, length) in too_long {
            let found = (length, format!("{file}:{line}: {name} has {length} lines"));
            if line > tests {
                of_tests.push(found)
            } else {
                long.push(found.1)
            }
        }
    }
    of_tests.sort();
    for (_, line) in of_tests {
        println!("{line}");
    }
    none("functions with more than 70 lines", &long);
}

#[test]
fn function_lengths_are_counted() {
    let text = "impl A {\n    pub(crate) async fn a(\n        b: C,\n    ) -> D {\n        e\n    }\n    fn f(&self);\n}\nfn g() {}\n";
    assert_eq!(functions(text), [(2, "a".to_owned(), 5)]);
}

#[test]
fn banned_words() {
    let here = |name: &str| name.ends_with("tests/tidy.rs");
    let code = |name: &str, line: &str| !here(name) && !line.trim_start().starts_with("//");
    let files = rust_files();
    none(
        "do_send ignores the mailbox limit",
        &lines_with(&files, ".do_send(", code),
    );
    none(
        "tests are not ignored",
        &lines_with(&files, "#[ignore", code),
    );
    none("unfinished", &lines_with(&files, "todo!(", code));
    let in_tests = |name: &str, line: &str| {
        let is_test = name.contains("/tests/")
            || name.ends_with("tests.rs")
            || name.starts_with("chaos-tests/");
        // There a fault lasts as long as the schedule says; what follows it waits for conditions.
        let is_schedule = name.contains("chaos-tests/src/chaos/ground");
        is_test && !is_schedule && code(name, line)
    };
    none(
        "tests wait for conditions, never for time",
        &lines_with(&files, "sleep(", in_tests),
    );
}

#[test]
fn no_file_knows_a_machine() {
    let files = files(|name| !name.ends_with(".lock") && !name.ends_with("tests/tidy.rs"));
    for path in ["/work/", "/root/", "/home/"] {
        none("paths of a machine", &lines_with(&files, path, |_, _| true));
    }
}

/// What is installed for the tests of the console page is pinned by its hash, wherever it is fetched from.
#[test]
fn lock_files_of_node_name_no_registry() {
    let locks = files(|name| name.ends_with("package-lock.json"));
    assert!(!locks.is_empty(), "there is one");
    for needle in ["resolved", "://"] {
        none("addresses", &lines_with(&locks, needle, |_, _| true));
    }
    for (name, text) in &locks {
        let packages = text.matches("\"node_modules/").count();
        let hashes = text.matches("\"integrity\": \"sha512-").count();
        assert_eq!(packages, hashes, "{name}: each has a hash");
    }
}

/// A feature is advertised exactly when it is implemented: each has a scenario that asserts it in its place.
#[test]
fn what_discovery_names_is_asserted_by_a_scenario() {
    let scenario = |name: &str| {
        let path = root()
            .join("node/tests/scenarios")
            .join(name)
            .with_extension("scs");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let places = [
        (Place::DiscoServer, "disco_server"),
        (Place::DiscoAccount, "disco_account"),
        (Place::DiscoRooms, "disco_rooms_service"),
        (Place::DiscoRoom, "disco_room"),
    ];
    let mut missing = Vec::new();
    for (place, name) in places {
        let text = scenario(name);
        for feature in FEATURES
            .iter()
            .filter(|feature| feature.advertised.contains(&place))
        {
            if !text.contains(&format!("var='{}'", feature.namespace)) {
                missing.push(format!(
                    "{name}.scs does not name {} ({})",
                    feature.namespace, feature.name
                ));
            }
        }
    }
    none("features without a scenario", &missing);
}

/// Advertised names of what has no elements of its own: the scenario that tries it.
const BEHAVIOURS: &[(&str, &str)] = &[
    (ns::OFFLINE, "offline_delivered_once"),
    (ns::MUC_STABLE_ID, "muc_message_is_reflected"),
    (ns::MUC_SELF_PING, "muc_self_ping"),
    (ns::MUC_REQUEST, "muc_voice_request"),
];

/// Every namespace that is advertised by discovery is also used by a scenario, beyond being named.
#[test]
fn what_is_advertised_is_used_by_a_scenario() {
    let scripts = files(|name| name.ends_with(".scs"));
    let mut missing = Vec::new();
    for feature in FEATURES {
        let in_discovery = feature
            .advertised
            .iter()
            .any(|place| !matches!(place, Place::Stream(_)));
        let namespace = feature.namespace.trim_end_matches("#extended");
        let behaviour = BEHAVIOURS.iter().find(|(known, _)| *known == namespace);
        let used = scripts.iter().any(|(name, text)| match behaviour {
            Some((_, scenario)) => name.ends_with(&format!("{scenario}.scs")),
            None => text.contains(&format!("xmlns='{namespace}'")),
        });
        if in_discovery && !used {
            missing.push(format!("{} ({})", feature.namespace, feature.name));
        }
    }
    none("advertised and never tried", &missing);
}

/// Who uses a stream feature: a test of the end-to-end tests, or a scenario.
fn tried_by(feature: StreamFeature) -> (&'static str, &'static str) {
    match feature {
        StreamFeature::StartTls | StreamFeature::Sasl => ("streams.rs", "every_way_to_log_in"),
        StreamFeature::Register => ("streams.rs", "registration_where_it_is_on"),
        StreamFeature::Bind => ("scenario", "bind_resource_chosen_by_client"),
        StreamFeature::StreamManagement => ("scenario", "stream_management_counts"),
        StreamFeature::RosterVersions => ("scenario", "roster_versions"),
        StreamFeature::PreApproval => ("scenario", "subscription_preapproved"),
        StreamFeature::ClientState => ("scenario", "client_state_holds_presence"),
        StreamFeature::Limits => ("logins.rs", "limits_are_advertised_and_kept"),
    }
}

/// What streams advertise is used over real sockets. That nothing else is advertised, `logins.rs` asserts.
#[test]
fn what_streams_advertise_is_tried() {
    let mut missing = Vec::new();
    for feature in stream_features() {
        let (place, name) = tried_by(feature);
        let (path, needle) = match place {
            "scenario" => (
                format!("node/tests/scenarios/{name}.scs"),
                "sends:".to_owned(),
            ),
            file => (
                format!("chaos-tests/tests/{file}"),
                format!("\nasync fn {name}() {{"),
            ),
        };
        let text = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
        if !text.contains(&needle) {
            missing.push(format!("{feature:?}: no {name} in {path}"));
        }
    }
    none("stream features that nobody tries", &missing);
}

#[test]
fn scenarios_name_their_rule() {
    let scripts = files(|name| name.ends_with(".scs"));
    assert!(scripts.len() >= 60, "{} scenarios", scripts.len());
    let cites = |text: &str| {
        let title = text.lines().next().unwrap_or_default();
        title.starts_with("# ")
            && ["RFC ", "XEP-", "The promise"]
                .iter()
                .any(|source| title.contains(source))
    };
    let silent = scripts
        .iter()
        .filter(|(_, text)| !cites(text))
        .map(|(name, _)| name.clone());
    none(
        "scenarios without a rule in their first line",
        &silent.collect::<Vec<_>>(),
    );
}

/// Targets of links in Markdown, `](target)`.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect()
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (name, text) in files(|name| name.ends_with(".md")) {
        let folder = root()
            .join(&name)
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            let local =
                !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if local && !folder.join(target).exists() {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    none("links that lead nowhere", &broken);
}

#[test]
fn scripts_may_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let scripts = files(|name| name.starts_with("scripts/") || name == ".ci/run");
    let mode = |name: &str| {
        std::fs::metadata(root().join(name)).map_or(0, |meta| meta.permissions().mode())
    };
    let bad = scripts
        .iter()
        .filter(|(name, text)| text.starts_with("#!") && mode(name) & 0o111 == 0);
    none(
        "scripts that may not be run",
        &bad.map(|(name, _)| name.clone()).collect::<Vec<_>>(),
    );
    let names: BTreeMap<&str, &str> = scripts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    assert!(
        names
            .get(".ci/run")
            .is_some_and(|text| text.contains("scripts/test")),
        "CI runs scripts/test"
    );
}
