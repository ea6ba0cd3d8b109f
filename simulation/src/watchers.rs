//! Users who are each other's contacts and online all the time: what each is shown, and what is true (P14).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chaos_tests::client::{Client, Incoming};
use chaos_tests::history::{Recorder, What};
use chaos_tests::people::{befriend, online};
use chaos_tests::pool::DOMAIN;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use xmpp::scan::Document;

use crate::story::login;

/// The accounts, each with a node of its own to come back to.
pub const WATCHERS: [(&str, u64); 3] = [("watcher-1", 1), ("watcher-2", 2), ("watcher-3", 3)];

/// How often a watcher tries to come back.
const TRY_EVERY: Duration = Duration::from_millis(300);

/// A node that says nothing for so long is asked whether it is there.
const QUIET: Duration = Duration::from_secs(2);

/// And after as long again without an answer the connection counts as gone: machines go without a word here.
const QUIETS_MAX: u32 = 2;

/// They watch until they are ended.
pub struct Watchers(Vec<JoinHandle<()>>);

impl Watchers {
    /// They make each other's acquaintance, and begin.
    pub async fn meet(recorder: &Arc<Recorder>) -> Result<Watchers> {
        let mut clients = Vec::new();
        for (user, node) in WATCHERS {
            clients.push(online(&login(node, user)).await?);
        }
        for at in 1..clients.len() {
            let (before, rest) = clients.split_at_mut(at);
            for a in before {
                if let Some(b) = rest.first_mut() {
                    befriend(a, b).await?;
                }
            }
        }
        for client in clients {
            client.close().await?;
        }
        let watch = |(user, home)| {
            let watch = watch(user, home, Arc::clone(recorder));
            tokio::task::spawn_local(watch)
        };
        Ok(Watchers(WATCHERS.into_iter().map(watch).collect()))
    }

    /// They watch no more.
    pub fn end(self) {
        for watcher in self.0 {
            watcher.abort();
        }
    }
}

/// Is online, at home if that lets it in, until it is ended.
async fn watch(user: &'static str, home: u64, recorder: Arc<Recorder>) {
    let mut views = Views {
        recorder,
        observer: user,
        shown: BTreeMap::new(),
    };
    let mut tries = interval(TRY_EVERY);
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let nodes = WATCHERS.iter().map(|(_, node)| *node).cycle();
    for node in nodes.skip_while(|node| *node != home) {
        tries.tick().await;
        let Ok(mut client) = Client::connect(&login(node, user)).await else {
            continue;
        };
        if client.send("<presence/>").await.is_err() {
            continue;
        }
        views.tell(true);
        stay(&mut client, &mut views).await;
        views.tell(false);
        views.forget();
    }
}

/// Takes what comes until the connection ends, or nothing more comes over it.
async fn stay(client: &mut Client, views: &mut Views) {
    let ping = format!(
        "<iq type='get' id='there'><ping xmlns='{}'/></iq>",
        xmpp::ns::PING
    );
    let mut quiets = 0;
    while quiets < QUIETS_MAX {
        match client.next(QUIET).await {
            Ok(Incoming::Element(document)) => {
                quiets = 0;
                views.take(&document);
            }
            Ok(Incoming::Acked(_)) => {}
            Ok(Incoming::Closed(_)) => return,
            Err(_) => {
                quiets += 1;
                if client.send(&ping).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Who is shown to one watcher, by resources.
struct Views {
    recorder: Arc<Recorder>,
    observer: &'static str,
    shown: BTreeMap<String, BTreeSet<String>>,
}

impl Views {
    /// Whether the watcher itself is there, in truth.
    fn tell(&self, online: bool) {
        let user = self.observer.to_owned();
        self.recorder.record(What::Online { user, online });
    }

    fn record(&self, user: &str, online: bool) {
        self.recorder.record(What::Presence {
            observer: self.observer.to_owned(),
            user: user.to_owned(),
            online,
        });
    }

    /// Who has no session is shown nobody.
    fn forget(&mut self) {
        for (user, resources) in std::mem::take(&mut self.shown) {
            if !resources.is_empty() {
                self.record(&user, false);
            }
        }
    }

    fn take(&mut self, document: &Document) {
        let root = document.root();
        let from = root.attr("from").unwrap_or_default();
        let Some((user, resource)) = from.split_once(&format!("@{DOMAIN}/")) else {
            return;
        };
        if root.name() != "presence" || user == self.observer {
            return;
        }
        let resources = self.shown.entry(user.to_owned()).or_default();
        let was = !resources.is_empty();
        match root.attr("type").as_deref() {
            None => resources.insert(resource.to_owned()),
            Some("unavailable") => resources.remove(resource),
            Some(_) => return,
        };
        let is = !resources.is_empty();
        if was != is {
            self.record(user, is);
        }
    }
}
