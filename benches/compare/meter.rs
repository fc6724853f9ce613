//! What a measurement cost the server and the load generator.

use crate::process::Usage;
use crate::servers::Server;
use crate::stats::Figure;
use crate::syscalls::SystemCalls;
use std::cell::Cell;
use std::fs;
use std::io;

/// What some processes have used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Microseconds of processor time.
    pub(crate) cpu_us: f64,
    /// Resident memory.
    pub(crate) resident_mib: f64,
    /// Bytes that were caused to be written to the disk.
    pub(crate) written: u64,
    /// How often threads gave up a processor because there was nothing to do.
    pub(crate) switches: u64,
}

impl Cost {
    /// Of a process and all below it.
    pub(crate) fn of_family(pid: u32) -> io::Result<Self> {
        let below = family(pid).into_iter().skip(1);
        // One may have ended meanwhile.
        let below = below.map(|pid| Self::of(pid).unwrap_or_default());
        Ok(below.fold(Self::of(pid)?, Self::and))
    }

    /// Of a process.
    fn of(pid: u32) -> io::Result<Self> {
        let usage = Usage::of(pid)?;
        let mut cost = Self {
            cpu_us: usage.cpu.as_secs_f64() * 1e6,
            resident_mib: usage.resident_mib(),
            written: usage.written,
            switches: 0,
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may have ended meanwhile.
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            cost.switches += switches(&status);
        }
        Ok(cost)
    }

    /// What both have used.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            cpu_us: self.cpu_us + other.cpu_us,
            resident_mib: self.resident_mib + other.resident_mib,
            written: self.written + other.written,
            switches: self.switches + other.switches,
        }
    }

    /// What was used since an earlier moment; memory is that of now.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_us: self.cpu_us - earlier.cpu_us,
            resident_mib: self.resident_mib,
            written: self.written.saturating_sub(earlier.written),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

fn switches(status: &str) -> u64 {
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// What the server and this program had used when a measurement began.
pub(crate) struct Meter {
    server: Cost,
    generator: Cost,
    system_calls: Cell<Option<SystemCalls>>,
}

impl Meter {
    pub(crate) fn begin(server: &Server) -> io::Result<Self> {
        Ok(Self {
            system_calls: Cell::new(server.count_system_calls()?),
            server: server.cost()?,
            generator: Cost::of(std::process::id())?,
        })
    }

    /// What the server has used since.
    pub(crate) fn server(&self, server: &Server) -> io::Result<Cost> {
        Ok(server.cost()?.since(self.server))
    }

    /// The costs of so many operations.
    pub(crate) fn figures(&self, server: &Server, operations: u64) -> io::Result<Vec<Figure>> {
        self.figures_of(server, operations as f64, "each")
    }

    /// The costs of so many units; `per` is what the names of the figures say of them.
    pub(crate) fn figures_of(
        &self,
        server: &Server,
        units: f64,
        per: &str,
    ) -> io::Result<Vec<Figure>> {
        let used = self.server(server)?;
        let generator = Cost::of(std::process::id())?.since(self.generator);
        let calls = self.system_calls.take().map(SystemCalls::end).transpose()?;
        let each =
            |what: &str, value: f64| Figure::less(format!("{what} {per}"), value / units.max(1.0));
        let mut figures = vec![
            each("server CPU µs", used.cpu_us),
            each("generator CPU µs", generator.cpu_us),
            each("context switches", used.switches as f64),
            Figure::less("RSS MiB", used.resident_mib),
        ];
        figures.extend(calls.map(|calls| each("system calls", calls as f64)));
        Ok(figures)
    }

    /// Bytes written to the disk for each byte of payload.
    pub(crate) fn amplification(&self, server: &Server, payload: u64) -> io::Result<Figure> {
        let written = self.server(server)?.written as f64;
        let name = "bytes to disk per byte";
        Ok(Figure::less(name, written / payload.max(1) as f64))
    }
}

/// A process and all below it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let children = tasks.into_iter().flatten().flatten().flat_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = children.split_whitespace().map(str::parse);
        pids.flatten().collect::<Vec<u32>>()
    });
    let below = children.flat_map(family);
    [pid].into_iter().chain(below).collect()
}
