//! Runs of chaos: a pool of three nodes under load, faults by a schedule from a seed, healing, and the checker.
//!
//! ```text
//!  seed ─► plan ─► ground (causes and heals each fault)
//!                    │ the crowd of a trial talks; the court bans; hands set; watchers look; readers read; pollers ask
//!                    ├─► history ─► checker: P1–P18, and whether enough happened
//!                    └─► measured ─► bounds: the fault table, row by row
//! ```
//!
//! Everything that is drawn comes from the seed: the faults, their order, their sides, the luck of each packet. What the
//! machine does in between does not, so that a seed is a schedule, and no recording.

mod bounds;
pub mod court;
mod damage;
mod ground;
mod lookers;
mod measures;
mod plan;
mod probe;
mod run;
pub mod watchers;

pub use plan::{Configuration, Fault, Plan};
pub use run::{Report, run};
