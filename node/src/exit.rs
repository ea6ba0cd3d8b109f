//! How the program ends: one sentence on standard error, and a code that scripts may rely on.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// The codes; part of `muster --help`, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything else.
    Failed = 1,
    /// The options don't go together, or one of them can't be meant.
    CommandLine = 2,
    /// The configuration, or a file that it names.
    Config = 3,
    /// A port is in use or may not be listened on.
    Port = 4,
    /// The data folder is another's, in use or damaged, or its disk is full.
    Data = 5,
    /// No quorum of the pool in time.
    NoQuorum = 6,
    /// The node refused an operator's command.
    Refused = 7,
    /// The node can't be reached or can't do it now.
    Unavailable = 8,
    /// Nobody knows whether it was done.
    OutcomeUnknown = 9,
    /// The node is no member of its pool (any more): starting it again is of no use.
    Removed = 10,
    /// The build does not support the version that the pool is at.
    VersionSkew = 11,
}

impl Exit {
    /// The word for programs, where nobody has a better one.
    fn word(self) -> &'static str {
        match self {
            Exit::Failed => "failed",
            Exit::CommandLine => "command-line",
            Exit::Config => "config",
            Exit::Port => "port",
            Exit::Data => "data",
            Exit::NoQuorum => "no-quorum",
            Exit::Refused => "refused",
            Exit::Unavailable => "unavailable",
            Exit::OutcomeUnknown => "outcome-unknown",
            Exit::Removed => "removed",
            Exit::VersionSkew => "version-skew",
        }
    }
}

/// What `muster --help` says about the codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason than those below
  2  the command line is wrong
  3  the configuration, or a file that it names, is wrong
  4  a port is in use or may not be listened on
  5  the data folder is another node's, in use or damaged, or its disk is full
  6  no quorum of the pool in time
  7  the node refused (muster ctl, muster join)
  8  the node can't be reached, or can't do it now (muster ctl, muster join)
  9  the outcome is unknown: ask, or try again (muster ctl, muster join)
 10  the node was removed from the pool, or was never let in
 11  this build does not support the version that the pool is at
muster check has codes of its own: 0 sound, 1 damaged, 2 it can't be looked at";

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    /// The node's own word for it, if it was the node that refused.
    code: Option<String>,
}

/// A failure for programs.
#[derive(Serialize)]
struct FailureReport<'a> {
    code: &'a str,
    message: &'a str,
}

impl Failure {
    /// A sentence and its code.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
            code: None,
        }
    }

    /// An error and all its causes, in one sentence.
    pub(crate) fn from_error(exit: Exit, error: &dyn std::error::Error) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Some errors repeat their cause in their own sentence.
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Failure::new(exit, message)
    }

    /// The node's own word for it, if it was the node that refused.
    pub(crate) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// With more said about it.
    pub(crate) fn and(mut self, more: &str) -> Failure {
        self.message.push_str(more);
        self
    }

    /// With the word that the node has for it.
    pub(crate) fn coded(mut self, code: impl Into<String>) -> Failure {
        self.code = Some(code.into());
        self
    }

    /// Says it on standard error as JSON: a word for programs and a sentence.
    pub(crate) fn report_json(&self) -> ExitCode {
        let report = FailureReport {
            code: self.code.as_deref().unwrap_or(self.exit.word()),
            message: &self.message,
        };
        let text = serde_json::to_string(&report).unwrap_or_else(|_| self.message.clone());
        let _ = writeln!(io::stderr(), "{text}");
        ExitCode::from(self.exit as u8)
    }

    /// Says it on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        // A closed standard error leaves the code, which says enough.
        let _ = writeln!(io::stderr(), "muster: {}", self.message);
        ExitCode::from(self.exit as u8)
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Failure {
        Failure::from_error(Exit::Config, &error)
    }
}

/// Prints a result; a reader that has gone (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Failed,
            format!("standard output: {error}"),
        )),
        _ => Ok(()),
    }
}
