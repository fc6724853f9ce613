//! What the types cannot say: ranges, and settings that must fit together.

use std::time::Duration;

use super::Config;
use super::problem::Findings;
use super::tree::{Node, Origin, Step};
use crate::units::format_size;

/// Whatever is counted fits 32 bits, as it does in HTTP/2.
const COUNT_MAX: usize = u32::MAX as usize;

/// The way from the root of the tree to a value.
macro_rules! steps {
    ($($step:expr),*) => { [$(Step::from($step)),*] };
}

pub(super) use steps;

/// Reports everything that is wrong with `config`, at the places of `tree`, from which it was made.
/// Complaints that something is missing wait until nothing else is wrong: it may have been taken
/// out.
pub(super) fn check(config: &Config, tree: &Node, found: &mut Findings<'_>) {
    let complete = found.is_empty();
    let mut check = Check {
        tree,
        found,
        complete,
    };
    check.general(config);
    check.log(config);
    check.cache(config);
    check.limits(config);
    check.sites(config);
}

/// One check under way.
pub(super) struct Check<'a, 'f> {
    tree: &'a Node,
    found: &'a mut Findings<'f>,
    /// Whether nothing was taken out of the tree.
    pub(super) complete: bool,
}

impl Check<'_, '_> {
    pub(super) fn report(
        &mut self,
        steps: &[Step],
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let origin = self.tree.origin(steps, false);
        self.found.add(origin, message.into(), Some(hint.into()));
    }

    /// Where the value is written, in words.
    pub(super) fn whereabouts(&self, steps: &[Step]) -> String {
        match self.tree.origin(steps, false) {
            Origin::File(span) => format!("line {}", self.found.line(span.start)),
            Origin::Outside(name) => name.clone(),
        }
    }

    fn general(&mut self, config: &Config) {
        if config.data_dir.as_os_str().is_empty() {
            let hint = "write the directory of the database, such as \"./data\"";
            self.report(&steps!["data_dir"], "`data_dir` is empty", hint);
        }
        if config.threads == Some(0) {
            let hint = "leave it out for one thread for each core";
            self.report(&steps!["threads"], "`threads` is 0", hint);
        }
        if let Err(error) = config.logging.levels() {
            self.report(
                &steps!["logging", "level"],
                error.to_string(),
                "write off, error, warn, info, debug or trace, or directives such as info,headwater::log=debug",
            );
        }
        if config.site.is_empty() && self.complete {
            self.report(
                &steps!["site"],
                "there is no site, so nothing would be served",
                "add [[site]] with `listen` and a [[site.route]]",
            );
        }
    }

    fn log(&mut self, config: &Config) {
        let log = &config.log;
        self.size(
            "log",
            "segment_bytes",
            log.segment_bytes,
            1 << 10,
            256 << 20,
        );
        self.size("log", "queue_bytes_max", log.queue_bytes_max, 1, u64::MAX);
        self.size(
            "log",
            "memtable_bytes",
            log.memtable_bytes,
            64 << 10,
            16 << 30,
        );
        self.count("log", "queue_ops_max", log.queue_ops_max);
        self.count("log", "streams_in_memory_max", log.streams_in_memory_max);
        self.time("log", "expiry_interval", log.expiry_interval);
        let body = config.limits.body_bytes_max;
        if log.queue_bytes_max < body {
            self.report(
                &steps!["log", "queue_bytes_max"],
                format!(
                    "`log.queue_bytes_max` is {}, less than `limits.body_bytes_max`, {}: the largest body would never fit the queue",
                    format_size(log.queue_bytes_max),
                    format_size(body),
                ),
                "raise the one or lower the other",
            );
        }
    }

