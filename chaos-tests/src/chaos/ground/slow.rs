//! Who is slow: a node with little of a processor, and clients that read nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep, timeout};

use super::{Ground, LIMIT};
use crate::chaos::bounds::Measure;
use crate::client::authenticated;
use crate::quota::Quota;
use crate::trial::Trial;
use crate::wire::Wire;

/// A slow node's share of a processor, in percent.
const SHARE: u32 = 10;

/// Clients that read nothing, and for how many pages each of them asks.
const READERS: usize = 8;
const PAGES: usize = 400;

/// Messages of a page, as many as there may be.
const PAGE: usize = 250;

/// How long the questions of one of them may take to go out.
const ASKED_WITHIN: Duration = Duration::from_millis(500);

/// How often the node's memory is looked at.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// How long what lies in a socket is read: the node goes on as soon as there is room.
const UNREAD: Duration = Duration::from_millis(300);

const BIND: &str = "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";

impl Ground {
    /// A node has so little of a processor that all it does takes long. That is no reason to elect.
    pub(super) async fn slow_node(&mut self, node: u64, span: Duration) -> Result<()> {
        self.fault(format!(
            "node {node} has {SHARE} % of a processor for {span:?}"
        ));
        let (before, began) = (self.reigns().await?, self.trial.recorder().now());
        let quota = Quota::of(self.trial.pool.pid(node)?, SHARE)?;
        sleep(span).await;
        let held_back = quota.lift()?;
        self.say(&format!("it was held back {held_back} times"));
        ensure!(held_back > 0, "node {node} wanted less than its share");
        self.elected(Measure::SlowNodeElections, &before, began)
            .await?;
        self.mend();
        self.recovered().await.map(drop)
    }

    /// Some clients ask for page after page of an archive and take nothing of what comes: that is their own concern, and what
    /// waits for them is bounded.
    pub(super) async fn slow_readers(&mut self, node: u64, span: Duration) -> Result<()> {
        self.fault(format!(
            "{READERS} clients on node {node} read nothing for {span:?}"
        ));
        // So many rows that each page is full.
        self.trial.acks_at_target(PAGE, LIMIT).await?;
        let before = self.resident_mib(node)?;
        let rooms = Trial::rooms();
        let room = rooms.first().context("a room")?;
        // Far more than sockets hold: without a bound it would all wait in the node.
        let asks: String = (0..PAGES).map(|number| page(room, number)).collect();
        let mut readers = Vec::new();
        let users = self.ids();
        for user in users.iter().cycle().take(READERS) {
            let login = self.trial.pool.login(node, &format!("reader-{user}"));
            let mut reader = authenticated(&login).await?;
            reader.send(BIND.as_bytes()).await?;
            reader.element("the resource").await?;
            readers.push(reader);
        }
        self.blow(Measure::SlowReaders, &[]);
        for reader in &mut readers {
            // A server that reads no more holds up nobody but whom it concerns.
            let _ = timeout(ASKED_WITHIN, reader.send(asks.as_bytes())).await;
        }
        let mut grown = 0;
        let until = Instant::now() + span;
        while Instant::now() < until {
            sleep(LOOKS_EVERY).await;
            grown = self.resident_mib(node)?.saturating_sub(before).max(grown);
        }
        self.measured.add(Measure::SlowReadersMemory, [grown]);
        let mut taken = 0;
        for reader in &mut readers {
            taken += unread(reader).await;
        }
        let owed = READERS * PAGES * (PAGE + 1);
        let what = format!(
            "{READERS} slow readers: node {node} grew by {grown} MiB; of {owed} stanzas {taken} had left it"
        );
        self.say(&what);
        self.notes.push(what);
        ensure!(taken > 0, "nobody was sent anything");
        drop(readers);
        self.mend();
        self.recovered().await.map(drop)
    }

    /// How much memory a node has, in MiB.
    fn resident_mib(&self, node: u64) -> Result<u64> {
        let pid = self.trial.pool.pid(node)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("a line VmRSS in kB")?.parse()?;
        Ok(kib / 1024)
    }
}

/// How many stanzas come to one who reads at last, within a moment.
async fn unread(reader: &mut Wire) -> usize {
    let mut count = 0;
    let read = async {
        while let Ok(Some(_)) = reader.next().await {
            count += 1;
        }
    };
    let _ = timeout(UNREAD, read).await;
    count
}

/// Asks for the newest page of a room's archive (XEP-0313 §4.3, XEP-0059 §2.5).
fn page(room: &str, number: usize) -> String {
    format!(
        "<iq type='set' id='slow{number}' to='{room}'><query xmlns='urn:xmpp:mam:2'><set \
         xmlns='http://jabber.org/protocol/rsm'><max>{PAGE}</max><before/></set></query></iq>"
    )
}
