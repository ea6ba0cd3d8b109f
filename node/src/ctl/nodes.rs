//! `muster ctl node`.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;

use web::report::access::{IssuedToken, NewToken, TokenReport, TokensReport};
use web::report::nodes::{
    DrainRequest, NodeReport, NodesReport, OperationReport, RemoveRequest, ReplaceRequest,
};

use super::access::moment;
use super::adding::add;
use super::client::Client;
use super::progress::follow;
use super::table::{table, yes};
use super::{confirm, done, print_json};
use crate::cli::{Listed, NodeCommand, OperationArgs};
use crate::exit::{Failure, print};

/// `muster ctl node`
pub(super) fn run(client: &Client, json: bool, command: &NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(client, json),
        NodeCommand::Add(args) => add(client, json, args),
        NodeCommand::Token { ttl, address } => issue(client, json, *ttl, Listed::flat(address)),
        NodeCommand::Tokens => tokens(client, json),
        NodeCommand::Revoke { token } => {
            client.delete(&web::path_of("/v1/tokens", token))?;
            done(json, ("token", token), "revoked")
        }
        NodeCommand::Drain {
            node,
            sessions_per_second,
            how,
        } => {
            let request = DrainRequest {
                sessions_per_second: *sessions_per_second,
            };
            let operation = Operation {
                node: *node,
                word: "drain",
            };
            operation.run(client, json, *how, &request)
        }
        NodeCommand::Undrain { node, dry_run } => {
            let how = OperationArgs {
                dry_run: *dry_run,
                // It takes nothing away.
                yes: true,
                wait: false,
                over_capacity: false,
            };
            let operation = Operation {
                node: *node,
                word: "undrain",
            };
            operation.run(client, json, how, &())
        }
        NodeCommand::Remove { node, dead, how } => {
            let operation = Operation {
                node: *node,
                word: "remove",
            };
            operation.run(client, json, *how, &RemoveRequest { dead: *dead })
        }
        NodeCommand::Replace { node, with, how } => {
            let operation = Operation {
                node: *node,
                word: "replace",
            };
            operation.run(client, json, *how, &ReplaceRequest { with: *with })
        }
        NodeCommand::Progress => follow(client, json, "muster ctl node progress"),
    }
}

fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let report: NodesReport = client.get("/v1/nodes")?;
    if json {
        return print_json(&report);
    }
    print(&nodes_table(report.nodes))
}

/// A build that is not known.
fn dashes() -> (String, String) {
    ("-".to_owned(), "-".to_owned())
}

fn nodes_table(nodes: Vec<NodeReport>) -> String {
    let row = |node: NodeReport| {
        let state = match node.leaves && node.state != "leaving" && node.state != "removed" {
            true => format!("{}, leaves", node.state),
            false => node.state,
        };
        let (build, versions) = node
            .build
            .map_or(dashes(), |build| (build.name, build.supports.to_string()));
        vec![
            node.id.to_string(),
            node.address,
            state,
            yes(node.alive).to_owned(),
            node.replicas.to_string(),
            node.owns.to_string(),
            node.sessions
                .map_or_else(|| "-".to_owned(), |sessions| sessions.to_string()),
            build,
            versions,
        ]
    };
    let rows: Vec<_> = nodes.into_iter().map(row).collect();
    let heads = [
        "NODE", "ADDRESS", "STATE", "ALIVE", "REPLICAS", "OWNS", "SESSIONS", "BUILD", "VERSIONS",
    ];
    table(&heads, &rows)
}

fn issue(client: &Client, json: bool, ttl_s: u64, addresses: Vec<String>) -> Result<(), Failure> {
    let issued: IssuedToken = client.post("/v1/tokens", &NewToken { ttl_s, addresses })?;
    if json {
        return print_json(&issued);
    }
    print(&token_text(&issued))
}

pub(super) fn token_text(issued: &IssuedToken) -> String {
    let mut out = format!(
        "Token {}, good for one node until {}. It is shown this once:\n\n{}\n\n\
         On the new machine, with the address at which the other nodes reach it:\n  \
         muster join --token TOKEN --dir DIR --bind ADDRESS\n",
        issued.id,
        moment(issued.ends_ms),
        issued.token
    );
    let is_here = |place: &String| {
        let address = place.parse::<SocketAddr>();
        address.is_ok_and(|address| address.ip().is_loopback())
    };
    if issued.addresses.iter().all(is_here) {
        let place = issued.addresses.join(", ");
        out.push_str(&format!(
            "It is to connect to {place}, which only this machine reaches. From another, use a tunnel,\n  \
             ssh -N -L 7480:{} THIS-MACHINE\n  \
             and add --server 127.0.0.1:7480; or make the token with --address HOST:PORT.\n",
            issued.addresses.first().map_or("", String::as_str)
        ));
    }
    out
}

fn tokens(client: &Client, json: bool) -> Result<(), Failure> {
    let report: TokensReport = client.get("/v1/tokens")?;
    if json {
        return print_json(&report);
    }
    let row = |token: TokenReport| {
        let node = token.node.map_or("-".to_owned(), |node| node.to_string());
        let (made, ends) = (moment(token.made_ms), moment(token.ends_ms));
        vec![token.id, token.state, node, token.by, made, ends]
    };
    let rows: Vec<_> = report.tokens.into_iter().map(row).collect();
    print(&table(
        &["TOKEN", "STATE", "NODE", "MADE BY", "MADE AT", "ENDS"],
        &rows,
    ))
}

