//! Stream management (XEP-0198): counting stanzas both ways, so that neither side has to guess what arrived.
//!
//! Two halves that know nothing of each other: [`Inbound`] turns outcomes into `h`, [`Outbound`] keeps what
//! was sent until it is acknowledged. Both are values without a connection: resumption moves them from one
//! stream to another. [`Nonza`] is what a client may say, the functions below are what the server answers;
//! in which order `<enable/>` and `<resume/>` may come is up to [`crate::stream`].
//!
//! ```text
//!  stanzas in ──► Inbound::receive … settle ──► poll_ack ──► <a h/>
//!  stanzas out ─► Outbound::sent ─► <r/>   <a h/> ─► Outbound::acked ─► items that arrived
//! ```

mod inbound;
mod outbound;
mod resumption_id;

pub use inbound::{Inbound, InboundFull, InboundLimits, OutcomeUnknown, StanzaNumber};
pub use outbound::{HandledCountTooHigh, Outbound, OutboundFull, OutboundLimits, OutboundTimeout};
pub use resumption_id::{ResumptionId, ResumptionIds};

use bytes::Bytes;
use std::time::Duration;

use crate::ns;
use crate::scan::Element;
use crate::stanza_error::Condition;
use crate::stream_error::{StreamError, StreamErrorCondition};
use crate::write::XmlWriter;

/// What a client says about stream management; none of it is a stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nonza {
    /// `<enable/>` (§3).
    Enable {
        /// The client would like to be able to resume.
        resume: bool,
        /// For how long, if it has a preference.
        max: Option<Duration>,
    },
    /// `<resume/>` (§5).
    Resume {
        /// The id of the stream to be resumed.
        previd: String,
        /// How many of our stanzas the client has handled.
        h: u32,
    },
    /// `<r/>` (§4).
    Request,
    /// `<a/>` (§4).
    Ack {
        /// How many of our stanzas the client has handled.
        h: u32,
    },
}

/// Why an element in the namespace of stream management could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonzaError {
    /// Nothing that a client may send.
    #[error("no stream management element that a client sends")]
    Unknown,
    /// An `<enable/>` or `<resume/>` whose attributes are missing or wrong: answered with `<failed/>` (§6).
    #[error("a stream management request with a missing or wrong attribute")]
    BadRequest,
    /// An `<a/>` whose `h` is missing or no number; there is no answer to that but to close the stream.
    #[error("an acknowledgement without a valid count")]
    BadAck,
}

impl Nonza {
    /// Reads an element of namespace `urn:xmpp:sm:3`.
    pub fn parse(element: Element<'_>) -> Result<Nonza, NonzaError> {
        match element.name() {
            "r" => Ok(Nonza::Request),
            "a" => {
                let h = count(element).ok_or(NonzaError::BadAck)?;
                Ok(Nonza::Ack { h })
            }
            "enable" => {
                let resume = match element.attr("resume").as_deref() {
                    None | Some("false" | "0") => false,
                    Some("true" | "1") => true,
                    Some(_) => return Err(NonzaError::BadRequest),
                };
                let max = match element.attr("max") {
                    None => None,
                    Some(seconds) => Some(number(&seconds).ok_or(NonzaError::BadRequest)?),
                };
                let max = max.map(|seconds| Duration::from_secs(u64::from(seconds)));
                Ok(Nonza::Enable { resume, max })
            }
            "resume" => {
                let previd = element.attr("previd").filter(|previd| !previd.is_empty());
                let previd = previd.ok_or(NonzaError::BadRequest)?.into_owned();
                let h = count(element).ok_or(NonzaError::BadRequest)?;
                Ok(Nonza::Resume { previd, h })
            }
            _ => Err(NonzaError::Unknown),
        }
    }
}

fn count(element: Element<'_>) -> Option<u32> {
    number(&element.attr("h")?)
}

/// `xs:unsignedInt`: digits only, so neither `+1` nor an empty string.
fn number(text: &str) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// What the server offers for resuming a stream (§3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumable {
    /// The id to be named in `<resume/>`.
    pub id: String,
    /// For how long.
    pub max: Duration,
    /// Where to reconnect, if anywhere in particular.
    pub location: Option<String>,
}

/// `<enabled/>`. Without resumption it carries no `id`: some clients resume on any id they see.
pub fn enabled(resumable: Option<&Resumable>) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("enabled", ns::STREAM_MANAGEMENT);
    if let Some(resumable) = resumable {
        writer
            .attr("resume", "true")
            .attr("id", &resumable.id)
            .attr("max", &resumable.max.as_secs().to_string())
            .attr_opt("location", resumable.location.as_deref());
    }
    writer.end();
    writer.finish()
}

/// `<resumed/>` (§5); `h` counts what the server has handled.
pub fn resumed(previd: &str, h: u32) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("resumed", ns::STREAM_MANAGEMENT)
        .attr("previd", previd)
        .attr("h", &h.to_string())
        .end();
    writer.finish()
}

