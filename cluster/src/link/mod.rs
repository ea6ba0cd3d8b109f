//! The link: the one path between a node and the owner of a partition.

pub mod protocol;
