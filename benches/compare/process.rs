//! What the operating system says of a process.

use std::io;
use std::time::Duration;

/// Ticks of the kernel's accounting; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time, of user and system.
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// Bytes that it caused to be written to the disk.
    pub(crate) written: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = read(pid, "stat")?;
        // The name of the process may hold anything, but ends with the last parenthesis.
        let numbers = stat.rsplit(')').next().unwrap_or_default();
        let number = |index: usize| -> f64 {
            let text = numbers.split_whitespace().nth(index);
            text.and_then(|text| text.parse().ok()).unwrap_or(0.0)
        };
        let ticks = number(11) + number(12);
        Ok(Self {
            cpu: Duration::from_secs_f64(ticks / TICKS_PER_SECOND),
            resident: 1024 * line(&read(pid, "status")?, "VmRSS:"),
            written: read(pid, "io").map_or(0, |io| line(&io, "write_bytes:")),
        })
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        self.resident as f64 / f64::from(1 << 20)
    }
}

/// Raises the number of files that this process may open as far as it is allowed.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "prlimit --pid \"$0\" --nofile=\"$(ulimit -Hn):\"",
            &std::process::id().to_string(),
        ])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("prlimit failed"))
    }
}

fn read(pid: u32, file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
}

fn line(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
