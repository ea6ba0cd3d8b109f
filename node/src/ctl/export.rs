//! `muster ctl export-user`: a user out of a pool that runs, in the portable form of XEP-0227.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::backup::fetch_user;
use super::client::Client;
use super::print_json;
use crate::backup_files::{self, Kind};
use crate::exit::{Exit, Failure, print};
use crate::export::{self, Part};
use crate::init::at;

#[derive(Serialize)]
struct Report<'a> {
    user: &'a str,
    out: String,
}

/// `muster ctl export-user`
pub(super) fn export_user(
    client: &Client,
    json: bool,
    user: &str,
    out: &Path,
) -> Result<(), Failure> {
    let user = export::address(user)?;
    if out.exists() {
        let message = format!("{} is there already: choose another file", out.display());
        return Err(Failure::new(Exit::CommandLine, message));
    }
    let scratch = Scratch::make(out)?;
    let partition = fetch_user(client, &user, &scratch.0)?;
    let group = u32::from(partition) + 1;
    let part = Part {
        partition,
        state: scratch.0.join(backup_files::name(group, Kind::State)),
        rows: scratch.0.join(backup_files::name(group, Kind::Rows)),
    };
    let mut wanted = BTreeMap::from([(user.clone(), false)]);
    let found = export::write(out, user.domain(), [part].into_iter(), &mut wanted)?;
    drop(scratch);
    if found == 0 {
        fs::remove_file(out).map_err(|error| at(out, &error))?;
        let message = format!("{user} is not there");
        return Err(Failure::new(Exit::Refused, message));
    }
    let place = out.display();
    match json {
        true => print_json(&Report {
            user: user.as_str(),
            out: place.to_string(),
        }),
        false => print(&format!(
            "{place}: {user}. Credentials and messages are in it: keep it secret.\n"
        )),
    }
}

/// A folder beside the file that is made, for its owner only, for what is fetched: others' credentials are in it, too, so it goes
/// whatever happens.
struct Scratch(PathBuf);

impl Scratch {
    fn make(out: &Path) -> Result<Scratch, Failure> {
        let mut name = OsString::from(out);
        name.push(".fetching");
        let dir = PathBuf::from(name);
        // Left behind by a run that was killed.
        if dir.is_dir() {
            fs::remove_dir_all(&dir).map_err(|error| at(&dir, &error))?;
        }
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| at(&dir, &error))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the folder of what was fetched can't be removed");
        }
    }
}
