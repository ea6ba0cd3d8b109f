//! What travels between a node and an owner.

pub mod parked;
pub mod protocol;
