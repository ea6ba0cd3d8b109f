//! Walking an archive from one end to the other (XEP-0313 with XEP-0059 pages).

use anyhow::{Context, Result, bail};
use xmpp::ns;
use xmpp::scan::Document;

use super::member::required;
use crate::client::Client;
use crate::wait::PROMPT;

/// Messages on a page.
const PAGE: usize = 100;

/// All messages with a body: text and archive id, oldest first, read forward or backward.
pub async fn read_archive(
    client: &mut Client,
    archive: &str,
    forward: bool,
) -> Result<Vec<(String, String)>> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut edge: Option<String> = None;
    loop {
        let at = match (&edge, forward) {
            (Some(id), true) => format!("<after>{id}</after>"),
            (Some(id), false) => format!("<before>{id}</before>"),
            (None, true) => String::new(),
            (None, false) => "<before/>".to_owned(),
        };
        let (page, next) = read_page(client, archive, &at, forward, &mut Vec::new()).await?;
        match forward {
            true => rows.extend(page),
            false => rows.splice(0..0, page).for_each(drop),
        }
        match next {
            Some(next) if edge.as_ref() == Some(&next) => bail!("the page after {next} is itself"),
            Some(next) => edge = Some(next),
            None => return Ok(rows),
        }
    }
}

/// The newest messages with a body, oldest first, and whether there are no older ones.
pub async fn read_newest(client: &mut Client, archive: &str) -> Result<(Vec<String>, bool)> {
    let (page, older) = read_page(client, archive, "<before/>", false, &mut Vec::new()).await?;
    let tokens = page.into_iter().map(|(token, _)| token).collect();
    Ok((tokens, older.is_none()))
}

/// What came behind an id, or all: text and archive id, oldest first. What the client was sent meanwhile goes into
/// `meanwhile`.
pub(super) async fn read_behind(
    client: &mut Client,
    archive: &str,
    id: Option<&str>,
    meanwhile: &mut Vec<Document>,
) -> Result<Vec<(String, String)>> {
    let mut rows = Vec::new();
    let mut edge = id.map(str::to_owned);
    loop {
        let at = edge.map(|id| format!("<after>{id}</after>"));
        let at = at.unwrap_or_default();
        let (page, next) = read_page(client, archive, &at, true, meanwhile).await?;
        rows.extend(page);
        if next.is_none() {
            return Ok(rows);
        }
        edge = next;
    }
}

/// One page and where the next begins; `None` if it was the last.
async fn read_page(
    client: &mut Client,
    archive: &str,
    at: &str,
    forward: bool,
    meanwhile: &mut Vec<Document>,
) -> Result<(Vec<(String, String)>, Option<String>)> {
    let id = client.next_id();
    let query = format!(
        "<iq type='set' id='{id}' to='{archive}'><query xmlns='{}' queryid='{id}'><set xmlns='{}'><max>{PAGE}</max>{at}</set></query></iq>",
        ns::MAM,
        ns::RSM
    );
    client.send(&query).await?;
    let mut rows = Vec::new();
    loop {
        let document = client
            .next_element(PROMPT)
            .await
            .context("a page of the archive")?;
        let root = document.root();
        if root.name() == "iq" && root.attr("id").as_deref() == Some(id.as_str()) {
            return Ok((rows, next_edge(&document, forward)?));
        }
        let result = root.child("result", ns::MAM);
        if let Some(result) = result.filter(|r| r.attr("queryid").as_deref() == Some(id.as_str())) {
            let row_id = result
                .attr("id")
                .context("a result has an id")?
                .into_owned();
            let forwarded = required(result.child("forwarded", ns::FORWARD), "<forwarded/>")?;
            let message = required(forwarded.child("message", ns::CLIENT), "<message/>")?;
            if let Some(body) = message.child("body", ns::CLIENT) {
                rows.push((body.text().into_owned(), row_id));
            }
        } else {
            meanwhile.push(document);
        }
    }
}

fn next_edge(answer: &Document, forward: bool) -> Result<Option<String>> {
    let fin = answer.root().child("fin", ns::MAM);
    let fin = fin.with_context(|| format!("the archive was not readable: {}", answer.source()))?;
    if fin.attr("complete").as_deref() == Some("true") {
        return Ok(None);
    }
    let set = required(fin.child("set", ns::RSM), "<set/>")?;
    let edge = set.child(if forward { "last" } else { "first" }, ns::RSM);
    Ok(Some(required(edge, "the page's edge")?.text().into_owned()))
}
