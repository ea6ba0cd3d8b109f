//! How a section is declared. One declaration makes the struct, its reader and its page of the reference, so that
//! they can't disagree.

/// What the reference says about one key.
pub(crate) struct KeyReference {
    pub(crate) name: &'static str,
    pub(crate) about: String,
    pub(crate) allowed: &'static str,
    /// As TOML; `None` if the key has to be given.
    pub(crate) default: Option<String>,
}

/// What the reference says about one section.
pub(crate) struct SectionReference {
    pub(crate) name: &'static str,
    pub(crate) about: String,
    pub(crate) keys: Vec<KeyReference>,
}

/// Lines of a doc comment as one text.
pub(crate) fn text(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Declares a section: `key: Kind = default,`, or `key: Kind,` for one that has to be given.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        struct $section:ident [$table:literal] {
            $($(#[doc = $doc:literal])* $key:ident: $kind:ty $(= $default:expr)?,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub(crate) struct $section {
            $($(#[doc = $doc])* pub(crate) $key: $kind,)*
        }

        impl $crate::config::file::Section for $section {
            const NAME: &'static str = $table;
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn read(keys: &mut $crate::config::file::Keys<'_>) -> Result<Self, $crate::config::ConfigError> {
                Ok($section {
                    $($key: keys.take(stringify!($key), section!(@default $($default)?))?,)*
                })
            }

            fn reference() -> $crate::config::section::SectionReference {
                use $crate::config::knob::Knob;
                use $crate::config::section::{KeyReference, SectionReference, text};
                SectionReference {
                    name: $table,
                    about: text(&[$($about),*]),
                    keys: vec![$({
                        let default: Option<$kind> = section!(@default $($default)?);
                        KeyReference {
                            name: stringify!($key),
                            about: text(&[$($doc),*]),
                            allowed: <$kind as Knob>::ALLOWED,
                            default: default.as_ref().map(Knob::show),
                        }
                    }),*],
                }
            }

            fn write(&self) -> String {
                use $crate::config::knob::Knob;
                let mut out = format!("[{}]\n", $table);
                $(out.push_str(&format!("{} = {}\n", stringify!($key), self.$key.show()));)*
                out
            }
        }
    };
    (@default) => { None };
    (@default $default:expr) => { Some($default) };
}

pub(crate) use section;
