//! Tokens, and the nodes that join with them.
//!
//! Before a token is spent, all is tried that could go wrong after: whether this node can sign, whether the pool has room
//! and the address is free. What is left to go wrong is a crash, after which the same request goes on where it was: the
//! token is spent by it, and names the member that it lets in ([`TokenHash::addition`]).

use std::net::SocketAddr;
use std::time::Duration;

use actors::runtime::{NewMember, NodeHandle, Operation, now_ms};
use cluster::meta::access::AccessEntry;
use cluster::meta::tokens::{
    RequestDigest, TOKEN_TTL_MAX_MS, Token, TokenEntry, TokenHash, TokenId, TokenRefusal,
};
use sha2::{Digest, Sha256};
use web::backend::BackendError;
use web::report::access::{IssuedToken, NewToken, TokenReport};
use web::report::join::{JoinMember, JoinReply, JoinRequest};

use super::access::{SECRET_BYTES, hash};
use super::{not_done, versions};
use crate::authority::check_request;
use crate::issuing::{Issuing, IssuingError};
use crate::join::JoinToken;
use crate::secret_file::random_hex;

/// A shorter time is over before the token is typed.
const TTL_MIN_MS: u64 = 1_000;

/// Addresses in a token.
const ADDRESSES_MAX: usize = 8;

/// How long a token that was made at another node may take until this one has heard of it.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

fn cannot_issue(error: &IssuingError) -> BackendError {
    let code = match error {
        IssuingError::NoIssuer { .. } => "no-issuer",
        IssuingError::Signature(_) => return BackendError::Invalid(error.to_string()),
        _ => "issuer-unusable",
    };
    BackendError::Refused {
        code: code.to_owned(),
        message: error.to_string(),
    }
}

fn refused(refusal: TokenRefusal) -> BackendError {
    BackendError::Refused {
        code: refusal.code().to_owned(),
        message: refusal.to_string(),
    }
}

pub(super) fn tokens(handle: &NodeHandle) -> Vec<TokenReport> {
    let tokens: Vec<(TokenId, Token)> = handle.access(|access| {
        let tokens = access.tokens.iter();
        tokens.map(|(id, token)| (id, token.clone())).collect()
    });
    let report = |(id, token): (TokenId, Token)| {
        let state = match &token.spent {
            _ if token.revoked => "revoked",
            Some(_) => "spent",
            None if token.ends_ms <= now_ms() => "expired",
            None => "open",
        };
        TokenReport {
            id: id.to_string(),
            state: state.to_owned(),
            by: token.by,
            made_ms: token.made_ms,
            ends_ms: token.ends_ms,
            node: handle.member_of(token.hash.addition()).map(|node| node.0),
        }
    };
    tokens.into_iter().map(report).collect()
}

pub(super) async fn issue(
    handle: &NodeHandle,
    issuing: &Issuing,
    new: NewToken,
    by: String,
) -> Result<IssuedToken, BackendError> {
    let ttl_ms = new.ttl_s.saturating_mul(1000);
    if !(TTL_MIN_MS..=TOKEN_TTL_MAX_MS).contains(&ttl_ms) {
        return Err(BackendError::Invalid(
            "a token lasts 1 s to 30 days".to_owned(),
        ));
    }
    let addresses = addresses(new.addresses, issuing.control())?;
    let issuer = issuing.open().map_err(|error| cannot_issue(&error))?;
    let secret = random_hex(SECRET_BYTES);
    let (id, at_ms) = (TokenId(rand::random()), now_ms());
    let token = JoinToken {
        pool: issuing.pool().to_string(),
        at: addresses.clone(),
        ca: issuer
            .ca_hash
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        secret,
    };
    let ends_ms = at_ms.saturating_add(ttl_ms);
    let entry = TokenEntry::Issue {
        id,
        hash: hash(&token.secret),
        by,
        at_ms,
        ends_ms,
    };
    let issued = handle.change_access(AccessEntry::Token(entry)).await;
    issued.map_err(not_done)?;
    let shown = token.show();
    Ok(IssuedToken {
        id: id.to_string(),
        token: shown.map_err(|error| BackendError::Invalid(error.to_string()))?,
        ends_ms,
        addresses,
    })
}

/// Where a new machine is to connect.
fn addresses(given: Vec<String>, own: SocketAddr) -> Result<Vec<String>, BackendError> {
    if given.is_empty() {
        return match own.ip().is_unspecified() {
            true => Err(BackendError::Invalid(
                "this node's control port listens on all addresses: name the one that new machines reach".to_owned(),
            )),
            false => Ok(vec![own.to_string()]),
        };
    }
    if given.len() > ADDRESSES_MAX {
        let reason = format!("a token names {ADDRESSES_MAX} addresses at most");
        return Err(BackendError::Invalid(reason));
    }
    let is_place = |text: &String| {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:%".contains(c);
        (port > 0 && !host.is_empty() && host.len() <= 253 && host.chars().all(plain)).then_some(())
    };
    match given.iter().find(|text| is_place(text).is_none()) {
        None => Ok(given),
        Some(wrong) => Err(BackendError::Invalid(format!("{wrong:?} is no HOST:PORT"))),
    }
}

