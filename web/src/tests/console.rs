//! The console page: its files, signing in to it, and what its cookie is good for.

use serde_json::json;

use super::accounts::{Accounts, OPERATORS};
use super::*;

/// What a browser sends with a request of the page.
const OWN: &str = "Origin: https://localhost\r\nSec-Fetch-Site: same-origin\r\nX-Muster-Console: 1\r\n\
    Content-Type: application/json\r\n";

impl Port {
    /// Signs in, and gives the line with the cookie.
    async fn sign_in(&self, token: &str) -> String {
        let body = json!({ "token": token }).to_string();
        let reply = self.ask("POST /v1/sign-in", OWN, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let cookie = reply.head.split("set-cookie: ").nth(1).unwrap();
        let cookie = cookie.split("\r\n").next().unwrap();
        let rules = "; path=/; secure; httponly; samesite=strict";
        let value = cookie.strip_suffix(rules).unwrap();
        let name = value.strip_prefix("__host-muster=").unwrap();
        assert!(name.len() == 64 && !reply.body.contains(token), "{cookie}");
        format!("Cookie: __Host-muster={name}\r\n")
    }

    async fn by_the_page(&self, cookie: &str, request: &str, body: &str) -> Reply {
        self.ask(request, &format!("{OWN}{cookie}"), body).await
    }
}

#[actix_web::test]
async fn the_pages_files_are_served_to_anybody_and_hold_nothing() {
    let port = Port::start(Accounts::default(), false, false);
    for (path, kind) in [
        ("/console", "text/html"),
        ("/console/console.js", "text/javascript"),
        ("/console/console.css", "text/css"),
        ("/console/uPlot.iife.min.js", "text/javascript"),
        ("/console/uPlot.LICENSE", "text/plain"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let reply = port.ask(&format!("GET {path}"), "", "").await;
        assert_eq!(reply.status, 200, "{path}");
        for header in [
            &format!("content-type: {kind}")[..],
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cross-origin-opener-policy: same-origin",
            "cross-origin-resource-policy: same-origin",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(
                reply.head.contains(header),
                "{path}: no {header} in {}",
                reply.head
            );
        }
        assert!(!reply.head.contains("unsafe"), "{}", reply.head);
    }
    let root = port.ask("GET /", "", "").await;
    assert!(root.status == 303 && root.head.contains("location: /console\r\n"));
    for path in [
        "/console/",
        "/console/nothing.js",
        "/console/..%2Fconsole.js",
        "//console",
    ] {
        assert_eq!(
            port.ask(&format!("GET {path}"), "", "").await.status,
            404,
            "{path}"
        );
    }
    assert_eq!(port.ask("POST /console", "", "").await.status, 405);
    port.server.stop().await;
}

#[actix_web::test]
async fn the_page_can_be_left_out() {
    let port = Port::with_console(Accounts::default(), false, false, false);
    for request in [
        "GET /",
        "GET /console",
        "GET /console/console.js",
        "GET /v1/sign-in",
    ] {
        port.check(request, "", 404, "no-such-path").await;
    }
    let body = json!({ "token": TOKEN }).to_string();
    assert_eq!(port.ask("POST /v1/sign-in", OWN, &body).await.status, 404);
    // Nobody can have such a cookie, and it opens nothing.
    let cookie = format!("Cookie: __Host-muster={}\r\n", "0".repeat(64));
    assert_eq!(port.ask("GET /v1/status", &cookie, "").await.status, 401);
    port.server.stop().await;
}

#[actix_web::test]
async fn whoever_signs_in_may_do_what_the_token_may() {
    let port = Port::start(Accounts::default(), false, false);
    for (token, role) in OPERATORS {
        let cookie = port.sign_in(token).await;
        let who = port.by_the_page(&cookie, "GET /v1/sign-in", "").await;
        let name = token.split('-').next().unwrap();
        assert_eq!(
            who.json(),
            json!({ "name": name, "role": role.to_string() })
        );
        let drained = port
            .by_the_page(&cookie, "POST /v1/nodes/2/drain", "{}")
            .await;
        let expect = if role == crate::report::access::Role::Operator {
            200
        } else {
            403
        };
        assert_eq!(drained.status, expect, "{role}: {}", drained.body);
    }
    let cookie = port.sign_in(TOKEN).await;
    let who = port.by_the_page(&cookie, "GET /v1/sign-in", "").await;
    assert_eq!(
        who.json(),
        json!({ "name": "root@node-1", "role": "operator" })
    );
    port.server.stop().await;
}

#[actix_web::test]
async fn a_wrong_token_signs_nobody_in() {
    let port = Port::start(Accounts::default(), false, false);
    for token in ["", "x", &TOKEN[1..], &format!("{TOKEN}0"), &"x".repeat(500)] {
        let body = json!({ "token": token }).to_string();
        let reply = port.ask("POST /v1/sign-in", OWN, &body).await;
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (401, &json!("wrong-token"))
        );
        assert!(!reply.head.contains("set-cookie") && !reply.body.contains("xx"));
    }
    let good = json!({ "token": TOKEN }).to_string();
    for (body, headers, status) in [
        ("{}", OWN, 400),
        (&good, "Content-Type: application/json\r\n", 403),
        (
            &good,
            &OWN.replace("https://localhost", "https://example.org"),
            403,
        ),
        (&good, &OWN.replace("same-origin", "same-site"), 403),
        (&good, &OWN.replace("X-Muster-Console: 1\r\n", ""), 403),
    ] {
        let reply = port.ask("POST /v1/sign-in", headers, body).await;
        assert_eq!(reply.status, status, "{headers}");
        assert!(!reply.head.contains("set-cookie"), "{}", reply.head);
    }
    port.server.stop().await;
}

/// Another page in the same browser makes it send the cookie, and gets nothing for it.
#[actix_web::test]
async fn the_cookie_is_good_by_the_page_alone() {
    let accounts = Accounts::default();
    let port = Port::start(accounts.clone(), false, false);
    let cookie = port.sign_in(TOKEN).await;
    let json_body = "Content-Type: application/json\r\n";
    let origin = "Origin: https://localhost\r\n";
    let mark = "X-Muster-Console: 1\r\n";
    let change = "POST /v1/nodes/2/drain";
    for (request, headers) in [
        (change, String::new()),
        (change, origin.to_owned()),
        (change, mark.to_owned()),
        (change, format!("Origin: https://localhost:7481\r\n{mark}")),
        (change, format!("Origin: null\r\n{mark}")),
        (
            change,
            format!("{origin}{mark}Sec-Fetch-Site: same-site\r\n"),
        ),
        ("DELETE /v1/sign-in", origin.to_owned()),
        (
            "GET /v1/status",
            "Sec-Fetch-Site: cross-site\r\n".to_owned(),
        ),
        (
            "GET /v1/status",
            "Origin: https://example.org\r\n".to_owned(),
        ),
        ("GET /metrics", "Sec-Fetch-Site: same-site\r\n".to_owned()),
    ] {
        let headers = format!("{cookie}{json_body}{headers}");
        let reply = port.ask(request, &headers, "{}").await;
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (403, &json!("other-origin")),
            "{headers}"
        );
    }
    assert!(
        accounts.records.lock().unwrap().is_empty(),
        "nothing was done"
    );
    assert_eq!(port.ask("GET /v1/status", &cookie, "").await.status, 200);
    // A header that is there goes before the cookie, also a wrong one.
    let both = format!("{cookie}Authorization: Bearer wrong\r\n");
    assert_eq!(port.ask("GET /v1/status", &both, "").await.status, 401);
    let twice = format!("{cookie}{}", cookie.replace("Cookie", "cookie"));
    assert_eq!(port.ask("GET /v1/status", &twice, "").await.status, 401);
    port.server.stop().await;
}

