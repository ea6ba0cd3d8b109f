use std::collections::VecDeque;
use std::time::Instant;

use proptest::prelude::*;
use xmpp::sasl::StoredCredentials;
use xmpp::stream_management::{Inbound, InboundLimits, StanzaNumber};

use super::*;
use crate::user::account::Account;

const STREAM: StreamId = StreamId(7);

fn juliet() -> BareJid {
    BareJid::parse("juliet@localhost").unwrap()
}

fn with_juliet() -> State {
    let mut state = State::default();
    let credentials = StoredCredentials {
        sha1: None,
        sha256: None,
        sha512: None,
    };
    let account = Account {
        credentials,
        created_ms: 0,
        generation: 1,
    };
    state.accounts.insert(juliet(), account);
    state.logs.insert(juliet(), UserLog::created_at(1));
    state
}

fn say(state: &mut State, now_ms: u64, stream: u64, handled: u64, course: Course) {
    let note = StreamNote {
        user: juliet(),
        stream: StreamId(stream),
        handled,
        course,
    };
    note_one(state, now_ms, note);
}

fn known(state: &State, stream: u64) -> Option<u64> {
    handled(state, &juliet(), StreamId(stream))
}

#[test]
fn a_message_counts_if_all_before_it_does() {
    let check = |covered: u64, handled: u64, number: u64, expect: u64| {
        let counted = Counted {
            stream: STREAM,
            number,
            handled,
        };
        assert_eq!(counted.raises(covered), expect, "{counted:?} on {covered}");
    };
    check(0, 0, 1, 1);
    check(1, 0, 2, 2);
    check(0, 0, 2, 0);
    check(0, 4, 5, 5);
    check(0, 4, 6, 4);
    check(9, 4, 6, 9);
    check(5, 0, 6, 6);
}

#[test]
fn a_count_begins_once_and_never_falls() {
    let mut state = with_juliet();
    say(&mut state, 1, 7, 3, Course::GoesOn);
    assert_eq!(known(&state, 7), None, "it has not begun");
    say(&mut state, 1, 7, 3, Course::Begins(60));
    say(&mut state, 2, 7, 2, Course::GoesOn);
    assert_eq!(known(&state, 7), Some(3));
    say(&mut state, 3, 7, 5, Course::Begins(60));
    assert_eq!(known(&state, 7), Some(5), "said once more");
    say(&mut state, 4, 7, 0, Course::Ends);
    say(&mut state, 5, 7, 9, Course::GoesOn);
    assert_eq!(known(&state, 7), None);
    let counted = Counted {
        stream: STREAM,
        number: 1,
        handled: 0,
    };
    count(&mut state, 6, &juliet(), &counted);
    assert_eq!(known(&state, 7), None);
    state.accounts.remove(&juliet());
    say(&mut state, 7, 8, 0, Course::Begins(60));
    assert_eq!(known(&state, 8), None, "the account is gone");
}

#[test]
fn counts_are_few_and_go_in_their_time() {
    let mut state = with_juliet();
    let max = STREAMS_MAX as u64;
    (0..max).for_each(|stream| say(&mut state, stream, stream, 1, Course::Begins(60)));
    say(&mut state, max, 0, 2, Course::GoesOn);
    say(&mut state, max, max, 1, Course::Begins(60));
    assert_eq!(known(&state, 1), None, "it was said least lately");
    assert_eq!((known(&state, 0), known(&state, max)), (Some(2), Some(1)));
    let over = max + (2 * 3_600 + 60) * 1_000;
    let log = state.logs.get_mut(&juliet()).unwrap();
    drop_old(log, over);
    assert_eq!(log.streams.len(), 2);
    drop_old(log, over + 1);
    assert_eq!(log.streams, []);
}

/// What a session's link carries, in its order.
enum Carried {
    Message(Option<Counted>, u64, bool),
    Note(u64, Course),
    /// Another session of the user's begins.
    Other,
}

/// A session, its link, and the log behind it.
struct Play {
    state: State,
    inbound: Inbound,
    begun: bool,
    awaits: bool,
    up: VecDeque<Carried>,
    /// What was applied and is not answered; `true`: done.
    down: VecDeque<(Carried, bool)>,
    soft: Vec<u64>,
    numbers: Vec<StanzaNumber>,
    /// Stanzas that are handled, whoever knows it.
    done: Vec<bool>,
    acked: u64,
    others: u64,
    now_ms: u64,
}

