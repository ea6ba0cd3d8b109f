//! Who does not acknowledge is sent no more than can be kept.

use expect_test::expect;

use super::conversations::*;
use super::*;

#[test]
fn who_does_not_acknowledge_reads_later() {
    let mut stage = Stage::new();
    stage.user.settings.unacknowledged_max = 4;
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
