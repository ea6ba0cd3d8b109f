//! The replicated state of one partition: tables of small rows.
//!
//! Invariant (P16): the same applied index means the same rows on every replica. Nothing here depends on anything but
//! the log: no clock, no hash map's order, no floats.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};

use crate::link_record::{LinkOrigin, LinkRecord};
use crate::outbox::{OutboxEntry, OutboxKey, OutboxLoads};
use crate::room::forget::RemovedAccount;
use crate::room::state::{AffiliationRecord, Occupant, RoomRecord};
use crate::room::views::RoomViews;
use crate::table::{RowChange, RowCodec, Table};
use crate::user::account::Account;
use crate::user::dedup::SentIds;
use crate::user::log::UserLog;
use crate::user::roster::RosterItem;

/// What a partition knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// Log index of the last `OwnerBegin`: the epoch.
    pub epoch: u64,
    /// The node that owns the partition in this epoch.
    pub owner: u64,
    /// Time of the last batch, in ms since 1970; never falls.
    pub time_ms: u64,
    /// The version that decides how commands are applied; raised by an entry of this log only. 0: by none yet.
    pub behaviour: u32,
}

impl PartitionRecord {
    /// The version that the partition is at: how commands are applied, and how its entries may be written. The first is 1.
    pub fn version(&self) -> u32 {
        self.behaviour.max(1)
    }
}

/// A session that the owner said was up, so that a later owner knows whom to expect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnlineRecord {
    /// The node that holds its socket.
    pub node: u64,
    /// That node's incarnation.
    pub incarnation: u64,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $number:literal $name:ident: $key:ty => $value:ty,)*) => {
        /// One partition's state. See the module docs.
        #[derive(Clone, Debug, Default)]
        pub struct State {
            $($(#[$doc])* pub $name: Table<$key, $value>,)*
            /// Pictures of who is in each room, made from `occupants`; neither replicated nor stored.
            pub room_views: RoomViews,
            /// How full the ways of `outbox` are; neither replicated nor stored.
            pub outbox_loads: OutboxLoads,
        }

        impl State {
            /// The numbers of all tables, rising.
            pub const TABLES: &[u8] = &[$($number),*];

            /// Drains the rows changed since the last call.
            pub fn drain_changes<C: RowCodec>(&mut self, codec: &C) -> Vec<RowChange> {
                let mut changes = Vec::new();
                $(self.$name.drain_changes($number, codec, &mut changes);)*
                changes
            }

            /// Shows every row, encoded, in a fixed order.
            pub fn visit<C: RowCodec>(&self, codec: &C, visit: &mut dyn FnMut(u8, &[u8], &[u8])) {
                $(self.$name.visit($number, codec, visit);)*
            }

            /// Shows up to `most` rows behind a place, or from the start, in the order of [`State::visit`]; gives how many
            /// there were: fewer than `most` at the end only.
            ///
            /// # Errors
            /// When the place's key can't be decoded.
            pub fn visit_some<C: RowCodec>(
                &self,
                codec: &C,
                after: Option<(u8, &[u8])>,
                most: usize,
                visit: &mut dyn FnMut(u8, &[u8], &[u8]),
            ) -> Result<usize, C::Error> {
                let mut left = most;
                $(if after.is_none_or(|(table, _)| table <= $number) {
                    let key = after.filter(|(table, _)| *table == $number).map(|(_, key)| key);
                    left -= self.$name.visit_some($number, codec, key, left, visit)?;
                })*
                Ok(most - left)
            }

            /// Puts a stored row back.
            ///
            /// # Errors
            /// `Ok(false)` when no table has this number; an error when the row can't be decoded.
            pub fn load<C: RowCodec>(&mut self, codec: &C, table: u8, key: &[u8], value: &[u8]) -> Result<bool, C::Error> {
                match table {
                    $($number => self.$name.load(codec, key, value).map(|()| true),)*
                    _ => Ok(false),
                }
            }
        }
    };
}

tables! {
    /// The partition's own record; one row.
    0 partition: () => PartitionRecord,
    /// The last sequence and answers of every origin of proposals.
    1 links: LinkOrigin => LinkRecord,
    /// Effects on other keys that are not answered yet.
    2 outbox: OutboxKey => OutboxEntry,
    /// The next sequence on each way to another partition; it outlives the entries.
    3 outbox_next: u16 => u64,
    /// Accounts.
    10 accounts: BareJid => Account,
    /// The heads and cursors of users' logs.
    11 logs: BareJid => UserLog,
    /// Rosters: (user, contact).
    12 roster: (BareJid, BareJid) => RosterItem,
    /// Blocklists: (user, blocked). XEP-0191.
    13 blocks: (BareJid, Jid) => (),
    /// Private XML: (user, namespace and name). XEP-0049.
    14 private: (BareJid, String) => bytes::Bytes,
    /// vCards. XEP-0054.
    15 vcards: BareJid => bytes::Bytes,
    /// Recently sent origin ids by sender: a client's retry has no second effect.
    16 sent_ids: BareJid => SentIds,
    /// Sessions that are up, as committed (lazily) by the owner.
    17 online: FullJid => OnlineRecord,
    /// Accounts removed lately, here or in another partition.
    18 removed: BareJid => RemovedAccount,
    /// Accounts that are being imported: how many rows of theirs were imported so far.
    19 imports: BareJid => u64,
    /// Rooms.
    30 rooms: BareJid => RoomRecord,
    /// Affiliations: (room, bare JID).
    31 affiliations: (BareJid, BareJid) => AffiliationRecord,
    /// Occupants: (room, real full JID).
    32 occupants: (BareJid, FullJid) => Occupant,
    /// Nicknames that were given up lately: (room, row).
    33 departures: (BareJid, u64) => String,
}

impl State {
    /// The partition's own record.
    pub fn record(&self) -> PartitionRecord {
        self.partition.get(&()).cloned().unwrap_or_default()
    }
}
