//! Users of several partitions: conversations carried by outboxes, and replicas that must agree.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod accounts;
mod foundings;
mod full_ways;
mod imports;
mod pool;
mod replicas;
mod scenarios;
