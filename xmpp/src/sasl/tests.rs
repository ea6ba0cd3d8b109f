//! The mechanisms against the RFCs' examples and against an independent client.

use std::io::Cursor;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use rsasl::prelude::{Mechname, SASLClient, SASLConfig, State};

use super::*;

fn iterations(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

fn stored(password: &str) -> StoredCredentials {
    StoredCredentials::derive(&Password::new(password), &[7; 32], iterations(64)).unwrap()
}

fn decoys(secret: u8) -> DecoyKeys {
    DecoyKeys::new([secret; 32], iterations(64))
}

fn refused(condition: SaslCondition) -> Refusal {
    Refusal::Condition(condition)
}

struct Vector {
    hash: ScramHash,
    client_first: &'static str,
    nonce: &'static str,
    salt: &'static str,
    server_first: &'static str,
    client_final: &'static str,
    server_final: &'static str,
}

const RFC_5802: Vector = Vector {
    hash: ScramHash::Sha1,
    client_first: "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    nonce: "3rfcNHYJY1ZVvWVs7j",
    salt: "QSXCR+Q6sek8bf92",
    server_first: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    client_final: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    server_final: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
};

const RFC_7677: Vector = Vector {
    hash: ScramHash::Sha256,
    client_first: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
    server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    client_final: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    server_final: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
};

fn challenge_of(vector: &Vector) -> ProofExpected {
    let salt = BASE64.decode(vector.salt).unwrap();
    let keys = ScramKeys::derive(vector.hash, "pencil", salt, iterations(4096));
    let first = ClientFirst::parse(vector.client_first.as_bytes(), false).unwrap();
    assert_eq!(first.username(), "user");
    let (server_first, expected) = first.challenge(vector.hash, keys, vector.nonce);
    assert_eq!(server_first, vector.server_first);
    expected
}

#[test]
fn the_examples_of_the_rfcs_verify() {
    for vector in [RFC_5802, RFC_7677] {
        let verified = challenge_of(&vector).verify(vector.client_final.as_bytes());
        assert_eq!(verified, Ok(vector.server_final.to_owned()));
    }
}

#[test]
fn a_final_message_is_refused_for_the_right_reason() {
    let good = RFC_5802.client_final;
    let check = |message: &str, expected: Refusal| {
        let verdict = challenge_of(&RFC_5802).verify(message.as_bytes());
        assert_eq!(verdict, Err(expected), "{message}");
    };
    let malformed = refused(SaslCondition::MalformedRequest);
    let not_authorized = refused(SaslCondition::NotAuthorized);
    check(&good.replace("p=v0", "p=w0"), Refusal::WrongProof);
    check(
        &good.replace(",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", ",p=AAAA"),
        malformed,
    );
    check(&good.replace(",p=", ",q="), malformed);
    check(&good.replace("p=v0X8", "p=v0 8"), malformed);
    check(&good.replace("c=biws", "c=eSws"), not_authorized);
    check(&good.replace("c=biws", "d=biws"), malformed);
    check(&good.replace("Vs7j", "Vs7k"), not_authorized);
    check("", malformed);
    check("c=biws,p=AAAA", malformed);
}

#[test]
fn a_first_message_is_read_as_the_grammar_says() {
    let check = |message: &str, expected: Result<(&str, Option<&str>), SaslCondition>| {
        let parsed = ClientFirst::parse(message.as_bytes(), false);
        let seen = parsed
            .as_ref()
            .map(|first| (first.username(), first.authzid()));
        assert_eq!(
            seen,
            expected
                .map_err(Refusal::Condition)
                .as_ref()
                .map(|pair| *pair),
            "{message}"
        );
    };
    let malformed = Err(SaslCondition::MalformedRequest);
    check("n,,n=user,r=abcdefgh", Ok(("user", None)));
    check("y,,n=user,r=abcdefgh", Ok(("user", None)));
    check(
        "n,a=user@example.org,n=user,r=abcdefgh",
        Ok(("user", Some("user@example.org"))),
    );
    check("n,,n=a=2Cb=3Dc,r=abcdefgh", Ok(("a,b=c", None)));
    check("n,,n=user,r=abcdefgh,x=extension", Ok(("user", None)));
    check("p=tls-unique,,n=user,r=abcdefgh", malformed);
    check("n,,m=mandatory,n=user,r=abcdefgh", malformed);
    check("n,,n=a=2cb,r=abcdefgh", malformed);
    check("n,,n=a=,r=abcdefgh", malformed);
    check("n,,n=,r=abcdefgh", malformed);
    check("n,,n=user,r=", malformed);
    check("n,,n=user,r=a b", malformed);
    check("n,,n=user", malformed);
    check("n,b=user,n=user,r=abcdefgh", malformed);
    check("n,a=,n=user,r=abcdefgh", malformed);
    check("z,,n=user,r=abcdefgh", malformed);
    check("n", malformed);
    check("", malformed);
}

#[test]
fn a_client_that_was_robbed_of_the_plus_offer_is_refused() {
    let message = b"y,,n=user,r=abcdefgh";
    let parsed = ClientFirst::parse(message, true);
    assert_eq!(parsed, Err(refused(SaslCondition::NotAuthorized)));
}

#[test]
fn plain_is_read_as_the_grammar_says() {
    let check = |message: &[u8], expected: Option<(Option<&str>, &str, &str)>| {
        let parsed = plain::parse(message).ok();
        let seen = parsed.as_ref().map(|m| {
            (
                m.authzid.as_deref(),
                m.username.as_str(),
                m.password.reveal(),
            )
        });
        assert_eq!(seen, expected, "{message:?}");
    };
    check(b"\0user\0secret", Some((None, "user", "secret")));
    check(
        b"who@example.org\0user\0secret",
        Some((Some("who@example.org"), "user", "secret")),
    );
    check(
        "\0jürgen\0pässword".as_bytes(),
        Some((None, "jürgen", "pässword")),
    );
    check(b"\0user\0", None);
    check(b"\0\0secret", None);
    check(b"user\0secret", None);
    check(b"\0user\0sec\0ret", None);
    check(b"\0user\0\xff", None);
    check(b"", None);
}

#[test]
fn passwords_are_compared_after_preparation() {
    let check = |set: &str, tried: &str, expected: bool| {
        let verified = stored(set).verify_plain(&Password::new(tried));
        assert_eq!(verified, expected, "{set} {tried}");
    };
    check("secret", "secret", true);
    check("secret", "Secret", false);
    check("I\u{ad}X", "IX", true); // RFC 4013 §3: soft hyphen is mapped to nothing
    check("\u{2168}", "IX", true);
    check("pass\u{a0}word", "pass word", true);
    check("secret", "", false);
    check("secret", "\u{7}", false);
}

#[test]
fn a_password_that_cannot_be_set_says_why() {
    let check = |password: &str, expected: PasswordError| {
        let derived = StoredCredentials::derive(&Password::new(password), &[0; 32], iterations(1));
        assert_eq!(derived, Err(expected));
    };
    check("", PasswordError::Empty);
    check("\u{ad}", PasswordError::Empty);
    check("bell\u{7}", PasswordError::Prohibited);
    check(&"x".repeat(1025), PasswordError::TooLong);
}

#[test]
fn an_account_with_one_hash_function_still_takes_a_password() {
    let credentials = StoredCredentials {
        sha256: None,
        sha512: None,
        ..stored("secret")
    };
    assert!(credentials.verify_plain(&Password::new("secret")));
    assert!(!StoredCredentials::default().verify_plain(&Password::new("secret")));
}

#[test]
fn each_mechanism_has_its_own_salt() {
    let credentials = stored("secret");
    let salts: Vec<_> = ScramHash::ALL
        .map(|hash| credentials.keys(hash).unwrap().salt.clone())
        .into();
    assert!(salts[0] != salts[1] && salts[1] != salts[2] && salts[0] != salts[2]);
}

#[test]
fn decoys_are_stable_and_differ_by_name_hash_and_pool() {
    let keys = decoys(1).keys(ScramHash::Sha1, "romeo@example.org");
    assert_eq!(keys, decoys(1).keys(ScramHash::Sha1, "romeo@example.org"));
    for other in [
        decoys(1).keys(ScramHash::Sha256, "romeo@example.org"),
        decoys(1).keys(ScramHash::Sha1, "juliet@example.org"),
        decoys(2).keys(ScramHash::Sha1, "romeo@example.org"),
    ] {
        assert_ne!(keys.salt, other.salt);
    }
    assert_eq!(keys.salt.len(), stored("x").sha1.unwrap().salt.len());
}

#[test]
fn a_decoy_refuses_even_the_right_password() {
    let password = Password::new("secret");
    let right = PasswordCheck::against(password.clone(), stored("secret"));
    let wrong = PasswordCheck::against(Password::new("guess"), stored("secret"));
    let decoy = PasswordCheck::decoy(password, stored("secret"));
    assert_eq!(right.run(), PasswordVerdict::Right);
    assert_eq!(wrong.run(), PasswordVerdict::Wrong);
    assert_eq!(decoy.run(), PasswordVerdict::Wrong);
}

#[test]
fn debug_output_shows_no_secret() {
    let credentials = stored("correct horse");
    let password = Password::new("correct horse");
    let expected = challenge_of(&RFC_5802);
    let shown = format!(
        "{credentials:?} {password:?} {:?} {expected:?} {:?} {:?}",
        PasswordCheck::against(password.clone(), credentials.clone()),
        decoys(3),
        plain::parse(b"\0user\0correct horse"),
    );
    assert!(!shown.contains("horse"), "{shown}");
    assert!(!shown.contains("_key"), "{shown}");
    assert!(!shown.contains("secret:"), "{shown}");
}

#[test]
fn mechanisms_are_found_by_name_only_in_upper_case() {
    for mechanism in Mechanism::ALL {
        assert_eq!(Mechanism::from_name(mechanism.name()), Some(mechanism));
    }
    assert_eq!(Mechanism::from_name("scram-sha-1"), None);
    assert_eq!(Mechanism::from_name("SCRAM-SHA-1-PLUS"), None);
}

/// Runs the whole exchange with rsasl as the client.
fn rsasl_logs_in(
    mechanism: Mechanism,
    user: &str,
    password: &str,
    account: &StoredCredentials,
) -> Result<(), Refusal> {
    let config = SASLConfig::with_credentials(None, user.to_owned(), password.to_owned()).unwrap();
    let offered = Mechname::parse(mechanism.name().as_bytes()).unwrap();
    let mut session = SASLClient::new(config).start_suggested(&[offered]).unwrap();
    let mut step = |input: Option<&[u8]>| {
        let mut out = Cursor::new(Vec::new());
        let state = session.step(input, &mut out);
        (state, out.into_inner())
    };
    let (_, first) = step(None);
    let Some(hash) = mechanism.scram_hash() else {
        let message = plain::parse(&first)?;
        assert_eq!(message.username, user);
        return match PasswordCheck::against(message.password, account.clone()).run() {
            PasswordVerdict::Right => Ok(()),
            PasswordVerdict::Wrong => Err(Refusal::WrongProof),
        };
    };
    let first = ClientFirst::parse(&first, false)?;
    assert_eq!(first.username(), user);
    let keys = account.keys(hash).unwrap().clone();
    let (server_first, expected) = first.challenge(hash, keys, "server-nonce");
    let (_, client_final) = step(Some(server_first.as_bytes()));
    let server_final = expected.verify(&client_final)?;
    // The client checks the server's signature here.
    let (state, _) = step(Some(server_final.as_bytes()));
    assert!(matches!(state, Ok(State::Finished(_))));
    Ok(())
}

#[test]
fn an_independent_client_logs_in_with_every_mechanism() {
    for (user, password) in [
        ("romeo", "secret"),
        ("a,b=c", "pass,word="),
        ("jürgen", "pässwörd"),
    ] {
        let account = stored(password);
        for mechanism in Mechanism::ALL {
            assert_eq!(
                rsasl_logs_in(mechanism, user, password, &account),
                Ok(()),
                "{mechanism:?}"
            );
            let guess = rsasl_logs_in(mechanism, user, "guess", &account);
            assert_eq!(guess, Err(Refusal::WrongProof), "{mechanism:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[nyp=,acrm0-9A-Z]{0,40}") {
        for message in [&bytes[..], text.as_bytes()] {
            let _ = ClientFirst::parse(message, false);
            let _ = plain::parse(message);
            let _ = challenge_of_cheap().verify(message);
        }
    }
}

fn challenge_of_cheap() -> ProofExpected {
    let first = ClientFirst::parse(b"n,,n=user,r=abcdefgh", false).unwrap();
    first
        .challenge(
            ScramHash::Sha1,
            decoys(0).keys(ScramHash::Sha1, "user"),
            "nonce",
        )
        .1
}
