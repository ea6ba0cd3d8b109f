//! What the server keeps instead of a password, and what it pretends to keep for users who do not exist.
//!
//! A SCRAM account needs, per hash function, salt, iteration count, StoredKey and ServerKey (RFC 5802 §3).
//! All three hash functions are derived when a password is set, so that a client may choose any mechanism;
//! an imported account may bring only one. From the stored values the password cannot be read back, and a
//! copy of them does not let its thief log in.

use std::fmt;
use std::num::NonZeroU32;

use hmac::digest::{Digest, KeyInit};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

/// A longer password is refused, because preparing it costs time in proportion.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Bytes of salt in keys we derive ourselves.
const SALT_BYTES: usize = 16;

/// The hash function of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ScramHash {
    /// SHA-1; still safe inside HMAC and PBKDF2, and the one every client has.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl ScramHash {
    /// All of them, in the order in which a password is checked against them.
    pub const ALL: [ScramHash; 3] = [ScramHash::Sha256, ScramHash::Sha512, ScramHash::Sha1];

    /// Bytes in a digest, and so in every key.
    pub fn digest_bytes(self) -> usize {
        match self {
            ScramHash::Sha1 => 20,
            ScramHash::Sha256 => 32,
            ScramHash::Sha512 => 64,
        }
    }

    /// `HMAC(key, parts[0] + parts[1] + …)`.
    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self {
            ScramHash::Sha1 => hmac_of::<Hmac<Sha1>>(key, parts),
            ScramHash::Sha256 => hmac_of::<Hmac<Sha256>>(key, parts),
            ScramHash::Sha512 => hmac_of::<Hmac<Sha512>>(key, parts),
        }
    }

    /// `H(data)`.
    pub(crate) fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            ScramHash::Sha1 => Sha1::digest(data).to_vec(),
            ScramHash::Sha256 => Sha256::digest(data).to_vec(),
            ScramHash::Sha512 => Sha512::digest(data).to_vec(),
        }
    }

    /// `Hi(password, salt, iterations)` of RFC 5802 §2.2; the password is prepared already.
    fn salted_password(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut out = vec![0; self.digest_bytes()];
        let derived = match self {
            ScramHash::Sha1 => pbkdf2::pbkdf2::<Hmac<Sha1>>(password, salt, iterations, &mut out),
            ScramHash::Sha256 => {
                pbkdf2::pbkdf2::<Hmac<Sha256>>(password, salt, iterations, &mut out)
            }
            ScramHash::Sha512 => {
                pbkdf2::pbkdf2::<Hmac<Sha512>>(password, salt, iterations, &mut out)
            }
        };
        derived.expect("HMAC takes keys of any length");
        out
    }
}

fn hmac_of<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// A password on its way through the server: never shown by `Debug`, never serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps what the client sent, unprepared.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// The text, for deriving keys from it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// SASLprep (RFC 4013), which RFC 5802 §2.2 and RFC 4616 §2 ask for before a password is hashed or compared.
    fn prepare(&self) -> Result<String, PasswordError> {
        if self.0.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let prepared = stringprep::saslprep(&self.0).map_err(|_| PasswordError::Prohibited)?;
        if prepared.is_empty() {
            return Err(PasswordError::Empty);
        }
        Ok(prepared.into_owned())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why a password cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Nothing is left after preparation.
    #[error("the password is empty")]
    Empty,
    /// More than 1,024 bytes.
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// SASLprep forbids one of its characters.
    #[error("the password contains a character that SASLprep (RFC 4013) prohibits")]
    Prohibited,
}

/// What one SCRAM mechanism needs to know of a user (RFC 5802 §3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramKeys {
    /// Told to the client.
    pub salt: Vec<u8>,
    /// Told to the client.
    pub iterations: u32,
    /// `H(ClientKey)`: recognises the client's proof.
    pub stored_key: Vec<u8>,
    /// Signs the server's answer.
    pub server_key: Vec<u8>,
}

impl ScramKeys {
    pub(super) fn derive(
        hash: ScramHash,
        prepared: &str,
        salt: Vec<u8>,
        iterations: NonZeroU32,
    ) -> ScramKeys {
        let salted = hash.salted_password(prepared.as_bytes(), &salt, iterations.get());
        let client_key = hash.hmac(&salted, &[b"Client Key"]);
        ScramKeys {
            stored_key: hash.digest(&client_key),
            server_key: hash.hmac(&salted, &[b"Server Key"]),
            iterations: iterations.get(),
            salt,
        }
    }

