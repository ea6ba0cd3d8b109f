//! SASL: whoever is let in has proved to know the password, by a check that is made here once more.
#![no_main]

use std::num::NonZeroU32;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fuzz::Choices;
use hmac::{Hmac, Mac};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use xmpp::sasl::{
    ClientFirst, Password, PasswordCheck, PasswordVerdict, ScramHash, StoredCredentials, plain,
};

const SECRET: &str = "secret";
const ITERATIONS: u32 = 4;

fn stored() -> &'static StoredCredentials {
    static STORED: OnceLock<StoredCredentials> = OnceLock::new();
    STORED.get_or_init(|| {
        let iterations = NonZeroU32::new(ITERATIONS).expect("a number above zero");
        StoredCredentials::derive(&Password::new(SECRET), &[7; 32], iterations)
            .expect("a good password")
    })
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("keys have any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// The client's key, from the password: RFC 5802 §3.
fn client_key() -> &'static [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    KEY.get_or_init(|| {
        let salt = &stored().sha256.as_ref().expect("keys of SHA-256").salt;
        let mut salted = [0; 32];
        pbkdf2::pbkdf2::<Hmac<Sha256>>(SECRET.as_bytes(), salt, ITERATIONS, &mut salted)
            .expect("keys have any length");
        hmac(&salted, b"Client Key")
    })
}

/// The proof that belongs to this exchange.
fn proof(auth_message: &str) -> String {
    let key = client_key();
    let stored_key = Sha256::digest(key);
    let signature = hmac(&stored_key, auth_message.as_bytes());
    let proof: Vec<u8> = key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
    STANDARD.encode(proof)
}

fn scram(first: &[u8], last: &[u8]) {
    let Ok(parsed) = ClientFirst::parse(first, false) else {
        return;
    };
    let first = std::str::from_utf8(first).expect("what parses is text");
    let header_end = first.match_indices(',').nth(1).map_or(0, |(at, _)| at + 1);
    let (header, bare) = first.split_at(header_end);
    let keys = stored()
        .keys(ScramHash::Sha256)
        .expect("keys of SHA-256")
        .clone();
    let (challenge, expected) = parsed.challenge(ScramHash::Sha256, keys, "server");
    let nonce = challenge
        .split(',')
        .next()
        .and_then(|part| part.strip_prefix("r="));
    let nonce = nonce.expect("a challenge begins with the nonce");
    // The right end of this exchange: it must be let in, whatever the names and extensions are.
    let without_proof = format!("c={},r={nonce}", STANDARD.encode(header));
    let right = proof(&format!("{bare},{challenge},{without_proof}"));
    let good = format!("{without_proof},p={right}");
    assert!(expected.clone().verify(good.as_bytes()).is_ok(), "{good}");
    // Any other end: only with a proof over what it says itself.
    let Ok(text) = std::str::from_utf8(last) else {
        assert!(expected.verify(last).is_err());
        return;
    };
    let text = match text.strip_suffix("p=?") {
        // So that the fuzzer gets past the proof: the right one for these words.
        Some(front) => {
            let front = front.strip_suffix(',').unwrap_or(front);
            format!(
                "{front},p={}",
                proof(&format!("{bare},{challenge},{front}"))
            )
        }
        None => text.to_owned(),
    };
    if expected.verify(text.as_bytes()).is_ok() {
        let (front, given) = text.rsplit_once(",p=").expect("let in without a proof");
        assert!(
            front == without_proof || front.starts_with(&format!("{without_proof},")),
            "{text}"
        );
        let needed = proof(&format!("{bare},{challenge},{front}"));
        let decoded = STANDARD.decode(given).expect("let in without base64");
        assert_eq!(Ok(decoded), STANDARD.decode(needed), "{text}");
    }
}

fn plain_text(message: &[u8]) {
    let Ok(parsed) = plain::parse(message) else {
        return;
    };
    let given = parsed.password.reveal().to_owned();
    let right = stringprep::saslprep(&given).is_ok_and(|prepared| prepared == SECRET);
    let verdict = PasswordCheck::against(parsed.password.clone(), stored().clone()).run();
    assert_eq!(verdict == PasswordVerdict::Right, right, "{given:?}");
    let decoy = PasswordCheck::decoy(parsed.password, stored().clone()).run();
    assert_eq!(
        decoy,
        PasswordVerdict::Wrong,
        "somebody who does not exist is let in"
    );
    assert!(message.ends_with(given.as_bytes()));
    assert!(!parsed.username.is_empty());
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    if choices.byte().is_multiple_of(4) {
        return plain_text(choices.0);
    }
    let newline = choices.0.iter().position(|byte| *byte == b'\n');
    let (first, last) = choices.0.split_at(newline.unwrap_or(choices.0.len()));
    scram(first, last.get(1..).unwrap_or_default());
});
