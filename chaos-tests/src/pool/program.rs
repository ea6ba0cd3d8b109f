//! Which binary nodes run, and what is planted in it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use planted::Bug;

use super::{Pool, binary};

/// What a node's process is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Program {
    /// The released binary.
    #[default]
    Released,
    /// The variant, which supports a second version of the pool.
    Next,
    /// The variant, with a bug that acts, or none.
    Planted(Option<Bug>),
}

impl Program {
    /// Its binary.
    pub(super) fn binary(self) -> Result<PathBuf> {
        match self {
            Program::Released => binary(),
            Program::Next | Program::Planted(_) => variant(),
        }
    }

    /// Sets what it finds in its environment.
    pub(super) fn prepare(self, command: &mut Command) {
        command.env_remove(planted::CHOICE);
        if let Program::Planted(Some(bug)) = self {
            command.env(planted::CHOICE, bug.name());
        }
    }
}

/// The variant of the binary that `scripts/build-variant` makes: `target/variant/muster`, or what `MUSTER_VARIANT` names.
pub fn variant() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MUSTER_VARIANT") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3);
    let target = target.context("a test lies in target/release/deps")?;
    let path = target.join("variant/muster");
    ensure!(
        path.exists(),
        "{} is missing: scripts/build-variant",
        path.display()
    );
    Ok(path)
}

impl Pool {
    /// What a node runs from its next start on.
    pub fn install(&mut self, node: u64, program: Program) {
        self.node_mut(node).program = program;
    }
}
