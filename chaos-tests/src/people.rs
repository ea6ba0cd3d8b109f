//! Users who see each other: what most stories begin with.

use anyhow::Result;
use xmpp::scan::Document;

use crate::client::{Client, Login};
use crate::wait::PROMPT;

/// A client that has asked for its roster and said that it is there.
pub async fn online(login: &Login) -> Result<Client> {
    let mut client = Client::connect(login).await?;
    client
        .iq_ok("get", None, "<query xmlns='jabber:iq:roster'/>")
        .await?;
    client.send("<presence/>").await?;
    let own = client.jid().as_str().to_owned();
    client
        .find("the own presence", PROMPT, |came| {
            presence_of(came, &own, None)
        })
        .await?;
    Ok(client)
}

/// Whether this is presence of a type from an address that begins so.
pub fn presence_of(document: &Document, from: &str, kind: Option<&str>) -> Option<()> {
    let root = document.root();
    let fits = root.name() == "presence"
        && root
            .attr("from")
            .is_some_and(|address| address.starts_with(from))
        && root.attr("type").as_deref() == kind;
    fits.then_some(())
}

/// What an address that begins so says of its availability (RFC 6121 §4.7.2.1); `None`: it is no such presence.
pub fn show_of(document: &Document, from: &str) -> Option<String> {
    presence_of(document, from, None)?;
    let show = document.root().child("show", xmpp::ns::CLIENT)?;
    Some(show.text().into_owned())
}

/// Both see each other from here on.
pub async fn befriend(a: &mut Client, b: &mut Client) -> Result<()> {
    let (a_bare, b_bare) = (a.jid().bare().to_string(), b.jid().bare().to_string());
    a.send(&format!("<presence type='subscribe' to='{b_bare}'/>"))
        .await?;
    b.find("a request", PROMPT, |came| {
        presence_of(came, &a_bare, Some("subscribe"))
    })
    .await?;
    b.send(&format!("<presence type='subscribed' to='{a_bare}'/>"))
        .await?;
    b.send(&format!("<presence type='subscribe' to='{a_bare}'/>"))
        .await?;
    a.find("the other's presence", PROMPT, |came| {
        presence_of(came, &b_bare, None)
    })
    .await?;
    a.send(&format!("<presence type='subscribed' to='{b_bare}'/>"))
        .await?;
    b.find("the other's presence", PROMPT, |came| {
        presence_of(came, &a_bare, None)
    })
    .await
}