impl Play {
    fn new() -> Play {
        let mut inbound = Inbound::new(InboundLimits::default());
        inbound.keep();
        Play {
            state: with_juliet(),
            inbound,
            begun: false,
            awaits: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            soft: Vec::new(),
            numbers: Vec::new(),
            done: Vec::new(),
            acked: 0,
            others: 100,
            now_ms: 0,
        }
    }

    fn receives(&mut self) -> StanzaNumber {
        let number = self.inbound.receive(Instant::now()).unwrap();
        self.numbers.push(number);
        self.done.push(false);
        number
    }

    fn sends_message(&mut self, is_refused: bool) {
        let number = self.receives().get();
        let counted = self.begun.then_some(Counted {
            stream: STREAM,
            number,
            handled: self.inbound.settled(),
        });
        self.up
            .push_back(Carried::Message(counted, number, is_refused));
    }

    fn says(&mut self) {
        if !std::mem::replace(&mut self.awaits, true) {
            let course = match self.begun {
                true => Course::GoesOn,
                false => Course::Begins(60),
            };
            let note = Carried::Note(self.inbound.settled(), course);
            self.up.push_back(note);
        }
    }

    /// The log takes the next of the link.
    fn applies(&mut self) {
        let Some(carried) = self.up.pop_front() else {
            return;
        };
        self.now_ms += 1;
        let mut is_done = true;
        match &carried {
            Carried::Message(counted, number, is_refused) => {
                is_done = !is_refused;
                self.done[*number as usize - 1] = true;
                if let (Some(counted), true) = (counted, is_done) {
                    count(&mut self.state, self.now_ms, &juliet(), counted);
                }
            }
            Carried::Note(handled, course) => {
                say(&mut self.state, self.now_ms, STREAM.0, *handled, *course);
            }
            Carried::Other => {
                self.others += 1;
                let course = Course::Begins(60);
                say(&mut self.state, self.now_ms, self.others, 0, course);
            }
        }
        self.down.push_back((carried, is_done));
    }

    fn hears(&mut self) {
        match self.down.pop_front() {
            Some((Carried::Message(counted, number, _), is_done)) => {
                if let (Some(counted), true) = (counted, is_done) {
                    let covered = self.inbound.covered().unwrap();
                    self.inbound.cover(counted.raises(covered));
                }
                self.settles(number);
            }
            Some((Carried::Note(handled, _), _)) => {
                (self.begun, self.awaits) = (true, false);
                self.inbound.cover(handled);
            }
            Some((Carried::Other, _)) | None => {}
        }
        self.acked = self.acked.max(u64::from(self.inbound.h()));
    }

    fn settles(&mut self, number: u64) {
        self.inbound.settle(self.numbers[number as usize - 1]);
        self.acked = self.acked.max(u64::from(self.inbound.h()));
    }

    fn step(&mut self, roll: u8) {
        match roll % 16 {
            0..=2 => self.sends_message(false),
            3 => self.sends_message(true),
            4..=5 => {
                let number = self.receives().get();
                self.soft.push(number);
            }
            6..=7 => {
                let at = usize::from(roll) % self.soft.len().max(1);
                if at < self.soft.len() {
                    let number = self.soft.swap_remove(at);
                    self.done[number as usize - 1] = true;
                    self.settles(number);
                }
            }
            8 => self.says(),
            9 if roll == 9 => self.up.push_back(Carried::Other),
            9..=12 => self.applies(),
            _ => self.hears(),
        }
    }
}

proptest! {
    #[test]
    fn the_log_covers_what_was_acknowledged_and_no_more_than_was_handled(rolls in proptest::collection::vec(any::<u8>(), 1..600)) {
        let mut play = Play::new();
        play.says();
        for roll in rolls {
            play.step(roll);
            let handled = play.done.iter().take_while(|done| **done).count() as u64;
            prop_assert!(play.acked <= handled);
            if let Some(known) = known(&play.state, STREAM.0) {
                prop_assert!(play.acked <= known, "{} were acknowledged, {known} are known", play.acked);
                prop_assert!(known <= handled, "{known} are known, {handled} handled");
            }
        }
    }

    #[test]
    fn a_session_that_only_writes_to_people_says_nothing_more(bursts in proptest::collection::vec(1..9_usize, 1..40)) {
        let mut play = Play::new();
        play.says();
        play.applies();
        play.hears();
        for burst in bursts {
            (0..burst).for_each(|_| play.sends_message(false));
            (0..burst).for_each(|_| play.applies());
            (0..burst).for_each(|_| play.hears());
            prop_assert_eq!(play.acked, play.done.len() as u64);
            prop_assert_eq!(known(&play.state, STREAM.0), Some(play.acked));
        }
    }
}
