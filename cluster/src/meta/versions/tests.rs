//! What may start, and what may be finalised, as stories of entries.

use super::*;
use crate::meta::members::{FirstMember, MemberChange, MemberEntry};
use crate::meta::{MetaEntry, MetaState};

/// A pool of members; each entry gets the next index.
struct Pool {
    state: MetaState,
    index: u64,
}

fn build(min: u16, max: u16) -> Build {
    Build {
        name: format!("to-{max}"),
        supports: VersionRange { min, max },
    }
}

impl Pool {
    fn new(members: u64) -> Pool {
        let mut pool = Pool {
            state: MetaState::default(),
            index: 0,
        };
        let ids: Vec<NodeId> = (1..=members).map(NodeId).collect();
        let first = ids.iter().map(|node| FirstMember {
            node: *node,
            address: format!("host-{}", node.0),
        });
        let members = first.collect();
        let voters = vec![ids.clone(), ids];
        let seeded = MemberEntry::Seeded { members, voters };
        pool.apply(MetaEntry::Members(seeded)).unwrap();
        pool
    }

    fn apply(&mut self, entry: MetaEntry) -> Result<MetaAnswer, MetaRefusal> {
        self.index += 1;
        self.state.apply(self.index, entry)
    }

    /// A start; gives whether the life has begun, and the refusal's word.
    fn start(&mut self, node: u64, min: u16, max: u16) -> Result<(), &'static str> {
        let node = NodeId(node);
        let build = build(min, max);
        let entry = VersionEntry::Started { node, build };
        let verdict = self.apply(MetaEntry::Version(entry));
        let begun = self.state.has_begun(node, Incarnation(self.index));
        assert_eq!(begun, verdict.is_ok());
        verdict.map(drop).map_err(|refusal| refusal.code)
    }

    fn finalise(&mut self, version: u16) -> Result<(), &'static str> {
        let entry = VersionEntry::Finalised { version };
        let before = self.state.clone();
        let verdict = self.apply(MetaEntry::Version(entry));
        if verdict.is_err() {
            assert_eq!(self.state, before, "a refusal changes nothing");
        }
        verdict.map(drop).map_err(|refusal| refusal.code)
    }

    fn version(&self) -> u16 {
        self.state.versions.pool()
    }

    fn remove(&mut self, node: u64) {
        let node = NodeId(node);
        for change in [MemberChange::Leave { heir: None }, MemberChange::Removed] {
            if change == MemberChange::Removed {
                // Its groups have moved.
                self.state.placements = Default::default();
            }
            let expected = self.state.members.rows[&node].revision;
            let entry = MemberEntry::Changed {
                node,
                expected,
                change,
            };
            self.apply(MetaEntry::Members(entry)).unwrap();
        }
    }
}

#[test]
fn a_version_is_finalised_when_every_member_runs_it() {
    let mut pool = Pool::new(3);
    assert_eq!(pool.version(), 1);
    for node in 1..=3 {
        pool.start(node, 1, 1).unwrap();
    }
    assert_eq!(pool.finalise(2), Err(SKEW));
    for node in 1..=3 {
        assert_eq!(pool.finalise(2), Err(SKEW), "before node {node}");
        pool.start(node, 1, 2).unwrap();
    }
    // Going back is free until then.
    pool.start(2, 1, 1).unwrap();
    assert_eq!(pool.finalise(2), Err(SKEW));
    pool.start(2, 1, 2).unwrap();
    assert_eq!(pool.finalise(3), Err(SKEW), "nobody supports it");
    assert_eq!(pool.version(), 1);
    pool.finalise(2).unwrap();
    pool.finalise(2).expect("once more is the same");
    assert_eq!(pool.version(), 2);
    assert_eq!(pool.finalise(1), Err("version-passed"));
    assert_eq!(pool.version(), 2);
}

