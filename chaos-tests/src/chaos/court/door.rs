//! A lady who blocks and unblocks those who write to her (XEP-0191).
//!
//! What became of a message is known by what the lady is sent, or by the error that the suitor is: an acknowledgement of the
//! stream says that it was filed, not that it came through the door.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};
use xmpp::ns;
use xmpp::scan::Document;

use super::{Court, Courtier, PAUSE, Request, received};
use crate::client::Incoming;
use crate::history::{What, block};
use crate::people::presence_of;
use crate::pool::DOMAIN;

const LADY: &str = Court::LADY;
const SUITORS: [&str; 6] = Court::SUITORS;

/// How long a message between two users is waited for; what comes later has an unknown outcome.
const COMES: Duration = Duration::from_secs(10);

/// The history's name of what one writes to another.
pub(super) fn log(from: &str, to: &str) -> String {
    format!("{from} to {to}@{DOMAIN}")
}

impl Court {
    /// Who shuts her door.
    pub const LADY: &str = "portia";

    /// Who knocks. Once nobody knows whether the door is open for one of them, it is somebody else's turn.
    pub const SUITORS: [&str; 6] = [
        "shylock", "morocco", "arragon", "bassanio", "gratiano", "lorenzo",
    ];

    /// Opens and shuts the door, until the court closes.
    pub async fn receives(self: Arc<Court>) {
        let mut lady = self.courtier(LADY);
        let mut pace = interval(PAUSE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for suitor in SUITORS.into_iter().cycle() {
            let mut suitor = self.courtier(suitor);
            let mut is_known = true;
            while self.is_open() && is_known {
                pace.tick().await;
                if let Err(Unknown { door }) = visit(&mut lady, &mut suitor).await {
                    is_known = !door;
                    lady.leaves();
                    suitor.leaves();
                }
            }
            lady.leaves();
            suitor.leaves();
            if !self.is_open() {
                return;
            }
        }
    }

    /// The logs of what is written to the lady, and who may know it.
    pub(in crate::chaos) fn letters() -> impl Iterator<Item = (String, [String; 2])> {
        let letters = |suitor: &str| (log(suitor, LADY), [suitor.to_owned(), LADY.to_owned()]);
        SUITORS.into_iter().map(letters)
    }
}

/// Something has an unknown outcome.
struct Unknown {
    /// Whether the door is open.
    door: bool,
}

/// The door is opened, and what is said comes; it is shut, and what is said is refused.
async fn visit(lady: &mut Courtier<'_>, suitor: &mut Courtier<'_>) -> Result<(), Unknown> {
    let door = |_| Unknown { door: true };
    let message = |_| Unknown { door: false };
    let register = block(LADY, suitor.user);
    lady.is_at_home().await.map_err(message)?;
    suitor.stands_outside().await.map_err(message)?;
    lady.opens(&register, suitor.user).await.map_err(door)?;
    let token = suitor.writes().await.map_err(message)?;
    let came = lady.hears(&token).await;
    suitor.is_told(token, came.is_ok().then_some(true));
    came.map_err(message)?;
    lady.shuts(&register, suitor.user).await.map_err(door)?;
    let token = suitor.writes().await.map_err(message)?;
    let refused = suitor.is_refused(&token).await;
    suitor.is_told(token, refused.is_ok().then_some(false));
    refused.map_err(message)?;
    lady.looks(&register, suitor.user).await.map_err(message)
}

impl Courtier<'_> {
    fn begins(&mut self) -> u32 {
        let session = self.court.sessions.fetch_add(1, Ordering::Relaxed);
        self.inside = Some(session);
        self.court.recorder.record(What::Named {
            session,
            user: self.user.to_owned(),
        });
        session
    }

