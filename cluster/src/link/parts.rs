//! An attachment cut into parts that fit frames.

use super::protocol::{AttachPart, AttachRoom, AttachUser};

/// About how many bytes a part has before the next one begins. A single user or room is never cut.
const PART_BYTES: usize = 256 * 1024;

/// The parts; the last one is marked, and there is always one. `head` says what all of them say.
pub(super) fn attach_parts(
    head: &AttachPart,
    users: Vec<AttachUser>,
    rooms: Vec<AttachRoom>,
) -> Vec<AttachPart> {
    let mut parts = Vec::new();
    let mut part = head.clone();
    let mut bytes = 0;
    let mut grow = |parts: &mut Vec<AttachPart>, part: &mut AttachPart, more: usize| {
        if bytes > 0 && bytes + more > PART_BYTES {
            let next = AttachPart {
                index: part.index + 1,
                ..head.clone()
            };
            parts.push(std::mem::replace(part, next));
            bytes = 0;
        }
        bytes += more;
    };
    for user in users {
        grow(&mut parts, &mut part, user_bytes(&user));
        part.users.push(user);
    }
    for room in rooms {
        grow(&mut parts, &mut part, room_bytes(&room));
        part.rooms.push(room);
    }
    part.last = true;
    parts.push(part);
    parts
}

fn user_bytes(user: &AttachUser) -> usize {
    let sessions = user.sessions.iter().map(|session| {
        let presence = session
            .presence
            .as_ref()
            .map_or(0, |presence| presence.size_hint());
        let directed: usize = session
            .directed
            .iter()
            .map(|jid| jid.as_str().len() + 8)
            .sum();
        128 + session.key.jid.as_str().len()
            + presence
            + directed
            + session.unacknowledged.len() * 8
    });
    32 + user.user.as_str().len() + sessions.sum::<usize>()
}

fn room_bytes(room: &AttachRoom) -> usize {
    let occupants: usize = room
        .occupants
        .iter()
        .map(|jid| jid.as_str().len() + 8)
        .sum();
    32 + room.room.as_str().len() + occupants
}

#[cfg(test)]
mod tests {
    use super::*;
    use xmpp::jid::BareJid;

    fn check(users: usize, rooms: usize, parts_expected: usize) {
        let jid = |kind: &str, n: usize| {
            BareJid::parse(&format!("{}{n}@localhost", kind.repeat(100))).unwrap()
        };
        let user = |n| AttachUser {
            user: jid("u", n),
            cursor: 0,
            sessions: Vec::new(),
        };
        let room = |n| AttachRoom {
            room: jid("r", n),
            cursor: 0,
            occupants: Vec::new(),
        };
        let users: Vec<_> = (0..users).map(user).collect();
        let rooms: Vec<_> = (0..rooms).map(room).collect();
        let head = AttachPart {
            incarnation: 7,
            attempt: 3,
            ..AttachPart::default()
        };
        let parts = attach_parts(&head, users.clone(), rooms.clone());
        assert_eq!(parts.len(), parts_expected);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(
                (part.index as usize, part.incarnation, part.attempt),
                (index, 7, 3)
            );
            assert_eq!(part.last, index + 1 == parts.len());
        }
        assert_eq!(
            parts
                .iter()
                .flat_map(|part| part.users.clone())
                .collect::<Vec<_>>(),
            users
        );
        assert_eq!(
            parts
                .iter()
                .flat_map(|part| part.rooms.clone())
                .collect::<Vec<_>>(),
            rooms
        );
    }

    #[test]
    fn parts_are_bounded_and_lose_nothing() {
        check(0, 0, 1);
        check(10, 10, 1);
        check(3_000, 0, 2);
        check(1_000, 3_000, 3);
    }
}
