//! Recently sent origin ids: a client's retry has no second effect.
//!
//! Key (sender bare JID, target bare JID, origin-id), kept 24 h, at most 1,024 a sender. Bytes are never compared:
//! clients add `<delay/>` to what they resend.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

/// The origin ids one sender used lately, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentIds {
    ids: VecDeque<SentId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SentId {
    target: BareJid,
    origin_id: String,
    seq: u64,
    time_ms: u64,
}
