//! The log's two threads, from the start of the log to its end. In a simulation there are none: see [`steps`].

#[cfg(feature = "simulation")]
mod steps;

#[cfg(not(feature = "simulation"))]
mod real;

#[cfg(not(feature = "simulation"))]
pub(super) use real::{EndOfWriter, Threads};
#[cfg(feature = "simulation")]
pub(super) use steps::{Condvar, Threads};
#[cfg(feature = "simulation")]
pub use steps::{LogSteps, on_log_opened};
