//! A room in which somebody is banned and admitted again, registers that many hands set, and a lady who shuts her door: what
//! P11 and P12 are about.

mod door;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};
use xmpp::ns;
use xmpp::scan::Document;

use crate::client::{Client, Incoming, Login};
use crate::history::{Recorder, What, affiliation, configuration};
use crate::load::{create_room_as, join, login_of};
use crate::pool::{DOMAIN, Pool, ROOMS};

/// Sessions at court have numbers from here on; those of the crowd are lower.
pub(super) const COURT_SESSIONS: u32 = 1_000_000;

/// The owner, who bans and goes on talking.
const PRINCE: &str = "prince";

/// Who is banned. Once nobody knows what became of an affiliation, it is somebody else's turn: nothing can be said of a ban any
/// more when an earlier call may still take effect.
const VILLAINS: [&str; 6] = [
    "tybalt",
    "paris",
    "sampson",
    "gregory",
    "abram",
    "balthasar",
];

/// The names that they give the room.
const NAMES: [&str; 3] = ["Verona", "Mantua", "Padua"];

/// Whose affiliation many hands set.
const MERCUTIO: &str = "mercutio";

/// Those who set and read it, and the room's name.
const HANDS: [&str; 3] = ["hand-1", "hand-2", "hand-3"];

/// Longer than the server may take for an answer (P17).
const ANSWERED: Duration = Duration::from_secs(14);

/// The pause between two calls, and between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// The room.
pub fn room() -> String {
    format!("court@{ROOMS}")
}

/// What those at court share.
pub struct Court {
    recorder: Arc<Recorder>,
    /// A login on each node, for any user.
    logins: Vec<(u64, Login)>,
    calls: AtomicU64,
    sessions: AtomicU32,
    closes: AtomicBool,
}

/// An iq.
struct Request<'a> {
    kind: &'static str,
    /// `None`: the own account.
    to: Option<String>,
    query: &'a str,
}

impl Request<'_> {
    fn to_the_room<'a>(kind: &'static str, query: &'a str) -> Request<'a> {
        Request {
            kind,
            to: Some(room()),
            query,
        }
    }
}

/// How a call or a message ended.
enum Ended {
    Done(Box<Document>),
    Refused,
    Unknown,
}

/// Somebody at court, on some node.
struct Courtier<'a> {
    court: &'a Court,
    user: &'static str,
    client: Option<(u64, Client)>,
    /// The number of the session in the history, while it is in the room.
    inside: Option<u32>,
    said: u64,
}

impl Court {
    /// Makes the accounts and the room. Sessions get numbers from `sessions` on.
    pub(super) async fn open(pool: &Pool, recorder: Arc<Recorder>, sessions: u32) -> Result<Court> {
        pool.add_users(Court::accounts()).await?;
        let logins = pool.ids().into_iter().map(|id| (id, pool.login(id, "")));
        Court::seat(logins.collect(), recorder, sessions).await
    }

