//! XEP-0199: XMPP ping.

use bytes::Bytes;

use super::Service;

/// An empty result.
pub fn answer() -> Service {
    Service::Answer(Bytes::new())
}
