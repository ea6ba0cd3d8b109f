//! Occupant ids: who is behind a nickname, without saying who. XEP-0421.
//!
//! The id is a CBC-MAC under the pool's id key over (room, bare JID, generation of the account): stable as long as the key, different from room to
//! room, and telling nothing without the key. The first block holds a label and both lengths, so no input is a prefix of
//! another (what CBC-MAC needs) and none coincides with the block of an archive id.

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit};
use xmpp::jid::BareJid;

/// Makes occupant ids.
#[derive(Clone)]
pub struct OccupantIds {
    cipher: Aes128,
}

impl std::fmt::Debug for OccupantIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OccupantIds(…)")
    }
}

const LABEL: &[u8; 8] = b"occupant";

impl OccupantIds {
    /// With the pool's id key.
    pub fn new(key: &[u8; 16]) -> OccupantIds {
        OccupantIds {
            cipher: Aes128::new(key.into()),
        }
    }

    /// The id of one person in one room: 32 hexadecimal digits. `account`: the generation of the person's account, so that
    /// whoever registers the name of a removed account isn't taken for the one before.
    pub fn id(&self, room: &BareJid, person: &BareJid, account: u64) -> String {
        let (room, person) = (room.as_str().as_bytes(), person.as_str().as_bytes());
        let mut first = [0u8; 16];
        first[..8].copy_from_slice(LABEL);
        first[8..12].copy_from_slice(&(room.len() as u32).to_be_bytes());
        first[12..].copy_from_slice(&(person.len() as u32).to_be_bytes());
        let mut block = first.into();
        self.cipher.encrypt_block(&mut block);
        for text in [room, person, &account.to_be_bytes()] {
            for chunk in text.chunks(16) {
                for (place, byte) in block.iter_mut().zip(chunk) {
                    *place ^= byte;
                }
                self.cipher.encrypt_block(&mut block);
            }
        }
        let mut id = String::with_capacity(32);
        for byte in block {
            for digit in [byte >> 4, byte & 15] {
                id.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_tell_rooms_and_people_apart() {
        let jid = |text: &str| BareJid::parse(text).unwrap();
        let ids = OccupantIds::new(&[7; 16]);
        let id = ids.id(&jid("den@rooms.example"), &jid("alice@example.org"), 1);
        assert_eq!(
            id,
            ids.id(&jid("den@rooms.example"), &jid("alice@example.org"), 1)
        );
        // Clients keep it. The value was computed with another implementation of AES.
        assert_eq!(id, "fd23854de8db8b4be96ed1c670b96684");
        assert_ne!(
            id,
            ids.id(&jid("den@rooms.example"), &jid("bob@example.org"), 1)
        );
        assert_ne!(
            id,
            ids.id(&jid("hall@rooms.example"), &jid("alice@example.org"), 1)
        );
        assert_ne!(
            id,
            ids.id(&jid("den@rooms.example"), &jid("alice@example.org"), 2),
            "the next one of that name"
        );
        assert_ne!(
            id,
            OccupantIds::new(&[8; 16]).id(&jid("den@rooms.example"), &jid("alice@example.org"), 1)
        );
    }
}
