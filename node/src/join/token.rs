//! The token as it is shown and typed: all that a new machine must know to join, in one word.
//!
//! It names the pool, where its control ports are, and the CA by its hash, so that the machine knows whom it speaks to
//! before it shows the secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// What every token begins with: so that it is known for one wherever it turns up.
const PREFIX: &str = "muster-join-";

/// Characters of the longest token that is looked at.
const LENGTH_MAX: usize = 4096;

/// A token's contents. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinToken {
    /// The pool's id.
    pub(crate) pool: String,
    /// Where control ports are, `HOST:PORT`.
    pub(crate) at: Vec<String>,
    /// SHA-256 of the pool's CA certificate, in hexadecimal digits.
    pub(crate) ca: String,
    /// What the pool knows the token by.
    pub(crate) secret: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("pool", &self.pool)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "--token: that is no token to join with: copy the whole word that `muster ctl node token` has shown"
)]
pub(crate) struct NoToken;

impl JoinToken {
    /// As it is shown.
    pub(crate) fn show(&self) -> Result<String, serde_json::Error> {
        let text = serde_json::to_vec(self)?;
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(text)))
    }

    /// As it was typed.
    pub(crate) fn parse(text: &str) -> Result<JoinToken, NoToken> {
        let text = text.trim();
        let coded = text.strip_prefix(PREFIX).ok_or(NoToken)?;
        if text.len() > LENGTH_MAX {
            return Err(NoToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| NoToken)?;
        let token: JoinToken = serde_json::from_slice(&bytes).map_err(|_| NoToken)?;
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match is_hash(&token.ca) && is_hash(&token.secret) {
            true => Ok(token),
            false => Err(NoToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read() {
        let token = JoinToken {
            pool: "muster-1".to_owned(),
            at: vec!["10.0.0.1:7480".to_owned(), "[fd00::1]:7480".to_owned()],
            ca: "ab".repeat(32),
            secret: "01".repeat(32),
        };
        let shown = token.show().unwrap();
        assert!(shown.len() < 400, "{}", shown.len());
        assert!(
            shown
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
        assert_eq!(JoinToken::parse(&shown), Ok(token.clone()));
        assert_eq!(JoinToken::parse(&format!(" {shown}\n")), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("0101"));
        let short = JoinToken {
            secret: "01".to_owned(),
            ..token
        };
        let half = shown.split_at(shown.len() / 2).0;
        for wrong in ["", "x", PREFIX, half, &shown[1..], &short.show().unwrap()] {
            assert_eq!(JoinToken::parse(wrong), Err(NoToken), "{wrong}");
        }
    }
}