    fn cache(&mut self, config: &Config) {
        let cache = &config.cache;
        let (entry, together) = (cache.entry_bytes_max, cache.in_flight_bytes_max);
        self.size("cache", "entry_bytes_max", entry, 1 << 10, 1 << 30);
        self.count("cache", "fetches_max", cache.fetches_max);
        self.count("cache", "disk_entries_max", cache.disk_entries_max);
        if together < entry {
            self.report(
                &steps!["cache", "in_flight_bytes_max"],
                format!(
                    "`in_flight_bytes_max` is {}, less than `entry_bytes_max`, {}: the largest answer would never be kept",
                    format_size(together),
                    format_size(entry),
                ),
                "raise the one or lower the other",
            );
        }
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        let section = "limits";
        self.size(section, "body_bytes_max", limits.body_bytes_max, 1, 1 << 30);
        self.size(
            section,
            "answers_in_flight_bytes_max",
            limits.answers_in_flight_bytes_max,
            1 << 20,
            1 << 40,
        );
        self.size(
            section,
            "path_bytes_max",
            limits.path_bytes_max as u64,
            1,
            64 << 10,
        );
        self.size(
            section,
            "header_bytes_max",
            limits.header_bytes_max as u64,
            1 << 10,
            1 << 20,
        );
        self.size(
            section,
            "unsent_bytes_max",
            limits.unsent_bytes_max,
            4 << 10,
            (1 << 31) - 1,
        );
        // The bounds of HTTP/2 itself: RFC 9113, sections 6.5.2 and 6.9.1.
        self.size(
            section,
            "h2_window_bytes",
            limits.h2_window_bytes,
            65_535,
            (1 << 31) - 1,
        );
        self.count(section, "h2_streams_max", limits.h2_streams_max);
        self.count(
            section,
            "producers_per_stream_max",
            limits.producers_per_stream_max,
        );
        self.count(section, "fork_depth_max", limits.fork_depth_max);
        self.count(section, "connections_max", limits.connections_max);
        if let Some(max) = limits.connections_per_address_max {
            self.count(section, "connections_per_address_max", max);
        }
        self.count(section, "live_readers_max", limits.live_readers_max);
        self.count(section, "recordings_max", limits.recordings_max);
        self.count(section, "followed_streams_max", limits.followed_streams_max);
        self.time(section, "handshake_timeout", limits.handshake_timeout);
        self.time(section, "body_timeout", limits.body_timeout);
        self.time(section, "write_timeout", limits.write_timeout);
        self.time(section, "idle_timeout", limits.idle_timeout);
        let (together, one) = (limits.bodies_in_flight_bytes_max, limits.body_bytes_max);
        if together < one {
            self.report(
                &steps![section, "bodies_in_flight_bytes_max"],
                format!(
                    "`bodies_in_flight_bytes_max` is {}, less than `body_bytes_max`, {}: the largest body would never be let in",
                    format_size(together),
                    format_size(one),
                ),
                "raise the one or lower the other",
            );
        }
    }

    fn size(&mut self, section: &str, key: &str, bytes: u64, min: u64, max: u64) {
        let (least, most) = (format_size(min), format_size(max));
        if bytes < min {
            let message = format!("`{key}` is {}, too small", format_size(bytes));
            self.report(
                &steps![section, key],
                message,
                format!("the least is {least}"),
            );
        } else if bytes > max {
            let message = format!("`{key}` is {}, too large", format_size(bytes));
            self.report(
                &steps![section, key],
                message,
                format!("the most is {most}"),
            );
        }
    }

    fn count(&mut self, section: &str, key: &str, count: usize) {
        if count == 0 {
            let message = format!("`{key}` is 0");
            self.report(&steps![section, key], message, "the least is 1");
        } else if count > COUNT_MAX {
            let message = format!("`{key}` is {count}, too large");
            self.report(
                &steps![section, key],
                message,
                format!("the most is {COUNT_MAX}"),
            );
        }
    }

    fn time(&mut self, section: &str, key: &str, time: Duration) {
        if time.is_zero() {
            let message = format!("`{key}` is no time at all");
            self.report(
                &steps![section, key],
                message,
                "write a time such as \"30s\"",
            );
        }
    }
}
