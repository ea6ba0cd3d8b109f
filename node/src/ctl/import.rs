//! `muster ctl import`: accounts out of a file of XEP-0227, one after the other, while it is read.
//!
//! A run that ends early is simply begun again: accounts that have their credentials are left as they are, and one that was cut
//! short is gone on with.
//!
//! Invariant: an account is finished only if the node has taken all messages that were sent to it. When it refuses some, the rest
//! could never follow, so the account stays unfinished, which is said.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use web::report::PoolReport;
use web::report::imports::{ImportPiece, NewImport};
use xmpp::jid::BareJid;

use super::client::{Client, query};
use super::print_json;
use crate::exit::{Exit, Failure, print};
use crate::pie::reader::{Piece, Reader};
use crate::pie::skipped::Skipped;
use crate::pie::user::{Collector, Taken};

/// Where pieces are sent to.
trait Port {
    /// Does something with a body, whose answer says nothing.
    fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Failure>;
}

impl Port for Client {
    fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        self.post_quietly(path, body)
    }
}

/// What became of one user.
#[derive(Serialize)]
struct UserReport {
    user: String,
    line: u64,
    outcome: Outcome,
    taken: Taken,
    /// What was passed over or refused, with the lines of the file.
    skipped: Vec<SkippedReport>,
    /// How much more was.
    skipped_more: u64,
}

#[derive(Serialize)]
struct SkippedReport {
    line: u64,
    what: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The account is there, with all but what is listed.
    Imported,
    /// There is such an account: it was left as it is.
    Exists,
    /// Nothing of it could be imported.
    Refused,
    /// The node refused messages, or the account is no longer one that is imported: it was left as it is.
    Unfinished,
}

#[derive(Default, Serialize)]
struct Summary {
    imported: u64,
    exist: u64,
    refused: u64,
    unfinished: u64,
    /// Elements of users that were passed over or refused, and users that were.
    skipped: u64,
}

/// `muster ctl import`
pub(super) fn import(client: &Client, json: bool, file: &Path) -> Result<(), Failure> {
    let opened = File::open(file).map_err(|error| crate::init::at(file, &error))?;
    let bytes = opened.metadata().map(|metadata| metadata.len());
    let pool: PoolReport = client.get("/v1/status")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let mut import = Import {
        port: client,
        json,
        domain: pool.domain,
        now_ms,
        summary: Summary::default(),
        live: !json && io::stderr().is_terminal(),
        bytes: bytes.unwrap_or(0),
    };
    let counted = Counted {
        input: BufReader::new(opened),
        bytes: 0,
    };
    let read = import.read(Reader::new(counted));
    import.clear();
    read.map_err(|failure| {
        failure.and("; what was imported so far is there: the same command goes on behind it")
    })?;
    import.end()
}

/// Counts what was read.
struct Counted<R> {
    input: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

struct Import<'a, P> {
    port: &'a P,
    json: bool,
    domain: String,
    now_ms: u64,
    summary: Summary,
    live: bool,
    bytes: u64,
}

/// The user that is being imported; without a collector it is passed over.
struct Current {
    report: UserReport,
    skipped: Skipped,
    path: String,
    collector: Option<Collector>,
}

