//! Users who see each other, and write down whom they are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval};
use xmpp::ns;
use xmpp::scan::Document;

use crate::client::{Client, Incoming, Login};
use crate::history::{Recorder, What};
use crate::people::{befriend, online};
use crate::pool::{DOMAIN, Pool};

/// How often a watcher tries to come back.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// How long a watcher puts up with silence.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A node that says nothing for so long is asked whether it is there.
    pub quiet: Duration,
    /// After so many times without an answer the connection counts as gone.
    pub quiets_max: u32,
}

/// Where processes run, a connection ends with its node, or with a node that stands still for long.
pub(super) const PATIENCE: Patience = Patience {
    quiet: Duration::from_secs(60),
    quiets_max: 10,
};

/// The watcher that prefers a node.
pub(super) fn name(node: u64) -> String {
    format!("watcher-{node}")
}

/// Makes the accounts, and has each see all others.
pub(super) async fn introduce(pool: &Pool) -> Result<()> {
    let names: Vec<String> = pool.ids().into_iter().map(name).collect();
    pool.add_users(names.iter().map(String::as_str)).await?;
    let logins = pool.ids().into_iter().zip(&names);
    let logins: Vec<Login> = logins.map(|(node, name)| pool.login(node, name)).collect();
    meet(&logins).await
}

/// Has each of them see all others.
pub async fn meet(logins: &[Login]) -> Result<()> {
    let mut clients = Vec::new();
    for login in logins {
        clients.push(online(login).await?);
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
    Ok(())
}

/// Who is shown to one watcher, by resources.
struct Views {
    recorder: Arc<Recorder>,
    observer: String,
    shown: BTreeMap<String, BTreeSet<String>>,
}

impl Views {
    /// Whether the watcher itself is there, in truth.
    fn tell(&self, online: bool) {
        let user = self.observer.clone();
        self.recorder.record(What::Online { user, online });
    }

    fn record(&self, user: &str, online: bool) {
        self.recorder.record(What::Presence {
            observer: self.observer.clone(),
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
        let kind = root.attr("type");
        let is_online = match kind.as_deref() {
            None => true,
            Some("unavailable") => false,
            Some(_) => return,
        };
        if root.name() != "presence" || user == self.observer {
            return;
        }
        let resources = self.shown.entry(user.to_owned()).or_default();
        let was = !resources.is_empty();
        match is_online {
            true => resources.insert(resource.to_owned()),
            false => resources.remove(resource),
        };
        let is = !resources.is_empty();
        if was != is {
            self.record(user, is);
        }
    }
}

/// Is online, on the first of these nodes that lets it in, until it is ended.
pub async fn watch(recorder: Arc<Recorder>, logins: Vec<Login>, patience: Patience) {
    let Some(observer) = logins.first().map(|login| login.user.clone()) else {
        return;
    };
    let mut views = Views {
        recorder,
        observer,
        shown: BTreeMap::new(),
    };
    let mut tries = interval(TRY_EVERY);
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for login in logins.iter().cycle() {
        tries.tick().await;
        let Ok(mut client) = Client::connect(login).await else {
            continue;
        };
        if client.send("<presence/>").await.is_err() {
            continue;
        }
        views.tell(true);
        stay(&mut client, &mut views, patience).await;
        views.tell(false);
        views.forget();
    }
}

/// Takes what comes until the connection ends, or nothing more comes over it.
async fn stay(client: &mut Client, views: &mut Views, patience: Patience) {
    let ping = format!(
        "<iq type='get' id='there'><ping xmlns='{}'/></iq>",
        ns::PING
    );
    let mut quiets = 0;
    while quiets < patience.quiets_max {
        match client.next(patience.quiet).await {
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
