//! Who may do what, and that it is written down.

use serde_json::json;

use super::accounts::{Accounts, OPERATORS};
use super::*;
use crate::report::access::OutcomeReport;

/// Every route that needs an operator: what may be asked, and by whom: operator, support, auditor.
pub(super) const ROUTES: [(&str, &str, [bool; 3]); 47] = [
    ("GET /v1/status", "", [true, true, true]),
    ("GET /v1/partitions", "", [true, true, true]),
    ("GET /v1/partitions/0/hash", "", [true, true, true]),
    ("GET /v1/sessions", "", [true, true, true]),
    ("GET /v1/history", "", [true, true, true]),
    ("GET /v1/sign-in", "", [true, true, true]),
    ("GET /v1/openapi.json", "", [true, true, true]),
    ("GET /metrics", "", [true, true, true]),
    ("GET /v1/users", "", [true, true, true]),
    (
        "POST /v1/users",
        r#"{"user":"x@localhost","password":"x"}"#,
        [true, true, false],
    ),
    (
        "PUT /v1/users/x@localhost/password",
        r#"{"password":"y"}"#,
        [true, true, false],
    ),
    ("DELETE /v1/users/x@localhost", "", [true, true, false]),
    ("GET /v1/nodes", "", [true, true, true]),
    ("GET /v1/nodes/1", "", [true, true, true]),
    (
        "GET /v1/nodes/addition?address=10.0.0.4:7400",
        "",
        [true, true, true],
    ),
    ("GET /v1/nodes/9", "", [true, true, true]),
    ("GET /v1/progress", "", [true, true, true]),
    ("GET /v1/progress/events", "", [true, true, true]),
    ("POST /v1/nodes/2/drain", "{}", [true, false, false]),
    (
        "POST /v1/nodes/2/drain?dry_run=true",
        "{}",
        [true, false, false],
    ),
    ("POST /v1/nodes/2/undrain", "", [true, false, false]),
    (
        "POST /v1/nodes/2/remove",
        r#"{"dead":true}"#,
        [true, false, false],
    ),
    (
        "POST /v1/nodes/2/replace",
        r#"{"with":3}"#,
        [true, false, false],
    ),
    ("POST /v1/nodes/1/drain", "{}", [true, false, false]),
    ("GET /v1/cluster/version", "", [true, true, true]),
    ("POST /v1/cluster/finalize", "{}", [true, false, false]),
    (
        "POST /v1/cluster/finalize?dry_run=true",
        "{}",
        [true, false, false],
    ),
    ("GET /v1/tokens", "", [true, false, true]),
    ("POST /v1/tokens", r#"{"ttl_s":60}"#, [true, false, false]),
    ("DELETE /v1/tokens/0a", "", [true, false, false]),
    ("GET /v1/operators", "", [true, false, true]),
    (
        "POST /v1/operators",
        r#"{"name":"x","role":"support"}"#,
        [true, false, false],
    ),
    ("DELETE /v1/operators/x", "", [true, false, false]),
    ("GET /v1/audit", "", [true, false, true]),
    ("GET /v1/audit?after=1&limit=2", "", [true, false, true]),
    ("GET /v1/audit?containing=x", "", [true, false, true]),
    (
        "POST /v1/imports",
        r#"{"user":"zoe@localhost"}"#,
        [true, false, false],
    ),
    (
        "POST /v1/imports/zoe@localhost",
        r#"{"piece":"blocked","addresses":["eve@localhost"]}"#,
        [true, false, false],
    ),
    ("POST /v1/backups", "", [true, false, false]),
    (
        "POST /v1/users/zoe@localhost/exports",
        "",
        [true, false, false],
    ),
    (
        "POST /v1/backups/abababababababababababababababab",
        "",
        [true, false, false],
    ),
    (
        "POST /v1/backups/abababababababababababababababab/groups/1",
        "",
        [true, false, false],
    ),
    (
        "POST /v1/backups/abababababababababababababababab/groups/1/end",
        "",
        [true, false, false],
    ),
    (
        "GET /v1/backups/abababababababababababababababab/groups/1/state?node=1&offset=0",
        "",
        [true, false, false],
    ),
    (
        "GET /v1/backups/abababababababababababababababab/groups/1/rows?node=1&key=x@y&seq=3&event=true",
        "",
        [true, false, false],
    ),
    (
        "GET /v1/backups/abababababababababababababababab/groups/1/entries?node=1&after=3&upto=9",
        "",
        [true, false, false],
    ),
    (
        "DELETE /v1/backups/abababababababababababababababab",
        "",
        [true, false, false],
    ),
];

impl Port {
    async fn as_operator(&self, token: &str, request: &str, body: &str) -> Reply {
        let extra = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.ask(request, &extra, body).await
    }
}

#[actix_web::test]
async fn each_role_may_do_what_the_table_says() {
    let accounts = Accounts::default();
    let port = Port::start(accounts, false, false);
    for (request, body, may) in ROUTES {
        let none = port
            .ask(request, "Content-Type: application/json\r\n", body)
            .await;
        assert_eq!(none.status, 401, "{request} without a token");
        for ((token, role), may) in OPERATORS.into_iter().zip(may) {
            let reply = port.as_operator(token, request, body).await;
            let known = reply.status != 401 && reply.status != 405;
            let path = reply.status != 404 || reply.json()["code"] == "not-found";
            assert!(known && path, "{request}: {} {}", reply.status, reply.body);
            assert_eq!(
                reply.status != 403,
                may,
                "{request} as {role}: {}",
                reply.body
            );
            if !may {
                assert_eq!(reply.json()["code"], "forbidden");
            }
        }
        // Whoever has the token of the node's own folder may do everything.
        assert_ne!(port.operate(request, body).await.status, 403, "{request}");
    }
    port.server.stop().await;
}

/// Every change leaves a record with its outcome; what changes nothing leaves none.
#[actix_web::test]
async fn changes_are_written_down() {
    let accounts = Accounts::default();
    let port = Port::start(accounts.clone(), false, false);
    let [(olga, _), (sven, _), (anna, _)] = OPERATORS;
    let refused = |code: &str| OutcomeReport::Refused(code.to_owned());
    let done = || OutcomeReport::Done;
    let bob = r#"{"user":"bob@localhost","password":"hunter2"}"#;
    let slow = r#"{"user":"slow@localhost","password":"x"}"#;
    let join = r#"{"secret":"good","request":"","address":"10.0.0.4:7400"}"#;
    let stranger = r#"{"secret":"bad","request":"","address":"10.0.0.4:7400"}"#;
    #[rustfmt::skip]
    let table = [
        (sven, "POST /v1/users", bob, Some(("sven", "user.add", "bob@localhost", done()))),
        (sven, "POST /v1/users", bob, Some(("sven", "user.add", "bob@localhost", refused("conflict")))),
        (sven, "POST /v1/users", slow, Some(("sven", "user.add", "slow@localhost", OutcomeReport::Unknown))),
        (TOKEN, "PUT /v1/users/bob@localhost/password", r#"{"password":"hunter3"}"#,
            Some(("root@node-1", "user.password", "bob@localhost", done()))),
        (olga, "DELETE /v1/users/bob@localhost", "", Some(("olga", "user.remove", "bob@localhost", done()))),
        (olga, "POST /v1/nodes/2/drain", "{}", Some(("olga", "node.drain", "node 2", done()))),
        (olga, "POST /v1/nodes/1/drain", "{}", Some(("olga", "node.drain", "node 1", refused("last-node")))),
        (olga, "POST /v1/nodes/2/drain?over_capacity=true", "{}",
            Some(("olga", "node.drain", "node 2, over capacity", done()))),
        (olga, "POST /v1/nodes/2/remove?over_capacity=true", r#"{"dead":true}"#,
            Some(("olga", "node.remove", "node 2, dead, over capacity", done()))),
        (olga, "POST /v1/nodes/2/remove", r#"{"dead":true}"#, Some(("olga", "node.remove", "node 2, dead", done()))),
        (olga, "POST /v1/nodes/2/replace", r#"{"with":3}"#, Some(("olga", "node.replace", "node 2 with node 3", done()))),
        (olga, "POST /v1/cluster/finalize", "{}", Some(("olga", "cluster.finalize", "the newest version", done()))),
        (olga, "POST /v1/cluster/finalize", r#"{"version":9}"#,
            Some(("olga", "cluster.finalize", "version 9", refused("version-skew")))),
        (olga, "POST /v1/cluster/finalize?dry_run=true", "{}", None),
        (olga, "POST /v1/tokens", r#"{"ttl_s":60}"#, Some(("olga", "token.add", "for 60 s", done()))),
        (olga, "DELETE /v1/tokens/0a", "", Some(("olga", "token.revoke", "0a", refused("not-found")))),
        (olga, "POST /v1/operators", r#"{"name":"x","role":"auditor"}"#, Some(("olga", "operator.add", "x as auditor", done()))),
        (olga, "POST /v1/operators", r#"{"name":"x\nroot","role":"auditor"}"#, None),
        (olga, "POST /v1/operators", r#"{"name":"","role":"auditor"}"#, None),
        (olga, "DELETE /v1/operators/x%0aroot", "", None),
        (olga, "POST /v1/imports", r#"{"user":"zoe@localhost"}"#, Some(("olga", "user.import", "zoe@localhost", done()))),
        (olga, "POST /v1/imports/zoe@localhost", r#"{"piece":"vcard","element":"x"}"#, None),
        (TOKEN, "POST /v1/imports/zoe@localhost", r#"{"piece":"vcard","element":"x"}"#,
            Some(("root@node-1", "user.import.piece", "zoe@localhost", done()))),
        (TOKEN, "POST /v1/imports/zoe@localhost", r#"{"piece":"vcard","element":"x"}"#, None),
        (olga, "POST /v1/imports/zoe@localhost", r#"{"piece":"finish","password":"hunter2","scram":[]}"#,
            Some(("olga", "user.import.finish", "zoe@localhost", done()))),
        (olga, "POST /v1/backups", "", Some(("olga", "backup.begin", "p", done()))),
        (olga, "POST /v1/users/Zoe@localhost/exports", "", Some(("olga", "user.export", "zoe@localhost", done()))),
        (olga, "POST /v1/users/localhost/exports", "", None),
        (olga, "DELETE /v1/operators/x", "", Some(("olga", "operator.revoke", "x", refused("not-found")))),
        ("", "POST /v1/join", join, Some(("token:0a", "node.join", "10.0.0.4:7400", refused("capacity")))),
        ("", "POST /v1/join", stranger, None),
        (olga, "POST /v1/nodes/2/drain?dry_run=true", "{}", None),
        (olga, "POST /v1/nodes/2/drain", "", None),
        (olga, "POST /v1/users", "{}", None),
        (olga, "GET /v1/users", "", None),
        (anna, "POST /v1/users", bob, None),
    ];
    for (token, request, body, expect) in table {
        accounts.records.lock().unwrap().clear();
        port.as_operator(token, request, body).await;
        let records = accounts.records.lock().unwrap();
        assert_eq!(records.len(), usize::from(expect.is_some()), "{request}");
        let Some((who, action, target, outcome)) = expect else {
            continue;
        };
        let (change, became) = &records[0];
        let found = (
            change.who.as_str(),
            change.action,
            change.target.as_str(),
            became,
        );
        assert_eq!(found, (who, action, target, &outcome), "{request}");
        assert_eq!(change.from, "127.0.0.1");
        assert!(
            !format!("{change:?}").contains("hunter"),
            "a secret is in the audit log"
        );
    }
    port.server.stop().await;
}

/// Nothing is had of a group without a record: under an invented name, of another group than the exported user's, or when it is over.
#[actix_web::test]
async fn nothing_is_captured_that_was_not_begun() {
    let port = Port::start(Accounts::default(), false, false);
    const PATH: &str = "/v1/backups/abababababababababababababababab";
    let requests = |group: u32| {
        let group = format!("{PATH}/groups/{group}");
        [
            format!("POST {group}"),
            format!("POST {group}/end"),
            format!("GET {group}/state?node=1&offset=0"),
            format!("GET {group}/rows?node=1"),
            format!("GET {group}/entries?node=1&after=3&upto=9"),
        ]
    };
    let refused = async |requests: &[String]| {
        for request in requests {
            port.check(request, "", 404, "not-found").await;
        }
    };
    let done = async |requests: &[String]| {
        for request in requests {
            let status = port.operate(request, "").await.status;
            assert!((200..300).contains(&status), "{request}: {status}");
        }
    };
    let all = [format!("POST {PATH}"), format!("DELETE {PATH}")];
    refused(&requests(7)).await;
    refused(&all).await;
    // The user's group is 7.
    done(&["POST /v1/users/zoe@localhost/exports".to_owned()]).await;
    done(&requests(7)).await;
    refused(&requests(0)).await;
    refused(&requests(8)).await;
    done(&all).await;
    refused(&requests(7)).await;
    refused(&all).await;
    done(&["POST /v1/backups".to_owned()]).await;
    done(&requests(0)).await;
    done(&requests(8)).await;
    port.server.stop().await;
}

#[actix_web::test]
async fn what_cannot_be_written_down_is_not_done() {
    let accounts = Accounts {
        mute: true,
        ..Accounts::default()
    };
    let port = Port::start(accounts.clone(), false, false);
    let bob = r#"{"user":"bob@localhost","password":"x"}"#;
    port.check("POST /v1/users", bob, 503, "unavailable").await;
    assert!(accounts.users.lock().unwrap().is_empty());
    port.server.stop().await;
}

#[actix_web::test]
async fn plans_and_refusals_of_nodes() {
    let port = Port::start(Accounts::default(), false, false);
    let plan = port
        .operate("POST /v1/nodes/2/drain?dry_run=true", "{}")
        .await;
    let expect = json!({
        "node": 2, "begun": false, "steps": [{ "step": "move-sessions", "node": 2 }]
    });
    assert_eq!(plan.json(), expect);
    let begun = port.operate("POST /v1/nodes/2/drain", "{}").await;
    assert_eq!(begun.json()["begun"], true);
    let addition = "GET /v1/nodes/addition?address=10.0.0.4%3A7400";
    let expect = json!({
        "node": 4, "begun": false, "steps": [{ "step": "join", "node": 4 }]
    });
    assert_eq!(port.operate(addition, "").await.json(), expect);
    for (request, body, status, code) in [
        (
            "POST /v1/nodes/1/drain?dry_run=true",
            "{}",
            409,
            "last-node",
        ),
        ("POST /v1/nodes/1/drain", "{}", 409, "last-node"),
        ("POST /v1/nodes/2/drain", r#"{"pace":1}"#, 400, "malformed"),
        ("POST /v1/nodes/2/drain?dry=true", "{}", 400, "malformed"),
        ("POST /v1/nodes/2/replace", "{}", 400, "malformed"),
        ("POST /v1/nodes/two/drain", "{}", 404, "no-such-path"),
        ("GET /v1/nodes/2/drain", "", 405, "method-not-allowed"),
        ("GET /v1/nodes/9", "", 404, "not-found"),
        (
            "GET /v1/nodes/addition?address=10.0.0.1:7400",
            "",
            409,
            "address-in-use",
        ),
        ("GET /v1/nodes/addition", "", 400, "malformed"),
        ("POST /v1/nodes/addition", "", 405, "method-not-allowed"),
        (
            "POST /v1/cluster/finalize",
            r#"{"version":9}"#,
            409,
            "version-skew",
        ),
        (
            "POST /v1/cluster/finalize?dry_run=true",
            r#"{"version":9}"#,
            409,
            "version-skew",
        ),
        ("POST /v1/cluster/finalize", r#"{"to":9}"#, 400, "malformed"),
        ("GET /v1/audit?limit=0", "", 400, "malformed"),
        ("GET /v1/audit?after=1&before=2", "", 400, "malformed"),
        (
            "POST /v1/operators",
            r#"{"name":"x","role":"root"}"#,
            400,
            "malformed",
        ),
        ("POST /v1/join", "{}", 400, "malformed"),
        (
            "POST /v1/join",
            r#"{"secret":"bad","request":"","address":""}"#,
            409,
            "token-used",
        ),
    ] {
        port.check(request, body, status, code).await;
    }
    port.server.stop().await;
}

/// Server-sent events: one each second until it is done, then the stream ends.
#[actix_web::test]
async fn progress_is_told_until_it_is_done() {
    let port = Port::start(Accounts::default(), false, false);
    let reply = port.operate("GET /v1/progress/events", "").await;
    assert!(
        reply.head.contains("content-type: text/event-stream"),
        "{}",
        reply.head
    );
    let told: Vec<Value> = (reply.body.lines())
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let done: Vec<_> = told
        .iter()
        .map(|progress| progress["done"] == true)
        .collect();
    assert_eq!(done, [false, true], "{}", reply.body);
    assert_eq!(reply.body.matches("event: progress\n").count(), 2);
    port.server.stop().await;
}