impl<P: Port> Import<'_, P> {
    fn read(&mut self, mut reader: Reader<Counted<impl Read>>) -> Result<(), Failure> {
        let mut current: Option<Current> = None;
        loop {
            let piece = reader
                .next()
                .map_err(|error| Failure::from_error(Exit::Data, &error))?;
            match piece {
                Piece::End => return Ok(()),
                Piece::Skipped { what, line } => match &mut current {
                    Some(current) => current.skip(line, what),
                    None => {
                        self.summary.skipped += 1;
                        self.say(&format!("line {line}: {what}\n"))?;
                    }
                },
                Piece::User {
                    host,
                    name,
                    password,
                    line,
                } => current = Some(self.begin(&host, &name, password, line)?),
                Piece::Element {
                    within,
                    element,
                    line,
                } => {
                    let Some(current) = &mut current else {
                        continue;
                    };
                    let Some(collector) = &mut current.collector else {
                        continue;
                    };
                    if let Some(piece) = collector.element(within, &element, line) {
                        self.send(current, piece, line)?;
                    }
                }
                Piece::UserEnd => {
                    if let Some(current) = current.take() {
                        self.finish(current, reader.line())?;
                    }
                    self.progress(reader.input().bytes);
                }
            }
        }
    }

    fn begin(
        &mut self,
        host: &str,
        name: &str,
        password: Option<String>,
        line: u64,
    ) -> Result<Current, Failure> {
        let address = format!("{name}@{host}");
        let mut current = Current {
            report: UserReport {
                user: address.clone(),
                line,
                outcome: Outcome::Refused,
                taken: Taken::default(),
                skipped: Vec::new(),
                skipped_more: 0,
            },
            skipped: Skipped::default(),
            path: String::new(),
            collector: None,
        };
        let user = match BareJid::parse(&address) {
            Ok(user) if !name.is_empty() && user.domain() == self.domain => user,
            Ok(_) => {
                let what = format!("users of this pool are of the domain {}", self.domain);
                current.skip(line, what);
                return Ok(current);
            }
            Err(error) => {
                current.skip(line, error.to_string());
                return Ok(current);
            }
        };
        let new = NewImport {
            user: user.to_string(),
        };
        match self.port.post("/v1/imports", &new) {
            Ok(()) => {
                current.report.outcome = Outcome::Imported;
                current.report.user = user.to_string();
                current.path = format!("/v1/imports/{}", query(user.as_str()));
                current.collector = Some(Collector::new(user, password, self.now_ms));
            }
            Err(failure) if failure.code() == Some("conflict") => {
                current.report.outcome = Outcome::Exists;
            }
            Err(failure) if is_of_what_was_sent(&failure) => {
                current.skip(line, failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
        Ok(current)
    }

    /// Sends a piece. What is refused is noted; contacts and blocked addresses are then tried one by one. Refused messages end the
    /// user's import.
    fn send(&self, current: &mut Current, piece: ImportPiece, line: u64) -> Result<(), Failure> {
        let mut pieces = vec![piece];
        while let Some(piece) = pieces.pop() {
            let failure = match self.port.post(&current.path, &piece) {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            if matches!(failure.code(), Some("conflict" | "not-found")) {
                current.stop(
                    line,
                    "the account was removed or given a password meanwhile",
                );
                return Ok(());
            }
            if !is_of_what_was_sent(&failure) {
                return Err(failure);
            }
            match piece {
                ImportPiece::Contacts { contacts } if contacts.len() > 1 => {
                    let ones = contacts.into_iter().map(|contact| ImportPiece::Contacts {
                        contacts: vec![contact],
                    });
                    pieces.extend(ones);
                }
                ImportPiece::Blocked { addresses } if addresses.len() > 1 => {
                    let ones = addresses.into_iter().map(|address| ImportPiece::Blocked {
                        addresses: vec![address],
                    });
                    pieces.extend(ones);
                }
                ImportPiece::Messages { .. } => {
                    current.stop(line, format!("messages: {failure}"));
                    return Ok(());
                }
                piece => current.skip(line, format!("{}: {failure}", word(&piece))),
            }
        }
        Ok(())
    }

    fn finish(&mut self, mut current: Current, line: u64) -> Result<(), Failure> {
        if let Some(mut collector) = current.collector.take() {
            for piece in collector.finish(line) {
                self.send(&mut current, piece, line)?;
                if current.report.outcome == Outcome::Unfinished {
                    break;
                }
            }
            if current.report.outcome == Outcome::Imported {
                current.report.taken = collector.taken;
            }
            current.skipped.append(collector.skipped);
        }
        let Current {
            mut report,
            skipped,
            ..
        } = current;
        self.summary.skipped += skipped.count();
        report.skipped_more = skipped.more;
        let lines = skipped.lines.into_iter();
        report.skipped = lines
            .map(|(line, what)| SkippedReport { line, what })
            .collect();
        match report.outcome {
            Outcome::Imported => self.summary.imported += 1,
            Outcome::Exists => self.summary.exist += 1,
            Outcome::Refused => self.summary.refused += 1,
            Outcome::Unfinished => self.summary.unfinished += 1,
        }
        match self.json {
            true => print_json(&report),
            false => self.say(&words(&report)),
        }
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        self.clear();
        match self.json {
            true => Ok(()),
            false => print(text),
        }
    }

    fn progress(&self, read: u64) {
        if self.live {
            let percent = (read * 100).checked_div(self.bytes).unwrap_or(0).min(100);
            let Summary {
                imported,
                exist,
                refused,
                unfinished,
                ..
            } = self.summary;
            let users = imported + exist + refused + unfinished;
            // Where standard error is closed there is nobody to tell.
            let _ = write!(io::stderr(), "\r{percent} %, {users} users\x1b[K");
        }
    }

    fn clear(&self) {
        if self.live {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn end(&self) -> Result<(), Failure> {
        let Summary {
            imported,
            exist,
            refused,
            unfinished,
            skipped,
        } = &self.summary;
        if self.json {
            print_json(&self.summary)?;
        } else {
            print(&format!(
                "{imported} users imported, {exist} exist already, {refused} refused, {unfinished} unfinished; {skipped} things passed over\n"
            ))?;
        }
        match *skipped {
            0 => Ok(()),
            _ => Err(Failure::new(
                Exit::Refused,
                "not everything in the file was imported: see above",
            )),
        }
    }
}

impl Current {
    fn skip(&mut self, line: u64, what: impl Into<String>) {
        self.skipped.note(line, what);
    }

    /// Nothing more is sent of the user, least of all the end.
    fn stop(&mut self, line: u64, why: impl Into<String>) {
        self.report.outcome = Outcome::Unfinished;
        if let Some(collector) = self.collector.take() {
            self.skipped.append(collector.skipped);
        }
        self.skip(line, why);
    }
}

/// Whether the node refused what was sent, and not whoever sent it: then there is more to be sent.
fn is_of_what_was_sent(failure: &Failure) -> bool {
    matches!(failure.code(), Some("invalid" | "too-large" | "malformed"))
}

fn word(piece: &ImportPiece) -> &'static str {
    match piece {
        ImportPiece::Contacts { .. } => "a contact",
        ImportPiece::Messages { .. } => "messages",
        ImportPiece::Blocked { .. } => "blocked addresses",
        ImportPiece::Private { .. } => "a private element",
        ImportPiece::Vcard { .. } => "the vCard",
        ImportPiece::Finish { .. } => "the credentials",
    }
}

/// A user's report for people.
fn words(report: &UserReport) -> String {
    let Taken {
        contacts,
        messages,
        waiting,
        blocked,
        private,
        vcard,
    } = report.taken;
    let mut text = match report.outcome {
        Outcome::Imported => format!(
            "{}: {contacts} contacts, {messages} messages, {waiting} that wait, {blocked} blocked, {private} private elements, {} vCard\n",
            report.user,
            if vcard { "a" } else { "no" }
        ),
        Outcome::Exists => format!("{}: exists already: left as it is\n", report.user),
        Outcome::Refused => format!("{}: refused\n", report.user),
        Outcome::Unfinished => format!(
            "{}: not finished: the same command goes on with it; until all of it is there nobody can log in to it\n",
            report.user
        ),
    };
    for skipped in &report.skipped {
        text.push_str(&format!("    line {}: {}\n", skipped.line, skipped.what));
    }
    if report.skipped_more > 0 {
        text.push_str(&format!("    and {} more\n", report.skipped_more));
    }
    text
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
