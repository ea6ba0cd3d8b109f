//! Queries to message archives (XEP-0313), with full-text search (XEP-0431).

use bytes::Bytes;

use crate::data_form::{DataForm, Field};
use crate::delay::Delay;
use crate::forward;
use crate::jid::Jid;
use crate::ns;
use crate::payload::PayloadError;
use crate::rsm::{PageRequest, PageResult};
use crate::scan::Element;
use crate::stanza::Stanza;
use crate::stanza_error::Condition;
use crate::timestamp::Timestamp;
use crate::write::XmlWriter;

/// The field of a full-text search (XEP-0431 §2).
pub const FULL_TEXT_FIELD: &str = "{urn:xmpp:fulltext:0}fulltext";

/// A query takes at most so many ids.
pub const IDS_MAX: usize = 256;

/// What a client asks an archive.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveQuery {
    /// The client's name for the query, repeated in each result.
    pub query_id: Option<String>,
    /// A node of the archive; ours have none.
    pub node: Option<String>,
    /// Only messages with this correspondent.
    pub with: Option<Jid>,
    /// Only messages at or after this time.
    pub start: Option<Timestamp>,
    /// Only messages at or before this time.
    pub end: Option<Timestamp>,
    /// Only messages before this one.
    pub before_id: Option<String>,
    /// Only messages after this one.
    pub after_id: Option<String>,
    /// Only these messages.
    pub ids: Vec<String>,
    /// Only messages in whose text these words stand.
    pub full_text: Option<String>,
    /// Whether messages of rooms are wanted too; unsaid: as the archive likes.
    pub include_groupchat: Option<bool>,
    /// The page's last result first.
    pub flip_page: bool,
    /// Which page.
    pub page: PageRequest,
}

/// What is searched for belongs in no log.
impl std::fmt::Debug for ArchiveQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveQuery")
            .field("with", &self.with)
            .field("start", &self.start)
            .field("end", &self.end)
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

impl ArchiveQuery {
    /// Reads `<query xmlns='urn:xmpp:mam:2'/>`.
    pub fn parse(query: Element<'_>) -> Result<Self, PayloadError> {
        let mut parsed = Self {
            query_id: query.attr("queryid").map(std::borrow::Cow::into_owned),
            node: query.attr("node").map(std::borrow::Cow::into_owned),
            with: None,
            start: None,
            end: None,
            before_id: None,
            after_id: None,
            ids: Vec::new(),
            full_text: None,
            include_groupchat: None,
            flip_page: query.child("flip-page", ns::MAM).is_some(),
            page: PageRequest::of_query(query)?,
        };
        if let Some(form) = DataForm::of_query(query)? {
            form.expect_submission(ns::MAM)?;
            for field in &form.fields {
                parsed.take(field)?;
            }
        }
        Ok(parsed)
    }

    fn take(&mut self, field: &Field) -> Result<(), PayloadError> {
        let text = || {
            field
                .value()
                .map(str::to_owned)
                .filter(|text| !text.is_empty())
        };
        let time = || {
            let parse = |text: String| {
                Timestamp::parse(&text)
                    .map_err(|_| PayloadError::malformed("a time of the query is no time"))
            };
            text().map(parse).transpose()
        };
        match field.var.as_str() {
            "FORM_TYPE" => {}
            "with" => self.with = Some(field.as_jid()?),
            "start" => self.start = time()?,
            "end" => self.end = time()?,
            "before-id" => self.before_id = text(),
            "after-id" => self.after_id = text(),
            "ids" if field.values.len() > IDS_MAX => {
                return Err(PayloadError::new(
                    Condition::PolicyViolation,
                    "too many ids at once",
                ));
            }
            "ids" => self.ids.clone_from(&field.values),
            FULL_TEXT_FIELD => self.full_text = text(),
            "include-groupchat" => self.include_groupchat = Some(field.as_bool()?),
            // §4.1.6: what the archive does not understand it must not ignore.
            _ => {
                return Err(PayloadError::new(
                    Condition::FeatureNotImplemented,
                    "a field of the query is unknown",
                ));
            }
        }
        Ok(())
    }
}

/// The payload of one result message (§4.2).
pub fn write_result(id: &str, query_id: Option<&str>, stamp: Timestamp, stanza: &Stanza) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("result", ns::MAM)
        .attr_opt("queryid", query_id)
        .attr("id", id);
    forward::write(Some(&Delay { from: None, stamp }), stanza, &mut writer);
    writer.end();
    writer.finish()
}

/// What ends a page (§4.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fin {
    /// There is nothing beyond this page.
    pub complete: bool,
    /// False if the archive may still change what the page holds.
    pub stable: bool,
    /// Which page it was.
    pub page: PageResult,
}

impl Fin {
    /// Writes `<fin/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer.start_ns("fin", ns::MAM);
        writer.attr_opt("complete", self.complete.then_some("true"));
        writer.attr_opt("stable", (!self.stable).then_some("false"));
        self.page.write(writer);
        writer.end();
    }

    /// Reads `<fin/>`.
    pub fn parse(fin: Element<'_>) -> Result<Self, PayloadError> {
        let flag = |name: &str, default: bool| {
            fin.attr(name)
                .map_or(Some(default), |text| crate::payload::boolean(&text))
        };
        let (Some(complete), Some(stable)) = (flag("complete", false), flag("stable", true)) else {
            return Err(PayloadError::malformed("a flag is neither true nor false"));
        };
        let page = fin
            .child("set", ns::RSM)
            .map(PageResult::parse)
            .transpose()?;
        Ok(Self {
            complete,
            stable,
            page: page.unwrap_or_default(),
        })
    }
}
