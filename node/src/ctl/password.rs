//! Passwords from a prompt without echo, or from standard input; never from the command line, which others can see.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::exit::{Exit, Failure};

/// The server takes no longer ones.
const PASSWORD_BYTES_MAX: u64 = 1024;

/// Asks for a user's new password.
pub(crate) fn ask(user: &str, from_stdin: bool) -> Result<String, Failure> {
    let password = if from_stdin {
        read_line(&mut io::stdin().lock()).map_err(|error| failed(&error))?
    } else {
        let first = prompt(&format!("Password for {user}: "))?;
        let second = prompt("Once more: ")?;
        if first != second {
            return Err(Failure::new(Exit::Failed, "the two passwords differ"));
        }
        first
    };
    if password.is_empty() {
        return Err(Failure::new(Exit::Failed, "the password is empty"));
    }
    Ok(password)
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("the password cannot be read: {error}"),
    )
}

/// The first line, without its end.
fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(PASSWORD_BYTES_MAX + 3).read_line(&mut line)?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    if length as u64 > PASSWORD_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is longer than {PASSWORD_BYTES_MAX} bytes"
        )));
    }
    Ok(line)
}

/// Asks on the terminal, even if standard input and output are elsewhere.
fn prompt(question: &str) -> Result<String, Failure> {
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|error| {
            let message = format!("there is no terminal to ask on ({error}): use --password-stdin");
            Failure::new(Exit::Failed, message)
        })?;
    let answer = (|| {
        let mut out = &terminal;
        write!(out, "{question}")?;
        let silence = Silence::begin(&terminal)?;
        let line = read_line(&mut BufReader::new(&terminal));
        drop(silence);
        writeln!(out)?;
        line
    })();
    answer.map_err(|error: io::Error| failed(&error))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Silence<'_> {
    fn begin(terminal: &File) -> io::Result<Silence<'_>> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // If the terminal has gone there is nothing to restore.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_the_password() {
        let check = |input: &str, expected: Option<&str>| {
            let read = read_line(&mut input.as_bytes());
            assert_eq!(read.ok().as_deref(), expected);
        };
        check("secret\n", Some("secret"));
        check("secret\r\n", Some("secret"));
        check("secret", Some("secret"));
        check("two words \nmore", Some("two words "));
        check("", Some(""));
        check(&"x".repeat(1024), Some(&"x".repeat(1024)));
        check(&"x".repeat(1025), None);
        check(&"x".repeat(5000), None);
    }
}
