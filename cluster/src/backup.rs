//! Backups of a pool that runs, and new pools made of them.
//!
//! ```text
//!  each partition's owner        the operator's machine                    the first node of a new pool
//!  capture: state and archive ─► .snapshot, .rows ──┐
//!  at one applied index          (asked for in      ├─► line: where all ─► founding: replay up to there, without the
//!  end: what was committed ────► parts) .entries ───┘   partitions agree   old pool's nodes, behind all old indexes
//!  when all had been captured
//! ```
//!
//! - [`ask`]: what is said between the node that an operator asks and the owners. [`block`]: what the files hold.
//! - [`capture`]: state and archive of a replica at one index.
//! - [`line`]: the partitions are captured one after the other, so what one of them has sent to another may be missing in one of
//!   the two. The log's entries behind each capture, up to a moment behind the last one, are in the backup as well; replayed
//!   as far as is needed they bring all partitions to one consistent line.
//! - [`founding`]: the data folder of a new pool's first node.
//!
//! Invariant: what was acknowledged before the backup began is in it, for each owner has confirmed with a quorum that it
//! leads before it captured. What came later is in it or not, but never in one partition only.

pub mod ask;
pub mod block;
pub mod capture;
pub mod founding;
pub mod line;
