//! The client's side of SASL: PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677), without channel binding.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// More iterations than this from a server would be an attack on the client.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Salted passwords kept, so that a second login of a user costs the generator nothing.
const SALTED_MAX: usize = 100_000;

/// A way to prove a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Mechanism {
    /// SCRAM-SHA-256
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-1
    #[value(name = "scram-sha-1")]
    ScramSha1,
    /// PLAIN
    #[value(name = "plain")]
    Plain,
}

impl Mechanism {
    /// The best first.
    pub(crate) const ALL: [Mechanism; 3] = [
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::Plain,
    ];

    /// Its name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Mechanism::ScramSha1 => Sha1::digest(bytes).to_vec(),
            _ => Sha256::digest(bytes).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], message: &[u8]) -> Result<Vec<u8>, SaslError> {
        let bad_key = |_| SaslError::Malformed("a key of HMAC");
        match self {
            Mechanism::ScramSha1 => {
                let mac = Hmac::<Sha1>::new_from_slice(key).map_err(bad_key)?;
                Ok(mac.chain_update(message).finalize().into_bytes().to_vec())
            }
            _ => {
                let mac = Hmac::<Sha256>::new_from_slice(key).map_err(bad_key)?;
                Ok(mac.chain_update(message).finalize().into_bytes().to_vec())
            }
        }
    }

    fn salted(self, password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
        let password = password.as_bytes();
        match self {
            Mechanism::ScramSha1 => {
                pbkdf2::pbkdf2_hmac_array::<Sha1, 20>(password, salt, iterations).to_vec()
            }
            _ => pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).to_vec(),
        }
    }
}

/// The server does not play by the rules, or is not the one it says it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SaslError {
    /// A message cannot be read.
    #[error("the server's SASL message is wrong: {0}")]
    Malformed(&'static str),
    /// RFC 5802 §5: the client must check it.
    #[error("the server does not know the password")]
    ServerProof,
}

type SaltedBy = (Mechanism, Vec<u8>, u32);

/// Salted passwords of earlier logins.
#[derive(Default)]
pub(crate) struct SaltedPasswords {
    /// By mechanism, salt and iterations.
    known: Mutex<HashMap<SaltedBy, Vec<u8>>>,
}

impl SaltedPasswords {
    fn get(&self, mechanism: Mechanism, password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
        let key = (mechanism, salt.to_vec(), iterations);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(salted) = known().get(&key) {
            return salted.clone();
        }
        let salted = mechanism.salted(password, salt, iterations);
        let mut known = known();
        if known.len() < SALTED_MAX {
            known.insert(key, salted.clone());
        }
        salted
    }
}

/// What a server keeps of a password (RFC 5802 §3): StoredKey and ServerKey, in base64.
pub(crate) fn stored_keys(
    mechanism: Mechanism,
    password: &str,
    salt: &[u8],
    iterations: u32,
) -> Result<(String, String), SaslError> {
    let salted = mechanism.salted(password, salt, iterations);
    let client_key = mechanism.hmac(&salted, b"Client Key")?;
    let server_key = mechanism.hmac(&salted, b"Server Key")?;
    Ok((
        BASE64.encode(mechanism.digest(&client_key)),
        BASE64.encode(server_key),
    ))
}

/// PLAIN's only message.
pub(crate) fn plain(user: &str, password: &str) -> String {
    BASE64.encode(format!("\0{user}\0{password}"))
}

/// SCRAM after `client-first-message`.
pub(crate) struct Scram<'a> {
    mechanism: Mechanism,
    password: &'a str,
    nonce: String,
    client_first_bare: String,
}

/// SCRAM after `client-final-message`.
pub(crate) struct ScramProven {
    server_signature: Vec<u8>,
}

/// GS2 header of a client that does not do channel binding (RFC 5802 §7), and its base64.
const GS2_HEADER: &str = "n,,";
const GS2_HEADER_BASE64: &str = "biws";

impl<'a> Scram<'a> {
    /// Starts with a fresh nonce of the caller's; gives `client-first-message` in base64.
    pub(crate) fn start(
        mechanism: Mechanism,
        user: &str,
        password: &'a str,
        nonce: String,
    ) -> (Scram<'a>, String) {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let client_first_bare = format!("n={user},r={nonce}");
        let first = BASE64.encode(format!("{GS2_HEADER}{client_first_bare}"));
        (
            Scram {
                mechanism,
                password,
                nonce,
                client_first_bare,
            },
            first,
        )
    }