#[test]
fn a_start_of_a_build_that_does_not_fit_is_refused() {
    let mut pool = Pool::new(3);
    for node in 1..=3 {
        pool.start(node, 1, 3).unwrap();
    }
    pool.finalise(2).unwrap();
    let table = [
        ((1, 1), Err(SKEW)),
        ((1, 2), Ok(())),
        ((2, 3), Ok(())),
        ((3, 4), Err(SKEW)),
    ];
    for ((min, max), expect) in table {
        let before = pool.state.versions.clone();
        assert_eq!(pool.start(1, min, max), expect, "{min} to {max}");
        if expect.is_err() {
            assert_eq!(pool.state.versions, before, "what it ran last still counts");
        }
    }
    // A build from before versions were told.
    let untold = MetaEntry::NodeStarted { node: NodeId(2) };
    assert_eq!(pool.apply(untold).unwrap_err().code, SKEW);
    // One that was added later and has never run is judged at its start, too.
    assert_eq!(pool.start(9, 1, 1), Err(SKEW));
}

/// Who is away counts by its last start, until it is removed.
#[test]
fn who_is_away_counts_until_it_is_removed() {
    let mut pool = Pool::new(3);
    pool.start(1, 1, 2).unwrap();
    pool.start(2, 1, 2).unwrap();
    pool.start(3, 1, 1).unwrap();
    let refusal = {
        let state = &pool.state;
        let judged = state.versions.judge(&state.members, &state.starts, 2);
        judged.unwrap_err()
    };
    assert_eq!(
        refusal.sentence,
        "version 2 is not supported everywhere: node 3 last ran build to-1, which supports versions 1 to 1. \
         Upgrade what is behind, or remove what will not come back"
    );
    assert_eq!(pool.state.versions.newest(&pool.state.members), 2);
    pool.remove(3);
    pool.finalise(2).unwrap();
}

#[test]
fn a_member_that_never_ran_holds_nobody_up() {
    let mut pool = Pool::new(1);
    pool.start(1, 1, 2).unwrap();
    let added = MemberEntry::Added {
        address: "two:2".to_owned(),
        addition: [2; 16],
    };
    pool.apply(MetaEntry::Members(added)).unwrap();
    pool.finalise(2).unwrap();
    assert_eq!(pool.start(2, 1, 1), Err(SKEW));
    pool.start(2, 2, 2).unwrap();
}

#[test]
fn builds_that_did_not_say_are_of_the_first_version() {
    let mut pool = Pool::new(1);
    pool.apply(MetaEntry::NodeStarted { node: NodeId(1) })
        .unwrap();
    assert_eq!(pool.finalise(2), Err(SKEW));
    pool.start(1, 1, 2).unwrap();
    // It goes back to such a build: what it ran in between no longer counts.
    pool.apply(MetaEntry::NodeStarted { node: NodeId(1) })
        .unwrap();
    assert_eq!(pool.finalise(2), Err(SKEW));
}

#[test]
fn nothing_is_finalised_before_the_members_are_known() {
    let mut pool = Pool {
        state: MetaState::default(),
        index: 0,
    };
    assert_eq!(pool.finalise(2), Err("not-ready"));
}

#[test]
fn long_names_are_cut_and_rows_come_back() {
    let mut pool = Pool::new(1);
    let long = Build {
        name: "ü".repeat(100),
        ..build(1, 2)
    };
    let node = NodeId(1);
    let entry = VersionEntry::Started { node, build: long };
    pool.apply(MetaEntry::Version(entry)).unwrap();
    assert_eq!(pool.state.versions.builds[&node].name, "ü".repeat(32));
    pool.finalise(2).unwrap();
    let mut loaded = Versions::default();
    for (table, key, value) in pool.state.versions.rows().unwrap() {
        assert!(loaded.load_row(table, &key, &value).unwrap());
    }
    assert_eq!(loaded, pool.state.versions);
    assert!(!loaded.load_row(Table(0), &[], &[]).unwrap());
}

#[test]
fn golden_bytes() {
    let version = StoredVersion(2);
    storage::golden!("../../../tests/goldens/versions.txt", &version);
    let stored = StoredBuild(build(1, 2));
    storage::golden!("../../../tests/goldens/versions.txt", &stored);
}
