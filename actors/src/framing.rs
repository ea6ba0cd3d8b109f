//! What the owner sends down, in bodies that fit frames.
//!
//! A delivery that is too large for one frame goes in several: all but the last belong to no place of the log, so that a
//! node takes them as they come; the last one carries the place and the notes, so that a hole is noticed as ever.

use bytes::Bytes;
use cluster::link::protocol::{AskReply, Delivery, DeliveryItem, Down};
use storage::codec::CodecError;
use xmpp::jid::FullJid;
use xmpp::stanza_error::{Condition, StanzaError};

/// About how many bytes a delivery has before the next frame begins; frames take four times as many.
const DELIVERY_BYTES_MAX: usize = 1024 * 1024;

/// What a target takes besides its address: a length and a number.
const TARGET_BYTES: usize = 16;

/// The bodies of the frames for one word of the owner. `encode`: in the layout of the version that is spoken.
///
/// # Errors
/// What the codec says; too many bytes are an error only for what can neither be cut nor refused.
pub(crate) fn bodies(
    down: &Down,
    encode: impl Fn(&Down) -> Result<Bytes, CodecError>,
) -> Result<Vec<Bytes>, CodecError> {
    match down {
        Down::Deliver(delivery) if delivery_bytes(delivery) > DELIVERY_BYTES_MAX => cut(delivery)
            .into_iter()
            .map(|part| encode(&Down::Deliver(part)))
            .collect(),
        Down::Reply { request, .. } => match encode(down) {
            Err(CodecError::TooLong { bytes, .. }) => {
                tracing::warn!(bytes, "an answer is too large and is refused");
                Ok(vec![encode(&too_large(*request))?])
            }
            body => Ok(vec![body?]),
        },
        _ => Ok(vec![encode(down)?]),
    }
}

fn too_large(request: u64) -> Down {
    let error =
        StanzaError::new(Condition::ResourceConstraint).with_text("The answer is too large.");
    Down::Reply {
        request,
        reply: AskReply::Refused(Box::new(error)),
    }
}

fn delivery_bytes(delivery: &Delivery) -> usize {
    delivery.items.iter().map(item_bytes).sum()
}

fn item_bytes(item: &DeliveryItem) -> usize {
    stanza_bytes(item) + item.targets.iter().map(target_bytes).sum::<usize>()
}

fn stanza_bytes(item: &DeliveryItem) -> usize {
    item.head.len() + item.tail.as_ref().map_or(0, Bytes::len) + 40
}

fn target_bytes((jid, _): &(FullJid, u64)) -> usize {
    jid.as_str().len() + TARGET_BYTES
}

