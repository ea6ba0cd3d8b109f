//! The missing-attribute matrix: every handler of an iq with an attribute, child or value missing, empty or garbage gives
//! the error of its specification, and the stream lives on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::pool::{Pool, PoolSettings};
use xmpp::scan::Document;
use xmpp::stanza_error::StanzaError;

const LIMIT: Duration = Duration::from_secs(10);

// Tables: a line a request, with its type, `to` (`-`: none), payload, and the condition of the answer, or `result`.

/// RFC 6121 §2.
const ROSTER: &str = "
set - <query xmlns='jabber:iq:roster'/> => bad-request
set - <query xmlns='jabber:iq:roster'><item/></query> => bad-request
set - <query xmlns='jabber:iq:roster'><item jid=''/></query> => jid-malformed
set - <query xmlns='jabber:iq:roster'><item jid='@x'/></query> => jid-malformed
set - <query xmlns='jabber:iq:roster'><item jid='a@b'/><item jid='c@d'/></query> => bad-request
set - <query xmlns='jabber:iq:roster'><item xmlns='urn:x' jid='a@b'/></query> => bad-request
set - <query xmlns='jabber:iq:roster'><item jid='romeo@localhost'/></query> => not-allowed
set - <query xmlns='jabber:iq:roster'><item jid='a@b'><group/></item></query> => not-acceptable
set - <query xmlns='jabber:iq:roster'><item jid='a@b'><group>g</group><group>g</group></item></query> => bad-request
set - <query xmlns='jabber:iq:roster'><item jid='a@b' subscription='remove'/></query> => item-not-found
set - <query xmlns='jabber:iq:roster'><item jid='a@b' subscription='garbage' ask='x' approved='y'/></query> => result
set - <query xmlns='jabber:iq:roster'><item jid='a@b' subscription='remove' name='x'/></query> => result
get - <query xmlns='jabber:iq:roster' ver='garbage'/> => result
get - <query xmlns='jabber:iq:roster'><item/></query> => result
get juliet@localhost <query xmlns='jabber:iq:roster'/> => forbidden
set juliet@localhost <query xmlns='jabber:iq:roster'><item jid='a@b'/></query> => forbidden
";

/// XEP-0049, XEP-0054.
const STORED: &str = "
get - <query xmlns='jabber:iq:private'/> => bad-request
set - <query xmlns='jabber:iq:private'/> => bad-request
set - <query xmlns='jabber:iq:private'><a/></query> => not-acceptable
get - <query xmlns='jabber:iq:private'><a xmlns='urn:a'/><b xmlns='urn:b'/></query> => bad-request
get - <query xmlns='jabber:iq:private'><a xmlns='urn:a'/></query> => result
get juliet@localhost <query xmlns='jabber:iq:private'><a xmlns='urn:a'/></query> => service-unavailable
get - <vCard xmlns='vcard-temp'/> => item-not-found
get juliet@localhost <vCard xmlns='vcard-temp'/> => item-not-found
get nobody@localhost <vCard xmlns='vcard-temp'/> => item-not-found
set juliet@localhost <vCard xmlns='vcard-temp'/> => forbidden
get localhost <vCard xmlns='vcard-temp'/> => service-unavailable
get - <garbage xmlns='vcard-temp'/> => service-unavailable
";

/// XEP-0191, XEP-0280.
const BLOCKING_AND_CARBONS: &str = "
get - <block xmlns='urn:xmpp:blocking'/> => bad-request
set - <blocklist xmlns='urn:xmpp:blocking'/> => bad-request
set - <block xmlns='urn:xmpp:blocking'/> => bad-request
set - <block xmlns='urn:xmpp:blocking'><item/></block> => bad-request
set - <block xmlns='urn:xmpp:blocking'><item jid=''/></block> => jid-malformed
set - <block xmlns='urn:xmpp:blocking'><item xmlns='urn:x' jid='a@b'/></block> => bad-request
set - <unblock xmlns='urn:xmpp:blocking'><item/></unblock> => bad-request
set - <unblock xmlns='urn:xmpp:blocking'><item jid='a@b'/></unblock> => result
set - <unblock xmlns='urn:xmpp:blocking'/> => result
get juliet@localhost <blocklist xmlns='urn:xmpp:blocking'/> => service-unavailable
get - <enable xmlns='urn:xmpp:carbons:2'/> => bad-request
set - <garbage xmlns='urn:xmpp:carbons:2'/> => service-unavailable
set - <disable xmlns='urn:xmpp:carbons:2'/> => result
set - <disable xmlns='urn:xmpp:carbons:2'/> => result
set juliet@localhost <enable xmlns='urn:xmpp:carbons:2'/> => service-unavailable
set localhost <enable xmlns='urn:xmpp:carbons:2'/> => service-unavailable
";

