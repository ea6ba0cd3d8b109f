//! Rooms outlive their nodes: kills, freezes and restarts under load, judged by the checker.

use std::time::Duration;

use anyhow::{Context, Result};
use chaos_tests::checker::Dose;
use chaos_tests::edits::Editor;
use chaos_tests::trial::{RECOVERY, Trial};

/// Twenty times: the node that owns the room dies, the others go on, it comes back and catches up.
async fn kill_the_owner_repeatedly() -> Result<()> {
    const KILLS: usize = 20;
    let mut trial = Trial::start().await?;
    for kill in 1..=KILLS {
        let owner = trial.living_owner().await?;
        let place = || format!("kill {kill}, of node {owner}");
        trial.crowd.node_dies(owner);
        trial.fault(place());
        trial.pool.kill(owner)?;
        trial.crowd.acks(30, RECOVERY).await.with_context(place)?;
        trial
            .acks_at_target(10, RECOVERY)
            .await
            .with_context(place)?;
        // Its members have logged in elsewhere and are in their rooms again, under their nicknames.
        trial.crowd.all_in(RECOVERY).await.with_context(place)?;
        trial.bring_back(owner).await.with_context(place)?;
    }
    let least = Dose {
        faults: KILLS,
        acked_during_faults: 500,
        kinds_acked: 6,
        // Five members a node.
        moves: 5 * KILLS,
        suppressed: KILLS,
        over_faults: KILLS,
        received: 2000,
        readings: 48,
        direct: 500,
        late: KILLS,
        in_flight: 6,
        resent_in_order: 2 * KILLS,
        ..Dose::default()
    };
    trial.judge("owner killed", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_outlive_their_owner() {
    kill_the_owner_repeatedly()
        .await
        .expect("the test runs to its end");
}

/// All nodes at once, three times: what was acknowledged is there after the restart, messages and all that can be set.
async fn kill_all_repeatedly() -> Result<()> {
    const KILLS: usize = 3;
    let mut trial = Trial::start().await?;
    let mut editor = Editor::start(&trial.pool).await?;
    let ids = trial.pool.ids();
    for (kill, node) in (1..=KILLS).zip(ids.iter().cycle()) {
        trial.crowd.acks(60, RECOVERY).await?;
        trial.edit(&mut editor, *node).await?;
        ids.iter().for_each(|id| trial.crowd.node_dies(*id));
        for id in &ids {
            trial.pool.kill(*id)?;
        }
        // When none is left: the first ones to die leave others that go on for a moment.
        trial.fault(format!("kill {kill}, of all nodes"));
        trial.pool.start_all()?;
        trial.started_anew();
        trial.pool.all_ready().await?;
        trial.read_edits(&editor).await?;
        ids.iter().for_each(|id| trial.crowd.node_lives(*id));
        trial.crowd.all_in(RECOVERY).await?;
        trial.acks_at_target(20, RECOVERY).await?;
        trial.crowd.acks(60, RECOVERY).await?;
        trial.healed();
    }
    let least = Dose {
        faults: KILLS,
        acked_during_faults: 100,
        kinds_acked: 6,
        moves: 0,
        suppressed: 5,
        over_faults: 1,
        received: 500,
        readings: 48,
        direct: 100,
        late: KILLS,
        found: 0,
        in_flight: 6,
        resent_in_order: 6 * KILLS,
        values_read: 3 * KILLS,
    };
    trial.judge("all nodes killed at once", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_loses_nothing() {
    kill_all_repeatedly()
        .await
        .expect("the test runs to its end");
}

/// A frozen owner is replaced; woken, it acknowledges nothing that the others do not have.
async fn freeze_the_owner_repeatedly() -> Result<()> {
    const FREEZES: usize = 3;
    /// A majority without its leader goes on by its timers.
    const REPLACED: Duration = Duration::from_secs(10);
    let trial = Trial::start().await?;
    for freeze in 1..=FREEZES {
        let owner = trial.living_owner().await?;
        let place = || format!("freeze {freeze}, of node {owner}");
        // Its members are stuck with it; their streams may end or go on.
        trial.crowd.node_dies(owner);
        trial.fault(place());
        trial.freezes(owner)?;
        trial.crowd.acks(200, REPLACED).await.with_context(place)?;
        trial.wakes(owner)?;
        trial.mended();
        trial.caught_up(owner).await.with_context(place)?;
        trial.crowd.node_lives(owner);
        trial.crowd.all_in(RECOVERY).await.with_context(place)?;
        trial.crowd.acks(100, RECOVERY).await.with_context(place)?;
        trial.healed();
    }
    let least = Dose {
        faults: FREEZES,
        acked_during_faults: 300,
        kinds_acked: 6,
        moves: 0,
        suppressed: 5,
        received: 1000,
        readings: 48,
        direct: 100,
        in_flight: 6,
        ..Dose::default()
    };
    trial.judge("owner frozen", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_owner_is_replaced() {
    freeze_the_owner_repeatedly()
        .await
        .expect("the test runs to its end");
}

/// Every node is stopped and started in turn while people talk.
async fn restart_one_after_the_other() -> Result<()> {
    let mut trial = Trial::start().await?;
    let ids = trial.pool.ids();
    for node in &ids {
        trial.crowd.node_dies(*node);
        trial.fault(format!("restart of node {node}"));
        trial.pool.stop(*node).await?;
        trial.crowd.acks(40, RECOVERY).await?;
        trial.crowd.all_in(RECOVERY).await?;
        trial.bring_back(*node).await?;
    }
    let least = Dose {
        faults: ids.len(),
        acked_during_faults: 120,
        kinds_acked: 6,
        moves: 5 * ids.len(),
        suppressed: 5,
        received: 500,
        readings: 48,
        direct: 50,
        in_flight: 6,
        resent_in_order: ids.len(),
        ..Dose::default()
    };
    trial.judge("rolling restart", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_interrupts_nobody_else() {
    restart_one_after_the_other()
        .await
        .expect("the test runs to its end");
}
