//! `muster ctl`: operators' commands to a running node.

mod access;
mod adding;
pub(crate) mod backup;
pub(crate) mod client;
mod cluster;
mod export;
mod import;
mod nodes;
mod password;
mod progress;
mod table;

use std::io::{self, BufRead, IsTerminal, Read, Write};

use serde::Serialize;
use serde_json::Value;
use web::report::{HashReport, NewPassword, NewUser, PartitionReport, PoolReport, UsersPage};

use crate::cli::{CtlArgs, CtlCommand, UserCommand};
use crate::config::ConfigFile;
use crate::exit::{Exit, Failure, print};
use client::{Client, Place};

/// Accounts asked for at once.
const PAGE: u32 = 1000;

/// `muster ctl`
pub(crate) fn ctl(args: &CtlArgs) -> Result<(), Failure> {
    let client = Client::new(&place(args)?)?;
    let json = args.json;
    match &args.command {
        CtlCommand::Status => status(&client, json),
        CtlCommand::Hashes => hashes(&client, json),
        CtlCommand::User { command } => match command {
            UserCommand::Add {
                jid,
                password_stdin,
            } => {
                let password = password::ask(jid, *password_stdin)?;
                let _: Value = client.post(
                    "/v1/users",
                    &NewUser {
                        user: jid.clone(),
                        password,
                    },
                )?;
                done(json, ("user", jid), "added")
            }
            UserCommand::List => list(&client, json),
            UserCommand::Remove { jid } => {
                client.delete(&web::user_path(jid))?;
                done(json, ("user", jid), "removed")
            }
            UserCommand::Password {
                jid,
                password_stdin,
            } => {
                let password = password::ask(jid, *password_stdin)?;
                let path = format!("{}/password", web::user_path(jid));
                client.put(&path, &NewPassword { password })?;
                done(json, ("user", jid), "password set")
            }
        },
        CtlCommand::ExportUser { jid, out } => export::export_user(&client, json, jid, out),
        CtlCommand::Import { file } => import::import(&client, json, file),
        CtlCommand::Node { command } => nodes::run(&client, json, command),
        CtlCommand::Cluster { command } => cluster::run(&client, json, command),
        CtlCommand::Operator { command } => access::operators(&client, json, command),
        CtlCommand::Backup {
            dir,
            mib_per_second,
        } => backup::backup(&client, json, dir, *mib_per_second),
        CtlCommand::Audit { after } => access::audit(&client, json, *after),
    }
}

/// Where the control port is, and how to be let in.
fn place(args: &CtlArgs) -> Result<Place, Failure> {
    if let (Some(url), Some(token_file), Some(ca)) = (&args.url, &args.token_file, &args.ca) {
        let url = url.trim_end_matches('/').to_owned();
        return Ok(Place {
            url,
            token_file: token_file.clone(),
            ca: ca.clone(),
            shown: None,
        });
    }
    let file = ConfigFile::load(&args.config)?;
    Ok(Place {
        url: format!("https://{}", file.control.listen),
        token_file: file.resolve(&file.control.token_file),
        ca: file.resolve(&file.control.ca),
        shown: Some(file.resolve(&file.control.certificate)),
    })
}

/// Asks on the terminal whether what was explained is to be done; without one nothing is done that was not meant.
fn confirm(explained: &str, what: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let verb = what.split(' ').next().unwrap_or(what);
        let message = format!("there is no terminal to ask on: {verb} with --yes if you mean it");
        return Err(Failure::new(Exit::CommandLine, message));
    }
    let ask = || -> io::Result<String> {
        let mut out = io::stderr();
        write!(out, "{explained}{what}? [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        io::stdin().lock().take(16).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was done")),
    }
}

/// Something of a kind, and what was done with it.
fn done(json: bool, (kind, name): (&str, &str), done: &str) -> Result<(), Failure> {
    if json {
        print_json(&serde_json::json!({ kind: name, "done": done }))
    } else {
        print(&format!("{name}: {done}\n"))
    }
}

fn status(client: &Client, json: bool) -> Result<(), Failure> {
    let report: PoolReport = client.get("/v1/status")?;
    if json {
        print_json(&report)
    } else {
        print(&table::pool(&report))
    }
}

#[derive(Serialize)]
struct Hashes {
    hashes: Vec<HashReport>,
}

/// One request a partition: each may take a while.
fn hashes(client: &Client, json: bool) -> Result<(), Failure> {
    let partitions: Vec<PartitionReport> = client.get("/v1/partitions")?;
    let hash =
        |partition: &PartitionReport| client.get(&format!("/v1/partitions/{}/hash", partition.id));
    let hashes = partitions.iter().map(hash).collect::<Result<_, _>>()?;
    if json {
        return print_json(&Hashes { hashes });
    }
    print(&table::hashes(&hashes))
}

#[derive(Serialize)]
struct Users {
    users: Vec<String>,
}

fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let mut users = Vec::new();
    let mut path = format!("/v1/users?limit={PAGE}");
    loop {
        let page: UsersPage = client.get(&path)?;
        users.extend(page.users);
        match page.next {
            Some(next) => path = format!("/v1/users?limit={PAGE}&after={}", client::query(&next)),
            None => break,
        }
    }
    if json {
        return print_json(&Users { users });
    }
    print(
        &users
            .iter()
            .map(|user| format!("{user}\n"))
            .collect::<String>(),
    )
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    print(&format!("{text}\n"))
}