/// The delivery in parts, each recipient's stanzas in their order.
fn cut(delivery: &Delivery) -> Vec<Delivery> {
    let mut parts: Vec<Vec<DeliveryItem>> = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for piece in delivery.items.iter().flat_map(pieces) {
        let more = item_bytes(&piece);
        if bytes > 0 && bytes + more > DELIVERY_BYTES_MAX {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(piece);
    }
    let ahead = parts.into_iter().map(|items| Delivery {
        key: delivery.key.clone(),
        place: None,
        items,
        notes: Vec::new(),
    });
    let last = Delivery {
        key: delivery.key.clone(),
        place: delivery.place,
        items: part,
        notes: delivery.notes.clone(),
    };
    ahead.chain([last]).collect()
}

/// A stanza whose recipients alone would fill a frame, once for each share of them.
fn pieces(item: &DeliveryItem) -> Vec<DeliveryItem> {
    let mut shares: Vec<Vec<(FullJid, u64)>> = vec![Vec::new()];
    let mut bytes = 0;
    for target in &item.targets {
        let more = target_bytes(target);
        if bytes > 0 && bytes + more > DELIVERY_BYTES_MAX / 2 {
            shares.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(share) = shares.last_mut() {
            share.push(target.clone());
        }
    }
    let piece = |targets| DeliveryItem {
        targets,
        ..item.clone()
    };
    shares.into_iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use cluster::link::protocol::{OccupantNote, Place};
    use messaging::query::Reply;
    use proptest::prelude::*;
    use xmpp::jid::BareJid;

    use super::*;

    const PLACE: Option<Place> = Some(Place {
        previous: Some(6),
        seq: 7,
    });

    fn jid(number: usize) -> FullJid {
        FullJid::parse(&format!("user{number}@localhost/phone")).unwrap()
    }

    /// Items by the bytes of their stanza and how many sessions get them.
    fn delivery(items: &[(usize, usize)]) -> Delivery {
        let item = |(number, (bytes, targets)): (usize, &(usize, usize))| DeliveryItem {
            head: Bytes::from(vec![b'x'; *bytes]),
            tail: None,
            targets: (0..*targets).map(|target| (jid(target), 0)).collect(),
            row: Some(number as u64),
        };
        let note = OccupantNote {
            session: jid(0),
            inside: true,
            nick: "juliet".into(),
        };
        Delivery {
            key: BareJid::parse("den@conference.localhost").unwrap(),
            place: PLACE,
            items: items.iter().enumerate().map(item).collect(),
            notes: vec![note],
        }
    }

    fn read(body: &Bytes) -> Delivery {
        match Down::decode(body).unwrap() {
            Down::Deliver(delivery) => delivery,
            other => panic!("{other:?}"),
        }
    }

    /// Who got what, in order.
    fn told(deliveries: &[Delivery]) -> Vec<(FullJid, u64)> {
        let items = deliveries.iter().flat_map(|delivery| &delivery.items);
        items
            .flat_map(|item| {
                item.targets
                    .iter()
                    .map(|(jid, _)| (jid.clone(), item.row.unwrap()))
            })
            .collect()
    }

    fn check(items: &[(usize, usize)], frames: usize) {
        let whole = delivery(items);
        let parts: Vec<Delivery> = bodies(&Down::Deliver(whole.clone()), Down::encode)
            .unwrap()
            .iter()
            .map(read)
            .collect();
        assert_eq!(parts.len(), frames);
        assert_eq!(told(&parts), told(std::slice::from_ref(&whole)));
        let (last, ahead) = parts.split_last().unwrap();
        assert_eq!((last.place, &last.notes), (PLACE, &whole.notes));
        for part in ahead {
            assert_eq!((part.place, part.notes.len()), (None, 0));
        }
    }

    #[test]
    fn large_deliveries_go_in_several_frames() {
        check(&[], 1);
        check(&[(300, 1); 20], 1);
        check(&[(250_000, 1); 4], 1);
        check(&[(250_000, 1); 17], 5);
        check(&[(300, 60_000)], 4);
        check(&[(250_000, 40_000); 3], 12);
    }

    #[test]
    fn an_answer_that_is_too_large_is_refused() {
        let reply = |bytes: usize| Down::Reply {
            request: 3,
            reply: AskReply::Reply(Reply::Payload(Bytes::from(vec![b'x'; bytes]))),
        };
        let decoded = |down: &Down| Down::decode(&bodies(down, Down::encode).unwrap()[0]).unwrap();
        assert_eq!(decoded(&reply(1_000_000)), reply(1_000_000));
        let Down::Reply {
            request: 3,
            reply: AskReply::Refused(error),
        } = decoded(&reply(5_000_000))
        else {
            panic!("not refused");
        };
        assert_eq!(error.condition, Condition::ResourceConstraint);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_reordered(items in prop::collection::vec((0usize..300_000, 0usize..50), 0..30)) {
            let whole = delivery(&items);
            let parts = cut(&whole);
            prop_assert!(parts.iter().all(|part| delivery_bytes(part) <= DELIVERY_BYTES_MAX + 300_000));
            prop_assert_eq!(told(&parts), told(&[whole]));
        }
    }
}
