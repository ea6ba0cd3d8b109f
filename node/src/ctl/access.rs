//! `muster ctl operator` and `muster ctl audit`.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use web::report::access::{
    AuditPage, AuditReport, IssuedOperator, NewOperator, OperatorsReport, Role,
};

use super::client::Client;
use super::table::table;
use super::{done, print_json};
use crate::cli::{OperatorCommand, RoleName};
use crate::exit::{Failure, print};

/// Records asked for at once.
const PAGE: u32 = 1000;

/// `muster ctl operator`
pub(super) fn operators(
    client: &Client,
    json: bool,
    command: &OperatorCommand,
) -> Result<(), Failure> {
    match command {
        OperatorCommand::Add { name, role } => add(client, json, name, *role),
        OperatorCommand::List => {
            let report: OperatorsReport = client.get("/v1/operators")?;
            if json {
                return print_json(&report);
            }
            let rows = report.operators.into_iter().map(|operator| {
                let made = moment(operator.made_ms);
                vec![operator.name, operator.role.to_string(), operator.by, made]
            });
            let rows: Vec<_> = rows.collect();
            print(&table(&["NAME", "ROLE", "ADDED BY", "ADDED AT"], &rows))
        }
        OperatorCommand::Revoke { name } => {
            client.delete(&web::path_of("/v1/operators", name))?;
            done(json, ("operator", name), "revoked")
        }
    }
}

fn add(client: &Client, json: bool, name: &str, role: RoleName) -> Result<(), Failure> {
    let role = match role {
        RoleName::Operator => Role::Operator,
        RoleName::Support => Role::Support,
        RoleName::Auditor => Role::Auditor,
    };
    let name = name.to_owned();
    let issued: IssuedOperator = client.post("/v1/operators", &NewOperator { name, role })?;
    if json {
        return print_json(&issued);
    }
    print(&format!(
        "{}: added, with the role {}. The token is shown this once:\n\n{}\n\n\
         With it in a file (mode 600):\n  \
         muster ctl --url https://HOST:PORT --token-file FILE --ca CA-FILE status\n",
        issued.name, issued.role, issued.token
    ))
}

/// A time for people, in UTC.
pub(super) fn moment(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "-".to_owned())
}

#[derive(Serialize)]
struct Records {
    records: Vec<AuditReport>,
}

/// `muster ctl audit`
pub(super) fn audit(client: &Client, json: bool, after: Option<u64>) -> Result<(), Failure> {
    let mut records = Vec::new();
    match after {
        None => {
            let page: AuditPage = client.get("/v1/audit")?;
            records = page.records;
        }
        Some(after) => {
            let mut next = Some(after);
            while let Some(after) = next {
                let path = format!("/v1/audit?after={after}&limit={PAGE}");
                let page: AuditPage = client.get(&path)?;
                records.extend(page.records);
                next = page.next;
            }
        }
    }
    if json {
        return print_json(&Records { records });
    }
    print(&audit_table(records))
}

fn audit_table(records: Vec<AuditReport>) -> String {
    let row = |record: AuditReport| {
        vec![
            record.number.to_string(),
            moment(record.at_ms),
            record.who,
            record.from,
            record.node.to_string(),
            record.action,
            record.target,
            record.outcome,
        ]
    };
    let rows: Vec<_> = records.into_iter().map(row).collect();
    let heads = [
        "NUMBER", "AT", "WHO", "FROM", "NODE", "ACTION", "WHAT", "OUTCOME",
    ];
    table(&heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_people_read_them() {
        let record = |number, who: &str, outcome: &str| AuditReport {
            number,
            at_ms: 1_700_000_000_123,
            node: 1,
            who: who.to_owned(),
            from: "127.0.0.1".to_owned(),
            action: "user.add".to_owned(),
            target: "alice@localhost".to_owned(),
            outcome: outcome.to_owned(),
        };
        let expected = "\
NUMBER  AT                    WHO          FROM       NODE  ACTION    WHAT             OUTCOME
7       2023-11-14T22:13:20Z  root@node-1  127.0.0.1  1     user.add  alice@localhost  done
8       2023-11-14T22:13:20Z  anna         127.0.0.1  1     user.add  alice@localhost  conflict
";
        let records = vec![
            record(7, "root@node-1", "done"),
            record(8, "anna", "conflict"),
        ];
        assert_eq!(audit_table(records), expected);
        assert_eq!(moment(u64::MAX), "-");
    }
}
