//! Planted bugs (docs/adr/0024): the checker catches each, and passes the same trial without it.
//!
//! Each trial runs twice at the same time, on pools of the variant build: once with the bug and once with none. What it
//! must come to is not the trial's to say: the checker judges both histories.

mod trials;
mod witness;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use chaos_tests::checker::{Promise, check};
use chaos_tests::history::Recorder;
use planted::Bug;

/// What the checker says of a trial.
async fn caught<T>(bug: Bug, promise: Promise, trial: T) -> Result<()>
where
    T: AsyncFn(Option<Bug>) -> Result<std::sync::Arc<Recorder>>,
{
    let (with, without) = tokio::try_join!(trial(Some(bug)), trial(None))?;
    let (with, without) = (check(&with.events()), check(&without.events()));
    println!("{bug:?}: {with}without it: {without}");
    let passed = without.require_kept(&[promise]);
    ensure!(passed.is_ok(), "without the bug: {passed:?}");
    ensure!(
        with.count(promise) > 0,
        "{bug:?} broke no promise of {promise:?}:\n{with}"
    );
    Ok(())
}

macro_rules! planted {
    ($($name:ident: $bug:ident breaks $promise:ident in $trial:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            caught(Bug::$bug, Promise::$promise, trials::$trial)
                .await
                .expect("the checker catches it");
        })*

        #[test]
        fn every_bug_has_a_trial() {
            let tried = [$(Bug::$bug),*];
            assert_eq!(tried, Bug::ALL);
        }
    };
}

planted! {
    ack_before_fsync_is_caught: AckBeforeFsync breaks AckedIsArchived in power_cut;
    ack_before_commit_is_caught: AckBeforeCommit breaks AckedIsArchived in owner_alone;
    dedup_skipped_on_resume_is_caught: DedupSkippedOnResume breaks NoDoubles in not_resumed;
    dedup_not_in_snapshot_is_caught: DedupNotInSnapshot breaks NoDoubles in filled_by_snapshots;
    follower_read_is_caught: FollowerRead breaks ReadsAreCurrent in reader_cut_off;
    wiped_node_returns_is_caught: WipedNodeReturns breaks AckedIsArchived in wiped;
    ban_on_one_node_is_caught: BanOnOneNode breaks BansAreFences in banned;
    archive_by_wall_clock_is_caught: ArchiveByWallClock breaks SenderOrder in burst;
}

/// Not a word of them is in the released binary; all are in the variant.
#[test]
fn the_released_binary_has_no_planted_bug() {
    let words = Bug::ALL.map(Bug::name).into_iter().chain([planted::CHOICE]);
    let words: Vec<&str> = words.collect();
    let in_binary = |path: std::path::PathBuf| {
        let mut grep = std::process::Command::new("grep");
        grep.args(["--text", "--only-matching", "--fixed-strings"]);
        words.iter().for_each(|word| {
            grep.args(["-e", word]);
        });
        let found = grep.arg(path).output().expect("grep can be run");
        let found = String::from_utf8(found.stdout).expect("what was looked for is text");
        let found: BTreeSet<String> = found.lines().map(str::to_owned).collect();
        found
    };
    let released = chaos_tests::pool::binary().expect("the released binary is built");
    let variant = chaos_tests::pool::variant().expect("the variant is built");
    assert_eq!(in_binary(released), BTreeSet::new());
    let all = words.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(in_binary(variant), all);
}