/// XEP-0313, XEP-0059.
const ARCHIVE: &str = "
get - <query xmlns='urn:xmpp:mam:2'/> => result
get - <metadata xmlns='urn:xmpp:mam:2'/> => result
set - <metadata xmlns='urn:xmpp:mam:2'/> => bad-request
get - <prefs xmlns='urn:xmpp:mam:2'/> => service-unavailable
set - <query xmlns='urn:xmpp:mam:2' node='x'/> => item-not-found
set juliet@localhost <query xmlns='urn:xmpp:mam:2'/> => forbidden
set nobody@localhost <query xmlns='urn:xmpp:mam:2'/> => forbidden
set nowhere@conference.localhost <query xmlns='urn:xmpp:mam:2'/> => item-not-found
set - <query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='cancel'/></query> => bad-request
set - <query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'/></query> => bad-request
";

/// Fields of a submitted form, as (var, value), and the condition.
const FIELDS: &[(&str, &str, &str)] = &[
    ("with", "", "bad-request"),
    ("with", "@@", "bad-request"),
    ("start", "", "bad-request"),
    ("start", "yesterday", "bad-request"),
    ("end", "2010-06-31T00:00:00Z", "bad-request"),
    ("end", "2010-06-30T00:00:00.123Z", "result"),
    ("start", "1900-01-01T00:00:00+14:00", "result"),
    ("after-id", "garbage", "item-not-found"),
    ("before-id", "", "item-not-found"),
    ("ids", "0", "item-not-found"),
    ("withtext", "x", "feature-not-implemented"),
    ("", "x", "feature-not-implemented"),
];

/// Children of a result set, and the condition.
const SETS: &[(&str, &str)] = &[
    ("<max/>", "bad-request"),
    ("<max>-1</max>", "bad-request"),
    ("<max>ten</max>", "bad-request"),
    ("<max>99999999999999999999999</max>", "result"),
    ("<max>0</max>", "result"),
    ("<before>garbage</before>", "item-not-found"),
    ("<after>garbage</after>", "item-not-found"),
    ("<before/><after/>", "result"),
    ("<index>0</index>", "feature-not-implemented"),
    ("<garbage/>", "result"),
];

/// XEP-0030, XEP-0199, XEP-0092, XEP-0202, and what nobody knows.
const OTHERS: &str = "
get - <query xmlns='http://jabber.org/protocol/disco#info' node=''/> => result
get - <query xmlns='http://jabber.org/protocol/disco#info' node='x'/> => item-not-found
set - <query xmlns='http://jabber.org/protocol/disco#info'/> => service-unavailable
get localhost <query xmlns='http://jabber.org/protocol/disco#items' node='x'/> => item-not-found
get juliet@localhost <query xmlns='http://jabber.org/protocol/disco#info'/> => service-unavailable
get nobody@localhost <query xmlns='http://jabber.org/protocol/disco#items'/> => service-unavailable
get romeo@localhost <ping xmlns='urn:xmpp:ping'/> => result
get juliet@localhost <ping xmlns='urn:xmpp:ping'/> => service-unavailable
set localhost <ping xmlns='urn:xmpp:ping'/> => service-unavailable
set localhost <query xmlns='jabber:iq:version'/> => service-unavailable
set localhost <time xmlns='urn:xmpp:time'/> => service-unavailable
set - <session xmlns='urn:ietf:params:xml:ns:xmpp-session'/> => result
set - <query xmlns='jabber:iq:register'/> => not-acceptable
set - <query xmlns='jabber:iq:register'><username>juliet</username><password>x</password></query> => not-allowed
get - <garbage xmlns='urn:garbage'/> => service-unavailable
set localhost <garbage xmlns='urn:garbage'/> => service-unavailable
get localhost/garbage <garbage xmlns='urn:garbage'/> => service-unavailable
get conference.localhost <garbage xmlns='urn:garbage'/> => service-unavailable
get juliet@localhost <garbage xmlns='urn:garbage'/> => service-unavailable
get juliet@localhost/x <garbage xmlns='urn:garbage'/> => service-unavailable
get juliet@elsewhere.example <ping xmlns='urn:xmpp:ping'/> => remote-server-not-found
get elsewhere.example <ping xmlns='urn:xmpp:ping'/> => remote-server-not-found
get @ <ping xmlns='urn:xmpp:ping'/> => jid-malformed
get -  => bad-request
set localhost  => bad-request
get - <ping xmlns='urn:xmpp:ping'/><ping xmlns='urn:xmpp:ping'/> => bad-request
garbage - <ping xmlns='urn:xmpp:ping'/> => bad-request
";