    /// Answers `server-first-message` with `client-final-message`, both in base64.
    pub(crate) fn prove(
        self,
        server_first: &str,
        salted_passwords: &SaltedPasswords,
    ) -> Result<(ScramProven, String), SaslError> {
        let server_first = decode(server_first)?;
        let field = |name: &'static str| {
            server_first
                .split(',')
                .find_map(|field| field.strip_prefix(name))
        };
        let nonce = field("r=").ok_or(SaslError::Malformed("no nonce"))?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(SaslError::Malformed("the nonce is not ours"));
        }
        let salt = field("s=").and_then(|salt| BASE64.decode(salt).ok());
        let salt = salt.ok_or(SaslError::Malformed("no salt"))?;
        let iterations = field("i=").and_then(|count| count.parse().ok());
        let iterations = iterations
            .filter(|count| (1..=ITERATIONS_MAX).contains(count))
            .ok_or(SaslError::Malformed("the iteration count"))?;
        let mechanism = self.mechanism;
        let salted = salted_passwords.get(mechanism, self.password, &salt, iterations);
        let without_proof = format!("c={GS2_HEADER_BASE64},r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.client_first_bare);
        let client_key = mechanism.hmac(&salted, b"Client Key")?;
        let stored_key = mechanism.digest(&client_key);
        let signature = mechanism.hmac(&stored_key, auth_message.as_bytes())?;
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(k, s)| k ^ s)
            .collect();
        let server_key = mechanism.hmac(&salted, b"Server Key")?;
        let server_signature = mechanism.hmac(&server_key, auth_message.as_bytes())?;
        let client_final = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok((
            ScramProven { server_signature },
            BASE64.encode(client_final),
        ))
    }
}

impl ScramProven {
    /// Checks `server-final-message`.
    pub(crate) fn verify(&self, server_final: &str) -> Result<(), SaslError> {
        let server_final = decode(server_final)?;
        let signature = server_final
            .split(',')
            .find_map(|field| field.strip_prefix("v="));
        let signature = signature.and_then(|signature| BASE64.decode(signature).ok());
        match signature {
            Some(signature) if signature == self.server_signature => Ok(()),
            Some(_) => Err(SaslError::ServerProof),
            None => Err(SaslError::Malformed("no server signature")),
        }
    }
}

fn decode(message: &str) -> Result<String, SaslError> {
    let bytes = BASE64
        .decode(message.trim())
        .map_err(|_| SaslError::Malformed("base64"))?;
    String::from_utf8(bytes).map_err(|_| SaslError::Malformed("UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use xmpp::sasl::{Password, ScramHash, StoredCredentials, scram::ClientFirst};

    /// A known conversation.
    fn check(mechanism: Mechanism, nonce: &str, server_first: &str, proof: &str, signature: &str) {
        let (scram, first) = Scram::start(mechanism, "user", "pencil", nonce.to_owned());
        assert_eq!(decode(&first).unwrap(), format!("n,,n=user,r={nonce}"));
        let kept = SaltedPasswords::default();
        let (proven, client_final) = scram.prove(&BASE64.encode(server_first), &kept).unwrap();
        assert!(
            decode(&client_final).unwrap().ends_with(proof),
            "{client_final}"
        );
        assert_eq!(proven.verify(&BASE64.encode(signature)), Ok(()));
        let other = BASE64.encode("v=AAAA");
        assert_eq!(proven.verify(&other), Err(SaslError::ServerProof));
        assert!(proven.verify(&BASE64.encode("e=other-error")).is_err());
    }

    #[test]
    fn the_examples_of_the_rfcs() {
        // RFC 5802 §5
        check(
            Mechanism::ScramSha1,
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            ",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        );
        // RFC 7677 §3
        check(
            Mechanism::ScramSha256,
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        );
    }

    #[test]
    fn a_server_that_cheats_is_refused() {
        let check = |server_first: &str| {
            let (scram, _) = Scram::start(Mechanism::ScramSha1, "u", "p", "abc".to_owned());
            assert!(
                scram
                    .prove(&BASE64.encode(server_first), &SaltedPasswords::default())
                    .is_err()
            );
        };
        check("");
        check("r=abc,s=QUJD,i=4096");
        check("r=xyz,s=QUJD,i=4096");
        check("r=abcd,s=*,i=4096");
        check("r=abcd,s=QUJD,i=0");
        check("r=abcd,s=QUJD,i=4000000000");
        check("r=abcd,s=QUJD");
    }

    #[test]
    fn the_servers_own_side_agrees() {
        for (mechanism, hash) in [
            (Mechanism::ScramSha1, ScramHash::Sha1),
            (Mechanism::ScramSha256, ScramHash::Sha256),
        ] {
            let password = Password::new("secret");
            let iterations = NonZeroU32::new(4096).unwrap();
            let stored = StoredCredentials::derive(&password, &[7; 32], iterations).unwrap();
            let (scram, first) = Scram::start(mechanism, "a,b=c", "secret", "nonce".to_owned());
            let first = ClientFirst::parse(decode(&first).unwrap().as_bytes(), false).unwrap();
            assert_eq!(first.username(), "a,b=c");
            let keys = stored.keys(hash).unwrap().clone();
            let (stored_key, server_key) =
                stored_keys(mechanism, "secret", &keys.salt, 4096).unwrap();
            assert_eq!(stored_key, BASE64.encode(&keys.stored_key));
            assert_eq!(server_key, BASE64.encode(&keys.server_key));
            let (server_first, expected) = first.challenge(hash, keys, "more");
            let kept = SaltedPasswords::default();
            let (proven, last) = scram.prove(&BASE64.encode(server_first), &kept).unwrap();
            let server_final = expected
                .verify(decode(&last).unwrap().as_bytes())
                .ok()
                .unwrap();
            assert_eq!(proven.verify(&BASE64.encode(server_final)), Ok(()));
        }
        assert_eq!(decode(&plain("u", "p")).unwrap(), "\0u\0p");
    }
}
