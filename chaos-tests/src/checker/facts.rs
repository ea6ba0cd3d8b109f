//! What a history has besides messages: who sessions are of, resumptions, calls, owners, presence.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Event, What};

/// A resumption.
#[derive(Debug)]
pub(super) struct Resumption<'a> {
    pub(super) at: u64,
    pub(super) session: u32,
    pub(super) h: u32,
    pub(super) acked: u32,
    pub(super) sent: u32,
    /// Messages that `h` does not cover.
    pub(super) open: &'a [String],
}

/// What was said of a session that was lost.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) at: u64,
    pub(super) session: u32,
    pub(super) h: Option<u32>,
    pub(super) acked: u32,
    pub(super) sent: u32,
}

/// A reading under load.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) reader: &'a str,
    pub(super) log: &'a str,
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) whole: bool,
    pub(super) rows: &'a [String],
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// It was done at some time until then; what was read.
    Done(u64, Option<&'a str>),
    /// It was not.
    Refused(u64),
    /// Nobody knows; the client gave up then.
    Unknown(Option<u64>),
}

/// A call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) number: u64,
    pub(super) node: u64,
    pub(super) register: &'a str,
    pub(super) set: Option<&'a str>,
    pub(super) began: u64,
    pub(super) answer: Answer<'a>,
}

/// What a node said of a partition's owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) via: u64,
    pub(super) life: u64,
    pub(super) partition: u64,
    pub(super) targeted: bool,
    pub(super) epoch: u64,
    pub(super) owner: u64,
}

/// Something of two values that changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) at: u64,
    pub(super) online: bool,
}

/// What a replica held.
#[derive(Debug)]
pub(super) struct Replica<'a> {
    pub(super) node: u64,
    pub(super) hash: &'a str,
}

/// A place that was searched.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) place: &'a str,
    pub(super) found: &'a [String],
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) users: BTreeMap<u32, &'a str>,
    /// When connections ended, by session.
    pub(super) dropped: BTreeMap<u32, Vec<u64>>,
    pub(super) resumptions: Vec<Resumption<'a>>,
    /// The nodes that a session moved to, and when.
    pub(super) moved: BTreeMap<u32, Vec<(u64, u64)>>,
    pub(super) losses: Vec<Loss>,
    pub(super) reads: Vec<Read<'a>>,
    pub(super) calls: Vec<Call<'a>>,
    /// Answers to calls that nobody made.
    pub(super) stray_answers: usize,
    pub(super) owners: Vec<Owner>,
    /// Who had no quorum, and who led.
    pub(super) splits: Vec<(&'a [u64], u64)>,
    pub(super) snapshots: usize,
    pub(super) audiences: BTreeMap<&'a str, BTreeSet<&'a str>>,
    pub(super) searches: Vec<Search<'a>>,
    /// What each is shown of each.
    pub(super) shown: BTreeMap<(&'a str, &'a str), Vec<Change>>,
    /// Who was there.
    pub(super) there: BTreeMap<&'a str, Vec<Change>>,
    pub(super) replicas: BTreeMap<(u64, u64), Vec<Replica<'a>>>,
    /// When nodes died.
    pub(super) died: BTreeMap<u64, Vec<u64>>,
    /// From when to when nodes could answer nobody.
    pub(super) frozen: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    /// The time of the last event.
    pub(super) end: u64,
}