/// `<failed/>` (§6). `h` is given when the stream of a `<resume/>` is gone but its count is known.
pub fn failed(condition: Condition, h: Option<u32>) -> Bytes {
    let h = h.map(|h| h.to_string());
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("failed", ns::STREAM_MANAGEMENT)
        .attr_opt("h", h.as_deref())
        .start_ns(condition.name(), ns::STANZA_ERROR)
        .end()
        .end();
    writer.finish()
}

/// `<a/>`.
pub fn ack(h: u32) -> Bytes {
    Bytes::from(format!("<a xmlns='{}' h='{h}'/>", ns::STREAM_MANAGEMENT))
}

/// `<r/>`.
pub fn request() -> Bytes {
    Bytes::from_static(b"<r xmlns='urn:xmpp:sm:3'/>")
}

impl From<HandledCountTooHigh> for StreamError {
    /// §6: undefined-condition with `<handled-count-too-high/>`.
    fn from(error: HandledCountTooHigh) -> StreamError {
        let (h, send_count) = (error.h.to_string(), error.send_count.to_string());
        StreamError::new(StreamErrorCondition::UndefinedCondition).with_app_condition(
            "handled-count-too-high",
            ns::STREAM_MANAGEMENT,
            &[("h", &h), ("send-count", &send_count)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Document, Limits};

    fn parse(xml: &str) -> Result<Nonza, NonzaError> {
        let xml = xml.replacen("/>", " xmlns='urn:xmpp:sm:3'/>", 1);
        let document = Document::parse(Bytes::from(xml), &Limits::default()).unwrap();
        Nonza::parse(document.root())
    }

    fn check(xml: &str, expected: Result<Nonza, NonzaError>) {
        assert_eq!(parse(xml), expected, "{xml}");
    }

    #[test]
    fn what_a_client_may_say() {
        let enable = |resume, max: Option<u64>| {
            Ok(Nonza::Enable {
                resume,
                max: max.map(Duration::from_secs),
            })
        };
        let bad = Err(NonzaError::BadRequest);
        check("<r/>", Ok(Nonza::Request));
        check("<a h='7'/>", Ok(Nonza::Ack { h: 7 }));
        check("<a h='4294967295'/>", Ok(Nonza::Ack { h: u32::MAX }));
        check("<a h='4294967296'/>", Err(NonzaError::BadAck));
        check("<a h='-1'/>", Err(NonzaError::BadAck));
        check("<a h='+1'/>", Err(NonzaError::BadAck));
        check("<a h=''/>", Err(NonzaError::BadAck));
        check("<a/>", Err(NonzaError::BadAck));
        check("<enable/>", enable(false, None));
        check("<enable resume='true'/>", enable(true, None));
        check("<enable resume='1' max='600'/>", enable(true, Some(600)));
        check("<enable resume='0'/>", enable(false, None));
        check("<enable resume='yes'/>", bad.clone());
        check("<enable max='soon'/>", bad.clone());
        check(
            "<resume previd='abc' h='3'/>",
            Ok(Nonza::Resume {
                previd: "abc".to_owned(),
                h: 3,
            }),
        );
        check("<resume previd='abc'/>", bad.clone());
        check("<resume h='3'/>", bad.clone());
        check("<resume previd='' h='3'/>", bad);
        check("<enabled/>", Err(NonzaError::Unknown));
        check("<resumed/>", Err(NonzaError::Unknown));
    }

    #[test]
    fn what_the_server_answers() {
        let check = |bytes: Bytes, expected: &str| assert_eq!(bytes, expected.as_bytes());
        check(enabled(None), "<enabled xmlns='urn:xmpp:sm:3'/>");
        let resumable = Resumable {
            id: "a<b".to_owned(),
            max: Duration::from_secs(300),
            location: None,
        };
        check(
            enabled(Some(&resumable)),
            "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='a&lt;b' max='300'/>",
        );
        check(
            resumed("x", 5),
            "<resumed xmlns='urn:xmpp:sm:3' previd='x' h='5'/>",
        );
        check(ack(9), "<a xmlns='urn:xmpp:sm:3' h='9'/>");
        check(request(), "<r xmlns='urn:xmpp:sm:3'/>");
        check(
            failed(Condition::ItemNotFound, Some(2)),
            "<failed xmlns='urn:xmpp:sm:3' h='2'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>",
        );
    }

    #[test]
    fn a_count_that_is_too_high_ends_the_stream() {
        let error = StreamError::from(HandledCountTooHigh {
            h: 10,
            send_count: 8,
        });
        assert_eq!(
            error.to_bytes(),
            "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <handled-count-too-high xmlns='urn:xmpp:sm:3' h='10' send-count='8'/></stream:error>"
        );
    }
}
