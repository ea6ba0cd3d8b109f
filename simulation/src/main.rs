//! `muster-simulation`: whole pools in one thread and in simulated time. See `README.md`.

mod disk;
mod friends;
mod guest;
mod judge;
mod machine;
mod process;
mod story;
mod trace;
mod wanderer;
mod watch;
mod world;

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run()
}