#[actix_web::test]
async fn a_sign_in_ends_by_signing_out_and_with_its_token() {
    let accounts = Accounts::default();
    let port = Port::start(accounts.clone(), false, false);
    let [(olga, _), (_, _), (anna, _)] = OPERATORS;
    let [first, second] = [port.sign_in(olga).await, port.sign_in(olga).await];
    let other = port.sign_in(anna).await;
    let out = port.by_the_page(&first, "DELETE /v1/sign-in", "").await;
    assert!(
        out.status == 204
            && out
                .head
                .contains("set-cookie: __host-muster=; max-age=0; path=/")
    );
    let is_in = async |cookie: &str| port.by_the_page(cookie, "GET /v1/sign-in", "").await.status;
    assert_eq!((is_in(&first).await, is_in(&second).await), (401, 200));
    accounts.revoked.lock().unwrap().push(olga);
    assert_eq!((is_in(&second).await, is_in(&other).await), (401, 200));
    // A stream that goes on ends as well: without the token nothing more is told.
    accounts.revoked.lock().unwrap().push(anna);
    assert_eq!(is_in(&other).await, 401);
    port.server.stop().await;
}

/// Who loses their token while they follow the progress is told no more of it.
#[actix_web::test]
async fn a_stream_ends_with_the_token() {
    let accounts = Accounts::default();
    // It would be told for as long as anybody can count.
    *accounts.asked.lock().unwrap() = 0;
    let port = Port::start(accounts.clone(), false, false);
    let [(olga, _), _, _] = OPERATORS;
    let cookie = port.sign_in(olga).await;
    let watched = accounts.asked.clone();
    let revoked = accounts.revoked.clone();
    let follow = port.by_the_page(&cookie, "GET /v1/progress/events", "");
    let revoke = async {
        while *watched.lock().unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        revoked.lock().unwrap().push(olga);
    };
    let (told, ()) = tokio::join!(follow, revoke);
    assert_eq!(
        told.body.matches("event: progress").count(),
        1,
        "{}",
        told.body
    );
    assert!(!told.body.contains("\"done\":true"), "{}", told.body);
    port.server.stop().await;
}

#[actix_web::test]
async fn sessions_are_listed_page_by_page() {
    let port = Port::start(Accounts::default(), false, false);
    let page = port.operate("GET /v1/sessions?limit=2", "").await;
    let expect = json!({
        "node": 1, "total": 2, "next": "alice@localhost/phone",
        "sessions": ["alice@localhost/desk", "alice@localhost/phone"],
    });
    assert_eq!(page.json(), expect);
    let rest = port
        .operate("GET /v1/sessions?after=alice@localhost/phone", "")
        .await
        .json();
    assert_eq!(
        (&rest["sessions"], &rest["next"]),
        (&json!(["bob@localhost/desk"]), &Value::Null)
    );
    let found = port
        .operate("GET /v1/sessions?containing=bob", "")
        .await
        .json();
    assert_eq!(found["sessions"], json!(["bob@localhost/desk"]));
    let long = format!("containing={}", "x".repeat(129));
    for query in ["limit=0", "limit=1001", "node=2", &long] {
        port.check(&format!("GET /v1/sessions?{query}"), "", 400, "malformed")
            .await;
    }
    port.check(&format!("GET /v1/audit?{long}"), "", 400, "malformed")
        .await;
    let history = port.operate("GET /v1/history", "").await.json();
    assert_eq!(
        (&history["at_ms"], &history["nodes"][0]["sessions"]),
        (&json!([1000]), &json!([2]))
    );
    let later = port.operate("GET /v1/history?after=1000", "").await.json();
    assert_eq!(later, json!({ "at_ms": [], "nodes": [] }));
    port.server.stop().await;
}
