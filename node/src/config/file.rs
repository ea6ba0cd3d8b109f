//! Reading a file into sections: TOML, known keys, the right kinds of values.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::{ConfigError, hint};
use super::knob::Knob;
use super::section::SectionReference;
use super::sections::*;

/// A section of a file.
pub(crate) trait Section: Sized {
    /// Its name between the brackets.
    const NAME: &'static str;
    /// The names of its keys.
    const KEYS: &'static [&'static str];

    /// Takes its keys.
    fn read(keys: &mut Keys<'_>) -> Result<Self, ConfigError>;
    /// What the reference says about it.
    fn reference() -> SectionReference;
    /// All of it as TOML.
    fn write(&self) -> String;
}

/// The keys of one section while it is read.
pub(crate) struct Keys<'a> {
    path: &'a Path,
    section: &'static str,
    table: Table,
}

impl Keys<'_> {
    /// The value of a key, or its default.
    pub(crate) fn take<T: Knob>(
        &mut self,
        key: &'static str,
        default: Option<T>,
    ) -> Result<T, ConfigError> {
        let (path, section) = (self.path.to_owned(), self.section);
        match self.table.remove(key) {
            Some(value) => T::read(&value).ok_or_else(|| ConfigError::Kind {
                path,
                section,
                key,
                found: if T::SECRET {
                    "something else (not shown)".to_owned()
                } else {
                    shown(&value)
                },
                allowed: T::ALLOWED,
            }),
            None => default.ok_or(ConfigError::Missing {
                path,
                section,
                key,
                allowed: T::ALLOWED,
            }),
        }
    }
}

/// A value in a message: short, on one line.
fn shown(value: &Value) -> String {
    const SHOWN_MAX: usize = 60;
    let text = value.to_string().replace('\n', " ");
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

/// A file's sections while they are read.
pub(crate) struct Sections<'a> {
    path: &'a Path,
    table: Table,
}

impl<'a> Sections<'a> {
    /// Parses a file's text.
    pub(crate) fn parse(path: &'a Path, text: &str) -> Result<Sections<'a>, ConfigError> {
        let table = text.parse::<Table>().map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: syntax(text, &error),
        })?;
        Ok(Sections { path, table })
    }

    /// Reads one section; a missing one is an empty one.
    pub(crate) fn take<T: Section>(&mut self) -> Result<T, ConfigError> {
        let table = match self.table.remove(T::NAME) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                return Err(ConfigError::Syntax {
                    path: self.path.to_owned(),
                    reason: format!("{} must be a section: [{}]", T::NAME, T::NAME),
                });
            }
        };
        let unknown = table.keys().find(|key| !T::KEYS.contains(&key.as_str()));
        if let Some(key) = unknown {
            return Err(ConfigError::UnknownKey {
                path: self.path.to_owned(),
                section: T::NAME,
                key: key.clone(),
                hint: hint(key, T::KEYS),
            });
        }
        T::read(&mut Keys {
            path: self.path,
            section: T::NAME,
            table,
        })
    }

    /// All sections must be known. Asked first: a misspelt section also leaves keys missing, which would be the worse
    /// message.
    pub(crate) fn check(&self, known: &[&str]) -> Result<(), ConfigError> {
        match self
            .table
            .keys()
            .find(|section| !known.contains(&section.as_str()))
        {
            None => Ok(()),
            Some(section) => Err(ConfigError::UnknownSection {
                path: self.path.to_owned(),
                section: section.clone(),
                hint: hint(section, known),
            }),
        }
    }
}

/// The parser's sentence and the line, without the line's text, which might be a secret.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: {}", error.message())
}

/// The longest file that is read: some hundred times as long as any that is meant.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Reads a text file. One without an end, like a device, is refused, too.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        let mut text = String::new();
        let mut file = File::open(path)?.take(TEXT_BYTES_MAX + 1);
        file.read_to_string(&mut text)?;
        match text.len() as u64 > TEXT_BYTES_MAX {
            true => Err(std::io::Error::other(format!(
                "it is longer than {TEXT_BYTES_MAX} bytes"
            ))),
            false => Ok(text),
        }
    };
    read().map_err(|source| match source.kind() {
        ErrorKind::NotFound => ConfigError::Absent {
            path: path.to_owned(),
        },
        _ => ConfigError::Read {
            path: path.to_owned(),
            source,
        },
    })
}

macro_rules! config_file {
    ($($(#[doc = $doc:literal])* $field:ident: $section:ident,)*) => {
        /// All that a `muster.toml` says.
        #[derive(Clone, Debug)]
        pub(crate) struct ConfigFile {
            /// The file.
            pub(crate) path: PathBuf,
            $(pub(crate) $field: $section,)*
        }

        impl ConfigFile {
            /// The names of all sections.
            pub(crate) const SECTIONS: &'static [&'static str] = &[$($section::NAME),*];

            /// Parses a file's text.
            pub(crate) fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
                let mut sections = Sections::parse(path, text)?;
                sections.check(Self::SECTIONS)?;
                Ok(ConfigFile { path: path.to_owned(), $($field: sections.take()?,)* })
            }

            /// What the reference says about all sections.
            pub(crate) fn reference() -> Vec<SectionReference> {
                vec![$($section::reference()),*]
            }
        }
    };
}

config_file! {
    node: Node,
    pool: Pool,
    cluster: Cluster,
    clients: Clients,
    negotiation: Negotiation,
    limits_before_auth: LimitsBeforeAuth,
    limits_after_auth: LimitsAfterAuth,
    shaping: Shaping,
    stream_management: StreamManagement,
    control: Control,
    storage: Storage,
    raft: Raft,
    log: Log,
}

impl ConfigFile {
    /// Reads and parses a file.
    pub(crate) fn load(path: &Path) -> Result<ConfigFile, ConfigError> {
        let text = read_text(path)?;
        ConfigFile::parse(path, &text)
    }

    /// A path of the file: relative ones start at the file's folder.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        match self.path.parent() {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }
    }

    /// A file that a key names, with its whole path.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is not there.
    pub(crate) fn existing(
        &self,
        section: &'static str,
        key: &'static str,
        path: &Path,
    ) -> Result<PathBuf, ConfigError> {
        let path = self.resolve(path);
        if path.exists() {
            return Ok(path);
        }
        Err(self.invalid(section, key, format!("there is no file {}", path.display())))
    }

    /// A value does not go with others or with the world.
    pub(crate) fn invalid(
        &self,
        section: &'static str,
        key: &'static str,
        reason: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Invalid {
            path: self.path.clone(),
            section,
            key,
            reason: reason.into(),
        }
    }
}
