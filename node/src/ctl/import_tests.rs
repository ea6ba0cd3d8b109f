//! What is sent after what was refused.

use std::cell::RefCell;

use serde_json::Value;

use super::*;

/// A node that takes what it has no word against.
struct Node<F> {
    refuses: F,
    /// Whose piece, of which kind, and its number of contacts, addresses or messages.
    taken: RefCell<Vec<(String, String, usize)>>,
}

impl<F: Fn(&str, &Value) -> Option<&'static str>> Port for Node<F> {
    fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        let body = serde_json::to_value(body).unwrap();
        let kind = body["piece"].as_str().unwrap_or("begin").to_owned();
        if let Some(code) = (self.refuses)(&kind, &body) {
            return Err(Failure::new(Exit::Refused, "no").coded(code));
        }
        let of = path.rsplit('/').next().unwrap().to_owned();
        let lists = ["contacts", "addresses", "messages"];
        let size = lists.iter().find_map(|name| body[*name].as_array());
        let taken = (of, kind, size.map_or(0, Vec::len));
        self.taken.borrow_mut().push(taken);
        Ok(())
    }
}

/// Two users with 200 messages and three contacts each.
fn file() -> String {
    let user = |name: &str| {
        let message = |id: u32| {
            format!(
                "<result xmlns='urn:xmpp:mam:2'><forwarded xmlns='urn:xmpp:forward:0'>\
                 <delay xmlns='urn:xmpp:delay' stamp='2021-01-01T00:00:00Z'/>\
                 <message xmlns='jabber:client' from='x@y' to='{name}@a.b' id='{id}'/></forwarded></result>"
            )
        };
        let messages: String = (0..200).map(message).collect();
        format!(
            "<user name='{name}' password='x'><archive xmlns='urn:xmpp:pie:0#mam'>{messages}</archive>\
             <query xmlns='jabber:iq:roster'><item jid='1@y'/><item jid='2@y'/><item jid='3@y'/></query>\
             <vCard xmlns='vcard-temp'/></user>"
        )
    };
    let users = user("one") + &user("two");
    format!("<host xmlns='urn:xmpp:pie:0' jid='a.b'>{users}</host>")
}

type Taken = Vec<(String, String, usize)>;

/// What the node took, and how it ended.
fn import(
    refuses: impl Fn(&str, &Value) -> Option<&'static str>,
) -> (Taken, Result<Summary, Failure>) {
    let node = Node {
        refuses,
        taken: RefCell::default(),
    };
    let mut import = Import {
        port: &node,
        json: true,
        domain: "a.b".to_owned(),
        now_ms: u64::MAX,
        summary: Summary::default(),
        live: false,
        bytes: 0,
    };
    let file = file();
    let input = Counted {
        input: file.as_bytes(),
        bytes: 0,
    };
    let read = import.read(Reader::new(input));
    let summary = import.summary;
    (node.taken.into_inner(), read.map(|()| summary))
}

fn kinds(taken: &Taken, of: &str) -> Vec<String> {
    let theirs = taken.iter().filter(|(user, ..)| user == of);
    theirs.map(|(_, kind, _)| kind.clone()).collect()
}

const WHOLE: [&str; 7] = [
    "messages", "messages", "messages", "messages", "contacts", "vcard", "finish",
];

#[test]
fn what_is_taken_is_finished() {
    let (taken, summary) = import(|_, _| None);
    assert_eq!(kinds(&taken, "one@a.b"), WHOLE);
    assert_eq!(kinds(&taken, "two@a.b"), WHOLE);
    let summary = summary.unwrap();
    assert_eq!((summary.imported, summary.skipped), (2, 0));
}

/// The archive would be lost without a word.
#[test]
fn no_account_is_finished_without_its_messages() {
    for (code, sent) in [("invalid", 1), ("too-large", 0), ("conflict", 2)] {
        let (taken, summary) = import(|kind, body| {
            let of_one = body.to_string().contains("one@a.b");
            let is_it = kind == "messages" && of_one && body["after"] == sent * 64;
            is_it.then_some(code)
        });
        assert_eq!(kinds(&taken, "one@a.b"), &WHOLE[..sent], "{code}");
        assert_eq!(kinds(&taken, "two@a.b"), WHOLE, "{code}");
        let summary = summary.unwrap();
        assert_eq!(
            (summary.imported, summary.unfinished, summary.skipped),
            (1, 1, 1),
            "{code}"
        );
    }
}

/// The last piece of messages is sent at the user's end, among others.
#[test]
fn the_end_is_not_sent_behind_refused_messages_either() {
    let (taken, summary) =
        import(|kind, body| (kind == "messages" && body["after"] == 192).then_some("invalid"));
    assert_eq!(kinds(&taken, "one@a.b"), &WHOLE[..3]);
    assert_eq!(summary.unwrap().unfinished, 2);
}

#[test]
fn one_thing_that_is_refused_is_passed_over_alone() {
    let (taken, summary) = import(|kind, body| {
        let text = body.to_string();
        let is_bad = kind == "contacts" && text.contains("2@y") || kind == "vcard";
        is_bad.then_some("invalid")
    });
    let expected = [&WHOLE[..5], &["contacts", "finish"][..]].concat();
    assert_eq!(kinds(&taken, "one@a.b"), expected);
    let summary = summary.unwrap();
    assert_eq!((summary.imported, summary.skipped), (2, 4));
}

#[test]
fn who_may_not_import_is_told_so_once() {
    for code in ["unauthorized", "forbidden"] {
        let (taken, summary) = import(|kind, _| (kind == "contacts").then_some(code));
        assert_eq!(kinds(&taken, "one@a.b"), &WHOLE[..4]);
        assert!(kinds(&taken, "two@a.b").is_empty());
        assert_eq!(summary.err().unwrap().code(), Some(code));
    }
}

#[test]
fn an_account_that_is_taken_away_is_left_alone() {
    let (taken, summary) = import(|kind, _| (kind == "vcard").then_some("conflict"));
    assert_eq!(kinds(&taken, "two@a.b"), &WHOLE[..5]);
    assert_eq!(summary.unwrap().unfinished, 2);
}
