//! The machine that a figure was measured on: without it the figure says nothing.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::disk::Disk;

/// Facts about this machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's model.
    pub(crate) processor: String,
    /// Processors that the system shows.
    pub(crate) cores: usize,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The distribution.
    pub(crate) system: String,
    /// The load of the last minute when the run began: other work on the machine makes latencies worthless.
    pub(crate) load_before: f64,
    /// What its disk takes, where servers' folders are on one.
    #[serde(default)]
    pub(crate) disk: Option<Disk>,
}

impl Machine {
    /// This one, now. What the system does not say stays empty.
    pub(crate) fn now() -> Machine {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = value(&text("/proc/meminfo"), "MemTotal:").unwrap_or_default();
        let kib = memory
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .unwrap_or(0);
        let load = text("/proc/loadavg");
        Machine {
            processor: value(&text("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value(&text("/etc/os-release"), "PRETTY_NAME=").unwrap_or_default(),
            load_before: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            disk: None,
        }
    }

    /// All of it on one line.
    pub(crate) fn line(&self) -> String {
        let disk = self.disk.map(|disk| format!("; {}", disk.line()));
        format!(
            "{} cores of {}, {} MiB, {}, Linux {}, load before {:.2}{}",
            self.cores,
            self.processor,
            self.memory_mib,
            self.system,
            self.kernel,
            self.load_before,
            disk.unwrap_or_default()
        )
    }
}

/// The date and time now, UTC, to the minute.
pub(crate) fn utc_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    utc(since.map_or(0, |since| since.as_secs()))
}

/// A time in seconds since 1970 as date and time. The calendar is Howard Hinnant's `civil_from_days`, in years that begin
/// in March.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = match month_from_march {
        0..=9 => month_from_march + 3,
        _ => month_from_march - 9,
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The value behind a name at a line's start, without colons and quotes.
fn value(text: &str, name: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim_matches([' ', '\t', ':', '"']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let check = |seconds, expect: &str| assert_eq!(utc(seconds), expect);
        check(0, "1970-01-01 00:00 UTC");
        check(951_782_400, "2000-02-29 00:00 UTC");
        check(951_868_799, "2000-02-29 23:59 UTC");
        check(1_709_164_800, "2024-02-29 00:00 UTC");
        check(1_796_083_199, "2026-11-30 23:59 UTC");
        check(4_107_542_400, "2100-03-01 00:00 UTC");
    }

    #[test]
    fn values_of_system_files() {
        let check = |text: &str, name: &str, expect: Option<&str>| {
            assert_eq!(value(text, name).as_deref(), expect, "{text}");
        };
        check(
            "vendor\nmodel name\t: Some CPU @ 2 GHz\n",
            "model name",
            Some("Some CPU @ 2 GHz"),
        );
        check("MemTotal:       1024 kB\n", "MemTotal:", Some("1024 kB"));
        check(
            "PRETTY_NAME=\"Debian 12\"\n",
            "PRETTY_NAME=",
            Some("Debian 12"),
        );
        check("", "x", None);
    }
}
