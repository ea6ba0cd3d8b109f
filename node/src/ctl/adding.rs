//! `muster ctl node add`: a new machine is let in, from the plan to its last replica.
//!
//! The machine joins by itself, with the token that is made here (`muster join`). Whoever watches may go away: the token stays
//! good, and the pool goes on.

use std::io::{self, IsTerminal};
use std::time::Duration;

use web::report::access::{IssuedToken, NewToken, TokenReport, TokensReport};
use web::report::nodes::OperationReport;

use super::client::Client;
use super::nodes::{plan_text, token_text};
use super::progress::{follow, pause};
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

/// Waits until the token has let a node in; gives its id.
fn joined(client: &Client, json: bool, token: &str) -> Result<u64, Failure> {
    if !json {
        print("Waiting for the new machine ...\n")?;
    }
    loop {
        let report: TokensReport = client.get("/v1/tokens")?;
        let mut tokens = report.tokens.into_iter();
        match state(tokens.find(|row| row.id == token).as_ref()) {
            State::Joined(node) => return Ok(node),
            State::Waits => {}
            State::Void(why) => {
                let message = format!("nobody has joined: the token is {why}");
                return Err(Failure::new(Exit::Refused, message));
            }
        }
        let again = "It waits without you: the token stays good. To watch what moves: muster ctl node progress";
        pause(LOOKED_EVERY, again)?;
    }
}

/// What has become of a token.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waits,
    Joined(u64),
    Void(String),
}

fn state(token: Option<&TokenReport>) -> State {
    match token {
        // Spent, and the member is about to be noted.
        Some(TokenReport {
            node: None, state, ..
        }) if state == "open" || state == "spent" => State::Waits,
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
        let check = |word: &str, node, expect| {
            let token = TokenReport {
                id: "0a".to_owned(),
                state: word.to_owned(),
                by: "root@1".to_owned(),
                made_ms: 1,
                ends_ms: 2,
                node,
            };
            assert_eq!(state(Some(&token)), expect, "{word}");
        };
        check("open", None, State::Waits);
        check("spent", None, State::Waits);
        check("spent", Some(4), State::Joined(4));
        check("expired", None, State::Void("expired".to_owned()));
        check("revoked", None, State::Void("revoked".to_owned()));
        assert_eq!(state(None), State::Void("gone".to_owned()));
    }
}
