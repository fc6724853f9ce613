//! Open files: how many the process may have, and how many of them connections may take.
//!
//! The store must be able to open its next file at any time: when it cannot, the log takes nothing
//! more until a restart.

use crate::config::Config;
use crate::log::rocks;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// For what is neither a client nor a table of the store: listeners, the admin listener, files of
/// the cache, a checkpoint, the store's write-ahead log, and connections until they are refused.
const OTHERS: u64 = 256;
const KEPT_BACK: u64 = rocks::OPEN_FILES_MAX as u64 + OTHERS;
/// Fewer connections are of no use.
const CONNECTIONS_MIN: usize = 16;
/// What is asked for where the hard limit is none. macOS refuses more.
const UNLIMITED: u64 = 10_240;

/// The limit of open files leaves too little for connections.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "the process may have {limit} files open and needs at least {needed}: raise `LimitNOFILE` of the unit or `ulimit -n`"
)]
pub struct TooFewFiles {
    limit: u64,
    needed: u64,
}

/// Raises the limit of open files, and returns how many client connections fit it: at most what is
/// configured.
pub fn connections_max(config: &Config) -> Result<usize, TooFewFiles> {
    let limit = raise_limit();
    let configured = config.limits.connections_max;
    let files_each = files_each(config);
    let fitting = fitting(limit, configured, files_each)?;
    if fitting < configured {
        tracing::warn!(
            configured,
            connections_max = fitting,
            open_files_max = limit,
            open_files_needed = needed(configured, files_each),
            "the limit of open files allows fewer connections than configured: raise `LimitNOFILE` or `ulimit -n`, or lower `limits.connections_max`"
        );
    }
    Ok(fitting)
}

/// Raises the soft limit to the hard one, and returns the limit that then holds.
fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = current.unwrap_or(u64::MAX);
    let wanted = maximum.unwrap_or(UNLIMITED);
    if limit >= wanted {
        return limit;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, limit, wanted, "the limit of open files cannot be raised");
            limit
        }
    }
}

/// A client's request may need a connection to an upstream beside its own. At an edge, few do.
fn files_each(config: &Config) -> u64 {
    if config.has_upstreams() { 2 } else { 1 }
}

fn fitting(limit: u64, configured: usize, files_each: u64) -> Result<usize, TooFewFiles> {
    let needed = needed(configured.min(CONNECTIONS_MIN), files_each);
    if limit < needed {
        return Err(TooFewFiles { limit, needed });
    }
    let fitting = (limit - KEPT_BACK) / files_each;
    Ok(fitting.min(configured as u64) as usize)
}

fn needed(connections: usize, files_each: u64) -> u64 {
    KEPT_BACK + connections as u64 * files_each
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_stands_where_it_fits() {
        assert_eq!(fitting(KEPT_BACK + 1000, 1000, 1), Ok(1000));
        assert_eq!(fitting(KEPT_BACK + 2000, 1000, 2), Ok(1000));
        assert_eq!(fitting(u64::MAX, 65_536, 2), Ok(65_536));
    }

    #[test]
    fn more_than_fits_is_lowered() {
        assert_eq!(fitting(KEPT_BACK + 999, 1000, 1), Ok(999));
        assert_eq!(fitting(KEPT_BACK + 1999, 1000, 2), Ok(999));
        assert_eq!(fitting(1024, 65_536, 1), Ok(512));
        assert_eq!(fitting(1024, 65_536, 2), Ok(256));
    }

    #[test]
    fn too_little_is_an_error() {
        assert_eq!(fitting(KEPT_BACK + 16, 1000, 1), Ok(16));
        let too_few = |limit, needed| Err(TooFewFiles { limit, needed });
        let limit = KEPT_BACK + 15;
        assert_eq!(fitting(limit, 1000, 1), too_few(limit, KEPT_BACK + 16));
        assert_eq!(fitting(limit, 1000, 2), too_few(limit, KEPT_BACK + 32));
        assert_eq!(fitting(0, 1000, 1), too_few(0, KEPT_BACK + 16));
    }

    #[test]
    fn few_are_enough_where_few_are_configured() {
        assert_eq!(fitting(KEPT_BACK + 3, 3, 1), Ok(3));
        let (limit, needed) = (KEPT_BACK + 2, KEPT_BACK + 3);
        assert_eq!(fitting(limit, 3, 1), Err(TooFewFiles { limit, needed }));
    }

    #[test]
    fn upstreams_count_wherever_a_route_has_some() {
        let files_each_with = |kind: &str| {
            let text = format!(
                "[[site]]\nlisten = [\"127.0.0.1:1\"]\n[[site.route]]\npath = \"/*\"\n{kind}"
            );
            files_each(&toml::from_str(&text).unwrap())
        };
        assert_eq!(files_each_with("streams = {}"), 1);
        let upstreams = r#"{ upstreams = ["http://127.0.0.1:1"] }"#;
        let edge = format!("streams = {{ origin = {upstreams} }}");
        assert_eq!(files_each_with(&edge), 1);
        for kind in ["record", "reverse_proxy"] {
            assert_eq!(files_each_with(&format!("{kind} = {upstreams}")), 2);
        }
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let limit = raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, Some(limit));
        assert!(limit >= maximum.unwrap_or(UNLIMITED));
    }
}
