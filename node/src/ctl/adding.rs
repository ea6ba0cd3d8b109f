//! `muster ctl node add`: a new machine is let in, from the plan to its last replica.
//!
//! The machine joins by itself, with the token that is made here (`muster join`). Whoever watches may go away: the token stays
//! good, and the pool goes on.

use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use web::report::access::{IssuedToken, NewToken, TokenReport, TokensReport};
use web::report::nodes::OperationReport;

use super::client::Client;
use super::nodes::{plan_text, token_text};
use super::progress::{SILENT_MAX, follow, pause};
use super::{confirm, print_json};
use crate::cli::{AddArgs, Listed};
use crate::exit::{Exit, Failure, print};

/// How often the token is looked at.
const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// Shows the plan, asks, makes the token, and waits for the machine.
pub(super) fn add(client: &Client, json: bool, args: &AddArgs) -> Result<(), Failure> {
    let AddArgs { at, ttl, .. } = args;
    let plan: OperationReport = client.get(&web::path_with("/v1/nodes/addition", "address", at))?;
    if args.dry_run {
        return match json {
            true => print_json(&plan),
            false => print(&plan_text(&plan)),
        };
    }
    if !args.yes {
        confirm(&plan_text(&plan), &format!("add a node at {at}"))?;
    }
    let new = NewToken {
        ttl_s: *ttl,
        addresses: Listed::flat(&args.address),
    };
    let issued: IssuedToken = client.post("/v1/tokens", &new)?;
    match json {
        true => print_json(&issued)?,
        false => print(&token_text(&issued))?,
    }
    if !(args.wait || !json && io::stdout().is_terminal()) {
        return Ok(());
    }
    let node = joined(client, json, &issued.id)?;
    if !json {
        print(&format!(
            "node {node} has joined; start it, and it takes its replicas over\n"
        ))?;
    }
    follow(client, json, "muster ctl node progress")
}

/// Waits until the token has let a node in; gives its id. A node that can't be reached is asked again: it may be restarted.
fn joined(client: &Client, json: bool, token: &str) -> Result<u64, Failure> {
    if !json {
        print("Waiting for the new machine ...\n")?;
    }
    let mut silent = Duration::ZERO;
    loop {
        match client.get::<TokensReport>("/v1/tokens") {
            Ok(report) => {
                silent = Duration::ZERO;
                let mut tokens = report.tokens.into_iter();
                match state(tokens.find(|row| row.id == token).as_ref(), now_ms()) {
                    State::Joined(node) => return Ok(node),
                    State::Waits => {}
                    State::Void(why) => {
                        let message = format!("nobody has joined: the token is {why}");
                        return Err(Failure::new(Exit::Refused, message));
                    }
                }
            }
            Err(failure) if failure.exit == Exit::Unavailable && silent < SILENT_MAX => {
                silent += LOOKED_EVERY;
            }
            Err(failure) => return Err(failure.and("; the token stays good")),
        }
        let again = "It waits without you: the token stays good. To watch what moves: muster ctl node progress";
        pause(LOOKED_EVERY, again)?;
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// What has become of a token.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waits,
    Joined(u64),
    Void(String),
}

fn state(token: Option<&TokenReport>, now_ms: u64) -> State {
    match token {
        Some(token) if token.node.is_none() && token.state == "open" => State::Waits,
        Some(token) if token.node.is_none() && token.state == "spent" => {
            // The member is about to be noted; or it was refused, and its machine may ask again while the token lasts.
            match now_ms < token.ends_ms {
                true => State::Waits,
                false => State::Void("spent, and nobody was let in with it".to_owned()),
            }
        }
        Some(TokenReport {
            node: Some(node), ..
        }) => State::Joined(*node),
        Some(token) => State::Void(token.state.clone()),
        None => State::Void("gone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_token() {
        let check = |word: &str, node, now_ms, expect| {
            let token = TokenReport {
                id: "0a".to_owned(),
                state: word.to_owned(),
                by: "root@1".to_owned(),
                made_ms: 1,
                ends_ms: 10,
                node,
            };
            assert_eq!(state(Some(&token), now_ms), expect, "{word}");
        };
        let void = |why: &str| State::Void(why.to_owned());
        check("open", None, 2, State::Waits);
        check("spent", None, 2, State::Waits);
        check("spent", Some(4), 2, State::Joined(4));
        check("spent", Some(4), 20, State::Joined(4));
        check(
            "spent",
            None,
            10,
            void("spent, and nobody was let in with it"),
        );
        check("expired", None, 10, void("expired"));
        check("revoked", None, 2, void("revoked"));
        assert_eq!(state(None, 2), void("gone"));
    }
}
