//! Operators and the audit log, in the port's terms.

use actors::runtime::{NodeHandle, now_ms};
use cluster::meta::access::AccessEntry;
use cluster::meta::audit::{AuditRange, AuditRecord, Change, Outcome};
use cluster::meta::operators::{OperatorEntry, OperatorName, Role as MetaRole};
use cluster::meta::tokens::TokenHash;
use sha2::{Digest, Sha256};
use web::backend::{AuditKey, BackendError};
use web::report::access::{
    AuditPage, AuditQuery, AuditReport, ChangeReport, Identity, IssuedOperator, NewOperator,
    OperatorReport, OutcomeReport, Role,
};

use super::not_done;
use crate::secret_file::random_hex;

/// What an operator's token begins with: so that it is known for one wherever it turns up.
const PREFIX: &str = "muster-operator-";

/// Secret bytes of a token.
pub(super) const SECRET_BYTES: usize = 32;

/// Records on a page of the audit log.
const PAGE_DEFAULT: u32 = 100;

/// What the pool knows a secret by.
pub(super) fn hash(secret: &str) -> TokenHash {
    TokenHash(Sha256::digest(secret.as_bytes()).into())
}

fn role(role: MetaRole) -> Role {
    match role {
        MetaRole::Operator => Role::Operator,
        MetaRole::Support => Role::Support,
        MetaRole::Auditor => Role::Auditor,
    }
}

fn meta_role(role: Role) -> MetaRole {
    match role {
        Role::Operator => MetaRole::Operator,
        Role::Support => MetaRole::Support,
        Role::Auditor => MetaRole::Auditor,
    }
}

pub(super) fn identify(handle: &NodeHandle, token: &str) -> Option<Identity> {
    let hash = hash(token.strip_prefix(PREFIX)?);
    handle.access(|access| {
        let (name, found) = access.operators.of_token(hash)?;
        Some(Identity {
            name: name.to_string(),
            role: role(found),
        })
    })
}

pub(super) fn operators(handle: &NodeHandle) -> Vec<OperatorReport> {
    handle.access(|access| {
        let operators = access.operators.iter();
        operators
            .map(|(name, operator)| OperatorReport {
                name: name.to_string(),
                role: role(operator.role),
                by: operator.by.clone(),
                made_ms: operator.made_ms,
            })
            .collect()
    })
}

pub(super) async fn add_operator(
    handle: &NodeHandle,
    new: NewOperator,
    by: String,
) -> Result<IssuedOperator, BackendError> {
    let name: OperatorName = new
        .name
        .parse()
        .map_err(|error| BackendError::Invalid(format!("{:?}: {error}", new.name)))?;
    let secret = random_hex(SECRET_BYTES);
    let entry = OperatorEntry::Add {
        name,
        role: meta_role(new.role),
        hash: hash(&secret),
        by,
        at_ms: now_ms(),
    };
    let added = handle.change_access(AccessEntry::Operator(entry)).await;
    added.map_err(not_done)?;
    Ok(IssuedOperator {
        name: new.name,
        role: new.role,
        token: format!("{PREFIX}{secret}"),
    })
}

pub(super) async fn revoke_operator(handle: &NodeHandle, name: &str) -> Result<(), BackendError> {
    let missing = BackendError::NoSuch("operator");
    let name: OperatorName = name.parse().map_err(|_| missing.clone())?;
    if handle.access(|access| access.operators.get(&name).is_none()) {
        return Err(missing);
    }
    let entry = OperatorEntry::Revoke { name };
    let revoked = handle.change_access(AccessEntry::Operator(entry)).await;
    revoked.map_err(not_done)
}

pub(super) async fn begin_record(
    handle: &NodeHandle,
    change: ChangeReport,
) -> Result<AuditKey, BackendError> {
    let change = Change {
        at_ms: now_ms(),
        node: handle.node(),
        who: change.who,
        from: change.from,
        action: change.action.to_owned(),
        target: change.target,
    };
    handle.begin_record(change).await.map_err(|error| {
        // Whether the record is there is not known; that nothing was changed is.
        let reason = "not done, since it could not be written into the audit log";
        BackendError::Unavailable(format!("{reason}: {error}"))
    })
}

pub(super) async fn end_record(handle: &NodeHandle, key: AuditKey, outcome: OutcomeReport) {
    let outcome = match outcome {
        OutcomeReport::Done => Outcome::Done,
        OutcomeReport::Refused(code) => Outcome::Refused(code),
        OutcomeReport::Unknown => return,
    };
    if let Err(error) = handle.end_record(key, outcome).await {
        tracing::warn!(%error, "what became of a change is not in the audit log: it stays unknown there");
    }
}

pub(super) fn audit(handle: &NodeHandle, query: &AuditQuery) -> AuditPage {
    let limit = query.limit.unwrap_or(PAGE_DEFAULT) as usize;
    let range = match (query.after, query.before) {
        (Some(number), _) => AuditRange::After(number),
        (None, Some(number)) => AuditRange::Before(number),
        (None, None) => AuditRange::Newest,
    };
    let wanted = query
        .containing
        .as_deref()
        .unwrap_or_default()
        .to_lowercase();
    let fits = |row: &AuditRecord| contains(row, &wanted);
    handle.access(|access| {
        let page = access.audit.page_of(range, limit, fits);
        let (first, last) = (page.first().map(|r| r.0), page.last().map(|r| r.0));
        let is_more = |range| !access.audit.page_of(range, 1, fits).is_empty();
        AuditPage {
            records: page
                .iter()
                .map(|(number, row)| record(*number, row))
                .collect(),
            next: last.filter(|last| is_more(AuditRange::After(*last))),
            previous: first.filter(|first| is_more(AuditRange::Before(*first))),
        }
    })
}

/// Whether a record has a text, which is in lower case, in what people search for.
fn contains(record: &AuditRecord, text: &str) -> bool {
    let change = &record.change;
    let fields = [&change.who, &change.from, &change.action, &change.target];
    let has = |field: &str| field.to_lowercase().contains(text);
    text.is_empty() || fields.into_iter().any(|field| has(field)) || has(outcome(&record.outcome))
}

fn outcome(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Unknown => "unknown",
        Outcome::Done => "done",
        Outcome::Refused(code) => code,
    }
}

fn record(number: u64, record: &AuditRecord) -> AuditReport {
    let change = &record.change;
    AuditReport {
        number,
        at_ms: change.at_ms,
        node: change.node.0,
        who: change.who.clone(),
        from: change.from.clone(),
        action: change.action.clone(),
        target: change.target.clone(),
        outcome: outcome(&record.outcome).to_owned(),
    }
}