    /// The accounts that a court needs.
    pub fn accounts() -> impl Iterator<Item = &'static str> {
        let all = VILLAINS.into_iter().chain(HANDS);
        let at_the_door = Court::SUITORS.into_iter().chain([Court::LADY]);
        all.chain([PRINCE, MERCUTIO]).chain(at_the_door)
    }

    /// The same for a pool that is no [`Pool`], whose accounts are there: `logins` says how to come to each node.
    pub async fn seat(
        logins: Vec<(u64, Login)>,
        recorder: Arc<Recorder>,
        sessions: u32,
    ) -> Result<Court> {
        let Some((node, login)) = logins.first() else {
            bail!("no node");
        };
        let login = login_of(login, PRINCE);
        create_room_as(&login, &room()).await?;
        let mut prince = Client::connect(&login).await?;
        for hand in HANDS {
            let query = set_affiliation(hand, "owner");
            prince.iq_ok("set", Some(&room()), &query).await?;
        }
        // Who reads must know what there is before anybody else has set it: nothing is something else than no outcast.
        let first = [
            (
                affiliation(&room(), MERCUTIO),
                "member",
                set_affiliation(MERCUTIO, "member"),
            ),
            (configuration(&room()), NAMES[0], set_name(NAMES[0])),
        ];
        let mut call = 0;
        for (register, value, query) in first {
            recorder.record(What::Call {
                call,
                node: *node,
                register,
                set: Some(value.into()),
            });
            prince.iq_ok("set", Some(&room()), &query).await?;
            recorder.record(What::Answered { call, value: None });
            call += 1;
        }
        prince.close().await?;
        Ok(Court {
            recorder,
            logins,
            calls: AtomicU64::new(call),
            sessions: AtomicU32::new(sessions),
            closes: AtomicBool::new(false),
        })
    }

    fn courtier(&self, user: &'static str) -> Courtier<'_> {
        Courtier {
            court: self,
            user,
            client: None,
            inside: None,
            said: 0,
        }
    }

    /// Everybody ends what they are about.
    pub fn close(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        !self.closes.load(Ordering::Relaxed)
    }

    /// Bans and admits, until the court closes.
    pub async fn sits(self: Arc<Court>) {
        let mut prince = self.courtier(PRINCE);
        let mut pace = interval(PAUSE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for villain in VILLAINS.into_iter().cycle() {
            let mut villain = self.courtier(villain);
            while self.is_open() {
                pace.tick().await;
                if round(&mut prince, &mut villain).await.is_err() {
                    break;
                }
            }
            prince.leaves();
            villain.leaves();
            if !self.is_open() {
                return;
            }
        }
    }

    /// Sets and reads registers that others set, too, until the court closes.
    pub async fn hand(self: Arc<Court>, at: usize) {
        let Some(user) = HANDS.get(at).copied() else {
            return;
        };
        let register = affiliation(&room(), MERCUTIO);
        let mut hand = self.courtier(user);
        let mut pace = interval(PAUSE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.is_open() {
            pace.tick().await;
            let called = match rand::random_range(0..8_u8) {
                0 => hand.sets(&register, MERCUTIO, "outcast").await,
                1 => hand.sets(&register, MERCUTIO, "member").await,
                2 | 3 => hand.reads(&register, MERCUTIO).await,
                4 | 5 => hand.names(NAMES[rand::random_range(0..NAMES.len())]).await,
                _ => hand.reads_name().await,
            };
            if called.is_err() || rand::random_range(0..8_u8) == 0 {
                hand.client = None;
            }
        }
    }

    /// How many hands there are.
    pub fn hands() -> usize {
        HANDS.len()
    }

    /// Those who may know what is said at court.
    pub(super) fn audience() -> Vec<String> {
        let all = VILLAINS.into_iter().chain([PRINCE]);
        all.map(str::to_owned).collect()
    }
}

fn set_name(name: &str) -> String {
    format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value></field>\
         <field var='muc#roomconfig_roomname'><value>{name}</value></field></x></query>",
        ns::MUC_OWNER,
        ns::MUC_ROOM_CONFIG
    )
}

/// The room's name in its configuration form.
fn name_in(answer: &Document) -> Option<String> {
    let query = answer.root().children().next()?;
    let form = query.children().next()?;
    let mut fields = form.children();
    let name =
        fields.find(|field| field.attr("var").as_deref() == Some("muc#roomconfig_roomname"))?;
    let value = name.children().next()?;
    Some(value.text().into_owned())
}

fn set_affiliation(user: &str, value: &str) -> String {
    format!(
        "<query xmlns='{}'><item jid='{user}@{DOMAIN}' affiliation='{value}'/></query>",
        ns::MUC_ADMIN
    )
}

/// The villain is admitted, talks, is banned, tries to talk; the prince goes on talking.
async fn round(prince: &mut Courtier<'_>, villain: &mut Courtier<'_>) -> Result<()> {
    let register = affiliation(&room(), villain.user);
    prince.enters().await?;
    prince.sets(&register, villain.user, "member").await?;
    villain.enters().await?;
    villain.says().await?;
    prince.says().await?;
    prince.sets(&register, villain.user, "outcast").await?;
    prince.says().await?;
    // The villain hears of the ban, and of nothing behind it.
    villain.says().await?;
    prince.says().await?;
    villain.listens().await;
    villain.leaves();
    prince.reads(&register, villain.user).await
}

impl Courtier<'_> {
    /// A connection to some node.
    async fn connected(&mut self) -> Result<(u64, &mut Client)> {
        if self.client.is_none() {
            let at = rand::random_range(0..self.court.logins.len().max(1));
            let Some((node, login)) = self.court.logins.get(at) else {
                bail!("no node");
            };
            let login = login_of(login, self.user);
            self.client = Some((*node, Client::connect(&login).await?));
        }
        match &mut self.client {
            Some((node, client)) => Ok((*node, client)),
            None => bail!("not connected"),
        }
    }

    /// Is in the room.
    async fn enters(&mut self) -> Result<()> {
        if self.inside.is_some() {
            return Ok(());
        }
        let (user, session) = (
            self.user,
            self.court.sessions.fetch_add(1, Ordering::Relaxed),
        );
        let (node, client) = self.connected().await?;
        join(client, &room(), user).await?;
        self.inside = Some(session);
        let recorder = &self.court.recorder;
        recorder.record(What::Named {
            session,
            user: user.to_owned(),
        });
        recorder.record(What::Joined {
            session,
            log: room(),
            node,
            home: node,
            stream_management: false,
            reads_archive: false,
        });
        Ok(())
    }

    /// Is out of the room, and its connection is gone.
    fn leaves(&mut self) {
        if let Some(session) = self.inside.take() {
            self.court.recorder.record(What::Left { session });
        }
        self.client = None;
    }

    /// Says something; what becomes of it is written down.
    async fn says(&mut self) -> Result<()> {
        let Some(session) = self.inside else {
            bail!("not in the room");
        };
        self.said += 1;
        let token = format!("{}-{session}-{}", self.user, self.said);
        let recorder = Arc::clone(&self.court.recorder);
        recorder.record(What::Invoke {
            session,
            log: room(),
            token: token.clone(),
        });
        let message = format!(
            "<message type='groupchat' id='{token}' to='{}'><body>{token}</body></message>",
            room()
        );
        let ended = self.exchange(&message, &token).await;
        let what = match &ended {
            Ended::Done(_) => What::Ok { token },
            Ended::Refused => What::Fail { token },
            Ended::Unknown => What::Info { token },
        };
        recorder.record(what);
        match ended {
            Ended::Unknown => bail!("nobody knows"),
            _ => Ok(()),
        }
    }

    /// Sets an affiliation.
    async fn sets(&mut self, register: &str, user: &str, value: &str) -> Result<()> {
        let query = set_affiliation(user, value);
        let set = Request::to_the_room("set", &query);
        self.calls(register, Some(value), set, |_| None).await
    }

    /// Reads it: banned or not is what the list tells.
    async fn reads(&mut self, register: &str, user: &str) -> Result<()> {
        let query = format!(
            "<query xmlns='{}'><item affiliation='outcast'/></query>",
            ns::MUC_ADMIN
        );
        let jid = format!("'{user}@{DOMAIN}'");
        let read = move |answer: &Document| {
            let source = answer.source().replace('"', "'");
            let is_banned = source.contains(&jid);
            Some(if is_banned { "outcast" } else { "member" }.to_owned())
        };
        let get = Request::to_the_room("get", &query);
        self.calls(register, None, get, read).await
    }

    /// Gives the room a name.
    async fn names(&mut self, name: &str) -> Result<()> {
        let query = set_name(name);
        let set = Request::to_the_room("set", &query);
        self.calls(&configuration(&room()), Some(name), set, |_| None)
            .await
    }

    /// Reads it.
    async fn reads_name(&mut self) -> Result<()> {
        let query = format!("<query xmlns='{}'/>", ns::MUC_OWNER);
        let get = Request::to_the_room("get", &query);
        self.calls(&configuration(&room()), None, get, name_in)
            .await
    }

    async fn calls(
        &mut self,
        register: &str,
        set: Option<&str>,
        request: Request<'_>,
        read: impl Fn(&Document) -> Option<String>,
    ) -> Result<()> {
        let (node, client) = self.connected().await?;
        let id = client.next_id();
        let call = self.court.calls.fetch_add(1, Ordering::Relaxed);
        let recorder = Arc::clone(&self.court.recorder);
        recorder.record(What::Call {
            call,
            node,
            register: register.to_owned(),
            set: set.map(str::to_owned),
        });
        let Request { kind, to, query } = request;
        let to = to.map(|to| format!(" to='{to}'")).unwrap_or_default();
        let iq = format!("<iq type='{kind}' id='{id}'{to}>{query}</iq>");
        match self.exchange(&iq, &id).await {
            Ended::Done(answer) => {
                let value = read(&answer);
                recorder.record(What::Answered { call, value });
                Ok(())
            }
            Ended::Refused => {
                recorder.record(What::Refused { call });
                Ok(())
            }
            Ended::Unknown => {
                recorder.record(What::Unanswered { call });
                bail!("nobody knows");
            }
        }
    }

    /// Sends a stanza and waits for what has its id: an answer, a reflection or an error.
    async fn exchange(&mut self, stanza: &str, id: &str) -> Ended {
        let (user, session) = (self.user, self.inside);
        let recorder = Arc::clone(&self.court.recorder);
        let Some((_, client)) = &mut self.client else {
            return Ended::Unknown;
        };
        if client.send(stanza).await.is_err() {
            return Ended::Unknown;
        }
        let deadline = Instant::now() + ANSWERED;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Incoming::Element(came)) = client.next(left).await else {
                // Nothing came in time, or the stream ended; without stream management nothing else can come.
                return Ended::Unknown;
            };
            received(&recorder, user, session, &came);
            let root = came.root();
            if root.attr("id").as_deref() == Some(id) {
                let is_error = root.attr("type").as_deref() == Some("error");
                return match is_error {
                    true => Ended::Refused,
                    false => Ended::Done(Box::new(came)),
                };
            }
        }
    }

    /// Takes what has come.
    async fn listens(&mut self) {
        let (user, session) = (self.user, self.inside);
        let recorder = Arc::clone(&self.court.recorder);
        if let Some((_, client)) = &mut self.client {
            for came in client.hang_up().await {
                if let Incoming::Element(came) = came {
                    received(&recorder, user, session, &came);
                }
            }
        }
    }
}

/// Writes down what was said in the room, or to the user; gives which message it was.
fn received(
    recorder: &Recorder,
    user: &str,
    session: Option<u32>,
    came: &Document,
) -> Option<String> {
    let root = came.root();
    let kind = root.attr("type");
    let log = match (root.name(), kind.as_deref()) {
        ("message", Some("groupchat")) => room(),
        ("message", Some("chat")) => {
            let from = root.attr("from").unwrap_or_default();
            door::log(from.split('@').next().unwrap_or_default(), user)
        }
        _ => return None,
    };
    let (session, body) = (session?, root.child("body", ns::CLIENT)?);
    let token = body.text().into_owned();
    let id = root
        .children()
        .find(|child| child.is("stanza-id", ns::STANZA_ID))
        .and_then(|child| child.attr("id"));
    recorder.record(What::Received {
        session,
        log,
        token: token.clone(),
        id: id.unwrap_or_default().into_owned(),
    });
    Some(token)
}
