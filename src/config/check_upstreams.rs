//! What the types cannot say about upstreams: times, paths, headers, files of certificates.

use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use regex::bytes::Regex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};

use super::check::{Check, steps};
use super::tree::Step;
use super::{HeaderRules, Origin, ReverseProxy, Rewrite, UpstreamUrl};

/// The largest share of an upstream: the ring of upstreams has a place for each unit.
const WEIGHT_MAX: usize = 100;
const RETRIES_MAX: usize = 16;

/// Headers that say how a message is sent on its way, which is not for rules to change.
const FRAMING: [&str; 4] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
];

impl Check<'_, '_> {
    /// Checks the settings at `at` that all routes with upstreams have.
    pub(super) fn upstreams(&mut self, at: &[Step], settings: &ReverseProxy) {
        let below = |key: &str| [at, &steps![key]].concat();
        if settings.upstreams.is_empty() && self.complete {
            self.report(
                &below("upstreams"),
                "`upstreams` is empty",
                "write one such as [\"http://127.0.0.1:3000\"]",
            );
        }
        self.each_upstream(&below("upstreams"), settings);
        if settings.retries > RETRIES_MAX {
            let message = format!("`retries` is {}, too many", settings.retries);
            let hint = format!("the most is {RETRIES_MAX}");
            self.report(&below("retries"), message, hint);
        }
        self.upstream_times(at, settings);
        for key in ["strip_prefix", "add_prefix"] {
            let prefix = match key {
                "strip_prefix" => &settings.strip_prefix,
                _ => &settings.add_prefix,
            };
            if !prefix.is_empty() && !is_path(prefix) {
                let message = format!("`{prefix}` is not the beginning of a path");
                self.report(&below(key), message, "write one such as /api");
            }
        }
        self.rewrites(&below("rewrite"), &settings.rewrite);
        self.header_rules(&below("request_headers"), &settings.request_headers);
        self.header_rules(&below("response_headers"), &settings.response_headers);
        self.upstream_tls(&below("tls"), settings);
    }

    fn rewrites(&mut self, at: &[Step], rules: &[Rewrite]) {
        for (n, rule) in rules.iter().enumerate() {
            if let Err(error) = Regex::new(&rule.pattern) {
                let at = [at, &steps![n, "match"]].concat();
                let message = format!("`{}` is not a regular expression", rule.pattern);
                // The last line says what is wrong, those before it where.
                let said = error.to_string();
                self.report(&at, message, said.lines().last().unwrap_or_default());
            }
            if rule.to.contains(is_odd) {
                let at = [at, &steps![n, "to"]].concat();
                let message = format!("`{}` is not a part of a path", rule.to);
                self.report(&at, message, "write one such as /v2/$1; the query stays");
            }
        }
    }

    /// Checks the origins of an edge at `at`.
    pub(super) fn origin(&mut self, at: &[Step], origin: &Origin) {
        let below = |key: &str| [at, &steps![key]].concat();
        self.upstreams(at, &origin.together());
        if origin.shard_by == Some(0) {
            let hint = "the least is 1; leave it out for the whole path";
            self.report(&below("shard_by"), "`shard_by` is 0", hint);
        }
        for (n, name) in origin.credentials.iter().enumerate() {
            self.header_name(&[at, &steps!["credentials", n]].concat(), name);
        }
        if let Some(name) = &origin.name
            && !is_edge_name(name)
        {
            let message = format!("`{name}` is not the name of an edge");
            let hint = "write 1 to 64 letters, digits, `.`, `_` and `-`";
            self.report(&below("name"), message, hint);
        }
    }

    fn each_upstream(&mut self, at: &[Step], settings: &ReverseProxy) {
        for (n, upstream) in settings.upstreams.iter().enumerate() {
            let at = [at, &steps![n]].concat();
            let url = &upstream.url;
            if settings.upstreams[..n]
                .iter()
                .any(|other| other.url == *url)
            {
                let message = format!("the upstream `{url}` is there twice");
                self.report(&at, message, "give one of them a larger `weight` instead");
            }
            if !(1..=WEIGHT_MAX).contains(&upstream.weight) {
                let message = format!("`weight` is {}", upstream.weight);
                self.report(
                    &at,
                    message,
                    format!("write a number from 1 to {WEIGHT_MAX}"),
                );
            }
        }
    }

