//! A client that reads an archive, page after page.

use std::time::{Duration, Instant};

use anyhow::bail;
use xmpp::ns;
use xmpp::scan::{Document, Element};

use crate::histogram::Histogram;
use crate::scenario::Ids;
use crate::scenario::archive::ledger::{Direction, PagesSum, Pass};
use crate::scenario::archive::query;
use crate::wire::Wire;

/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// One client and its archive.
pub(crate) struct Reader {
    wire: Wire,
    ids: Ids,
    /// Messages of this run in its archive.
    messages: usize,
    page: u32,
    asked: u64,
    /// From a query to its `<fin/>`.
    pub(crate) latencies: Histogram,
}

/// One page, as it came.
struct Page {
    rows: Vec<Option<usize>>,
    first: Option<String>,
    last: Option<String>,
    is_complete: bool,
}

impl Reader {
    /// Of a session that is bound.
    pub(crate) fn new(wire: Wire, ids: Ids, messages: usize, page: u32) -> Reader {
        Reader {
            wire,
            ids,
            messages,
            page,
            asked: 0,
            latencies: Histogram::default(),
        }
    }

    /// Reads whole passes, one after the other, until the time is over, and at least one. A pass that the end of time
    /// cuts off counts as far as it came.
    pub(crate) async fn read(
        &mut self,
        direction: Direction,
        end: Instant,
    ) -> anyhow::Result<PagesSum> {
        let mut sum = PagesSum::default();
        loop {
            let mut pass = Pass::new(direction, self.messages);
            let mut from = String::new();
            loop {
                let asked_at = Instant::now();
                let page = tokio::time::timeout(PAGE_WITHIN, self.page(direction, &from));
                let page = match page
                    .await
                    .map_err(anyhow::Error::from)
                    .and_then(|page| page)
                {
                    Ok(page) => page,
                    Err(error) => {
                        sum.error(format!("{error:#}"));
                        return Ok(sum);
                    }
                };
                self.latencies.record(asked_at.elapsed());
                pass.page(&page.rows, &mut sum);
                let edge = match direction {
                    Direction::Forwards => page.last,
                    Direction::Backwards => page.first,
                };
                match edge.filter(|_| !page.is_complete) {
                    Some(edge) => from = edge,
                    None => {
                        pass.complete(&mut sum);
                        break;
                    }
                }
                // The first pass goes to the end, so that every row was asked for.
                if Instant::now() >= end && sum.rows > self.messages as u64 {
                    return Ok(sum);
                }
            }
            if Instant::now() >= end {
                return Ok(sum);
            }
        }
    }

    async fn page(&mut self, direction: Direction, from: &str) -> anyhow::Result<Page> {
        self.asked += 1;
        let id = format!("page{}", self.asked);
        self.wire
            .send(&query(&id, self.page, direction, from))
            .await?;
        let mut rows = Vec::with_capacity(self.page as usize);
        loop {
            let document = self.wire.element().await?;
            let root = document.root();
            if let Some(result) = root.child("result", ns::MAM) {
                rows.push(self.row(result));
                continue;
            }
            if root.name() == "iq" && root.attr("id").as_deref() == Some(id.as_str()) {
                return fin(&document, rows);
            }
        }
    }

    /// The message that a row holds, if it is one of this run.
    fn row(&self, result: Element<'_>) -> Option<usize> {
        let message = result
            .child("forwarded", ns::FORWARD)?
            .child("message", ns::CLIENT)?;
        let id = message.attr("id")?;
        self.ids.message(id.split_once('.')?.0)
    }
}

/// XEP-0313 §5.1: the end of a page.
fn fin(answer: &Document, rows: Vec<Option<usize>>) -> anyhow::Result<Page> {
    let Some(fin) = answer.root().child("fin", ns::MAM) else {
        bail!("a page was refused: {}", answer.source());
    };
    let set = fin.child("set", ns::RSM);
    let text = |name| Some(set?.child(name, ns::RSM)?.text().into_owned());
    Ok(Page {
        rows,
        first: text("first"),
        last: text("last"),
        is_complete: fin.attr("complete").as_deref() == Some("true"),
    })
}
