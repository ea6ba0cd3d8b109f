//! From events to stanzas: serialised once for each class of recipient; per recipient only `to` differs.

use bytes::Bytes;
use xmpp::jid::FullJid;

/// One stanza for many: `head` + the recipient's JID (escaped) + `tail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// Up to and with the opening quote of `to`.
    pub head: Bytes,
    /// From the closing quote of `to`.
    pub tail: Bytes,
    /// Who gets it.
    pub targets: Vec<FullJid>,
}