    fn matches(&self, hash: ScramHash, prepared: &str) -> bool {
        let salted = hash.salted_password(prepared.as_bytes(), &self.salt, self.iterations.max(1));
        let client_key = hash.hmac(&salted, &[b"Client Key"]);
        bool::from(hash.digest(&client_key).ct_eq(&self.stored_key))
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// Everything kept about a user's password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCredentials {
    /// For SCRAM-SHA-1.
    pub sha1: Option<ScramKeys>,
    /// For SCRAM-SHA-256.
    pub sha256: Option<ScramKeys>,
    /// For SCRAM-SHA-512.
    pub sha512: Option<ScramKeys>,
}

impl StoredCredentials {
    /// Derives the keys of all mechanisms. `entropy` is fresh and secret randomness; each mechanism's salt
    /// is drawn from it. Takes milliseconds by design: call it off the event loop.
    pub fn derive(
        password: &Password,
        entropy: &[u8; 32],
        iterations: NonZeroU32,
    ) -> Result<StoredCredentials, PasswordError> {
        let prepared = password.prepare()?;
        let keys = |hash: ScramHash, label: &[u8]| {
            let mut salt = ScramHash::Sha256.hmac(entropy, &[label]);
            salt.truncate(SALT_BYTES);
            Some(ScramKeys::derive(hash, &prepared, salt, iterations))
        };
        Ok(StoredCredentials {
            sha1: keys(ScramHash::Sha1, b"SCRAM-SHA-1"),
            sha256: keys(ScramHash::Sha256, b"SCRAM-SHA-256"),
            sha512: keys(ScramHash::Sha512, b"SCRAM-SHA-512"),
        })
    }

    /// The keys for one hash function, if the account has them.
    pub fn keys(&self, hash: ScramHash) -> Option<&ScramKeys> {
        match hash {
            ScramHash::Sha1 => self.sha1.as_ref(),
            ScramHash::Sha256 => self.sha256.as_ref(),
            ScramHash::Sha512 => self.sha512.as_ref(),
        }
    }

    /// Whether this is the user's password. Runs one PBKDF2; call it off the event loop.
    pub fn verify_plain(&self, password: &Password) -> bool {
        let Ok(prepared) = password.prepare() else {
            return false;
        };
        ScramHash::ALL
            .into_iter()
            .find_map(|hash| self.keys(hash).map(|keys| keys.matches(hash, &prepared)))
            .unwrap_or(false)
    }
}

/// Makes up keys for users who do not exist, so that their existence cannot be told from the answers.
///
/// The secret is the pool's: every node shows the same salt for the same name, on every attempt.
#[derive(Clone)]
pub struct DecoyKeys {
    secret: [u8; 32],
    iterations: NonZeroU32,
}

impl DecoyKeys {
    /// `iterations` is what new accounts get, or a decoy would stand out.
    pub fn new(secret: [u8; 32], iterations: NonZeroU32) -> DecoyKeys {
        DecoyKeys { secret, iterations }
    }

    /// Keys that no password opens, stable for this name.
    pub fn keys(&self, hash: ScramHash, account: &str) -> ScramKeys {
        let label: &[u8] = match hash {
            ScramHash::Sha1 => b"SCRAM-SHA-1",
            ScramHash::Sha256 => b"SCRAM-SHA-256",
            ScramHash::Sha512 => b"SCRAM-SHA-512",
        };
        let make = |what: &[u8]| {
            ScramHash::Sha512.hmac(
                &self.secret,
                &[what, b"\0", label, b"\0", account.as_bytes()],
            )
        };
        let cut = |mut bytes: Vec<u8>, len: usize| {
            bytes.truncate(len);
            bytes
        };
        ScramKeys {
            salt: cut(make(b"salt"), SALT_BYTES),
            iterations: self.iterations.get(),
            stored_key: cut(make(b"stored"), hash.digest_bytes()),
            server_key: cut(make(b"server"), hash.digest_bytes()),
        }
    }

    /// A whole account that no password opens, for checking a password against.
    pub fn credentials(&self, account: &str) -> StoredCredentials {
        StoredCredentials {
            sha1: Some(self.keys(ScramHash::Sha1, account)),
            sha256: Some(self.keys(ScramHash::Sha256, account)),
            sha512: Some(self.keys(ScramHash::Sha512, account)),
        }
    }
}

impl fmt::Debug for DecoyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecoyKeys")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}
