//! A program on a terminal of its own: typed at, and read from the screen, through tmux.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait::until;

/// A terminal. Its tmux server is its own and ends with it.
#[derive(Debug)]
pub struct Terminal {
    server: String,
}

impl Terminal {
    /// Starts a program with further environment variables.
    pub fn start(environment: &[(&str, &str)], program: &[&str]) -> Result<Terminal> {
        let [a, b] = rand::random::<[u32; 2]>();
        let terminal = Terminal {
            server: format!("muster-test-{a:08x}{b:08x}"),
        };
        let mut arguments = vec![
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "screen",
            "-x",
            "140",
            "-y",
            "50",
        ];
        let pairs: Vec<String> = environment
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        for pair in &pairs {
            arguments.extend(["-e", pair.as_str()]);
        }
        arguments.extend(program);
        terminal.tmux(&arguments)?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("tmux");
        let output = command.args(["-L", &self.server]).args(arguments).output();
        let output = output.context("tmux is missing: scripts/setup-tests installs it")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {arguments:?}: {errors}");
        Ok(output)
    }

    /// Types a line and presses enter.
    pub fn type_line(&self, line: &str) -> Result<()> {
        self.tmux(&["send-keys", "-t", "screen", "-l", line])?;
        self.tmux(&["send-keys", "-t", "screen", "Enter"])?;
        Ok(())
    }

    /// What stands on the screen.
    pub fn screen(&self) -> Result<String> {
        let output = self.tmux(&["capture-pane", "-p", "-t", "screen"])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the screen shows a text.
    pub async fn shows(&self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("the screen shows {text:?}");
        let probe = async || self.screen().ok().filter(|screen| screen.contains(text));
        until(&what, limit, probe)
            .await
            .with_context(|| self.screen().unwrap_or_default())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.tmux(&["kill-server"]);
    }
}
