//! What operators and registering clients may ask: accounts, status, readiness.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::replica_hash::ReplicaHash;
use messaging::archive::MessageRecord;
use messaging::command::{Answer, Command};
use messaging::query::{Query, Reply};
use messaging::user::import::{ImportedContact, ImportedItem};
use rand::RngExt;
use xmpp::jid::BareJid;
use xmpp::sasl::{Password, StoredCredentials};
use xmpp::stanza_error::{Condition, StanzaError, StanzaErrorType};

use crate::fabric::Fabric;
use crate::link::Outcome;
use crate::negotiation::propose;
use crate::services::disco::ask_partition;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It exists already.
    #[error("the account exists already")]
    Conflict,
    /// It doesn't exist.
    #[error("there is no such account")]
    NotFound,
    /// There is no partition of this number.
    #[error("there is no such partition")]
    NoPartition,
    /// What was given can't be used.
    #[error("{0}")]
    Invalid(String),
    /// Surely not done: no owner, no quorum or too busy.
    #[error("not done: {0}")]
    Unavailable(String),
    /// Surely not done: an earlier account of the name is still being forgotten.
    #[error("not done: what an earlier account of this name left is still being removed")]
    BeingFreed,
    /// It may or may not have been done.
    #[error("the outcome is unknown; look before trying again")]
    Timeout,
}

impl ControlError {
    /// What a client is told; `None`: nothing, since the outcome is unknown and an error would pass for final.
    pub fn refusal(&self) -> Option<StanzaError> {
        let (condition, kind) = match self {
            ControlError::Conflict => (Condition::Conflict, StanzaErrorType::Cancel),
            ControlError::NotFound | ControlError::NoPartition => {
                (Condition::ItemNotFound, StanzaErrorType::Cancel)
            }
            ControlError::Invalid(_) => (Condition::NotAcceptable, StanzaErrorType::Modify),
            ControlError::Unavailable(_) | ControlError::BeingFreed => {
                (Condition::ResourceConstraint, StanzaErrorType::Wait)
            }
            ControlError::Timeout => return None,
        };
        let error = StanzaError::new(condition).with_kind(kind);
        Some(error.with_text(self.to_string()))
    }
}

async fn decide(fabric: &Fabric, user: &BareJid, command: Command) -> Result<(), ControlError> {
    match propose(fabric, user, command).await {
        Outcome::Answered(Answer::Done { .. } | Answer::Reply(_)) => Ok(()),
        Outcome::Answered(Answer::Refused(error)) => Err(match error.condition {
            Condition::Conflict => ControlError::Conflict,
            Condition::ItemNotFound => ControlError::NotFound,
            Condition::ResourceConstraint => ControlError::BeingFreed,
            _ => ControlError::Invalid(error.text.clone().unwrap_or_else(|| "refused".to_owned())),
        }),
        Outcome::Full => Err(ControlError::Unavailable(
            "the partition is busy".to_owned(),
        )),
        Outcome::NotDone => Err(ControlError::Unavailable(
            "the partition has no owner".to_owned(),
        )),
        Outcome::Unknown | Outcome::Taken | Outcome::Replied(_) => Err(ControlError::Timeout),
    }
}

/// Derives what is stored; takes a while on purpose, so elsewhere than on an arbiter.
async fn derive(password: Password, iterations: u32) -> Result<StoredCredentials, ControlError> {
    let entropy: [u8; 32] = rand::rng().random();
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let derived = crate::threads::spawn_blocking(move || {
        StoredCredentials::derive(&password, &entropy, iterations)
    })
    .await;
    derived
        .map_err(|_| ControlError::Unavailable("the password could not be processed".to_owned()))?
        .map_err(|error| ControlError::Invalid(error.to_string()))
}

fn check_account(fabric: &Fabric, user: &BareJid) -> Result<(), ControlError> {
    let domain = &fabric.settings.constants.domain;
    if user.local().is_none() || user.domain() != domain {
        return Err(ControlError::Invalid(format!(
            "an account is a name in the domain {domain}, like alice@{domain}"
        )));
    }
    Ok(())
}

/// How long to wait for a name of a removed account, and how often it is tried.
const FREED_WITHIN: Duration = Duration::from_secs(5);
const FREED_EVERY: Duration = Duration::from_millis(100);

/// Makes an account.
///
/// # Errors
/// [`ControlError`].
pub async fn create_account(
    fabric: &Arc<Fabric>,
    user: BareJid,
    password: Password,
    iterations: u32,
) -> Result<(), ControlError> {
    check_account(fabric, &user)?;
    let credentials = derive(password, iterations).await?;
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        let command = Command::CreateAccount {
            user: user.clone(),
            credentials: credentials.clone(),
        };
        match decide(fabric, &user, command).await {
            // A moment after a removal, unless a partition has no quorum.
            Err(ControlError::BeingFreed) if Instant::now() < deadline => {
                tokio::time::sleep(FREED_EVERY).await;
            }
            done => return done,
        }
    }
}

