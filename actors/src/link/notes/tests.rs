use super::*;
use xmpp::jid::BareJid;

fn note(stream: u64, handled: u64, course: Course) -> Note {
    Note {
        session: None,
        note: StreamNote {
            user: BareJid::parse("juliet@localhost").unwrap(),
            stream: StreamId(stream),
            handled,
            course,
        },
    }
}

fn said(notes: Option<&Vec<Note>>) -> Vec<(u64, u64, Course)> {
    let notes = notes.into_iter().flatten();
    notes
        .map(|note| {
            let note = &note.note;
            (note.stream.0, note.handled, note.course)
        })
        .collect()
}

#[test]
fn one_command_is_under_way_and_of_many_the_next_one_waits_its_time() {
    let now = Instant::now();
    let mut notes = Notes::default();
    for stream in 1..=4 {
        notes.add(note(stream, 3, Course::GoesOn));
        let alone = notes.poll(now);
        assert_eq!(said(alone.as_ref()), [(stream, 3, Course::GoesOn)]);
        notes.done(&alone.unwrap());
    }
    notes.add(note(1, 4, Course::GoesOn));
    let later = now + PAUSE;
    assert_eq!(notes.due(), Some(later));
    assert!(notes.poll(now).is_none(), "too soon");
    let first = notes.poll(later).unwrap();
    notes.add(note(2, 1, Course::GoesOn));
    notes.add(note(3, 9, Course::Begins(5)));
    assert!(notes.poll(later + PAUSE).is_none(), "one is under way");
    assert_eq!(notes.due(), None);
    notes.done(&first);
    let second = notes.poll(later + PAUSE);
    let both = [(2, 1, Course::GoesOn), (3, 9, Course::Begins(5))];
    assert_eq!(said(second.as_ref()), both);
}

#[test]
fn a_crowd_does_not_wait() {
    let now = Instant::now();
    let mut notes = Notes::default();
    (0..=AT_ONCE as u64).for_each(|stream| notes.add(note(stream, 1, Course::GoesOn)));
    let first = notes.poll(now).unwrap();
    assert_eq!(first.len(), AT_ONCE);
    notes.done(&first);
    assert_eq!(notes.poll(now).map(|notes| notes.len()), Some(1));
}

#[test]
fn what_nobody_heard_of_goes_again_unless_it_was_overtaken() {
    let now = Instant::now();
    let mut notes = Notes::default();
    notes.add(note(1, 3, Course::Begins(5)));
    notes.add(note(2, 3, Course::GoesOn));
    let lost = notes.poll(now).unwrap();
    notes.add(note(2, 0, Course::Ends));
    notes.again(lost, now);
    assert_eq!(notes.due(), Some(now + PAUSE));
    let again = notes.poll(now + PAUSE);
    let expected = [(1, 3, Course::Begins(5)), (2, 0, Course::Ends)];
    assert_eq!(said(again.as_ref()), expected);
}

#[test]
fn what_is_said_twice_is_said_once_and_an_end_is_the_last_word() {
    let now = Instant::now();
    let mut notes = Notes::default();
    notes.add(note(1, 3, Course::Begins(5)));
    notes.add(note(1, 7, Course::Begins(5)));
    notes.add(note(2, 3, Course::Begins(5)));
    notes.add(note(2, 0, Course::Ends));
    let poll = notes.poll(now);
    let expected = [(1, 7, Course::Begins(5)), (2, 0, Course::Ends)];
    assert_eq!(said(poll.as_ref()), expected);
}

#[test]
fn those_who_say_much_do_not_keep_others_waiting() {
    let now = Instant::now();
    let mut notes = Notes::default();
    let all = 3 * AT_ONCE as u64;
    (0..all).for_each(|stream| notes.add(note(stream, 1, Course::GoesOn)));
    let mut heard = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let passed = notes.poll(now).unwrap();
        notes.done(&passed);
        for passed in passed {
            heard.insert(passed.note.stream);
            notes.add(passed);
        }
    }
    assert_eq!(heard.len() as u64, all);
}

#[test]
fn what_has_begun_is_not_begun_again() {
    let now = Instant::now();
    let mut notes = Notes::default();
    notes.add(note(1, 0, Course::Begins(5)));
    let first = notes.poll(now).unwrap();
    notes.add(note(1, 0, Course::Begins(5)));
    notes.done(&first);
    let again = notes.poll(now + PAUSE);
    assert_eq!(said(again.as_ref()), [(1, 0, Course::GoesOn)]);
}

#[test]
fn a_breakdown_of_the_link_holds_up_nothing_that_is_said_later() {
    let now = Instant::now();
    let mut notes = Notes::default();
    notes.add(note(1, 3, Course::GoesOn));
    assert!(notes.poll(now).is_some());
    notes.add(note(2, 3, Course::GoesOn));
    assert!(notes.poll(now + PAUSE).is_none());
    notes.broke_down();
    assert!(notes.poll(now + PAUSE).is_some());
}
