//! All that can be set besides messages, set anew and read back over real clients: what a pool keeps of a user and of a room.
//!
//! Each value is a *register* with a name. An [`Editor`] sets every register by turns of rounds, each time to another
//! value, so that one that has gone back to an old one is found.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xmpp::ns;
use xmpp::scan::{Document, Element};

use crate::client::{Client, Login};
use crate::load::{create_room_as, join, login_of};
use crate::pool::{DOMAIN, Pool, ROOMS, password};
use crate::wait::PROMPT;

/// Registers and their values.
pub type Values = BTreeMap<String, String>;

/// Whose things are set.
const EDITOR: &str = "editor";

/// Whose password is set.
const REKEYED: &str = "rekeyed";

/// Who is banned and admitted by turns.
const GUEST: &str = "guest";

/// How long a refused join may take: a room without an owner answers after the next election.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// Sets and reads.
pub struct Editor {
    round: usize,
}

fn room() -> String {
    format!("study@{ROOMS}")
}

fn rekeyed(round: usize) -> String {
    match round {
        0 => password(REKEYED),
        round => format!("password {round}"),
    }
}

/// XEP-0045 §9: banned in odd rounds.
fn affiliation(round: usize) -> &'static str {
    match round % 2 {
        1 => "outcast",
        _ => "member",
    }
}

impl Editor {
    /// Makes the accounts and the room.
    pub async fn start(pool: &Pool) -> Result<Editor> {
        pool.add_users(Editor::ACCOUNTS).await?;
        let node = *pool.ids().first().context("a pool has nodes")?;
        Editor::begin(&pool.login(node, EDITOR)).await
    }

    /// The accounts that an editor needs.
    pub const ACCOUNTS: [&str; 3] = [EDITOR, REKEYED, GUEST];

    /// The same for a pool that is no [`Pool`], whose accounts are there; passwords are not set.
    pub async fn begin(login: &Login) -> Result<Editor> {
        create_room_as(&login_of(login, EDITOR), &room()).await?;
        Ok(Editor { round: 0 })
    }

    /// Sets everything but the password anew over the node that a login leads to; gives what was set. All of it was acknowledged.
    pub async fn edit_over(&mut self, login: &Login) -> Result<Values> {
        self.round += 1;
        let round = self.round;
        let mut client = Client::connect(&login_of(login, EDITOR)).await?;
        let mut set = own_things(&mut client, round).await?;
        set.extend(room_things(&mut client, round).await?);
        client.close().await?;
        Ok(set)
    }

    /// Reads everything but the password over the node that a login leads to.
    pub async fn read_over(&self, login: &Login) -> Result<Values> {
        let mut client = Client::connect(&login_of(login, EDITOR)).await?;
        let mut values = read_own_things(&mut client).await?;
        values.extend(read_room_things(&mut client).await?);
        client.close().await?;
        let mut guest = Client::connect(&login_of(login, GUEST)).await?;
        values.insert("guest".into(), enters(&mut guest).await?.into());
        guest.close().await?;
        Ok(values)
    }

    /// Sets everything anew over a node; gives what was set. All of it was acknowledged.
    pub async fn edit(&mut self, pool: &Pool, node: u64) -> Result<Values> {
        let mut set = self.edit_over(&pool.login(node, EDITOR)).await?;
        let round = self.round;
        let path = format!("/v1/users/{REKEYED}@{DOMAIN}/password");
        let body = json!({ "password": rekeyed(round) });
        let control = &pool.node(node).control;
        control.ok("PUT", &path, Some(&body)).await?;
        set.insert("password".into(), rekeyed(round));
        Ok(set)
    }

    /// Reads everything over a node.
    pub async fn read(&self, pool: &Pool, node: u64) -> Result<Values> {
        let mut values = self.read_over(&pool.login(node, EDITOR)).await?;
        let mut open = Vec::new();
        for round in [self.round, self.round.saturating_sub(1)] {
            let password = rekeyed(round);
            let login = Login {
                password: password.clone(),
                ..pool.login(node, REKEYED)
            };
            if lets_in(&login).await? {
                open.push(password);
            }
        }
        values.insert("password".into(), open.join(", "));
        Ok(values)
    }
}

/// Roster (RFC 6121 §2.3), blocklist (XEP-0191), vCard (XEP-0054), private data (XEP-0049). One contact is set anew each time,
/// one is added.
async fn own_things(client: &mut Client, round: usize) -> Result<Values> {
    let mut set = Values::new();
    let name = format!("name {round}");
    for contact in [
        format!("friend@{DOMAIN}"),
        format!("friend-{round}@{DOMAIN}"),
    ] {
        let item = format!("<item jid='{contact}' name='{name}'/>");
        let query = format!("<query xmlns='{}'>{item}</query>", ns::ROSTER);
        client.iq_ok("set", None, &query).await?;
        set.insert(format!("roster {contact}"), name.clone());
    }
    let foe = format!("foe-{round}@{DOMAIN}");
    let block = format!(
        "<block xmlns='{}'><item jid='{foe}'/></block>",
        ns::BLOCKING
    );
    client.iq_ok("set", None, &block).await?;
    set.insert(format!("block {foe}"), "blocked".into());
    let vcard = format!("<vCard xmlns='{}'><FN>{name}</FN></vCard>", ns::VCARD);
    client.iq_ok("set", None, &vcard).await?;
    set.insert("vcard".into(), name.clone());
    let note = format!("<note xmlns='urn:example:note'>{name}</note>");
    let private = format!("<query xmlns='{}'>{note}</query>", ns::PRIVATE);
    client.iq_ok("set", None, &private).await?;
    set.insert("private".into(), name);
    Ok(set)
}