    /// Is online, and is sent what anybody writes.
    async fn is_at_home(&mut self) -> Result<()> {
        if self.inside.is_some() {
            return Ok(());
        }
        let (node, client) = self.connected().await?;
        client.send("<presence/>").await?;
        let own = client.jid().as_str().to_owned();
        let mut early = Vec::new();
        let deadline = Instant::now() + COMES;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = client
                .next_element(left)
                .await
                .context("the own presence")?;
            if presence_of(&came, &own, None).is_some() {
                break;
            }
            early.push(came);
        }
        let session = self.begins();
        // A user's session, not a room's: what was sent to one before it that died may come once more, and late.
        for suitor in SUITORS {
            self.court.recorder.record(What::Joined {
                session,
                log: log(suitor, LADY),
                node,
                home: node,
                stream_management: false,
                reads_archive: true,
            });
        }
        // What waited for her.
        for came in early {
            received(&self.court.recorder, self.user, self.inside, &came);
        }
        Ok(())
    }

    /// Is logged in.
    async fn stands_outside(&mut self) -> Result<()> {
        if self.inside.is_none() {
            self.connected().await?;
            self.begins();
        }
        Ok(())
    }

    async fn opens(&mut self, register: &str, suitor: &str) -> Result<()> {
        self.turns(register, "open", "unblock", suitor).await
    }

    async fn shuts(&mut self, register: &str, suitor: &str) -> Result<()> {
        self.turns(register, "blocked", "block", suitor).await
    }

    async fn turns(&mut self, register: &str, value: &str, verb: &str, who: &str) -> Result<()> {
        let query = format!(
            "<{verb} xmlns='{}'><item jid='{who}@{DOMAIN}'/></{verb}>",
            ns::BLOCKING
        );
        let set = Request {
            kind: "set",
            to: None,
            query: &query,
        };
        self.calls(register, Some(value), set, |_| None).await
    }

    /// Reads the list of those who are shut out.
    async fn looks(&mut self, register: &str, suitor: &str) -> Result<()> {
        let query = format!("<blocklist xmlns='{}'/>", ns::BLOCKING);
        let get = Request {
            kind: "get",
            to: None,
            query: &query,
        };
        let jid = format!("'{suitor}@{DOMAIN}'");
        let read = move |answer: &Document| {
            let is_shut = answer.source().replace('"', "'").contains(&jid);
            Some(if is_shut { "blocked" } else { "open" }.to_owned())
        };
        self.calls(register, None, get, read).await
    }

    /// Sends a message; gives its token.
    async fn writes(&mut self) -> Result<String> {
        let session = self.inside.context("a session")?;
        self.said += 1;
        let token = format!("{}-{session}-{}", self.user, self.said);
        self.court.recorder.record(What::Invoke {
            session,
            log: log(self.user, LADY),
            token: token.clone(),
        });
        let message = format!(
            "<message type='chat' id='{token}' to='{LADY}@{DOMAIN}'><body>{token}</body></message>"
        );
        if let Some((_, client)) = &mut self.client {
            // What can't be sent shows in its turn.
            let _ = client.send(&message).await;
        }
        Ok(token)
    }

    /// Writes down what became of a message: it came, it was refused, or nobody knows.
    fn is_told(&self, token: String, came: Option<bool>) {
        self.court.recorder.record(match came {
            Some(true) => What::Ok { token },
            Some(false) => What::Fail { token },
            None => What::Info { token },
        });
    }

    /// Waits for a message.
    async fn hears(&mut self, token: &str) -> Result<()> {
        let (user, session) = (self.user, self.inside);
        let recorder = Arc::clone(&self.court.recorder);
        let (_, client) = self.connected().await?;
        let deadline = Instant::now() + COMES;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match client.next(left).await? {
                Incoming::Element(came) => {
                    if received(&recorder, user, session, &came).as_deref() == Some(token) {
                        return Ok(());
                    }
                }
                Incoming::Acked(_) => {}
                Incoming::Closed(why) => bail!("the stream ended: {why}"),
            }
        }
    }

    /// Waits for the error that a message is answered with.
    async fn is_refused(&mut self, token: &str) -> Result<()> {
        let refused = |came: &Document| {
            let root = came.root();
            let is_error = root.attr("type").as_deref() == Some("error");
            (is_error && root.attr("id").as_deref() == Some(token)).then_some(())
        };
        let (_, client) = self.connected().await?;
        client.find("the refusal", COMES, refused).await
    }
}
