//! The court of `chaos-tests` in session: bans and blocks by turns, and a register that many hands set and read (P11, P12).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chaos_tests::chaos::court::Court;
use chaos_tests::client::Login;
use chaos_tests::history::Recorder;
use chaos_tests::wait::within;
use tokio::task::JoinSet;

/// Sessions at court have numbers from here on; those of the crowd are lower.
const NUMBERS: u32 = 1_000_000;

/// How long the last calls may take (P17), and whoever has one under way may begin with another connection.
const ENDS: Duration = Duration::from_secs(40);

/// A court that sits until it is told to rise.
pub struct Sitting {
    court: Arc<Court>,
    courtiers: JoinSet<()>,
}

impl Sitting {
    /// Everybody takes their place.
    pub async fn begin(logins: Vec<(u64, Login)>, recorder: &Arc<Recorder>) -> Result<Sitting> {
        let court = Court::seat(logins, Arc::clone(recorder), NUMBERS).await?;
        let court = Arc::new(court);
        let mut courtiers = JoinSet::new();
        courtiers.spawn_local(Arc::clone(&court).sits());
        courtiers.spawn_local(Arc::clone(&court).receives());
        for hand in 0..Court::hands() {
            courtiers.spawn_local(Arc::clone(&court).hand(hand));
        }
        Ok(Sitting { court, courtiers })
    }

    /// All end what they are about.
    pub async fn end(mut self) -> Result<()> {
        self.court.close();
        within("the court rises", ENDS, async {
            while let Some(ended) = self.courtiers.join_next().await {
                ended?;
            }
            Ok(())
        })
        .await
    }
}
