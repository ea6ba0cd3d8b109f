//! SCRAM, the server's side (RFC 5802, RFC 7677), without channel binding yet.
//!
//! The order of the exchange is in the types: [`ClientFirst`] is what was parsed, [`ClientFirst::challenge`]
//! consumes it and yields [`ProofExpected`], whose `verify` consumes that. A proof cannot be checked twice
//! against one nonce.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt;
use subtle::ConstantTimeEq;

use super::{Refusal, SaslCondition, ScramHash, ScramKeys};

const MALFORMED: Refusal = Refusal::Condition(SaslCondition::MalformedRequest);

/// `client-first-message` (RFC 5802 §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// The GS2 header as sent, which `c=` must repeat.
    gs2_header: String,
    /// What the proofs are computed over.
    bare: String,
    nonce: String,
    username: String,
    authzid: Option<String>,
}

impl ClientFirst {
    /// Reads the message. `plus_offered` tells whether the server advertised a `-PLUS` variant.
    pub fn parse(message: &[u8], plus_offered: bool) -> Result<ClientFirst, Refusal> {
        let text = std::str::from_utf8(message).map_err(|_| MALFORMED)?;
        let (flag, rest) = text.split_once(',').ok_or(MALFORMED)?;
        let (authzid, bare) = rest.split_once(',').ok_or(MALFORMED)?;
        match flag {
            "n" => {}
            // RFC 5802 §6: the client can bind the channel and believes that the server cannot. If it was
            // offered, somebody between the two took the offer away.
            "y" if plus_offered => return Err(SaslCondition::NotAuthorized.into()),
            "y" => {}
            // `p=` belongs to a -PLUS mechanism, and this is none.
            _ => return Err(MALFORMED),
        }
        let authzid = match authzid {
            "" => None,
            named => Some(saslname(named.strip_prefix("a=").ok_or(MALFORMED)?)?),
        };
        // RFC 5802 §5.1: `m=` announces a mandatory extension; there is none that we know.
        let (username, rest) = attribute(bare, "n=")?;
        let (nonce, _optional_extensions) = attribute(rest.ok_or(MALFORMED)?, "r=")?;
        if nonce.is_empty() || !nonce.bytes().all(is_nonce_byte) {
            return Err(MALFORMED);
        }
        Ok(ClientFirst {
            gs2_header: text[..text.len() - bare.len()].to_owned(),
            username: saslname(username)?,
            nonce: nonce.to_owned(),
            bare: bare.to_owned(),
            authzid,
        })
    }

    /// The user's name, unescaped but not prepared: preparing it is up to the address rules.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Whom the client wants to act as, if it said so.
    pub fn authzid(&self) -> Option<&str> {
        self.authzid.as_deref()
    }

    /// Answers with `server-first-message`. `nonce` is the server's part: fresh, printable, without comma.
    pub fn challenge(
        self,
        hash: ScramHash,
        keys: ScramKeys,
        nonce: &str,
    ) -> (String, ProofExpected) {
        let nonce = format!("{}{nonce}", self.nonce);
        let salt = BASE64.encode(&keys.salt);
        let server_first = format!("r={nonce},s={salt},i={}", keys.iterations);
        let expected = ProofExpected {
            channel_binding: BASE64.encode(&self.gs2_header),
            auth_message: format!("{},{server_first},", self.bare),
            nonce,
            hash,
            keys,
        };
        (server_first, expected)
    }
}

/// The challenge is out; `client-final-message` is what must come now.
#[derive(Clone)]
pub struct ProofExpected {
    hash: ScramHash,
    keys: ScramKeys,
    nonce: String,
    channel_binding: String,
    auth_message: String,
}

impl ProofExpected {
    /// Checks the client's proof and returns `server-final-message` (`v=…`), the server's own proof.
    pub fn verify(mut self, client_final: &[u8]) -> Result<String, Refusal> {
        let text = std::str::from_utf8(client_final).map_err(|_| MALFORMED)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(MALFORMED)?;
        let (channel_binding, rest) = attribute(without_proof, "c=")?;
        let (nonce, _optional_extensions) = attribute(rest.ok_or(MALFORMED)?, "r=")?;
        let proof = BASE64.decode(proof).map_err(|_| MALFORMED)?;
        // Neither of these guesses a password, so neither costs a try.
        if channel_binding != self.channel_binding || nonce != self.nonce {
            return Err(SaslCondition::NotAuthorized.into());
        }
        self.auth_message.push_str(without_proof);
        let message = self.auth_message.as_bytes();

        // RFC 5802 §3: ClientKey = ClientProof XOR HMAC(StoredKey, AuthMessage), and H(ClientKey) is StoredKey.
        let signature = self.hash.hmac(&self.keys.stored_key, &[message]);
        if proof.len() != signature.len() {
            return Err(MALFORMED);
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(p, s)| p ^ s).collect();
        let recognised = self.hash.digest(&client_key).ct_eq(&self.keys.stored_key);
        let server_signature = self.hash.hmac(&self.keys.server_key, &[message]);
        if bool::from(recognised) {
            Ok(format!("v={}", BASE64.encode(server_signature)))
        } else {
            Err(Refusal::WrongProof)
        }
    }
}

impl fmt::Debug for ProofExpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofExpected")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// Takes `name value` off the front; the rest starts behind the comma, if there is one.
fn attribute<'a>(text: &'a str, name: &str) -> Result<(&'a str, Option<&'a str>), Refusal> {
    let value = text.strip_prefix(name).ok_or(MALFORMED)?;
    Ok(match value.split_once(',') {
        Some((value, rest)) => (value, Some(rest)),
        None => (value, None),
    })
}

/// RFC 5802 §7: `printable`, any ASCII but comma and controls.
fn is_nonce_byte(byte: u8) -> bool {
    (0x21..=0x7e).contains(&byte) && byte != b','
}

/// RFC 5802 §5.1: `=2C` is a comma and `=3D` an equals sign; no other `=` may occur, nor NUL.
fn saslname(escaped: &str) -> Result<String, Refusal> {
    if escaped.is_empty() || escaped.contains('\0') {
        return Err(MALFORMED);
    }
    let mut parts = escaped.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = if let Some(rest) = part.strip_prefix("2C") {
            (',', rest)
        } else if let Some(rest) = part.strip_prefix("3D") {
            ('=', rest)
        } else {
            return Err(MALFORMED);
        };
        name.push(character);
        name.push_str(rest);
    }
    Ok(name)
}