impl<'a> Facts<'a> {
    pub(super) fn add(&mut self, event: &'a Event) {
        let at = event.at;
        match &event.what {
            What::Named { session, user } => {
                self.users.insert(*session, user);
            }
            What::Dropped { session } => self.dropped.entry(*session).or_default().push(at),
            What::Resumed { .. } | What::Lost { .. } => self.resumed(at, &event.what),
            What::Read { .. } => self.read(at, &event.what),
            What::Call { .. }
            | What::Answered { .. }
            | What::Refused { .. }
            | What::Unanswered { .. } => self.called(at, &event.what),
            What::Split { minority, leader } => self.splits.push((minority, *leader)),
            What::SnapshotInstalled { .. } => self.snapshots += 1,
            What::Audience { log, users } => {
                let users = users.iter().map(String::as_str).collect();
                self.audiences.insert(log, users);
            }
            What::Searched { place, found } => self.searches.push(Search { place, found }),
            What::Presence { .. } | What::Online { .. } => self.seen(at, &event.what),
            What::Owner { .. } | What::Replica { .. } => self.status(&event.what),
            What::Died { node } => self.died.entry(*node).or_default().push(at),
            What::Frozen { node } => self.frozen.entry(*node).or_default().push((at, None)),
            What::Thawed { node } => {
                if let Some(last) = self.frozen.entry(*node).or_default().last_mut() {
                    last.1.get_or_insert(at);
                }
            }
            _ => {}
        }
    }

    fn resumed(&mut self, at: u64, what: &'a What) {
        match what {
            What::Resumed {
                session,
                node,
                h,
                acked,
                sent,
                open,
            } => {
                self.moved.entry(*session).or_default().push((at, *node));
                self.resumptions.push(Resumption {
                    at,
                    session: *session,
                    h: *h,
                    acked: *acked,
                    sent: *sent,
                    open,
                });
            }
            What::Lost {
                session,
                h,
                acked,
                sent,
            } => self.losses.push(Loss {
                at,
                session: *session,
                h: *h,
                acked: *acked,
                sent: *sent,
            }),
            _ => {}
        }
    }

    fn read(&mut self, at: u64, what: &'a What) {
        if let What::Read {
            reader,
            log,
            began,
            whole,
            rows,
        } = what
        {
            self.reads.push(Read {
                reader,
                log,
                began: *began,
                ended: at,
                whole: *whole,
                rows,
            });
        }
    }

    fn called(&mut self, at: u64, what: &'a What) {
        let (number, answer) = match what {
            What::Call {
                call,
                node,
                register,
                set,
            } => {
                self.calls.push(Call {
                    number: *call,
                    node: *node,
                    register,
                    set: set.as_deref(),
                    began: at,
                    answer: Answer::Unknown(None),
                });
                return;
            }
            What::Answered { call, value } => (call, Answer::Done(at, value.as_deref())),
            What::Refused { call } => (call, Answer::Refused(at)),
            What::Unanswered { call } => (call, Answer::Unknown(Some(at))),
            _ => return,
        };
        let of_number = |call: &&mut Call<'_>| call.number == *number;
        match self.calls.iter_mut().rev().find(of_number) {
            Some(call) if call.answer == Answer::Unknown(None) => call.answer = answer,
            _ => self.stray_answers += 1,
        }
    }

    fn seen(&mut self, at: u64, what: &'a What) {
        match what {
            What::Presence {
                observer,
                user,
                online,
            } => {
                let key = (observer.as_str(), user.as_str());
                let online = *online;
                self.shown
                    .entry(key)
                    .or_default()
                    .push(Change { at, online });
            }
            What::Online { user, online } => {
                let online = *online;
                let changes = self.there.entry(user).or_default();
                changes.push(Change { at, online });
            }
            _ => {}
        }
    }

    fn status(&mut self, what: &'a What) {
        match what {
            What::Owner {
                via,
                life,
                partition,
                targeted,
                epoch,
                owner,
            } => self.owners.push(Owner {
                via: *via,
                life: *life,
                partition: *partition,
                targeted: *targeted,
                epoch: *epoch,
                owner: *owner,
            }),
            What::Replica {
                partition,
                node,
                applied,
                hash,
            } => {
                let replicas = self.replicas.entry((*partition, *applied)).or_default();
                replicas.push(Replica { node: *node, hash });
            }
            _ => {}
        }
    }

    /// Whether a node could answer nobody at some time between these.
    pub(super) fn is_frozen(&self, node: u64, from: u64, to: u64) -> bool {
        let times = self.frozen.get(&node).into_iter().flatten();
        times
            .copied()
            .any(|(begin, end)| begin <= to && end.is_none_or(|end| end >= from))
    }
}
