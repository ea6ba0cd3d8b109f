//! Addresses: `local@domain/resource`, prepared once and cheap to clone (RFC 7622, prepared by RFC 6122's profiles).
//!
//! A [`Jid`] may be bare or full; [`BareJid`] and [`FullJid`] say which. All three share one allocation: taking
//! the bare JID of a full one only counts a reference. Equality, order and hash are those of the text, so maps
//! keyed by a JID can be asked with a `&str`.

mod prepare;

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no JID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JidError {
    /// The domain is missing, malformed or fails its preparation (RFC 7622 §3.2).
    #[error("the domain is invalid")]
    Domain,
    /// The local part is empty or fails its preparation (RFC 7622 §3.3).
    #[error("the local part is invalid")]
    Local,
    /// The resource is empty or fails its preparation (RFC 7622 §3.4).
    #[error("the resource is invalid")]
    Resource,
    /// A part has more than 1,023 bytes.
    #[error("a part of the address is too long")]
    TooLong,
    /// A bare JID was asked for, and there is a resource.
    #[error("the address has a resource")]
    UnexpectedResource,
    /// A full JID was asked for, and there is no resource.
    #[error("the address has no resource")]
    MissingResource,
}

/// A part has at most so many bytes, before and after its preparation (RFC 7622 §3.1).
pub const PART_BYTES_MAX: usize = 1023;

/// An address, bare or full.
#[derive(Clone)]
pub struct Jid {
    text: Arc<str>,
    /// Where the `@` stands; 0 without a local part, which is never empty.
    at: u16,
    /// Where the domain ends.
    bare_end: u16,
    /// Where the address ends: `bare_end` for a bare JID, even if the shared text goes on.
    end: u16,
}

/// Prepared parts have at most 1,023 bytes each: every offset fits.
fn offset(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// An address without a resource: a user, a room or a domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BareJid(Jid);

/// An address with a resource: a session, an occupant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullJid(Jid);

impl Jid {
    /// Parses and prepares an address.
    pub fn parse(text: &str) -> Result<Self, JidError> {
        // RFC 7622 §3.1: the resource starts at the first slash, the local part ends at the first at-sign before it.
        let (bare, resource) = match text.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource)),
            None => (text, None),
        };
        let (local, domain) = match bare.split_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, bare),
        };
        let domain = prepare::domain(domain)?;
        let local = local.map(prepare::local).transpose()?;
        let resource = resource.map(prepare::resource).transpose()?;
        let parts = [local.as_ref(), Some(&domain), resource.as_ref()];
        let unchanged = parts
            .into_iter()
            .flatten()
            .all(|part| matches!(part, Cow::Borrowed(_)));
        let (at, bare_end) = (local.as_ref().map_or(0, |local| local.len()), bare.len());
        // A final dot is stripped without a copy, hence the look at the length.
        if unchanged && bare_end == at + usize::from(at > 0) + domain.len() {
            return Ok(Self {
                text: text.into(),
                at: offset(at),
                bare_end: offset(bare_end),
                end: offset(text.len()),
            });
        }
        Ok(Self::join(local.as_deref(), &domain, resource.as_deref()))
    }

    /// Builds an address from its parts and prepares them.
    pub fn from_parts(
        local: Option<&str>,
        domain: &str,
        resource: Option<&str>,
    ) -> Result<Self, JidError> {
        let domain = prepare::domain(domain)?;
        let local = local.map(prepare::local).transpose()?;
        let resource = resource.map(prepare::resource).transpose()?;
        Ok(Self::join(local.as_deref(), &domain, resource.as_deref()))
    }

    /// Joins prepared parts.
    fn join(local: Option<&str>, domain: &str, resource: Option<&str>) -> Self {
        let at = local.map_or(0, str::len);
        let bare_end = if at == 0 {
            domain.len()
        } else {
            at + 1 + domain.len()
        };
        let end = bare_end + resource.map_or(0, |resource| resource.len() + 1);
        let mut text = String::with_capacity(end);
        if let Some(local) = local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(domain);
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(resource);
        }
        Self {
            text: text.into(),
            at: offset(at),
            bare_end: offset(bare_end),
            end: offset(end),
        }
    }

    fn slice(&self, from: u16, to: u16) -> &str {
        // The offsets were taken from this very text: the slice always exists.
        self.text
            .get(usize::from(from)..usize::from(to))
            .unwrap_or_default()
    }

    /// The part before the `@`.
    pub fn local(&self) -> Option<&str> {
        (self.at > 0).then(|| self.slice(0, self.at))
    }

    /// The domain: always there.
    pub fn domain(&self) -> &str {
        self.slice(if self.at > 0 { self.at + 1 } else { 0 }, self.bare_end)
    }

    /// The part behind the first `/`.
    pub fn resource(&self) -> Option<&str> {
        (self.end > self.bare_end).then(|| self.slice(self.bare_end + 1, self.end))
    }

    /// The address without its resource; costs a reference count.
    pub fn bare(&self) -> BareJid {
        BareJid(Self {
            end: self.bare_end,
            ..self.clone()
        })
    }

    /// The text of the address without its resource.
    pub fn bare_str(&self) -> &str {
        self.slice(0, self.bare_end)
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        self.slice(0, self.end)
    }

    /// True if there is no resource.
    pub fn is_bare(&self) -> bool {
        self.end == self.bare_end
    }

    /// True if there is only a domain.
    pub fn is_domain(&self) -> bool {
        self.at == 0 && self.is_bare()
    }

    /// The address as a full JID, if it has a resource.
    pub fn to_full(&self) -> Option<FullJid> {
        (!self.is_bare()).then(|| FullJid(self.clone()))
    }

    /// The address as a bare JID, if it has no resource.
    pub fn to_bare(&self) -> Option<BareJid> {
        self.is_bare().then(|| BareJid(self.clone()))
    }
}

