//! The sender's hints on what to do with a message (XEP-0334).

use crate::ns;
use crate::scan::Element;

/// Which hints a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// Archive it even if it has no body.
    pub store: bool,
    /// Store it nowhere.
    pub no_store: bool,
    /// Store it no longer than needed to deliver it.
    pub no_permanent_store: bool,
    /// Send no copies.
    pub no_copy: bool,
}

impl Hints {
    /// Collects the hints among a message's payloads.
    pub fn of<'a>(payloads: impl IntoIterator<Item = Element<'a>>) -> Self {
        let mut hints = Self::default();
        for element in payloads
            .into_iter()
            .filter(|element| element.ns() == ns::HINTS)
        {
            match element.name() {
                "store" => hints.store = true,
                "no-store" => hints.no_store = true,
                "no-permanent-store" => hints.no_permanent_store = true,
                "no-copy" => hints.no_copy = true,
                _ => {}
            }
        }
        hints
    }
}
