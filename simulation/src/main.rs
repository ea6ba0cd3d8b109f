//! `muster-simulation`: whole pools in one thread and in simulated time. See `README.md`.

mod disk;
mod machine;
mod process;
mod trace;
mod world;

mod faults;
mod friends;
mod guest;
mod readers;
mod sitting;
mod story;
mod wanderer;
mod watch;
mod watchers;

mod judge;
mod sums;

mod command;
mod planting;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run()
}