impl BareJid {
    /// Parses and prepares an address that must not have a resource.
    pub fn parse(text: &str) -> Result<Self, JidError> {
        let jid = Jid::parse(text)?;
        if jid.is_bare() {
            Ok(Self(jid))
        } else {
            Err(JidError::UnexpectedResource)
        }
    }

    /// Builds a bare JID from its parts.
    pub fn from_parts(local: Option<&str>, domain: &str) -> Result<Self, JidError> {
        Jid::from_parts(local, domain, None).map(Self)
    }

    /// The part before the `@`.
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// True if there is only a domain.
    pub fn is_domain(&self) -> bool {
        self.0.is_domain()
    }

    /// The domain as an address of its own.
    pub fn to_domain(&self) -> BareJid {
        if self.is_domain() {
            self.clone()
        } else {
            Self(Jid::join(None, self.domain(), None))
        }
    }

    /// The address with a resource, which is prepared.
    pub fn with_resource(&self, resource: &str) -> Result<FullJid, JidError> {
        let resource = prepare::resource(resource)?;
        Ok(FullJid(Jid::join(
            self.local(),
            self.domain(),
            Some(&resource),
        )))
    }
}

impl FullJid {
    /// Parses and prepares an address that must have a resource.
    pub fn parse(text: &str) -> Result<Self, JidError> {
        let jid = Jid::parse(text)?;
        if jid.is_bare() {
            Err(JidError::MissingResource)
        } else {
            Ok(Self(jid))
        }
    }

    /// The address without its resource; costs a reference count.
    pub fn bare(&self) -> BareJid {
        self.0.bare()
    }

    /// The part before the `@`.
    pub fn local(&self) -> Option<&str> {
        self.0.local()
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    /// The resource.
    pub fn resource(&self) -> &str {
        self.0.resource().unwrap_or_default()
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Jid {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Jid {}

impl PartialOrd for Jid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Jid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Jid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<BareJid> for Jid {
    fn eq(&self, other: &BareJid) -> bool {
        *self == other.0
    }
}

impl PartialEq<FullJid> for Jid {
    fn eq(&self, other: &FullJid) -> bool {
        *self == other.0
    }
}

/// What the three kinds of JID have in common: text in, text out.
macro_rules! textual {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = JidError;

            fn from_str(text: &str) -> Result<Self, JidError> {
                Self::parse(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(Self::parse))
            }
        }
    )*};
}

textual!(Jid, BareJid, FullJid);

/// Parses a JID from whatever text the format holds, without a copy of it.
struct TextVisitor<T>(fn(&str) -> Result<T, JidError>);

impl<T> serde::de::Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an XMPP address")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

impl From<BareJid> for Jid {
    fn from(jid: BareJid) -> Self {
        jid.0
    }
}

impl From<FullJid> for Jid {
    fn from(jid: FullJid) -> Self {
        jid.0
    }
}

impl From<&BareJid> for Jid {
    fn from(jid: &BareJid) -> Self {
        jid.0.clone()
    }
}

impl From<&FullJid> for Jid {
    fn from(jid: &FullJid) -> Self {
        jid.0.clone()
    }
}

#[cfg(test)]
mod tests;
