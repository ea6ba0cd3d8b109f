//! The order in which a client's stanzas are processed. RFC 6120 §10.1.
//!
//! ```text
//!   stanza ─► its lane: the user's own, or a room's ─► goes, if all before it in the lane are settled or of its class
//!                            └─ waits otherwise, and all after it in the lane wait behind it
//! ```
//!
//! A command takes effect when the log has it; what is only published or asked takes effect at once, so it would overtake
//! the command before it. Stanzas of one class can't: links carry each class in order. So a lane runs at full speed while
//! one class of stanzas comes, and changes class only when all before are settled. Lanes don't wait for each other: a room
//! without an owner holds up nobody's chats. What concerns all lanes (going offline leaves all rooms) goes when nothing
//! waits in any, and nothing that came later goes before it.
//!
//! Invariants: what goes in a lane goes in the order in which it came; while anything waits, something is unsettled in its
//! lane or in that of what it waits for, so that each outcome lets the next stanzas go.

use std::collections::{HashMap, VecDeque};

use xmpp::jid::BareJid;

/// Whose stanzas have an order among themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// The own account, presence, and everything to users.
    Own,
    /// A room and its occupants.
    Room(BareJid),
}

/// How a stanza takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Class {
    /// Through the log.
    #[default]
    Proposed,
    /// At the owner, without the log.
    Published,
    /// Not at all: it reads.
    Asked,
}

/// A stanza's place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) lane: Lane,
    pub(super) class: Class,
    /// It also has effects in all other lanes.
    pub(super) all: bool,
}

struct Waiting<T> {
    turn: Turn,
    bytes: usize,
    stanza: T,
}

struct Queue<T> {
    /// Of what is unsettled.
    class: Class,
    unsettled: usize,
    waiting: VecDeque<Waiting<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            class: Class::default(),
            unsettled: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    fn admits(&self, class: Class) -> bool {
        self.waiting.is_empty() && self.lets(class)
    }

    fn lets(&self, class: Class) -> bool {
        self.unsettled == 0 || self.class == class
    }

    fn went(&mut self, class: Class) {
        self.class = class;
        self.unsettled += 1;
    }

    fn is_idle(&self) -> bool {
        self.unsettled == 0 && self.waiting.is_empty()
    }
}

/// What is under way or waits.
struct Traffic<T> {
    own: Queue<T>,
    rooms: HashMap<BareJid, Queue<T>>,
    /// Something that concerns all lanes, and all that came after it.
    later: VecDeque<Waiting<T>>,
    /// What may go now, with its bytes.
    ready: VecDeque<(usize, T)>,
    /// How many stanzas wait in lanes and behind what concerns all.
    waiting: usize,
    /// Bytes of all that waits, and of what may go.
    bytes: usize,
}

impl<T> Default for Traffic<T> {
    fn default() -> Traffic<T> {
        Traffic {
            own: Queue::default(),
            rooms: HashMap::new(),
            later: VecDeque::new(),
            ready: VecDeque::new(),
            waiting: 0,
            bytes: 0,
        }
    }
}

/// The lanes of one stream. See the module docs. Nothing is kept while they are idle, which is nearly always.
pub(super) struct Lanes<T>(Option<Box<Traffic<T>>>);

impl<T> Default for Lanes<T> {
    fn default() -> Lanes<T> {
        Lanes(None)
    }
}

impl<T> Lanes<T> {
    fn traffic(&mut self) -> &mut Traffic<T> {
        self.0.get_or_insert_default()
    }

    /// A stanza came in; it is given back if it may go at once, and otherwise by [`Lanes::poll`] in its turn.
    pub(super) fn enter(&mut self, turn: Turn, bytes: usize, stanza: T) -> Option<T> {
        self.traffic().enter(turn, bytes, stanza)
    }

    /// Keeps a stanza that may go, as far as its lane is concerned, for [`Lanes::poll`].
    pub(super) fn hold(&mut self, bytes: usize, stanza: T) {
        self.traffic().hold(bytes, stanza);
    }

    /// The outcome of a stanza of this lane is final.
    pub(super) fn settled(&mut self, lane: &Lane) {
        if let Some(traffic) = &mut self.0 {
            traffic.settled(lane);
        }
        self.forget_if_idle();
    }

    /// The next stanza that may go.
    pub(super) fn poll(&mut self) -> Option<T> {
        let next = self.0.as_mut()?.poll();
        self.forget_if_idle();
        next
    }

    /// How many stanzas wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.as_ref().map_or(0, |traffic| traffic.waiting())
    }

    /// Their bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |traffic| traffic.bytes)
    }

    /// Whether everything that came is settled.
    pub(super) fn is_idle(&self) -> bool {
        self.0.as_ref().is_none_or(|traffic| traffic.is_idle())
    }

    /// Forgets everything: the stream is over.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    fn forget_if_idle(&mut self) {
        if self.is_idle() {
            self.0 = None;
        }
    }
}

