//! The client's side of SCRAM (RFC 5802), written apart from the server's so that they can't share a mistake.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// The hash of a SCRAM mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SCRAM-SHA-1
    Sha1,
    /// SCRAM-SHA-256
    Sha256,
    /// SCRAM-SHA-512
    Sha512,
}

impl Hash {
    /// The mechanism's name.
    pub fn mechanism(self) -> &'static str {
        match self {
            Hash::Sha1 => "SCRAM-SHA-1",
            Hash::Sha256 => "SCRAM-SHA-256",
            Hash::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn digest(self, text: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(text).to_vec(),
            Hash::Sha256 => Sha256::digest(text).to_vec(),
            Hash::Sha512 => Sha512::digest(text).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], text: &[u8]) -> Result<Vec<u8>> {
        macro_rules! hmac {
            ($hash:ty) => {{
                let mut mac = Hmac::<$hash>::new_from_slice(key)?;
                mac.update(text);
                mac.finalize().into_bytes().to_vec()
            }};
        }
        Ok(match self {
            Hash::Sha1 => hmac!(Sha1),
            Hash::Sha256 => hmac!(Sha256),
            Hash::Sha512 => hmac!(Sha512),
        })
    }

    fn salted(self, password: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
        let password = password.as_bytes();
        match self {
            Hash::Sha1 => pbkdf2::pbkdf2_hmac_array::<Sha1, 20>(password, salt, rounds).to_vec(),
            Hash::Sha256 => {
                pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, rounds).to_vec()
            }
            Hash::Sha512 => {
                pbkdf2::pbkdf2_hmac_array::<Sha512, 64>(password, salt, rounds).to_vec()
            }
        }
    }
}

/// An exchange under way.
pub(super) struct Exchange {
    hash: Hash,
    bare_first: String,
    nonce: String,
    server_signature: Vec<u8>,
}

impl Exchange {
    /// Starts one. `user` holds neither `=` nor `,` in these tests.
    pub(super) fn new(hash: Hash, user: &str, nonce: &str) -> Exchange {
        let bare_first = format!("n={user},r={nonce}");
        Exchange {
            hash,
            bare_first,
            nonce: nonce.to_owned(),
            server_signature: Vec::new(),
        }
    }

    /// The client's first message.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare_first)
    }

    /// The client's final message for the server's challenge.
    pub(super) fn answer(&mut self, challenge: &str, password: &str) -> Result<String> {
        let field = |name: &str| {
            let found = challenge
                .split(',')
                .find_map(|field| field.strip_prefix(name));
            found.with_context(|| format!("the challenge lacks {name}"))
        };
        let (nonce, salt) = (field("r=")?, BASE64.decode(field("s=")?)?);
        let rounds: u32 = field("i=")?.parse()?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            bail!("the server's nonce does not continue ours");
        }
        let without_proof = format!("c=biws,r={nonce}");
        let text = format!("{},{challenge},{without_proof}", self.bare_first);
        let salted = self.hash.salted(password, &salt, rounds);
        let client_key = self.hash.hmac(&salted, b"Client Key")?;
        let signature = self
            .hash
            .hmac(&self.hash.digest(&client_key), text.as_bytes())?;
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server_key = self.hash.hmac(&salted, b"Server Key")?;
        self.server_signature = self.hash.hmac(&server_key, text.as_bytes())?;
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Whether the server knows the password too.
    pub(super) fn verify(&self, last: &str) -> Result<()> {
        let signature = last.strip_prefix("v=").context("no server signature")?;
        if BASE64.decode(signature)? != self.server_signature {
            bail!("the server's signature is wrong");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_5802_and_rfc_7677() {
        let check = |hash, nonce: &str, challenge: &str, answer: &str, last: &str| {
            let mut exchange = Exchange::new(hash, "user", nonce);
            assert_eq!(exchange.answer(challenge, "pencil").expect("good"), answer);
            exchange.verify(last).expect("right signature");
            exchange.verify("v=AAAA").expect_err("wrong signature");
        };
        check(
            Hash::Sha1,
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        );
        check(
            Hash::Sha256,
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        );
    }

    #[test]
    fn a_nonce_that_does_not_continue_ours_is_refused() {
        let mut exchange = Exchange::new(Hash::Sha1, "user", "abc");
        exchange
            .answer("r=abc,s=QSXCR+Q6sek8bf92,i=4096", "x")
            .expect_err("no nonce of its own");
        exchange
            .answer("r=xabc1,s=QSXCR+Q6sek8bf92,i=4096", "x")
            .expect_err("another nonce");
    }
}
