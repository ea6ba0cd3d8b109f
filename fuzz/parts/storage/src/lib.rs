//! Those files of the crate `storage` that are fuzzed, without its databases: they would take longer to build than all else.
#![allow(dead_code, unused_imports, reason = "the crate has uses that are not here")]

pub mod archive;
pub mod codec;
pub mod log;
