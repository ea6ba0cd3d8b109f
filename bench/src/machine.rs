//! The machine that a figure was measured on: without it the figure says nothing.

use std::fs;

use serde::Serialize;

/// Facts about this machine.
#[derive(Clone, Debug, Default, Serialize)]
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
        }
    }

    /// All of it on one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} cores of {}, {} MiB, {}, Linux {}, load before {:.2}",
            self.cores, self.processor, self.memory_mib, self.system, self.kernel, self.load_before
        )
    }
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
