//! What a simulator of machines does to the stores of a node.

use std::path::Path;

pub use crate::log::{LogSteps, on_log_opened};

/// Cuts the power of the machine whose folders lie below `below`, for all that would lie in fjall: of so many batches that
/// were not synced, `keep` says how many are left. The log is the simulated disk's own matter.
pub fn cut_power(below: &Path, keep: impl FnMut(usize) -> usize) {
    crate::engine::memory::cut_power(below, keep);
}