/// Affiliations, configuration and subject (XEP-0045 §9, §10.2, §8.1).
async fn room_things(client: &mut Client, round: usize) -> Result<Values> {
    let room = room();
    join(client, &room, EDITOR).await?;
    let mut set = Values::new();
    set.insert(format!("affiliation {EDITOR}@{DOMAIN}"), "owner".into());
    let banned = format!("banned-{round}@{DOMAIN}");
    for (jid, affiliation) in [
        (banned, "outcast"),
        (format!("{GUEST}@{DOMAIN}"), affiliation(round)),
    ] {
        let item = format!("<item jid='{jid}' affiliation='{affiliation}'/>");
        let query = format!("<query xmlns='{}'>{item}</query>", ns::MUC_ADMIN);
        client.iq_ok("set", Some(&room), &query).await?;
        set.insert(format!("affiliation {jid}"), affiliation.into());
    }
    let enters = match affiliation(round) {
        "outcast" => "is forbidden",
        _ => "enters",
    };
    set.insert("guest".into(), enters.into());
    let name = format!("room {round}");
    let form = format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value></field>\
         <field var='muc#roomconfig_roomname'><value>{name}</value></field></x></query>",
        ns::MUC_OWNER,
        ns::MUC_ROOM_CONFIG
    );
    client.iq_ok("set", Some(&room), &form).await?;
    set.insert("room name".into(), name);
    let subject = format!("subject {round}");
    let message =
        format!("<message type='groupchat' to='{room}'><subject>{subject}</subject></message>");
    client.send(&message).await?;
    client
        .find("the new subject", PROMPT, |came| {
            let told = came.root().child("subject", ns::CLIENT)?;
            (*told.text() == *subject).then_some(())
        })
        .await?;
    set.insert("subject".into(), subject);
    Ok(set)
}

async fn read_own_things(client: &mut Client) -> Result<Values> {
    let mut values = Values::new();
    let roster = format!("<query xmlns='{}'/>", ns::ROSTER);
    let roster = client.iq_ok("get", None, &roster).await?;
    for item in items(&roster)? {
        values.insert(format!("roster {}", attr(item, "jid")), attr(item, "name"));
    }
    let list = format!("<blocklist xmlns='{}'/>", ns::BLOCKING);
    for item in items(&client.iq_ok("get", None, &list).await?)? {
        values.insert(format!("block {}", attr(item, "jid")), "blocked".into());
    }
    let vcard = format!("<vCard xmlns='{}'/>", ns::VCARD);
    let vcard = client.iq_ok("get", None, &vcard).await?;
    values.insert("vcard".into(), text_of(payload(&vcard)?, "FN"));
    let private = format!(
        "<query xmlns='{}'><note xmlns='urn:example:note'/></query>",
        ns::PRIVATE
    );
    let private = client.iq_ok("get", None, &private).await?;
    values.insert("private".into(), text_of(payload(&private)?, "note"));
    Ok(values)
}

async fn read_room_things(client: &mut Client) -> Result<Values> {
    let room = room();
    let mut values = Values::new();
    for affiliation in ["owner", "admin", "member", "outcast"] {
        let query = format!(
            "<query xmlns='{}'><item affiliation='{affiliation}'/></query>",
            ns::MUC_ADMIN
        );
        for item in items(&client.iq_ok("get", Some(&room), &query).await?)? {
            let register = format!("affiliation {}", attr(item, "jid"));
            values.insert(register, affiliation.into());
        }
    }
    let form = format!("<query xmlns='{}'/>", ns::MUC_OWNER);
    let form = client.iq_ok("get", Some(&room), &form).await?;
    let form = payload(&form)?.children().next().context("a form")?;
    let field = form
        .children()
        .find(|f| attr(*f, "var") == "muc#roomconfig_roomname");
    values.insert(
        "room name".into(),
        text_of(field.context("the room's name")?, "value"),
    );
    values.insert("subject".into(), join(client, &room, EDITOR).await?);
    Ok(values)
}

/// Whether who was banned comes in (XEP-0045 §7.2.7).
async fn enters(guest: &mut Client) -> Result<&'static str> {
    let to = format!("{}/{GUEST}", room());
    let presence = format!("<presence to='{to}'><x xmlns='{}'/></presence>", ns::MUC);
    guest.send(&presence).await?;
    guest
        .find("an answer to the join", JOIN_LIMIT, |came| {
            let root = came.root();
            if root.name() != "presence" || attr(root, "from") != to {
                return None;
            }
            match root.attr("type").as_deref() {
                None => Some(Ok("enters")),
                Some("error") if came.source().contains("<forbidden") => Some(Ok("is forbidden")),
                Some(_) => Some(Err(came.source().to_owned())),
            }
        })
        .await?
        .map_err(|came| anyhow::anyhow!("the join was answered with {came}"))
}

/// Whether a password is right.
async fn lets_in(login: &Login) -> Result<bool> {
    match Client::connect(login).await {
        Ok(client) => client.close().await.map(|()| true),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains("not-authorized"),
                "no answer to a password: {said}"
            );
            Ok(false)
        }
    }
}

fn attr(element: Element<'_>, name: &str) -> String {
    element.attr(name).unwrap_or_default().into_owned()
}

/// What an iq's answer holds.
fn payload(answer: &Document) -> Result<Element<'_>> {
    let payload = answer.root().children().next();
    payload.with_context(|| format!("an empty answer: {}", answer.source()))
}

fn items(answer: &Document) -> Result<Vec<Element<'_>>> {
    let items = payload(answer)?.children();
    Ok(items.filter(|item| item.name() == "item").collect())
}

/// The text of a child.
fn text_of(element: Element<'_>, child: &str) -> String {
    let child = element.children().find(|element| element.name() == child);
    child
        .map(|child| child.text().into_owned())
        .unwrap_or_default()
}
