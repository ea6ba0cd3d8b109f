//! How far an operation has come, live: a bar on a terminal, a line at each change elsewhere.
//!
//! The operation is the pool's business: whoever watches may go away and come back.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use web::report::nodes::{ProgressReport, UnderWay};

use super::client::Client;
use super::print_json;
use crate::exit::{Exit, Failure, print};

/// How often the node is asked.
const ASKED_EVERY: Duration = Duration::from_millis(500);

/// How long a node that can't be reached is asked again: it may be the one that is drained and restarted.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(30);

/// What a shell reports of a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Columns of the bar.
const BAR: usize = 24;

/// Shows progress until nothing is under way. `again` is the command that shows it once more.
pub(super) fn follow(client: &Client, json: bool, again: &str) -> Result<(), Failure> {
    let mut view = View::new(json);
    let mut silent = Duration::ZERO;
    loop {
        match client.get::<ProgressReport>("/v1/progress") {
            Ok(progress) => {
                silent = Duration::ZERO;
                view.show(&progress)?;
                if progress.done {
                    return view.end();
                }
            }
            Err(failure) if failure.exit == Exit::Unavailable && silent < SILENT_MAX => {
                silent += ASKED_EVERY;
            }
            Err(failure) => return Err(failure),
        }
        // The terminal's line of the bar ends here.
        pause(
            ASKED_EVERY,
            &format!("\nThe pool goes on with it. To watch it again: {again}"),
        )?;
    }
}

/// Waits for a moment. Ctrl-C ends the program with a word on what goes on without it.
pub(super) fn pause(time: Duration, goes_on: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let interrupted = runtime.block_on(async {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.is_ok(),
            () = tokio::time::sleep(time) => false,
        }
    });
    if interrupted {
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "{goes_on}");
        std::process::exit(INTERRUPTED);
    }
    Ok(())
}

/// What is on the screen.
struct View {
    json: bool,
    live: bool,
    /// The most groups that had still to move: what the bar is measured by.
    most: u64,
    last: String,
}

impl View {
    fn new(json: bool) -> View {
        View {
            json,
            live: !json && io::stdout().is_terminal(),
            most: 0,
            last: String::new(),
        }
    }

    fn show(&mut self, progress: &ProgressReport) -> Result<(), Failure> {
        self.most = self.most.max(left(progress));
        if self.json {
            return match progress.done {
                true => print_json(progress),
                false => Ok(()),
            };
        }
        let line = line(progress);
        if self.live {
            // Back to the line's begin; what was longer is cleared behind.
            return print(&format!(
                "\r{} {line}\x1b[K",
                bar(self.most, left(progress))
            ));
        }
        if line != self.last {
            print(&format!("{line}\n"))?;
            self.last = line;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        match self.live {
            true => print("\n"),
            false => Ok(()),
        }
    }
}

/// How much is left, in steps that people see go by.
fn left(progress: &ProgressReport) -> u64 {
    // Figures of other nodes are some seconds old; that it is done is not.
    match progress.done {
        true => 0,
        false => {
            progress.groups_to_move + progress.leaders_left + progress.sessions_left.unwrap_or(0)
        }
    }
}

/// A bar of what is done.
pub(super) fn bar(most: u64, left: u64) -> String {
    let done = most.saturating_sub(left);
    let share = match most {
        0 => BAR,
        most => usize::try_from(done * BAR as u64 / most).unwrap_or(BAR),
    };
    format!("[{}{}]", "#".repeat(share), "-".repeat(BAR - share))
}

fn line(progress: &ProgressReport) -> String {
    if progress.done {
        return "done: nothing is under way".to_owned();
    }
    let state = |one: &UnderWay| format!("node {} {}", one.node, one.state);
    let mut words: Vec<String> = progress.under_way.iter().map(state).collect();
    let mut counted = |count: u64, one: &str, many: &str| match count {
        0 => {}
        1 => words.push(format!("1 {one}")),
        count => words.push(format!("{count} {many}")),
    };
    counted(
        progress.sessions_left.unwrap_or(0),
        "session left",
        "sessions left",
    );
    counted(
        progress.leaders_left,
        "partition to hand over",
        "partitions to hand over",
    );
    counted(progress.groups_to_move, "group to move", "groups to move");
    counted(
        progress.entries_behind,
        "log entry to catch up",
        "log entries to catch up",
    );
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left() {
        let mut progress = ProgressReport {
            under_way: vec![UnderWay {
                node: 3,
                state: "draining".to_owned(),
            }],
            leaders_left: 5,
            sessions_left: Some(120),
            ..ProgressReport::default()
        };
        assert_eq!(
            line(&progress),
            "node 3 draining, 120 sessions left, 5 partitions to hand over"
        );
        progress.leaders_left = 1;
        assert!(line(&progress).ends_with("1 partition to hand over"));
        progress.done = true;
        assert_eq!(line(&progress), "done: nothing is under way");
    }

    #[test]
    fn a_bar_fills_up() {
        let check = |most, left, hashes| {
            let expect = format!("[{}{}]", "#".repeat(hashes), "-".repeat(BAR - hashes));
            assert_eq!(bar(most, left), expect, "{most} {left}");
        };
        check(10, 10, 0);
        check(10, 5, 12);
        check(10, 0, 24);
        check(0, 0, 24);
        check(10, 99, 0);
    }
}
