//! What the server and the generator take, apart, between two moments.

use std::time::{Duration, Instant};

use crate::kernel::slab_kib;
use crate::processes::{Memory, ProcessError, Processes, own_cpu, own_memory};
use crate::report::Row;

/// CPU from a moment on.
pub(crate) struct Usage<'a> {
    server: &'a Processes,
    /// CPU seconds a second that the server takes without any load.
    idle_share: f64,
    start: Instant,
    server_cpu: Duration,
    own_cpu: Duration,
}

impl<'a> Usage<'a> {
    /// From now on.
    pub(crate) fn start(server: &'a Processes, idle_share: f64) -> Result<Usage<'a>, ProcessError> {
        Ok(Usage {
            server,
            idle_share,
            start: Instant::now(),
            server_cpu: server.cpu()?,
            own_cpu: own_cpu()?,
        })
    }

    /// Adds to the row what both took until now: of a core, and for each of `count` things if they are counted.
    pub(crate) fn add_to(
        &self,
        row: &mut Row,
        each: Option<(u64, &'static str)>,
    ) -> Result<(), ProcessError> {
        let wall = self.start.elapsed().as_secs_f64().max(1e-3);
        let server = self.server.cpu()?.saturating_sub(self.server_cpu);
        let own = own_cpu()?.saturating_sub(self.own_cpu);
        let (server, own) = (server.as_secs_f64(), own.as_secs_f64());
        let above_idle = (server - self.idle_share * wall).max(0.0);
        let parts = [
            ("server CPU", "server", server),
            ("server CPU above idle", "server above idle", above_idle),
            ("generator CPU", "generator", own),
        ];
        for (each_name, share_name, cpu) in parts {
            if let Some((count, unit)) = each.filter(|(count, _)| *count > 0) {
                row.figure(each_name, cpu * 1e3 / count as f64, unit);
            }
            row.figure(share_name, 100.0 * cpu / wall, "% of a core");
        }
        Ok(())
    }
}

/// Memory of all that takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) server: Memory,
    pub(crate) own: Memory,
    /// The kernel's objects, all of the machine's.
    pub(crate) slab_kib: u64,
}

impl Footprint {
    /// Now.
    pub(crate) fn now(server: &Processes) -> Result<Footprint, ProcessError> {
        Ok(Footprint {
            server: server.memory()?,
            own: own_memory()?,
            slab_kib: slab_kib().unwrap_or(0),
        })
    }

    /// Adds what each of so many sessions took since `before`, and what there is now in all.
    pub(crate) fn add_to(&self, row: &mut Row, before: &Footprint, sessions: usize) {
        let sessions = sessions.max(1) as f64;
        let each = |now: u64, before: u64| (now as f64 - before as f64) / sessions;
        let parts = [
            ("server", self.server.pss_kib, before.server.pss_kib),
            ("generator", self.own.pss_kib, before.own.pss_kib),
            ("kernel", self.slab_kib, before.slab_kib),
        ];
        for (name, now, before) in parts {
            row.figure(name, each(now, before), "KiB/session");
        }
        self.add_totals(row);
    }

    /// Adds what there is now in all.
    pub(crate) fn add_totals(&self, row: &mut Row) {
        row.figure("server RSS", self.server.rss_kib as f64 / 1024.0, "MiB");
        row.figure("generator RSS", self.own.rss_kib as f64 / 1024.0, "MiB");
        row.figure("kernel slab", self.slab_kib as f64 / 1024.0, "MiB");
    }
}