pub(super) async fn revoke(handle: &NodeHandle, id: &str) -> Result<(), BackendError> {
    let missing = BackendError::NoSuch("token");
    let id: TokenId = id.parse().map_err(|_| missing.clone())?;
    if handle.access(|access| access.tokens.get(id).is_none()) {
        return Err(missing);
    }
    let entry = TokenEntry::Revoke { id };
    let revoked = handle.change_access(AccessEntry::Token(entry)).await;
    revoked.map_err(not_done)
}

fn digest(request: &JoinRequest) -> RequestDigest {
    RequestDigest(Sha256::digest(request.request.as_bytes()).into())
}

/// Where the other nodes will reach the new one.
pub(super) fn address(text: &str) -> Result<SocketAddr, BackendError> {
    let address = text.parse::<SocketAddr>().ok();
    let good = address.filter(|address| !address.ip().is_unspecified() && address.port() > 0);
    good.ok_or_else(|| {
        BackendError::Invalid(format!(
            "{text:?} is no address at which other nodes reach a node"
        ))
    })
}

/// What is told of a request that is let in; whether it is, is decided once more when the token is spent.
pub(super) async fn check(
    handle: &NodeHandle,
    request: &JoinRequest,
) -> Result<String, BackendError> {
    address(&request.address)?;
    let judge = || {
        let (hash, digest) = (hash(&request.secret), digest(request));
        handle.access(|access| access.tokens.judge(hash, digest, now_ms()))
    };
    let mut changes = handle.meta_changes();
    let heard = async {
        loop {
            match judge() {
                Err(TokenRefusal::Unknown) if changes.changed().await.is_ok() => {}
                judged => return judged,
            }
        }
    };
    let judged = tokio::time::timeout(HEARD_WITHIN, heard).await;
    let judged = judged.unwrap_or(Err(TokenRefusal::Unknown));
    judged.map(|id| id.to_string()).map_err(refused)
}

pub(super) async fn join(
    handle: &NodeHandle,
    issuing: &Issuing,
    request: JoinRequest,
) -> Result<JoinReply, BackendError> {
    let wanted = address(&request.address)?;
    let hash: TokenHash = hash(&request.secret);
    let member = NewMember {
        address: wanted.to_string(),
        addition: hash.addition(),
        build: versions::told(request.build.as_ref()),
    };
    let issuer = issuing.open().map_err(|error| cannot_issue(&error))?;
    check_request(&request.request).map_err(|error| cannot_issue(&error.into()))?;
    handle
        .plan(&Operation::Add(member.clone()))
        .map_err(not_done)?;
    let spend = TokenEntry::Spend {
        hash,
        request: digest(&request),
        at_ms: now_ms(),
    };
    let spent = handle.change_access(AccessEntry::Token(spend)).await;
    spent.map_err(not_done)?;
    let node = handle.add_member(member).await.map_err(not_done)?;
    let members = handle.members().into_iter();
    let members: Vec<JoinMember> = members
        .filter(|member| member.state != "removed")
        .map(|member| JoinMember {
            id: member.id,
            address: member.address,
        })
        .collect();
    let own = members.iter().find(|member| member.id == node.0);
    if let Some(own) = own.filter(|own| own.address != wanted.to_string()) {
        return Err(BackendError::Refused {
            code: "address-differs".to_owned(),
            message: format!(
                "{node} was let in with this token at {}: give that address again, or remove the node and make a new token",
                own.address
            ),
        });
    }
    let reply = issuing.reply(&issuer, node, &request.request, members);
    reply.map_err(|error| cannot_issue(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_tokens() {
        let own = |text: &str| text.parse::<SocketAddr>().unwrap();
        let check = |given: &[&str], at: &str, expect: Option<&[&str]>| {
            let given = given.iter().map(|text| (*text).to_owned()).collect();
            let found = addresses(given, own(at)).ok();
            let expect = expect.map(|all| all.iter().map(|text| (*text).to_owned()).collect());
            assert_eq!(found, expect);
        };
        check(&[], "10.0.0.1:7480", Some(&["10.0.0.1:7480"]));
        check(&[], "0.0.0.0:7480", None);
        let named = ["n1.example.org:7480", "[fd00::1]:7480"];
        check(&named, "0.0.0.0:7480", Some(&named));
        for wrong in [
            "",
            "host",
            "host:0",
            ":7480",
            "host:x",
            "a b:1",
            "https://a:1",
        ] {
            check(&[wrong], "10.0.0.1:7480", None);
        }
        check(&["a:1"; 9], "10.0.0.1:7480", None);
    }

    #[test]
    fn addresses_of_nodes() {
        let check = |text: &str, good: bool| {
            assert_eq!(address(text).is_ok(), good, "{text}");
        };
        check("10.0.0.4:7400", true);
        check("[fd00::4]:7400", true);
        check("0.0.0.0:7400", false);
        check("10.0.0.4:0", false);
        check("10.0.0.4", false);
        check("host:7400", false);
    }
}
