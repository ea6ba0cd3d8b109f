//! Stream errors: what ends a stream, and why (RFC 6120 §4.9).
//!
//! The scanner reports bad input as a [`StreamError`]; the stream's state machine adds its own and writes
//! them all. A stream error is unrecoverable: whoever gets one closes the stream.

use bytes::Bytes;

use crate::ns;
use crate::wire_names::wire_names;
use crate::write::XmlWriter;

wire_names! {
    /// The defined conditions of stream errors (RFC 6120 §4.9.3).
    StreamErrorCondition {
        /// §4.9.3.1: XML that cannot be processed.
        BadFormat = "bad-format",
        /// §4.9.3.2: an unsupported prefix, or none where one is needed.
        BadNamespacePrefix = "bad-namespace-prefix",
        /// §4.9.3.3: a new stream conflicts with this one.
        Conflict = "conflict",
        /// §4.9.3.4: the peer has been silent for too long.
        ConnectionTimeout = "connection-timeout",
        /// §4.9.3.5: the addressed host is no longer served.
        HostGone = "host-gone",
        /// §4.9.3.6: the addressed host is not served.
        HostUnknown = "host-unknown",
        /// §4.9.3.7: an address is missing where one is needed.
        ImproperAddressing = "improper-addressing",
        /// §4.9.3.8: misconfiguration or a fault of the server.
        InternalServerError = "internal-server-error",
        /// §4.9.3.9: a `from` that the sender may not use.
        InvalidFrom = "invalid-from",
        /// §4.9.3.10: a stream or content namespace that is not supported.
        InvalidNamespace = "invalid-namespace",
        /// §4.9.3.11: XML that fails validation.
        InvalidXml = "invalid-xml",
        /// §4.9.3.12: data before the stream is authenticated.
        NotAuthorized = "not-authorized",
        /// §4.9.3.13: XML that is not well-formed, namespaces included.
        NotWellFormed = "not-well-formed",
        /// §4.9.3.14: a local policy such as a size limit is violated.
        PolicyViolation = "policy-violation",
        /// §4.9.3.15: a remote entity needed for authentication is out of reach.
        RemoteConnectionFailed = "remote-connection-failed",
        /// §4.9.3.16: new security parameters need a new stream.
        Reset = "reset",
        /// §4.9.3.17: too few resources to serve the stream.
        ResourceConstraint = "resource-constraint",
        /// §4.9.3.18: a comment, processing instruction, DTD or entity reference.
        RestrictedXml = "restricted-xml",
        /// §4.9.3.19: the peer shall connect elsewhere.
        SeeOtherHost = "see-other-host",
        /// §4.9.3.20: the server is being shut down.
        SystemShutdown = "system-shutdown",
        /// §4.9.3.21: none of the others; an application condition tells more.
        UndefinedCondition = "undefined-condition",
        /// §4.9.3.22: an encoding other than UTF-8.
        UnsupportedEncoding = "unsupported-encoding",
        /// §4.9.3.23: a mandatory feature that is not supported.
        UnsupportedFeature = "unsupported-feature",
        /// §4.9.3.24: a first-level element that is no stanza.
        UnsupportedStanzaType = "unsupported-stanza-type",
        /// §4.9.3.25: a version of XMPP that is not supported.
        UnsupportedVersion = "unsupported-version",
    }
}

/// A stream error with all it may say about itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream error {condition}")]
pub struct StreamError {
    /// What went wrong.
    pub condition: StreamErrorCondition,
    /// A description for people. Never holds anything the peer sent.
    pub text: Option<String>,
    /// Where to connect instead; only with [`StreamErrorCondition::SeeOtherHost`].
    pub other_host: Option<String>,
    /// An application-specific condition: one whole element (RFC 6120 §4.9.4).
    pub app_condition: Option<Bytes>,
}

impl StreamError {
    /// An error that says nothing but its condition.
    pub fn new(condition: StreamErrorCondition) -> Self {
        Self {
            condition,
            text: None,
            other_host: None,
            app_condition: None,
        }
    }

    /// Sends the peer to another host (RFC 6120 §4.9.3.19).
    pub fn see_other_host(host: impl Into<String>) -> Self {
        Self {
            other_host: Some(host.into()),
            ..Self::new(StreamErrorCondition::SeeOtherHost)
        }
    }

    /// Adds a description for people.
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Adds an application-specific condition (RFC 6120 §4.9.4).
    pub fn with_app_condition(mut self, name: &str, ns: &str, attrs: &[(&str, &str)]) -> Self {
        let mut writer = XmlWriter::new(ns::STREAM);
        writer.start_ns(name, ns);
        for (key, value) in attrs {
            writer.attr(key, value);
        }
        writer.end();
        self.app_condition = Some(writer.finish());
        self
    }

    /// The error as it goes on the wire: a `<stream:error/>` inside an open stream whose header bound the prefix
    /// `stream`. The closing `</stream:stream>` is the caller's.
    pub fn to_bytes(&self) -> Bytes {
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.start("stream:error");
        self.write_content(&mut writer);
        writer.end();
        writer.finish()
    }

    /// The error as an element that stands alone and declares its own prefix (RFC 7395 §3.5).
    pub fn to_standalone_bytes(&self) -> Bytes {
        let mut writer = XmlWriter::new("");
        writer
            .start("stream:error")
            .attr("xmlns:stream", ns::STREAM);
        self.write_content(&mut writer);
        writer.end();
        writer.finish()
    }

    fn write_content(&self, writer: &mut XmlWriter) {
        writer.start_ns(self.condition.name(), ns::STREAM_ERROR);
        if let Some(host) = &self.other_host {
            writer.text(host);
        }
        writer.end();
        if let Some(text) = &self.text {
            writer
                .start_ns("text", ns::STREAM_ERROR)
                .attr("xml:lang", "en")
                .text(text)
                .end();
        }
        if let Some(app) = &self.app_condition {
            writer.raw(app);
        }
    }
}

impl From<StreamErrorCondition> for StreamError {
    fn from(condition: StreamErrorCondition) -> Self {
        Self::new(condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_conditions_map_both_ways() {
        for &condition in StreamErrorCondition::ALL {
            assert_eq!(
                StreamErrorCondition::from_name(condition.name()),
                Some(condition)
            );
        }
        assert_eq!(StreamErrorCondition::ALL.len(), 25);
        assert_eq!(StreamErrorCondition::from_name("xml-not-well-formed"), None);
    }

    fn check(error: StreamError, expect: &str) {
        assert_eq!(std::str::from_utf8(&error.to_bytes()), Ok(expect));
    }

    #[test]
    fn errors_on_the_wire() {
        check(
            StreamErrorCondition::HostGone.into(),
            "<stream:error><host-gone xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
        );
        check(
            StreamError::see_other_host("[::1]:5222").with_text("a < b"),
            "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[::1]:5222</see-other-host>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>a &lt; b</text></stream:error>",
        );
        check(
            StreamError::new(StreamErrorCondition::UndefinedCondition).with_app_condition(
                "handled-count-too-high",
                ns::STREAM_MANAGEMENT,
                &[("h", "10"), ("send-count", "8")],
            ),
            "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <handled-count-too-high xmlns='urn:xmpp:sm:3' h='10' send-count='8'/></stream:error>",
        );
    }

    #[test]
    fn an_error_in_a_frame_declares_its_prefix() {
        let bytes = StreamError::new(StreamErrorCondition::Conflict).to_standalone_bytes();
        assert_eq!(
            std::str::from_utf8(&bytes),
            Ok(
                "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>\
                <conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
            )
        );
    }
}
