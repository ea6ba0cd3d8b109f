//! What nodes tell each other about themselves.

mod capacity;
pub mod message;
mod value;

pub use capacity::Capacity;
pub use value::{ADDRESS_BYTES_MAX, GossipKey, GossipValue};
