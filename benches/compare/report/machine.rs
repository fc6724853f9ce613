//! The machine that was measured on.

use std::fs;
use std::process::Command;

/// One line about processors, memory and kernel.
pub(super) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| {
        let value = line.strip_prefix("MemTotal:")?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    });
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{} with {cores} cores, {} GiB of memory, Linux {}",
        model.unwrap_or_else(|| "a processor".to_owned()),
        kib.unwrap_or(0) >> 20,
        kernel.trim(),
    )
}

/// The day on which it was measured.
pub(super) fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    output.unwrap_or_default().trim().to_owned()
}
