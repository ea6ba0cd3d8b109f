//! docs/compliance.md says what the registry of features says, no more and no less.
//!
//! `UPDATE_DOCS=1 cargo test --release -p muster-xmpp --test compliance` writes the page anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use xmpp::stream::features::{FEATURES, Feature, Place};

const HEAD: &str = "\
# Compliance

This page is generated from the registry of features, `xmpp/src/stream/features.rs`, from which stream features and
service discovery are answered as well: `UPDATE_DOCS=1 cargo test --release -p muster-xmpp --test compliance`. What is not
listed is not advertised to clients. A specification that is listed need not be implemented to its last optional part.

| specification | feature | namespace | advertised in |
|---|---|---|---|
";

const FOOT: &str = "
Registration is advertised only where the setting `[clients] registration` allows it. A room's own answer to disco#info also
names its configuration, and is made in `messaging/src/room/query.rs`.
";

fn place(place: Place) -> &'static str {
    match place {
        Place::Stream(_) => "stream features",
        Place::DiscoServer => "server",
        Place::DiscoAccount => "account",
        Place::DiscoRooms => "rooms' service",
        Place::DiscoRoom => "room",
    }
}

/// Orders RFCs before XEPs, each by number.
fn page() -> String {
    let mut by_specification: BTreeMap<&str, Vec<&Feature>> = BTreeMap::new();
    for feature in FEATURES {
        by_specification
            .entry(feature.specification)
            .or_default()
            .push(feature);
    }
    let mut page = HEAD.to_owned();
    for (specification, features) in by_specification {
        for feature in features {
            let places: Vec<_> = feature.advertised.iter().copied().map(place).collect();
            let (name, namespace) = (feature.name, feature.namespace);
            writeln!(
                page,
                "| {specification} | {name} | `{namespace}` | {} |",
                places.join(", ")
            )
            .expect("a String takes all");
        }
    }
    page + FOOT
}

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compliance.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("docs/compliance.md can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, page,
        "docs/compliance.md is out of date; the head of this file says how to renew it"
    );
}
