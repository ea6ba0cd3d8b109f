//! The document is about the routes there are, all of them and no others.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::Accounts;
use super::*;

/// The files that have routes.
const SOURCES: [&str; 11] = [
    include_str!("../backups.rs"),
    include_str!("../cluster.rs"),
    include_str!("../health.rs"),
    include_str!("../imports.rs"),
    include_str!("../nodes.rs"),
    include_str!("../openapi.rs"),
    include_str!("../operators.rs"),
    include_str!("../sessions.rs"),
    include_str!("../sign_in.rs"),
    include_str!("../status.rs"),
    include_str!("../tokens.rs"),
];

/// The paths that handlers are registered under.
fn registered() -> BTreeSet<String> {
    let users = include_str!("../users.rs");
    let sources = SOURCES.iter().chain([&users]);
    let paths = sources.flat_map(|source| source.split("resource(\"").skip(1));
    let paths = paths.filter_map(|rest| rest.split('"').next());
    paths.map(str::to_owned).collect()
}

/// The methods of each path in the document.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let document = serde_json::to_value(crate::openapi::all()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |page: &Value| {
        let methods = page.as_object().unwrap().keys();
        methods.map(|method| method.to_uppercase()).collect()
    };
    paths
        .iter()
        .map(|(path, page)| (path.clone(), methods(page)))
        .collect()
}

#[test]
fn every_path_is_documented_and_no_other() {
    let documented: BTreeSet<String> = documented().into_keys().collect();
    assert_eq!(registered(), documented);
}

#[actix_web::test]
async fn every_method_is_documented_and_no_other() {
    let port = Port::start(Accounts::default(), true, true);
    for (path, methods) in documented() {
        let path = path
            .replace("{jid}", "x@localhost")
            .replace("{id}", "1")
            .replace("{group}", "1")
            .replace("{name}", "x");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let reply = port.operate(&format!("{method} {path}"), "").await;
            let is_known = reply.status != 405;
            assert_eq!(is_known, methods.contains(method), "{method} {path}");
        }
    }
    port.server.stop().await;
}

/// What is said of the API can be read by programs: every schema that is named is there.
#[test]
fn the_document_is_whole() {
    let text = serde_json::to_string(&crate::openapi::all()).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for rest in text.split("\"#/components/schemas/").skip(1) {
        let name = rest.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    assert!(schemas.len() > 20, "{}", schemas.len());
    assert!(document["components"]["securitySchemes"]["token"].is_object());
    // Where no token is needed the document says so.
    assert_eq!(
        document["paths"]["/v1/join"]["post"]["security"],
        json!([{}])
    );
}
