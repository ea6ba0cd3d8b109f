//! A node's configuration: one file, every knob with its meaning, unit and default.
//!
//! ```text
//!  muster.toml ─► file: TOML, known keys, kinds of values ─► validate: what belongs together, files, certificates ─► NodeConfig
//! ```
//!
//! - [`knob`]: the kinds of values and how they are written.
//! - [`section`]: how a section is declared; its doc comments are the reference.
//! - [`sections`]: the knobs.
//! - [`file`]: reading a file into sections; [`error`]: what is wrong with it, in a sentence.
//! - [`pool_file`]: what all nodes of a pool share and nobody else may know.
//! - [`paces`]: how fast clients may be.
//! - [`validate`]: from what was written to a value that cannot be wrong.
//! - [`reference`]: the page about all of it.

pub(crate) mod error;
pub(crate) mod file;
pub(crate) mod knob;
mod paces;
pub(crate) mod pool_file;
pub(crate) mod reference;
mod section;
pub(crate) mod sections;
pub(crate) mod validate;

pub(crate) use error::ConfigError;
pub(crate) use file::ConfigFile;
pub(crate) use validate::NodeConfig;

#[cfg(test)]
mod tests;
