//! Accounts and rosters of a large pool, founded through the product's own door: `muster ctl import` of files in the form of
//! XEP-0227, a few at once.
//!
//! All users have one password and one salt, so that neither side derives a key for each. Everybody has as many contacts, the
//! neighbours in a circle, on both sides (subscription `both`).

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::pool::Pool;
use crate::progress::Progress;
use crate::sasl::{Mechanism, stored_keys};
use crate::scenario::presence::Circle;
use crate::server::SCRAM_ITERATIONS;
use crate::target::Target;

/// Users in a file.
const USERS: usize = 50;

/// Files imported at once.
const AT_ONCE: usize = 16;

/// How often imports are looked at.
const POLL: Duration = Duration::from_millis(20);

/// An import that runs; stopped if it still runs when this is dropped.
struct Import {
    child: Child,
    file: PathBuf,
    users: usize,
}

impl Drop for Import {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Founds all users of the circle. They are users of the target from then on.
pub(crate) async fn accounts(
    pool: &Pool,
    target: &Target,
    circle: Circle,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut running: Vec<Import> = Vec::new();
    let mut next = 0;
    let mut done = 0;
    while done < circle.users {
        while next < circle.users && running.len() < AT_ONCE {
            let users = next..circle.users.min(next + USERS);
            let file = pool.dir().join(format!("import-{next}.xml"));
            next = users.end;
            fs::write(&file, document(target, circle, users.clone())?)?;
            running.push(Import {
                child: pool.start_import(users.start / USERS, &file)?,
                file,
                users: users.len(),
            });
        }
        tokio::time::sleep(POLL).await;
        let mut still = Vec::with_capacity(running.len());
        for mut import in running {
            match import.child.try_wait()? {
                None => still.push(import),
                Some(status) => {
                    let said = fs::read_to_string(import.file.with_extension("said"))?;
                    if !status.success() {
                        bail!("accounts could not be imported: {status}; {}", last(&said));
                    }
                    fs::remove_file(&import.file)?;
                    fs::remove_file(import.file.with_extension("said"))?;
                    done += import.users;
                }
            }
        }
        running = still;
        progress.at(done);
    }
    target.registered.store(circle.users, Ordering::Relaxed);
    Ok(())
}

/// The end of what was said.
fn last(said: &str) -> &str {
    said.trim_end().lines().last().unwrap_or("it said nothing")
}

/// XEP-0227, of some of the users.
fn document(
    target: &Target,
    circle: Circle,
    users: std::ops::Range<usize>,
) -> anyhow::Result<String> {
    const SALT: &[u8] = b"one salt for all";
    let mechanism = Mechanism::ScramSha1;
    let (stored, server) = stored_keys(mechanism, &target.password, SALT, SCRAM_ITERATIONS)?;
    let credentials = format!(
        "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='{}'><iter-count>{SCRAM_ITERATIONS}</iter-count><salt>{}</salt>\
         <server-key>{server}</server-key><stored-key>{stored}</stored-key></scram-credentials>",
        mechanism.name(),
        BASE64.encode(SALT),
    );
    let mut out = format!(
        "<server-data xmlns='urn:xmpp:pie:0'>\n<host jid='{}'>\n",
        target.domain
    );
    for user in users {
        // Writing into a String does not fail.
        let _ = write!(out, "<user name='{}'>{credentials}", target.user(user));
        if circle.contacts > 0 {
            out.push_str("<query xmlns='jabber:iq:roster'>");
            for slot in 0..circle.contacts {
                let contact = target.address(circle.contact(user, slot));
                let _ = write!(out, "<item jid='{contact}' subscription='both'/>");
            }
            out.push_str("</query>");
        }
        out.push_str("</user>\n");
    }
    out.push_str("</host>\n</server-data>\n");
    Ok(out)
}