/// Sets an account's password.
///
/// # Errors
/// [`ControlError`].
pub async fn set_password(
    fabric: &Arc<Fabric>,
    user: BareJid,
    password: Password,
    iterations: u32,
) -> Result<(), ControlError> {
    check_account(fabric, &user)?;
    let credentials = derive(password, iterations).await?;
    decide(
        fabric,
        &user.clone(),
        Command::SetCredentials { user, credentials },
    )
    .await
}

/// Removes an account.
///
/// # Errors
/// [`ControlError`].
pub async fn remove_account(fabric: &Arc<Fabric>, user: BareJid) -> Result<(), ControlError> {
    check_account(fabric, &user)?;
    decide(fabric, &user.clone(), Command::RemoveAccount { user }).await
}

/// Does a piece of the import of an account.
///
/// # Errors
/// [`ControlError`].
pub async fn import(
    fabric: &Arc<Fabric>,
    user: BareJid,
    piece: ImportPiece,
    iterations: u32,
) -> Result<(), ControlError> {
    check_account(fabric, &user)?;
    let account = user.clone();
    let command = match piece {
        ImportPiece::Begin => Command::BeginImport { user },
        ImportPiece::Contacts(contacts) => Command::ImportContacts { user, contacts },
        ImportPiece::Rows {
            after,
            waiting,
            rows,
        } => Command::ImportRows {
            user,
            after,
            waiting,
            rows,
        },
        ImportPiece::Item(item) => Command::ImportItem { user, item },
        ImportPiece::Password(password) => {
            let credentials = derive(password, iterations).await?;
            Command::FinishImport { user, credentials }
        }
        ImportPiece::Credentials(credentials) => Command::FinishImport { user, credentials },
    };
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        match decide(fabric, &account, command.clone()).await {
            // A moment after a removal, as for a new account.
            Err(ControlError::BeingFreed)
                if matches!(command, Command::BeginImport { .. }) && Instant::now() < deadline =>
            {
                tokio::time::sleep(FREED_EVERY).await;
            }
            // What else lacks room lacks it for good.
            Err(ControlError::BeingFreed) if !matches!(command, Command::BeginImport { .. }) => {
                return Err(ControlError::Invalid(
                    "there is no room for more".to_owned(),
                ));
            }
            done => return done,
        }
    }
}

/// A piece of the import of an account: see [`messaging::user::import`].
#[derive(Clone, Debug)]
pub enum ImportPiece {
    /// The account is made, without credentials.
    Begin,
    /// Contacts.
    Contacts(Vec<ImportedContact>),
    /// Rows of the archive.
    Rows {
        /// How many come before these.
        after: u64,
        /// Whether they are still to be delivered.
        waiting: bool,
        /// Times, in ms since 1970, and messages.
        rows: Vec<(u64, MessageRecord)>,
    },
    /// Blocked addresses, a private element or the vCard.
    Item(ImportedItem),
    /// The end: keys are made of a password.
    Password(Password),
    /// The end: keys are taken as they are.
    Credentials(StoredCredentials),
}

/// The hash of this node's replica of a partition. It takes as long as the partition is large, on another thread.
///
/// # Errors
/// [`ControlError::NoPartition`], [`ControlError::Unavailable`] if it is written to all the
/// time or can't be read.
pub async fn partition_hash(fabric: &Fabric, partition: u16) -> Result<ReplicaHash, ControlError> {
    let mut places = fabric.partitions.iter();
    let place = places.find(|place| place.id.0 == partition);
    let replica = Arc::clone(&place.ok_or(ControlError::NoPartition)?.replica);
    let hashed = crate::threads::spawn_blocking(move || replica.hash()).await;
    let hashed = hashed.map_err(|error| ControlError::Unavailable(error.to_string()))?;
    hashed.map_err(|error| {
        tracing::warn!(partition, %error, cause = ?std::error::Error::source(&error), "a replica was not hashed");
        ControlError::Unavailable(error.to_string())
    })
}

/// Accounts in alphabetical order, those after one.
///
/// # Errors
/// When a partition doesn't answer.
pub async fn list_accounts(
    fabric: &Arc<Fabric>,
    after: Option<BareJid>,
    limit: u32,
) -> Result<Vec<BareJid>, ControlError> {
    let questions = fabric.partitions.iter().map(|place| {
        let query = Query::Accounts {
            after: after.clone(),
            limit,
        };
        ask_partition(fabric, place.id, query)
    });
    let mut accounts = Vec::new();
    for reply in futures_util::future::join_all(questions).await {
        match reply {
            Ok(Reply::Jids(jids)) => accounts.extend(jids),
            _ => {
                return Err(ControlError::Unavailable(
                    "a partition has no owner".to_owned(),
                ));
            }
        }
    }
    accounts.sort();
    accounts.truncate(limit as usize);
    Ok(accounts)
}