impl<T> Traffic<T> {
    fn enter(&mut self, turn: Turn, bytes: usize, stanza: T) -> Option<T> {
        if self.later.is_empty() && self.may_go(&turn) {
            self.go(&turn);
            if self.ready.is_empty() {
                return Some(stanza);
            }
            self.hold(bytes, stanza);
            return None;
        }
        self.waiting += 1;
        self.bytes += bytes;
        let waiting = Waiting {
            turn,
            bytes,
            stanza,
        };
        if waiting.turn.all || !self.later.is_empty() {
            self.later.push_back(waiting);
        } else {
            self.queue(&waiting.turn.lane).waiting.push_back(waiting);
        }
        None
    }

    fn hold(&mut self, bytes: usize, stanza: T) {
        self.bytes += bytes;
        self.ready.push_back((bytes, stanza));
    }

    fn settled(&mut self, lane: &Lane) {
        let queue = self.queue(lane);
        queue.unsettled = queue.unsettled.saturating_sub(1);
        self.advance(lane);
        self.advance_later();
        self.forget_if_idle(lane);
    }

    fn poll(&mut self) -> Option<T> {
        let next = self.ready.pop_front();
        let (bytes, stanza) = next?;
        self.bytes -= bytes;
        Some(stanza)
    }

    fn waiting(&self) -> usize {
        self.waiting + self.ready.len()
    }

    fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.own.is_idle() && self.rooms.is_empty()
    }

    fn queue(&mut self, lane: &Lane) -> &mut Queue<T> {
        match lane {
            Lane::Own => &mut self.own,
            Lane::Room(room) => self.rooms.entry(room.clone()).or_default(),
        }
    }

    fn may_go(&self, turn: &Turn) -> bool {
        let queue = match &turn.lane {
            Lane::Own => Some(&self.own),
            Lane::Room(room) => self.rooms.get(room),
        };
        let in_lanes = self.waiting - self.later.len();
        queue.is_none_or(|queue| queue.admits(turn.class)) && !(turn.all && in_lanes > 0)
    }

    fn go(&mut self, turn: &Turn) {
        self.queue(&turn.lane).went(turn.class);
    }

    fn now_ready(&mut self, waiting: Waiting<T>) {
        self.waiting -= 1;
        self.ready.push_back((waiting.bytes, waiting.stanza));
    }

    fn advance(&mut self, lane: &Lane) {
        loop {
            let queue = self.queue(lane);
            let next = queue.waiting.front().map(|waiting| waiting.turn.class);
            let Some(class) = next.filter(|class| queue.lets(*class)) else {
                return;
            };
            let Some(waiting) = queue.waiting.pop_front() else {
                return;
            };
            queue.went(class);
            self.now_ready(waiting);
        }
    }

    fn advance_later(&mut self) {
        while let Some(next) = self.later.front() {
            let turn = next.turn.clone();
            let goes = self.may_go(&turn);
            if turn.all && !goes {
                return;
            }
            let Some(waiting) = self.later.pop_front() else {
                return;
            };
            if goes {
                self.go(&turn);
                self.now_ready(waiting);
            } else {
                self.queue(&turn.lane).waiting.push_back(waiting);
            }
        }
        self.later = VecDeque::new();
    }

    fn forget_if_idle(&mut self, lane: &Lane) {
        match lane {
            Lane::Own if self.own.is_idle() => self.own = Queue::default(),
            Lane::Own => {}
            Lane::Room(room) => {
                if self.rooms.get(room).is_some_and(Queue::is_idle) {
                    self.rooms.remove(room);
                }
                if self.rooms.is_empty() {
                    self.rooms = HashMap::new();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn lane(name: &str) -> Lane {
        match name {
            "own" => Lane::Own,
            room => Lane::Room(BareJid::parse(&format!("{room}@conference.localhost")).unwrap()),
        }
    }

    /// `own:p`: lane and class; `!`: concerns all lanes.
    fn turn(text: &str) -> Turn {
        let (name, class) = text.split_once(':').unwrap();
        let class_of = |letter| match letter {
            "p" => Class::Proposed,
            "s" => Class::Published,
            _ => Class::Asked,
        };
        Turn {
            lane: lane(name),
            class: class_of(class.trim_end_matches('!')),
            all: class.ends_with('!'),
        }
    }

    /// Steps: a turn, or `-lane` where one of that lane is settled. Gives what went, by its place among the turns.
    fn check(steps: &str, expect: &str) {
        let mut lanes = Lanes::default();
        let mut out = Vec::new();
        let mut came = 0;
        for step in steps.split(' ') {
            match step.strip_prefix('-') {
                Some(name) => lanes.settled(&lane(name)),
                None => {
                    came += 1;
                    out.extend(lanes.enter(turn(step), 1, came));
                }
            }
            while let Some(stanza) = lanes.poll() {
                out.push(stanza);
            }
            out.push(0);
        }
        let shown: Vec<String> = out
            .split(|went| *went == 0)
            .map(|step| {
                step.iter()
                    .map(i32::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            })
            .collect();
        assert_eq!(shown.join(" ").trim_end(), expect, "{steps}");
    }

    #[test]
    fn one_class_does_not_wait_for_itself() {
        check("own:p own:p own:p", "1 2 3");
        check("own:s own:s", "1 2");
        check("own:a own:a", "1 2");
    }

    #[test]
    fn another_class_waits_and_all_behind_it() {
        check("own:p own:s -own", "1  2");
        check("own:p own:p own:s -own -own", "1 2   3");
        check("own:p own:s own:p -own -own", "1   2 3");
        check("own:a own:p own:p -own", "1   2,3");
        check("own:p own:a own:s own:p -own -own -own", "1    2 3 4");
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        check("den:p own:s den:s own:s attic:p -den", "1 2  4 5 3");
    }

    #[test]
    fn what_is_held_goes_in_its_order_and_counts() {
        let mut lanes = Lanes::default();
        for number in 1..=3 {
            if let Some(number) = lanes.enter(turn("own:p"), 10, number) {
                lanes.hold(10, number);
            }
        }
        assert_eq!((lanes.waiting(), lanes.waiting_bytes()), (3, 30));
        assert!(!lanes.is_idle());
        assert_eq!(lanes.poll(), Some(1));
        assert_eq!(lanes.waiting_bytes(), 20);
        assert_eq!(
            [lanes.poll(), lanes.poll(), lanes.poll()],
            [Some(2), Some(3), None]
        );
        (0..3).for_each(|_| lanes.settled(&Lane::Own));
        assert!(lanes.is_idle());
        assert_eq!(lanes.waiting_bytes(), 0);
    }

    #[test]
    fn going_offline_waits_for_all_that_waits_and_nothing_overtakes_it() {
        check("own:s!", "1");
        check("own:p own:s! den:p -own", "1   2,3");
        check("den:p den:s own:s! den:p -den -den", "1    2,3 4");
        check("den:p own:s!", "1 2");
        check("own:p own:s! own:s! own:p -own -own -own", "1    2,3  4");
    }

    proptest! {
        /// Whatever comes and in whatever order it is settled: a lane's stanzas go in their order, never two classes of a
        /// lane are unsettled at once, nothing is left, and an idle stream holds nothing.
        #[test]
        fn everything_goes_in_order(
            stanzas in prop::collection::vec((0usize..3, 0usize..3, prop::bool::weighted(0.1)), 0..60),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let names = ["own", "den", "attic"];
            let classes = [Class::Proposed, Class::Published, Class::Asked];
            let mut lanes = Lanes::default();
            let mut came = stanzas.into_iter().enumerate().map(|(number, (name, class, all))| {
                let name = if all { 0 } else { name };
                (number, name, Turn { lane: lane(names[name]), class: classes[class], all })
            });
            let mut turns: HashMap<usize, (usize, Turn)> = HashMap::new();
            let mut open: Vec<usize> = Vec::new();
            let mut last: HashMap<usize, usize> = HashMap::new();
            let mut last_all: Option<usize> = None;
            let mut went = |number: usize, turns: &HashMap<usize, (usize, Turn)>, open: &mut Vec<usize>| {
                let (name, turn) = &turns[&number];
                for other in open.iter() {
                    let (_, other) = &turns[other];
                    prop_assert!(other.lane != turn.lane || other.class == turn.class);
                }
                prop_assert!(last.insert(*name, number).is_none_or(|last| last < number));
                prop_assert!(last_all.is_none_or(|all| all < number));
                if turn.all {
                    prop_assert!(last.values().all(|last| *last <= number));
                    last_all = Some(number);
                }
                open.push(number);
                Ok(())
            };
            let mut picks = picks.into_iter();
            loop {
                let pick = picks.next();
                let settle = pick.is_some_and(|pick| pick.index(2) == 0) && !open.is_empty();
                if settle || (came.len() == 0 && !open.is_empty()) {
                    let index = pick.map_or(0, |pick| pick.index(open.len()));
                    let number = open.swap_remove(index);
                    lanes.settled(&turns[&number].1.lane.clone());
                } else if let Some((number, name, turn)) = came.next() {
                    turns.insert(number, (name, turn.clone()));
                    if let Some(number) = lanes.enter(turn, 1, number) {
                        went(number, &turns, &mut open)?;
                    }
                } else {
                    break;
                }
                while let Some(number) = lanes.poll() {
                    went(number, &turns, &mut open)?;
                }
            }
            prop_assert!(lanes.is_idle());
            prop_assert_eq!((lanes.waiting(), lanes.waiting_bytes()), (0, 0));
        }
    }
}