/// Something that is done with a node.
struct Operation {
    node: u64,
    /// Its word, on the command line and in the path.
    word: &'static str,
}

impl Operation {
    fn run(
        &self,
        client: &Client,
        json: bool,
        how: OperationArgs,
        request: &impl serde::Serialize,
    ) -> Result<(), Failure> {
        let Operation { node, word } = self;
        let path = format!("/v1/nodes/{node}/{word}");
        let over = if how.over_capacity {
            "over_capacity=true"
        } else {
            ""
        };
        if how.dry_run || !how.yes {
            let place = match over {
                "" => format!("{path}?dry_run=true"),
                over => format!("{path}?dry_run=true&{over}"),
            };
            let plan: OperationReport = client.post(&place, request)?;
            if how.dry_run && json {
                return print_json(&plan);
            }
            if how.dry_run {
                return print(&plan_text(&plan));
            }
            confirm(&plan_text(&plan), &format!("{word} node {node}"))?;
        }
        let place = match over {
            "" => path,
            over => format!("{path}?{over}"),
        };
        let begun: OperationReport = client.post(&place, request)?;
        if how.wait || (!json && *word != "undrain" && io::stdout().is_terminal()) {
            return follow(client, json, &format!("muster ctl node {word} {node}"));
        }
        match *word {
            _ if json => print_json(&begun),
            "undrain" => print(&format!("node {node}: taken back, it serves again\n")),
            word => print(&format!(
                "node {node}: {word} begun; muster ctl node progress shows how far it is\n"
            )),
        }
    }
}

/// A plan in words; what many groups do alike takes no more lines than people read.
pub(super) fn plan_text(plan: &OperationReport) -> String {
    const LINES_MAX: usize = 40;
    if plan.steps.is_empty() {
        return format!("node {}: nothing to be done\n", plan.node);
    }
    let mut out = String::from("What this does, if nothing else happens:\n");
    for step in plan.steps.iter().take(LINES_MAX) {
        out.push_str(&format!("  {step}\n"));
    }
    if plan.steps.len() > LINES_MAX {
        let more = plan.steps.len() - LINES_MAX;
        out.push_str(&format!(
            "  … and {more} more (--dry-run --json shows all)\n"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use web::report::cluster::{BuildReport, VersionSpan};
    use web::report::nodes::PlanStep;

    #[test]
    fn nodes_as_people_read_them() {
        let node = |id, state: &str, leaves, alive| NodeReport {
            id,
            address: format!("127.0.0.{id}:7400"),
            state: state.to_owned(),
            leaves,
            alive,
            replicas: 17,
            owns: 6,
            sessions: alive.then_some(2),
            build: alive.then(|| BuildReport {
                name: "0.2".to_owned(),
                supports: VersionSpan { min: 1, max: 2 },
            }),
        };
        let expected = "\
NODE  ADDRESS         STATE             ALIVE  REPLICAS  OWNS  SESSIONS  BUILD  VERSIONS
1     127.0.0.1:7400  member            yes    17        6     2         0.2    1-2
2     127.0.0.2:7400  draining, leaves  yes    17        6     2         0.2    1-2
3     127.0.0.3:7400  leaving           NO     17        6     -         -      -
";
        let nodes = vec![
            node(1, "member", false, true),
            node(2, "draining", true, true),
            node(3, "leaving", true, false),
        ];
        assert_eq!(nodes_table(nodes), expected);
    }

    #[test]
    fn plans_as_people_read_them() {
        let plan = |steps| OperationReport {
            node: 3,
            begun: false,
            steps,
        };
        assert_eq!(plan_text(&plan(Vec::new())), "node 3: nothing to be done\n");
        let steps = vec![
            PlanStep::HandOver {
                node: 3,
                groups: 17,
            },
            PlanStep::MoveReplica {
                group: 1,
                from: vec![1, 2, 3],
                to: vec![1, 2, 4],
            },
            PlanStep::Remove { node: 3 },
        ];
        let expected = "\
What this does, if nothing else happens:
  node 3 hands over what it leads, 17 groups at most
  partition 0: voters 1,2,3 become 1,2,4
  node 3 leaves the pool for good
";
        assert_eq!(plan_text(&plan(steps)), expected);
        let many = vec![PlanStep::Serve { node: 3 }; 50];
        assert!(plan_text(&plan(many)).ends_with("  … and 10 more (--dry-run --json shows all)\n"));
    }

    #[test]
    fn a_token_of_the_loopback_says_how_to_get_there() {
        let issued = |address: &str| IssuedToken {
            id: "0a".to_owned(),
            token: "muster-join-x".to_owned(),
            ends_ms: 0,
            addresses: vec![address.to_owned()],
        };
        assert!(token_text(&issued("127.0.0.1:7480")).contains("ssh -N -L"));
        assert!(!token_text(&issued("10.0.0.1:7480")).contains("ssh -N -L"));
        assert!(!token_text(&issued("n1.example.org:7480")).contains("ssh -N -L"));
    }
}
