//! Users who are each other's contacts and online all the time: what each is shown, and what is true (P14).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chaos_tests::chaos::watchers::{Patience, meet, watch};
use chaos_tests::client::Login;
use chaos_tests::history::Recorder;
use tokio::task::JoinHandle;

use crate::story::login;

/// The accounts, each with a node of its own to come back to.
pub const WATCHERS: [(&str, u64); 3] = [("watcher-1", 1), ("watcher-2", 2), ("watcher-3", 3)];

/// Machines go without a word here.
const PATIENCE: Patience = Patience {
    quiet: Duration::from_secs(2),
    quiets_max: 2,
};

/// They watch until they are ended.
pub struct Watchers(Vec<JoinHandle<()>>);

impl Watchers {
    /// They make each other's acquaintance, and begin.
    pub async fn meet(recorder: &Arc<Recorder>) -> Result<Watchers> {
        meet(&WATCHERS.map(|(user, node)| login(node, user))).await?;
        let begin = |(user, home)| {
            // Home first, and the others in turn.
            let nodes = WATCHERS.iter().map(|(_, node)| *node).cycle();
            let nodes = nodes.skip_while(|node| *node != home).take(WATCHERS.len());
            let logins: Vec<Login> = nodes.map(|node| login(node, user)).collect();
            tokio::task::spawn_local(watch(Arc::clone(recorder), logins, PATIENCE))
        };
        Ok(Watchers(WATCHERS.into_iter().map(begin).collect()))
    }

    /// They watch no more.
    pub fn end(self) {
        for watcher in self.0 {
            watcher.abort();
        }
    }
}