/// XEP-0045 §8–10, XEP-0030, XEP-0199, XEP-0313, XEP-0410: Romeo owns `own` and is in it; `den` is Juliet's; there is no `nowhere`.
const ROOMS: &str = "
get nowhere@conference.localhost <ping xmlns='urn:xmpp:ping'/> => item-not-found
get nowhere@conference.localhost <query xmlns='http://jabber.org/protocol/disco#info'/> => item-not-found
get nowhere@conference.localhost <query xmlns='http://jabber.org/protocol/disco#items'/> => item-not-found
get nowhere@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'/> => item-not-found
set nowhere@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'><destroy/></query> => item-not-found
get nowhere@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='owner'/></query> => item-not-found
get nowhere@conference.localhost/x <ping xmlns='urn:xmpp:ping'/> => item-not-found
get nowhere@conference.localhost/x <garbage xmlns='urn:garbage'/> => item-not-found
get nowhere@conference.localhost <garbage xmlns='urn:garbage'/> => service-unavailable
get own@conference.localhost <ping xmlns='urn:xmpp:ping'/> => result
set own@conference.localhost <ping xmlns='urn:xmpp:ping'/> => service-unavailable
get own@conference.localhost/romeo <ping xmlns='urn:xmpp:ping'/> => result
get own@conference.localhost/nobody <ping xmlns='urn:xmpp:ping'/> => item-not-found
get own@conference.localhost <query xmlns='http://jabber.org/protocol/disco#info' node=''/> => result
get own@conference.localhost <query xmlns='http://jabber.org/protocol/disco#info' node='x'/> => item-not-found
get own@conference.localhost <query xmlns='http://jabber.org/protocol/disco#items' node='x'/> => item-not-found
set own@conference.localhost <query xmlns='http://jabber.org/protocol/disco#info'/> => service-unavailable
get own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'/> => bad-request
get own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item/></query> => bad-request
get own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='garbage'/></query> => bad-request
get own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item role='garbage'/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'/> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='member'/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item jid='' affiliation='member'/></query> => jid-malformed
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item jid='@' affiliation='member'/></query> => jid-malformed
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item jid='a@localhost' affiliation=''/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item jid='a@localhost' affiliation='garbage'/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item nick='romeo' role='garbage'/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item nick='' role='visitor'/></query> => item-not-found
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item nick='nobody' role='visitor'/></query> => item-not-found
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item jid='romeo@localhost' affiliation='none'/></query> => conflict
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'/> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'><garbage/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data'/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='garbage'/></query> => bad-request
set own@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='muc#roomconfig_persistentroom'><value>garbage</value></field></x></query> => not-acceptable
set own@conference.localhost <query xmlns='urn:xmpp:mam:2' node='x'/> => item-not-found
get own@conference.localhost <garbage xmlns='urn:garbage'/> => service-unavailable
get den@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'/> => forbidden
set den@conference.localhost <query xmlns='http://jabber.org/protocol/muc#owner'><destroy/></query> => forbidden
set den@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item jid='a@localhost' affiliation='member'/></query> => forbidden
get den@conference.localhost <query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='outcast'/></query> => forbidden
get den@conference.localhost/juliet <ping xmlns='urn:xmpp:ping'/> => not-acceptable
get den@conference.localhost/juliet <query xmlns='http://jabber.org/protocol/disco#info'/> => bad-request
";

/// The condition of an answer, or `result`.
fn outcome(answer: &Document) -> Result<String> {
    let root = answer.root();
    let kind = root.attr("type").context("an answer without type")?;
    if kind != "error" {
        return Ok(kind.into_owned());
    }
    let error = root
        .child("error", "jabber:client")
        .context("no <error/>")?;
    Ok(StanzaError::parse(error).condition.to_string())
}

async fn check(client: &mut Client, row: (&str, &str, &str), expect: &str) -> Result<()> {
    let (kind, to, payload) = row;
    let to = (to != "-").then_some(to);
    let answer = client.iq(kind, to, payload).await?;
    let came = outcome(&answer)?;
    ensure!(
        came == expect,
        "{kind} to {to:?} {payload}: {came}, not {expect}"
    );
    Ok(())
}

