//! Names of one run: many scripts about Romeo play in the same pool at once, each with a Romeo of its own.
//!
//! On its way out, `romeo@localhost` becomes `romeo-t7@localhost`, rooms likewise; on its way in the tag is taken off.

use crate::pool::{DOMAIN, ROOMS};

/// What is put into every address of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    suffix: String,
}

impl Tag {
    /// The tag of run `number`.
    pub fn new(number: usize) -> Tag {
        Tag {
            suffix: format!("-t{number}"),
        }
    }

    /// A name with the tag.
    pub fn name(&self, local: &str) -> String {
        format!("{local}{}", self.suffix)
    }

    /// Text on its way out.
    pub fn put(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('@') {
            out.push_str(before);
            let has_local = before.ends_with(|c: char| c.is_ascii_alphanumeric());
            if has_local
                && [DOMAIN, ROOMS]
                    .iter()
                    .any(|domain| after.starts_with(domain))
            {
                out.push_str(&self.suffix);
            }
            out.push('@');
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// Text on its way in.
    pub fn take_off(&self, text: &str) -> String {
        text.replace(&format!("{}@", self.suffix), "@")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_tag_and_lose_it() {
        let tag = Tag::new(7);
        let check = |plain: &str, tagged: &str| {
            assert_eq!(tag.put(plain), tagged);
            assert_eq!(tag.take_off(tagged), plain);
        };
        check(
            "to='romeo@localhost/orchard'",
            "to='romeo-t7@localhost/orchard'",
        );
        check(
            "garden@conference.localhost",
            "garden-t7@conference.localhost",
        );
        check("a@localhost b@localhost", "a-t7@localhost b-t7@localhost");
        check("a@example.org @localhost", "a@example.org @localhost");
        check("nothing", "nothing");
    }
}
