//! System calls, counted by `perf` where it is installed and may be used.
//!
//! Counting takes some time of each call, so it is for runs of their own, whose rates are not
//! published.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What enters the kernel.
const EVENT: &str = "raw_syscalls:sys_enter";
/// How long `perf` may take until it counts.
const ATTACH: Duration = Duration::from_millis(500);

/// A count that is under way.
pub(crate) struct SystemCalls {
    perf: Child,
    output: PathBuf,
}

impl SystemCalls {
    /// Counts those of some processes, all threads of them.
    pub(crate) fn begin(pids: &[u32], dir: &Path) -> io::Result<Self> {
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let output = dir.join("system-calls");
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", EVENT, "-p", &pids.join(",")])
            .arg("-o")
            .arg(&output)
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(ATTACH);
        Ok(Self { perf, output })
    }

    /// How many there were.
    pub(crate) fn end(mut self) -> io::Result<u64> {
        let pid = self.perf.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status()?;
        self.perf.wait()?;
        let text = fs::read_to_string(&self.output)?;
        let line = text.lines().find(|line| line.contains(EVENT));
        let count = line.and_then(|line| line.split(',').next()?.parse().ok());
        count.ok_or_else(|| io::Error::other(format!("perf did not count: {text}")))
    }
}
