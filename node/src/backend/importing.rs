//! Pieces of imported accounts, from the control port's terms into those of the pool.

use actors::control::ImportPiece;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use messaging::archive::MessageRecord;
use messaging::user::import::{ImportedContact, ImportedItem, ImportedRequest};
use web::backend::BackendError;
use web::report::imports;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::sasl::{Password, ScramHash, ScramKeys, StoredCredentials};
use xmpp::scan::{Document, Limits};
use xmpp::stanza::{Stanza, StanzaKind};

/// Iterations that a login may cost; more is a mistake, or meant to keep the node busy.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Bytes of a salt.
const SALT_BYTES_MAX: usize = 256;

fn invalid(reason: impl Into<String>) -> BackendError {
    BackendError::Invalid(reason.into())
}

/// What a piece asks of an account.
pub(super) fn piece(
    user: &BareJid,
    piece: imports::ImportPiece,
) -> Result<ImportPiece, BackendError> {
    Ok(match piece {
        imports::ImportPiece::Contacts { contacts } => {
            let contacts = contacts.into_iter().map(contact);
            ImportPiece::Contacts(contacts.collect::<Result<_, _>>()?)
        }
        imports::ImportPiece::Messages {
            after,
            waiting,
            messages,
        } => {
            let rows = messages.iter().zip(1..).map(|(message, place)| {
                let record = record(user, &message.message)
                    .map_err(|error| invalid(format!("message {place} of the piece: {error}")))?;
                Ok((message.time_ms, record))
            });
            ImportPiece::Rows {
                after,
                waiting,
                rows: rows.collect::<Result<_, BackendError>>()?,
            }
        }
        imports::ImportPiece::Blocked { addresses } => {
            let parsed = addresses.iter().map(|address| {
                Jid::parse(address).map_err(|error| invalid(format!("{address:?}: {error}")))
            });
            ImportPiece::Item(ImportedItem::Blocked(parsed.collect::<Result<_, _>>()?))
        }
        imports::ImportPiece::Private { element } => {
            let document = parse(&element)?;
            let root = document.root();
            ImportPiece::Item(ImportedItem::Private {
                name: format!("{{{}}}{}", root.ns(), root.name()),
                element: canonical(&document),
            })
        }
        imports::ImportPiece::Vcard { element } => {
            let document = parse(&element)?;
            if !document.root().is("vCard", ns::VCARD) {
                return Err(invalid("that is no vCard"));
            }
            ImportPiece::Item(ImportedItem::Vcard(canonical(&document)))
        }
        imports::ImportPiece::Finish { password, scram } => match password {
            Some(password) => ImportPiece::Password(Password::new(password)),
            None => ImportPiece::Credentials(credentials(&scram)?),
        },
    })
}

/// Reads an element. It was written by a server in canonical form, which repeats namespaces, so it may cost more than what a client
/// sends; how many bytes there are is bounded by the body of the request.
fn parse(element: &str) -> Result<Document, BackendError> {
    let bytes = Bytes::copy_from_slice(element.as_bytes());
    Document::parse_in(bytes, &Limits::OWN, ns::CLIENT)
        .map_err(|error| invalid(format!("an element does not read: {error}")))
}

fn canonical(document: &Document) -> Bytes {
    let mut out = Vec::new();
    document.root().write_canonical(&mut out, ns::CLIENT);
    out.into()
}

fn contact(contact: imports::ImportedContact) -> Result<ImportedContact, BackendError> {
    let address = BareJid::parse(&contact.address)
        .map_err(|error| invalid(format!("{:?}: {error}", contact.address)))?;
    let (to, from) = match contact.subscription.as_str() {
        "none" => (false, false),
        "to" => (true, false),
        "from" => (false, true),
        "both" => (true, true),
        other => return Err(invalid(format!("{other:?} is no subscription"))),
    };
    let request = contact.request.as_deref().map(request).transpose()?;
    Ok(ImportedContact {
        contact: address,
        name: contact.name,
        groups: contact.groups,
        to,
        from,
        // RFC 6121 appendix A: who sees the other does not wait for it.
        pending_out: contact.asks && !to,
        approved: contact.approved,
        listed: contact.listed,
        pending_in: request.filter(|_| !from),
    })
}

