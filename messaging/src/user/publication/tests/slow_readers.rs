//! Who does not acknowledge is sent no more than can be kept.

use expect_test::expect;

use super::conversations::*;
use super::*;

#[test]
fn who_does_not_acknowledge_reads_later() {
    let mut stage = Stage::new();
    Arc::make_mut(&mut stage.user.settings).unacknowledged_max = 4;
    let home = stage.available(1, "home", "");
    for _ in 0..4 {
        stage.log(JULIET, USER);
    }
    check(
        &stage.log(JULIET, USER),
        expect![[r#"
        position [1] 14..15
    "#]],
    );
    check(
        &stage.acknowledge(&home, 11),
        expect![[r#"
        cursor 11
    "#]],
    );
    let actions = stage.acknowledge(&home, 12);
    check(
        &actions,
        expect![[r#"
        read home 14..15
        cursor 12
    "#]],
    );
    stage.user.rows_unavailable(&home);
    let actions = stage.user.read_again();
    check(
        &stage.read(&actions),
        expect![[r#"
        home <- message chat from juliet/balcony id (row 15)
    "#]],
    );
    check(&stage.read(&actions), expect![""]);
}

#[test]
fn wide_gaps_are_read_over_at_once() {
    /// Where the log went on after the pool was restored.
    const HEAD: u64 = 1 << 52;
    let mut stage = Stage::new();
    stage.log(JULIET, USER);
    stage.log(JULIET, USER);
    stage.contacts.head = HEAD;
    stage.user = Publication::new(bare(USER), HEAD, stage.user.settings.clone());
    let key = key(1, 1, "home");
    stage.bind(&key);
    let mut actions = stage.presence(&key, "", "");
    let mut delivered = Vec::new();
    let mut reads = 0;
    while let Some((after, upto)) = actions.iter().find_map(|action| match action {
        PublicationAction::ReadRows { after, upto, .. } => Some((*after, *upto)),
        _ => None,
    }) {
        reads += 1;
        assert!(reads < 4, "{after}..{upto} is read");
        let found = stage.archive.range(after + 1..=upto);
        let rows: Vec<Row> = found.map(|(_, row)| Arc::clone(row)).collect();
        let mut end = upto;
        if rows.is_empty() {
            let next = stage.archive.range(upto + 1..).next().map(|(seq, _)| *seq);
            end = stage.user.past_gap(&key, (after, upto), next);
        }
        actions = stage.user.offline_rows(&key, after, end, &rows, &ids());
        delivered.extend(actions.iter().filter_map(|action| match action {
            PublicationAction::Deliver { row, .. } => *row,
            _ => None,
        }));
    }
    assert_eq!(delivered, [11, 12]);
    // The next row comes at once.
    check(
        &stage.log(JULIET, USER),
        expect![[r#"
        home <- message chat from juliet/balcony id (row 4503599627370497)
        position [1] 4503599627370496..4503599627370497
    "#]],
    );
}
