//! The tables of RFC 6121 appendix A, row by row as they stand there, and pre-approval (§3.4).

use super::*;

/// The item of a state of appendix A.1.
fn item(state: &str) -> RosterItem {
    let (main, pending) = state.split_once(" + ").unwrap_or((state, ""));
    let (to, from) = match main {
        "None" => (false, false),
        "To" => (true, false),
        "From" => (false, true),
        "Both" => (true, true),
        other => panic!("unknown state {other}"),
    };
    let (pending_out, asked) = match pending {
        "" => (false, false),
        "Pending Out" => (true, false),
        "Pending In" => (false, true),
        "Pending Out+In" => (true, true),
        other => panic!("unknown sub-state {other}"),
    };
    RosterItem {
        to,
        from,
        pending_out,
        pending_in: asked.then(Box::default),
        listed: true,
        ..RosterItem::default()
    }
}

/// A row: the existing state, whether the stanza is routed or delivered, the new state.
type Rows = [(&'static str, &'static str, &'static str); 9];

/// Checks a table. What it leaves to the text is checked with it: presence follows each change of who sees the user.
fn check(type_: SubscriptionType, rows: Rows, transition: impl Fn(&RosterItem) -> Transition) {
    for (existing, passed_on, new) in rows {
        let row = format!("{existing}, {type_:?}");
        let before = item(existing);
        let mut expect = match new {
            "no state change" | "pre-approval" => before.clone(),
            state => item(state),
        };
        expect.approved = new == "pre-approval";
        let next = transition(&before);
        assert_eq!(next.item, expect, "{row}");
        assert_eq!(next.passed_on, passed_on == "MUST", "{row}");
        let reply = (passed_on == "S.N. [2]").then_some(SubscriptionType::Subscribed);
        assert_eq!(next.reply, reply, "{row}");
        let presence = match (before.from, expect.from) {
            (false, true) => Some(PresenceChange::Shown),
            (true, false) => Some(PresenceChange::Hidden),
            _ => None,
        };
        assert_eq!(next.presence, presence, "{row}");
    }
}

fn check_outbound(type_: SubscriptionType, rows: Rows) {
    check(type_, rows, |item| outbound(item, type_));
}

fn check_inbound(type_: SubscriptionType, rows: Rows) {
    let request = SubscriptionRequest::default();
    check(type_, rows, |item| inbound(item, type_, &request));
}

/// Table 2: EXISTING STATE, ROUTE?, NEW STATE.
#[test]
fn a_2_1_outbound_subscribe() {
    check_outbound(
        SubscriptionType::Subscribe,
        [
            ("None", "MUST", "None + Pending Out"),
            ("None + Pending Out", "MUST", "no state change"),
            ("None + Pending In", "MUST", "None + Pending Out+In"),
            ("None + Pending Out+In", "MUST", "no state change"),
            ("To", "MUST", "no state change"),
            ("To + Pending In", "MUST", "no state change"),
            ("From", "MUST", "From + Pending Out"),
            ("From + Pending Out", "MUST", "no state change"),
            ("Both", "MUST", "no state change"),
        ],
    );
}

/// Table 3: EXISTING STATE, ROUTE?, NEW STATE.
#[test]
fn a_2_2_outbound_unsubscribe() {
    check_outbound(
        SubscriptionType::Unsubscribe,
        [
            ("None", "MUST", "no state change"),
            ("None + Pending Out", "MUST", "None"),
            ("None + Pending In", "MUST", "no state change"),
            ("None + Pending Out+In", "MUST", "None + Pending In"),
            ("To", "MUST", "None"),
            ("To + Pending In", "MUST", "None + Pending In"),
            ("From", "MUST", "no state change"),
            ("From + Pending Out", "MUST", "From"),
            ("Both", "MUST", "From"),
        ],
    );
}

/// Table 4: EXISTING STATE, ROUTE?, NEW STATE.
#[test]
fn a_2_3_outbound_subscribed() {
    check_outbound(
        SubscriptionType::Subscribed,
        [
            ("None", "M.N.", "pre-approval"),
            ("None + Pending Out", "M.N.", "pre-approval"),
            ("None + Pending In", "MUST", "From"),
            ("None + Pending Out+In", "MUST", "From + Pending Out"),
            ("To", "M.N.", "pre-approval"),
            ("To + Pending In", "MUST", "Both"),
            ("From", "M.N.", "no state change"),
            ("From + Pending Out", "M.N.", "no state change"),
            ("Both", "M.N.", "no state change"),
        ],
    );
}

/// Table 5: EXISTING STATE, ROUTE?, NEW STATE.
#[test]
fn a_2_4_outbound_unsubscribed() {
    check_outbound(
        SubscriptionType::Unsubscribed,
        [
            ("None", "S.N.", "no state change"),
            ("None + Pending Out", "S.N.", "no state change"),
            ("None + Pending In", "MUST", "None"),
            ("None + Pending Out+In", "MUST", "None + Pending Out"),
            ("To", "S.N.", "no state change"),
            ("To + Pending In", "MUST", "To"),
            ("From", "MUST", "None"),
            ("From + Pending Out", "MUST", "None + Pending Out"),
            ("Both", "MUST", "To"),
        ],
    );
}

/// Table 6: EXISTING STATE, DELIVER?, NEW STATE.
#[test]
fn a_3_1_inbound_subscribe() {
    check_inbound(
        SubscriptionType::Subscribe,
        [
            ("None", "MUST", "None + Pending In"),
            ("None + Pending Out", "MUST", "None + Pending Out+In"),
            ("None + Pending In", "S.N.", "no state change"),
            ("None + Pending Out+In", "S.N.", "no state change"),
            ("To", "MUST", "To + Pending In"),
            ("To + Pending In", "S.N.", "no state change"),
            ("From", "S.N. [2]", "no state change"),
            ("From + Pending Out", "S.N. [2]", "no state change"),
            ("Both", "S.N. [2]", "no state change"),
        ],
    );
}

/// Table 7: EXISTING STATE, DELIVER?, NEW STATE.
/// `MUST [1]` there: no `unsubscribed` answers, see [`inbound`].
#[test]
fn a_3_2_inbound_unsubscribe() {
    check_inbound(
        SubscriptionType::Unsubscribe,
        [
            ("None", "S.N.", "no state change"),
            ("None + Pending Out", "S.N.", "no state change"),
            ("None + Pending In", "MUST", "None"),
            ("None + Pending Out+In", "MUST", "None + Pending Out"),
            ("To", "S.N.", "no state change"),
            ("To + Pending In", "MUST", "To"),
            ("From", "MUST", "None"),
            ("From + Pending Out", "MUST", "None + Pending Out"),
            ("Both", "MUST", "To"),
        ],
    );
}

/// Table 8: EXISTING STATE, DELIVER?, NEW STATE.
#[test]
fn a_3_3_inbound_subscribed() {
    check_inbound(
        SubscriptionType::Subscribed,
        [
            ("None", "S.N.", "no state change"),
            ("None + Pending Out", "MUST", "To"),
            ("None + Pending In", "S.N.", "no state change"),
            ("None + Pending Out+In", "MUST", "To + Pending In"),
            ("To", "S.N.", "no state change"),
            ("To + Pending In", "S.N.", "no state change"),
            ("From", "S.N.", "no state change"),
            ("From + Pending Out", "MUST", "Both"),
            ("Both", "S.N.", "no state change"),
        ],
    );
}

/// Table 9: EXISTING STATE, DELIVER?, NEW STATE.
#[test]
fn a_3_4_inbound_unsubscribed() {
    check_inbound(
        SubscriptionType::Unsubscribed,
        [
            ("None", "S.N.", "no state change"),
            ("None + Pending Out", "MUST", "None"),
            ("None + Pending In", "S.N.", "no state change"),
            ("None + Pending Out+In", "MUST", "None + Pending In"),
            ("To", "MUST", "None"),
            ("To + Pending In", "MUST", "None + Pending In"),
            ("From", "S.N.", "no state change"),
            ("From + Pending Out", "MUST", "From"),
            ("Both", "MUST", "From"),
        ],
    );
}

/// §3.4.2, and note [1] of tables 5 and 6.
#[test]
fn an_approval_given_before_answers_for_the_user() {
    let approved = |state| RosterItem {
        approved: true,
        ..item(state)
    };
    let asked = |state| {
        inbound(
            &approved(state),
            SubscriptionType::Subscribe,
            &SubscriptionRequest::default(),
        )
    };
    for (before, after) in [
        ("None", "From"),
        ("None + Pending Out", "From + Pending Out"),
        ("To", "Both"),
    ] {
        let next = asked(before);
        assert_eq!(next.item, approved(after), "{before}: the record stays");
        assert_eq!(next.reply, Some(SubscriptionType::Subscribed));
        assert_eq!(next.presence, Some(PresenceChange::Shown));
        assert!(!next.passed_on, "{before}: the user isn't asked");
    }
    let cancelled = outbound(&approved("To"), SubscriptionType::Unsubscribed);
    assert_eq!(cancelled.item, item("To"));
    assert!(!cancelled.passed_on, "§3.2.2");
    let withdrawn = outbound(&approved("Both"), SubscriptionType::Unsubscribed);
    assert_eq!(withdrawn.item, item("To"));
    assert!(withdrawn.passed_on);
    assert_eq!(withdrawn.presence, Some(PresenceChange::Hidden));
}

#[test]
fn only_what_the_user_wants_is_listed() {
    let stranger = RosterItem::default();
    let request = |bytes: usize| {
        SubscriptionRequest::of(&Stanza {
            id: Some("r1".into()),
            payload: Bytes::from(vec![b' '; bytes]),
            ..Stanza::new(StanzaKind::Presence)
        })
    };
    let asked = inbound(&stranger, SubscriptionType::Subscribe, &request(100));
    assert!(!asked.item.listed, "A.1, state 3");
    let kept = asked.item.pending_in.clone().unwrap();
    assert_eq!((kept.id.as_deref(), kept.payload.len()), (Some("r1"), 100));
    let listed = |item: &RosterItem, type_| outbound(item, type_).item.listed;
    assert!(listed(&asked.item, SubscriptionType::Subscribed));
    assert!(!listed(&asked.item, SubscriptionType::Unsubscribed));
    assert!(listed(&stranger, SubscriptionType::Subscribe));
    assert!(listed(&stranger, SubscriptionType::Subscribed), "§3.4.2");
    assert!(!listed(&stranger, SubscriptionType::Unsubscribe));
    let large = inbound(&stranger, SubscriptionType::Subscribe, &request(5_000));
    assert_eq!(
        large.item.pending_in,
        Some(Box::default()),
        "the fact is kept"
    );
}