fn stanza(element: &str, kind: StanzaKind) -> Result<Stanza, BackendError> {
    let document = parse(element)?;
    let stanza = Stanza::from_element(&document.root())
        .map_err(|_| invalid("that is no stanza with good addresses"))?;
    match stanza.kind == kind {
        true => Ok(stanza),
        false => Err(invalid(format!("that is no {}", kind.name()))),
    }
}

fn request(element: &str) -> Result<ImportedRequest, BackendError> {
    let stanza = stanza(element, StanzaKind::Presence)?;
    Ok(ImportedRequest {
        id: stanza.id.map(|id| id.to_string()),
        lang: stanza.lang.map(|lang| lang.to_string()),
        payload: stanza.payload,
    })
}

/// What the archive keeps of a message. Whoever cuts a file into pieces asks the same, before a message has a place among the others.
pub(crate) fn record(user: &BareJid, element: &str) -> Result<MessageRecord, BackendError> {
    let stanza = stanza(element, StanzaKind::Message)?;
    let (Some(from), Some(to)) = (stanza.from.clone(), stanza.to.clone()) else {
        return Err(invalid("a message without from and to"));
    };
    let sent = from.bare() == *user;
    if !sent && to.bare() != *user {
        return Err(invalid("a message neither from nor to the user"));
    }
    Ok(MessageRecord {
        sent,
        sender: from.to_full().filter(|_| sent),
        peer: if sent { to } else { from },
        stanza,
    })
}

/// Keys that are in base64 so many times over, if they have the lengths that they must have. ejabberd 23 writes what it has in
/// base64 already in base64 once more.
fn scram_keys(keys: &imports::ImportedKeys, hash: ScramHash, times: usize) -> Option<ScramKeys> {
    let decode = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..times {
            bytes = BASE64_STANDARD.decode(bytes).ok()?;
        }
        Some(bytes)
    };
    let read = ScramKeys {
        salt: decode(&keys.salt)?,
        iterations: keys.iterations,
        stored_key: decode(&keys.stored_key)?,
        server_key: decode(&keys.server_key)?,
    };
    let fits = [&read.stored_key, &read.server_key]
        .iter()
        .all(|key| key.len() == hash.digest_bytes())
        && (1..=ITERATIONS_MAX).contains(&read.iterations)
        && (1..=SALT_BYTES_MAX).contains(&read.salt.len());
    fits.then_some(read)
}

