//! Paging through results (XEP-0059).

use crate::ns;
use crate::payload::{PayloadError, number};
use crate::scan::Element;
use crate::write::XmlWriter;

/// Where a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// The first page.
    First,
    /// The page behind an item.
    After(String),
    /// The page that ends before an item.
    Before(String),
    /// The last page: an empty `<before/>` (§2.5).
    Last,
    /// The page that starts at a position (§2.6).
    Index(u64),
}

/// What a requester asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// At most so many items; 0 asks for the count only (§2.7).
    pub max: Option<u32>,
    /// Which page.
    pub page: Page,
}

impl PageRequest {
    /// Reads `<set/>`.
    pub fn parse(set: Element<'_>) -> Result<Self, PayloadError> {
        let text = |name: &str| set.child(name, ns::RSM).map(|child| child.text());
        // A number too large for us is still a number: the page is capped anyway.
        let max = number::<u64>(text("max"), "max is no number")?;
        let max = max.map(|max| u32::try_from(max).unwrap_or(u32::MAX));
        let page = match (
            text("after"),
            text("before"),
            number(text("index"), "index is no number")?,
        ) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                return Err(PayloadError::malformed("a page has one start"));
            }
            (Some(after), None, None) if after.is_empty() => Page::First,
            (Some(after), None, None) => Page::After(after.into_owned()),
            (None, Some(before), None) if before.is_empty() => Page::Last,
            (None, Some(before), None) => Page::Before(before.into_owned()),
            (None, None, Some(index)) => Page::Index(index),
            (None, None, None) => Page::First,
        };
        Ok(Self { max, page })
    }

    /// Reads the `<set/>` inside a query; without one, the first page of any size.
    pub fn of_query(query: Element<'_>) -> Result<Self, PayloadError> {
        query.child("set", ns::RSM).map_or(
            Ok(Self {
                max: None,
                page: Page::First,
            }),
            Self::parse,
        )
    }

    /// Writes `<set/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer.start_ns("set", ns::RSM);
        if let Some(max) = self.max {
            writer.leaf("max", &max.to_string());
        }
        match &self.page {
            Page::First => {}
            Page::After(id) => {
                writer.leaf("after", id);
            }
            Page::Before(id) => {
                writer.leaf("before", id);
            }
            Page::Last => {
                writer.leaf("before", "");
            }
            Page::Index(index) => {
                writer.leaf("index", &index.to_string());
            }
        }
        writer.end();
    }
}

/// What the responder says about the page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageResult {
    /// The first item's id, and its position if known. An empty page has neither first nor last.
    pub first: Option<(String, Option<u64>)>,
    /// The last item's id.
    pub last: Option<String>,
    /// How many items there are in all.
    pub count: Option<u64>,
}

impl PageResult {
    /// Writes `<set/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer.start_ns("set", ns::RSM);
        if let Some((first, index)) = &self.first {
            let index = index.map(|index| index.to_string());
            writer
                .start("first")
                .attr_opt("index", index.as_deref())
                .text(first)
                .end();
        }
        if let Some(last) = &self.last {
            writer.leaf("last", last);
        }
        if let Some(count) = self.count {
            writer.leaf("count", &count.to_string());
        }
        writer.end();
    }

    /// Reads `<set/>`.
    pub fn parse(set: Element<'_>) -> Result<Self, PayloadError> {
        let text = |name: &str| set.child(name, ns::RSM).map(|child| child.text());
        let first = match set.child("first", ns::RSM) {
            None => None,
            Some(first) => Some((
                first.text().into_owned(),
                number(first.attr("index"), "index is no number")?,
            )),
        };
        let count = number(text("count"), "count is no number")?;
        Ok(Self {
            first,
            last: text("last").map(std::borrow::Cow::into_owned),
            count,
        })
    }
}