async fn check_tables(client: &mut Client, tables: &[&'static str]) -> Result<()> {
    let mut wrong = Vec::new();
    let lines = tables.iter().copied().flat_map(str::lines);
    for line in lines.filter(|line| !line.is_empty()) {
        let (request, expect) = line.rsplit_once(" => ").context(line)?;
        let (kind, rest) = request.split_once(' ').context(line)?;
        let (to, payload) = rest.split_once(' ').context(line)?;
        if let Err(error) = check(client, (kind, to, payload), expect).await {
            wrong.push(error.to_string());
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// An instant room (XEP-0045 §10.1.2), in which its owner stays.
async fn make_room(client: &mut Client, room: &str, nick: &str) -> Result<()> {
    let join = format!(
        "<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    );
    client.send(&join).await?;
    loop {
        let came = client.next_element(LIMIT).await?;
        // The last thing of a join is the subject.
        if came.root().name() == "message" {
            break;
        }
    }
    let instant = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>";
    check(client, ("set", room, instant), "result").await
}

async fn matrix() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    pool.add_users(["romeo", "juliet"]).await?;
    let mut romeo = Client::connect(&pool.login(1, "romeo")).await?;
    let mut juliet = Client::connect(&pool.login(1, "juliet")).await?;
    let tables = [ROSTER, STORED, BLOCKING_AND_CARBONS, ARCHIVE, OTHERS];
    check_tables(&mut romeo, &tables).await?;
    make_room(&mut juliet, "den@conference.localhost", "juliet").await?;
    make_room(&mut romeo, "own@conference.localhost", "romeo").await?;
    check_tables(&mut romeo, &[ROOMS]).await?;
    for (var, value, expect) in FIELDS {
        let payload = format!(
            "<query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'>\
             <field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>\
             <field var='{var}'><value>{value}</value></field></x></query>"
        );
        check(&mut romeo, ("set", "-", &payload), expect).await?;
    }
    for (set, expect) in SETS {
        let payload = format!(
            "<query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'>{set}</set></query>"
        );
        check(&mut romeo, ("set", "-", &payload), expect).await?;
    }
    let long = "x".repeat(2_000);
    let name = format!("<query xmlns='jabber:iq:roster'><item jid='a@b' name='{long}'/></query>");
    check(&mut romeo, ("set", "-", &name), "not-acceptable").await?;
    let query_id = format!("<query xmlns='urn:xmpp:mam:2' queryid='{long}'/>");
    check(&mut romeo, ("set", "-", &query_id), "bad-request").await?;
    unanswerable(&mut romeo).await?;
    romeo.close().await
}

/// RFC 6120 §8.2.3, §8.3.1: a request without an id is refused without one, answers and errors are never answered.
async fn unanswerable(client: &mut Client) -> Result<()> {
    let ping = "<ping xmlns='urn:xmpp:ping'/>";
    client.send(&format!("<iq type='get'>{ping}</iq>")).await?;
    let refused = client.next_element(LIMIT).await?;
    ensure!(
        outcome(&refused)? == "bad-request" && refused.root().attr("id").is_none(),
        "came: {}",
        refused.source()
    );
    let silent = [
        "<iq type='result' id='1'/>",
        "<iq type='result' id='2' to='elsewhere.example'/>",
        "<iq type='result' id='3' to='nobody@localhost/x'/>",
        "<iq type='error' id='4' to='localhost'><error type='cancel'/></iq>",
        "<iq type='error' to='localhost'/>",
        "<message type='error' id='5' to='nobody@localhost'><body>x</body></message>",
        "<message type='error' id='6' to='a@elsewhere.example'><body>x</body></message>",
        "<message type='error' id='7' to='@'><body>x</body></message>",
        "<presence type='error' id='8' to='nobody@localhost'/>",
        "<presence type='error' id='9' to='a@elsewhere.example'/>",
        "<presence type='error' id='10'/>",
    ];
    for stanza in silent {
        client.send(stanza).await?;
    }
    client
        .send(&format!("<iq type='get' id='end'>{ping}</iq>"))
        .await?;
    let next = client.next_element(LIMIT).await?;
    ensure!(
        next.root().attr("id").as_deref() == Some("end"),
        "came: {}",
        next.source()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handler_refuses_what_it_cannot_read() {
    matrix().await.expect("the error of the specification");
}