fn credentials(scram: &[imports::ImportedKeys]) -> Result<StoredCredentials, BackendError> {
    let mut credentials = StoredCredentials::default();
    for keys in scram {
        let (hash, place) = match keys.mechanism.as_str() {
            "SCRAM-SHA-1" => (ScramHash::Sha1, &mut credentials.sha1),
            "SCRAM-SHA-256" => (ScramHash::Sha256, &mut credentials.sha256),
            "SCRAM-SHA-512" => (ScramHash::Sha512, &mut credentials.sha512),
            other => return Err(invalid(format!("{other:?} is not known here"))),
        };
        let read = scram_keys(keys, hash, 1).or_else(|| scram_keys(keys, hash, 2));
        let Some(read) = read else {
            return Err(invalid(format!("{}: no usable keys", keys.mechanism)));
        };
        if place.replace(read).is_some() {
            return Err(invalid(format!("{} is there twice", keys.mechanism)));
        }
    }
    match messaging::user::import::is_unfinished(&credentials) {
        true => Err(invalid("neither a password nor SCRAM keys")),
        false => Ok(credentials),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> BareJid {
        BareJid::parse("juliet@capulet.lit").unwrap()
    }

    fn keys(mechanism: &str, bytes: usize) -> imports::ImportedKeys {
        let key = BASE64_STANDARD.encode(vec![7; bytes]);
        imports::ImportedKeys {
            mechanism: mechanism.into(),
            salt: BASE64_STANDARD.encode("salt"),
            iterations: 4096,
            stored_key: key.clone(),
            server_key: key,
        }
    }

    #[test]
    fn keys_are_taken_as_they_are_or_refused() {
        let good = [keys("SCRAM-SHA-1", 20), keys("SCRAM-SHA-256", 32)];
        let read = credentials(&good).unwrap();
        assert_eq!(read.sha1.unwrap().stored_key, vec![7; 20]);
        assert!(read.sha256.is_some() && read.sha512.is_none());
        let twice = |text: &str| BASE64_STANDARD.encode(text);
        let once = keys("SCRAM-SHA-1", 20);
        let of_ejabberd = imports::ImportedKeys {
            salt: twice(&once.salt),
            stored_key: twice(&once.stored_key),
            server_key: twice(&once.server_key),
            ..once.clone()
        };
        assert_eq!(credentials(&[of_ejabberd]), credentials(&[once]));
        let mut no_rounds = keys("SCRAM-SHA-1", 20);
        no_rounds.iterations = 0;
        for bad in [
            vec![],
            vec![keys("SCRAM-SHA-1", 19)],
            vec![keys("SCRAM-SHA-3", 20)],
            vec![keys("SCRAM-SHA-1", 20), keys("SCRAM-SHA-1", 20)],
            vec![no_rounds],
        ] {
            assert!(matches!(credentials(&bad), Err(BackendError::Invalid(_))));
        }
    }

    #[test]
    fn messages_are_the_users_own() {
        let of = |from: &str, to: &str| {
            let from = if from.is_empty() {
                String::new()
            } else {
                format!(" from='{from}'")
            };
            record(
                &user(),
                &format!("<message{from} to='{to}'><body>x</body></message>"),
            )
        };
        let sent = of("juliet@capulet.lit/balcony", "romeo@montague.lit").unwrap();
        assert!(sent.sent && sent.peer.as_str() == "romeo@montague.lit");
        assert_eq!(sent.sender.unwrap().as_str(), "juliet@capulet.lit/balcony");
        let received = of("romeo@montague.lit/orchard", "juliet@capulet.lit").unwrap();
        assert!(!received.sent && received.sender.is_none());
        assert_eq!(received.peer.as_str(), "romeo@montague.lit/orchard");
        assert!(of("a@b", "c@d").is_err());
        assert!(of("", "juliet@capulet.lit").is_err());
        assert!(record(&user(), "<presence/>").is_err());
        assert!(record(&user(), "<message").is_err());
    }

    /// Canonical form repeats the namespace on each of these; a client may declare 32.
    #[test]
    fn canonical_form_is_not_too_much() {
        let siblings = "<a xmlns='urn:a'/>".repeat(5000);
        let message = |body: &str| imports::ImportedMessage {
            time_ms: 1,
            message: format!(
                "<message from='romeo@montague.lit' to='juliet@capulet.lit'>{body}</message>"
            ),
        };
        let piece_of = |messages| imports::ImportPiece::Messages {
            after: 0,
            waiting: false,
            messages,
        };
        let good = piece_of(vec![message("<body>one</body>"), message(&siblings)]);
        let ImportPiece::Rows { rows, .. } = piece(&user(), good).unwrap() else {
            panic!("messages are rows");
        };
        assert_eq!(rows[1].1.stanza.payload, siblings);
        let bad = piece_of(vec![message("<body>one</body>"), message("<body>")]);
        let refusal = piece(&user(), bad).unwrap_err().to_string();
        assert!(refusal.starts_with("message 2 of the piece"), "{refusal}");
    }

    #[test]
    fn contacts_are_in_one_of_the_nine_states() {
        let of = |subscription: &str, asks: bool, request: Option<&str>| {
            contact(imports::ImportedContact {
                address: "romeo@montague.lit".into(),
                name: None,
                groups: Vec::new(),
                subscription: subscription.into(),
                asks,
                approved: false,
                listed: true,
                request: request.map(str::to_owned),
            })
        };
        let asked = "<presence type='subscribe' from='romeo@montague.lit'/>";
        let both = of("both", true, Some(asked)).unwrap();
        assert!(both.to && both.from && !both.pending_out && both.pending_in.is_none());
        let waits = of("none", true, Some(asked)).unwrap();
        assert!(waits.pending_out && waits.pending_in.is_some());
        assert!(of("remove", false, None).is_err());
        assert!(of("none", false, Some("<message/>")).is_err());
    }
}
