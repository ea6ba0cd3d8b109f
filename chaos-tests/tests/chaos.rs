//! A run of chaos, by a schedule from a seed: `scripts/chaos` sets what it is about.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::chaos::{Configuration, Plan, run};
use chaos_tests::enclave;
use serde_json::json;

/// How long faults are caused unless something else is said.
const SECONDS: u64 = 60;

/// The schedule of all test runs; `scripts/chaos` draws a new one each time.
const SEED: u64 = 1;

/// What a variable says, if it is there; a word that can't be read is no reason for another run than the one that was meant.
fn said<T: std::str::FromStr>(name: &str) -> Result<Option<T>> {
    match std::env::var(name) {
        Ok(word) => {
            let value = word.parse().ok();
            value.map(Some).with_context(|| format!("{name}={word}"))
        }
        Err(_) => Ok(None),
    }
}

async fn chaos() -> Result<()> {
    let seed = said("MUSTER_SEED")?.unwrap_or(SEED);
    let name: String = said("MUSTER_CHAOS_CONFIG")?.unwrap_or_else(|| "mixed".into());
    let configuration =
        Configuration::named(&name).with_context(|| format!("no configuration {name}"))?;
    let seconds = said("MUSTER_CHAOS_SECONDS")?.unwrap_or(SECONDS);
    let plan = Plan::new(seed, configuration, Duration::from_secs(seconds));
    let command = plan.command();
    let report = match run(plan).await {
        Ok(report) => report,
        Err(error) => {
            let why = error.to_string();
            let line = json!({ "config": name, "seed": seed, "command": command, "passed": false, "why": why });
            println!("CHAOS {line}");
            return Err(error).with_context(|| format!("again: {command}"));
        }
    };
    println!("{report}");
    println!("CHAOS {}", report.json);
    ensure!(report.passed, "again: {command}");
    Ok(())
}

#[test]
fn nothing_is_lost_in_chaos() {
    enclave::run("nothing_is_lost_in_chaos", chaos());
}
