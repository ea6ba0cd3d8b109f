//! Settings that are set do what they say, and archive ids stay within their archive.

use std::collections::HashSet;
use std::time::Duration;

use chaos_tests::client::Client;
use chaos_tests::pool::{Pool, PoolSettings};

const LIMIT: Duration = Duration::from_secs(15);
const MAM: &str = "urn:xmpp:mam:2";

/// Sends messages to oneself; answers when all are in the archive.
async fn fill(client: &mut Client, count: usize) {
    let bare = client.jid().bare();
    for number in 0..count {
        let message = format!(
            "<message to='{bare}' id='{number}' type='chat'><body>{number}</body></message>"
        );
        client.send(&message).await.expect("sent");
        let id = number.to_string();
        client
            .find("the message", LIMIT, |document| {
                let root = document.root();
                (root.is("message", "jabber:client") && root.attr("id").as_deref() == Some(&*id))
                    .then_some(())
            })
            .await
            .expect("it comes back");
    }
}

/// One page of one's own archive: the ids of its rows.
async fn page(client: &mut Client, max: &str) -> Vec<String> {
    let query = format!(
        "<query xmlns='{MAM}'><set xmlns='http://jabber.org/protocol/rsm'><max>{max}</max></set></query>"
    );
    let request = format!("<iq type='set' id='page'>{query}</iq>");
    client.send(&request).await.expect("sent");
    let mut ids = Vec::new();
    client
        .find("the page", LIMIT, |document| {
            let root = document.root();
            if let Some(id) = root
                .child("result", MAM)
                .and_then(|result| result.attr("id"))
            {
                ids.push(id.into_owned());
            }
            (root.attr("id").as_deref() == Some("page")).then_some(())
        })
        .await
        .expect("the end of the page");
    ids
}

/// `[clients] archive_queries_max` and `[stream_management] unacked_max`: a client that waits for as many pages as it may
/// must still be read, for the pages wait for its acknowledgements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_asked_for_in_one_write_all_come() {
    const PAGES: usize = 12;
    let settings = PoolSettings::nodes(1)
        .set("clients", "archive_queries_max", 2)
        .set("stream_management", "unacked_max", 8);
    let pool = Pool::start(&settings).await.expect("the pool starts");
    pool.add_users(["romeo"]).await.expect("an account");
    let mut login = pool.login(1, "romeo");
    login.stream_management = true;
    let mut client = Client::connect(&login).await.expect("a client");
    client.send("<presence/>").await.expect("sent");
    fill(&mut client, 12).await;
    let ask =
        |number: usize| format!("<iq type='set' id='page-{number}'><query xmlns='{MAM}'/></iq>");
    let row: String = (0..PAGES).map(ask).collect();
    client.send_raw(&row).await.expect("sent");
    let (mut rows, mut ends) = (0, HashSet::new());
    client
        .find("all pages", LIMIT, |document| {
            let root = document.root();
            rows += usize::from(root.child("result", MAM).is_some());
            let id = root.attr("id").map(|id| id.into_owned());
            ends.extend(id.filter(|id| id.starts_with("page-")));
            (ends.len() == PAGES).then_some(())
        })
        .await
        .expect("the pages");
    assert_eq!(rows, PAGES * 12);
    client.close().await.expect("closed");
}

/// `[clients] archive_page_max`: a larger `max`, however large, gives that many rows (XEP-0059 §2.1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_as_long_as_the_operator_allows() {
    let settings = PoolSettings::nodes(1).set("clients", "archive_page_max", 3);
    let pool = Pool::start(&settings).await.expect("the pool starts");
    pool.add_users(["romeo", "juliet"]).await.expect("accounts");
    let mut seen = HashSet::new();
    for user in ["romeo", "juliet"] {
        let mut client = Client::connect(&pool.login(1, user))
            .await
            .expect("a client");
        client.send("<presence/>").await.expect("sent");
        fill(&mut client, 5).await;
        for (max, rows) in [("2", 2), ("10", 3), ("99999999999999999999", 3)] {
            assert_eq!(page(&mut client, max).await.len(), rows, "max {max}");
        }
        // XEP-0313 §3: unpredictable, so not those of somebody else's archive either.
        let ids = page(&mut client, "3").await;
        assert!(ids.into_iter().all(|id| seen.insert(id)), "ids of {user}");
        client.close().await.expect("closed");
    }
}
