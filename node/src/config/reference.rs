//! The reference of `muster.toml`: generated from the declarations of the sections, and kept as docs/muster-toml.md.

use super::file::ConfigFile;
use super::pool_file::PoolFile;
use super::section::SectionReference;

/// The page.
pub(crate) fn reference() -> String {
    let mut page = String::from(HEAD);
    for section in ConfigFile::reference() {
        describe(&mut page, &section, &format!("[{}]", section.name));
    }
    page.push_str("# The pool file\n\n");
    describe(&mut page, &PoolFile::reference(), "[pool] of the pool file");
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

const HEAD: &str = "\
# muster.toml

This page is generated: `muster config reference > docs/muster-toml.md`.

A node reads one file, given by `muster run --config FILE`. `muster init` writes it; only the keys without a default have
to be there. Relative paths start at the file's folder. Unknown sections and keys are refused. *Allowed* is the kind of a value; where
only a part of it makes sense, the text says which, and a start refuses the rest with a sentence, as does `muster check-config FILE`.
Changes count from the next start.

";

fn describe(page: &mut String, section: &SectionReference, title: &str) {
    page.push_str(&format!("## `{title}`\n\n{}\n\n", section.about));
    for key in &section.keys {
        let default = match &key.default {
            Some(default) => format!("Default `{default}`."),
            None => "Has to be given.".to_owned(),
        };
        page.push_str(&format!(
            "### `{}`\n\n{}\n\n{default} Allowed: {}.\n\n",
            key.name, key.about, key.allowed
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/muster-toml.md");
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == reference(),
            "docs/muster-toml.md is old: run `muster config reference > docs/muster-toml.md`"
        );
    }

    #[test]
    fn every_key_is_explained() {
        for section in ConfigFile::reference() {
            assert!(!section.about.is_empty(), "{}", section.name);
            for key in section.keys {
                assert!(key.about.ends_with('.'), "{} {}", section.name, key.name);
            }
        }
    }
}
