//! What breaks in a story: one fault from its beginning to its end.

use anyhow::Result;
use chaos_tests::history::What;
use chaos_tests::load::Crowd;
use rand::RngExt;
use tokio::time::sleep;

use crate::story::{FIRST, SERVES_AGAIN, Story};
use crate::world::{Order, pairs};

impl Story {
    /// One fault from beginning to end, and some time after it, maybe not enough for all to be well.
    pub async fn fault(&mut self, crowd: &Crowd) -> Result<()> {
        match self.random.random_range(0..100) {
            0..18 => self.crash(crowd, false).await?,
            18..38 => self.crash(crowd, true).await?,
            38..49 => self.all_power(crowd).await?,
            49..67 => self.split(crowd).await?,
            67..71 => self.shatter(crowd).await?,
            71..76 => self.one_link().await,
            76..84 => self.one_way().await,
            84..89 => self.slow_links().await,
            89..95 => self.loss().await,
            _ => self.slow_disk().await,
        }
        let rest = self.between(0, 1_500);
        sleep(rest).await;
        Ok(())
    }

    fn begin(&mut self, kind: &'static str) {
        self.faults.push(kind);
        self.recorder.record(What::Fault {
            what: kind.to_owned(),
        });
    }

    async fn crash(&mut self, crowd: &Crowd, power: bool) -> Result<()> {
        let node = self.some_node();
        self.begin(if power { "power cut" } else { "kill" });
        self.goes_silent(crowd, node);
        self.stage.order(if power {
            Order::CutPower(node)
        } else {
            Order::Kill(node)
        });
        let off = self.between(10, 5_000);
        sleep(off).await;
        self.stage.order(Order::Start(node));
        self.ready(&[node], SERVES_AGAIN).await?;
        self.speaks(crowd, node);
        Ok(())
    }

    /// A machine goes without a word here, also with its process alone: who waits for its answer is not told, and P17 does not
    /// count while it is off.
    fn goes_silent(&self, crowd: &Crowd, node: u64) {
        crowd.node_dies(node);
        self.recorder.record(What::Frozen { node });
    }

    fn speaks(&self, crowd: &Crowd, node: u64) {
        self.recorder.record(What::Thawed { node });
        crowd.node_lives(node);
    }

    async fn all_power(&mut self, crowd: &Crowd) -> Result<()> {
        self.begin("power cut of all");
        for node in FIRST {
            self.goes_silent(crowd, node);
            self.stage.order(Order::CutPower(node));
        }
        let off = self.between(10, 2_000);
        sleep(off).await;
        for node in FIRST {
            self.stage.order(Order::Start(node));
            let apart = self.between(0, 800);
            sleep(apart).await;
        }
        self.ready(&FIRST, SERVES_AGAIN).await?;
        for node in FIRST {
            self.speaks(crowd, node);
        }
        Ok(())
    }

    async fn split(&mut self, crowd: &Crowd) -> Result<()> {
        let node = self.some_node();
        self.begin("split");
        // Where nobody leads, nothing can be said of where the leader was.
        if let Some(leader) = self.leader() {
            let minority = vec![node];
            self.recorder.record(What::Split { minority, leader });
        }
        crowd.node_is_cut_off(node);
        for other in self.stage.machines.keys().filter(|other| **other != node) {
            self.stage.order(Order::Hold(node, *other));
        }
        let cut = self.between(500, 9_000);
        sleep(cut).await;
        crowd.node_is_in_touch(node);
        self.stage.order(Order::HealLinks);
        self.ready(&[node], SERVES_AGAIN).await?;
        crowd.node_lives(node);
        Ok(())
    }

    /// Nobody reaches anybody.
    async fn shatter(&mut self, crowd: &Crowd) -> Result<()> {
        self.begin("shatter");
        for node in FIRST {
            crowd.node_is_cut_off(node);
        }
        let all: Vec<u64> = self.stage.machines.keys().copied().collect();
        for (a, b) in pairs(&all) {
            self.stage.order(Order::Hold(a, b));
        }
        let cut = self.between(500, 6_000);
        sleep(cut).await;
        for node in FIRST {
            crowd.node_is_in_touch(node);
        }
        self.stage.order(Order::HealLinks);
        self.ready(&FIRST, SERVES_AGAIN).await?;
        for node in FIRST {
            crowd.node_lives(node);
        }
        Ok(())
    }

    /// Two nodes don't reach each other, and all reach the third.
    async fn one_link(&mut self) {
        let pairs = pairs(&FIRST);
        let (a, b) = pairs[self.random.random_range(0..pairs.len())];
        self.begin("one link cut");
        self.stage.order(Order::Hold(a, b));
        let cut = self.between(500, 8_000);
        sleep(cut).await;
        self.stage.order(Order::Release(a, b));
    }

    /// What one node sends to another does not arrive, and all else does: or to both others, who are heard and not answered.
    async fn one_way(&mut self) {
        let from = self.some_node();
        let others: Vec<u64> = FIRST.into_iter().filter(|node| *node != from).collect();
        self.begin("one-way cut");
        let first = self.random.random_range(0..others.len());
        let ways = match self.random.random_bool(0.3) {
            true => &others[..],
            false => &others[first..=first],
        };
        for to in ways {
            self.stage.order(Order::HoldOneWay(from, *to));
        }
        let cut = self.between(500, 8_000);
        sleep(cut).await;
        self.stage.order(Order::HealLinks);
    }

    async fn slow_links(&mut self) {
        self.begin("slow links");
        for (a, b) in pairs(&FIRST) {
            let most = self.between(20, 150);
            self.stage.order(Order::Delay(a, b, most));
        }
        let slow = self.between(1_000, 5_000);
        sleep(slow).await;
        self.stage.order(Order::HealLinks);
    }

    /// Packets get lost: what TCP sends comes after its first time-out, and all behind it waits.
    async fn loss(&mut self) {
        self.begin("loss");
        let pairs = pairs(&FIRST);
        for _ in 0..self.random.random_range(5..25) {
            let (a, b) = pairs[self.random.random_range(0..pairs.len())];
            self.stage.order(Order::Hold(a, b));
            let again = self.between(200, 400);
            sleep(again).await;
            self.stage.order(Order::Release(a, b));
        }
    }

    async fn slow_disk(&mut self) {
        let node = self.some_node();
        self.begin("slow disk");
        let most = self.between(50, 400);
        self.stage.order(Order::SlowDisk(node, most));
        let slow = self.between(1_000, 5_000);
        sleep(slow).await;
        self.stage.order(Order::HealLinks);
    }
}