    fn upstream_times(&mut self, at: &[Step], settings: &ReverseProxy) {
        let timeouts = &settings.timeouts;
        self.some_time(at, "timeouts", "connect", timeouts.connect);
        self.some_time(at, "timeouts", "idle", timeouts.idle);
        self.some_time(at, "timeouts", "upgraded", timeouts.upgraded);
        let Some(check) = &settings.health_check else {
            return;
        };
        self.some_time(at, "health_check", "interval", check.interval);
        self.some_time(at, "health_check", "timeout", check.timeout);
        let below = |key: &str| [at, &steps!["health_check", key]].concat();
        if let Some(path) = &check.path
            && !is_path(path)
        {
            let message = format!("`{path}` is not a path");
            self.report(&below("path"), message, "write one such as /healthz");
        }
        let counts = [
            ("healthy_after", check.healthy_after),
            ("unhealthy_after", check.unhealthy_after),
        ];
        for (key, count) in counts {
            if count == 0 {
                self.report(&below(key), format!("`{key}` is 0"), "the least is 1");
            }
        }
    }

    fn some_time(&mut self, at: &[Step], table: &str, key: &str, time: Duration) {
        if time.is_zero() {
            self.report(
                &[at, &steps![table, key]].concat(),
                format!("`{key}` is no time at all"),
                "write a time such as \"5s\"",
            );
        }
    }

    fn header_rules(&mut self, at: &[Step], rules: &HeaderRules) {
        let set = rules.set.iter().map(|(name, value)| ("set", name, value));
        let add = rules.add.iter().map(|(name, value)| ("add", name, value));
        for (key, name, value) in set.chain(add) {
            let at = [at, &steps![key, name.as_str()]].concat();
            self.header_name(&at, name);
            // The value may be a secret.
            if HeaderValue::from_str(value).is_err() {
                let message = format!("the value of `{name}` cannot be one of a header");
                self.report(&at, message, "leave out line ends and control characters");
            }
        }
        for (n, name) in rules.remove.iter().enumerate() {
            self.header_name(&[at, &steps!["remove", n]].concat(), name);
        }
    }

    fn header_name(&mut self, at: &[Step], name: &str) {
        match name.parse::<HeaderName>() {
            Err(_) => self.report(
                at,
                format!("`{name}` is not the name of a header"),
                "write one such as X-Api-Version",
            ),
            Ok(name) if FRAMING.contains(&name.as_str()) => self.report(
                at,
                format!("`{name}` cannot be changed: it says how messages are sent"),
                "leave it out",
            ),
            Ok(_) => {}
        }
    }

    fn upstream_tls(&mut self, at: &[Step], settings: &ReverseProxy) {
        let below = |key: &str| [at, &steps![key]].concat();
        let tls = &settings.tls;
        if let Some(ca) = &tls.ca
            && let Err(error) = authorities(ca)
        {
            self.pem(&below("ca"), ca, "certificate", &error);
        }
        if let Some(client) = &tls.client {
            self.certificate(&below("client"), client);
        }
        let encrypted = |url: &UpstreamUrl| matches!(url, UpstreamUrl::Tcp { tls: true, .. });
        let plain = !settings.upstreams.iter().any(|one| encrypted(&one.url));
        if plain && *tls != super::UpstreamTls::default() && self.complete {
            self.report(
                at,
                "`tls` has no effect: no upstream is an https:// one",
                "write the upstreams with https://, or leave `tls` out",
            );
        }
    }
}

fn authorities(file: &Path) -> Result<(), pem::Error> {
    let all: Vec<_> = CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?;
    match all.len() {
        0 => Err(pem::Error::NoItemsFound),
        _ => Ok(()),
    }
}

fn is_edge_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// Whether a path never has this character as it is.
fn is_odd(c: char) -> bool {
    c == '?' || c == '#' || c == ' ' || c.is_control() || !c.is_ascii()
}

pub(super) fn is_path(text: &str) -> bool {
    let dots = |part: &str| part == "." || part == "..";
    text.starts_with('/') && !text.contains(is_odd) && !text.split('/').any(dots)
}
