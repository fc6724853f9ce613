//! What the types cannot say about recordings: names, paths, headers, times.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderName;

use super::check::{Check, steps};
use super::check_upstreams::is_path;
use super::tree::Step;
use super::{Config, Proxy, Record, RouteKind};
use crate::units::format_duration;

/// What makes the name of a recording its own.
const ID: &str = "{id}";

impl Check<'_, '_> {
    /// Checks the settings of a `record` route that have nothing to do with upstreams.
    pub(super) fn record(&mut self, at: &[Step], path: &str, record: &Record) {
        let below = |key: &str| [at, &steps![key]].concat();
        self.namespace(&below("namespace"), &record.namespace);
        self.base_url(&below("base_url"), record.base_url.as_deref());
        self.recording_name(&below("name"), &record.name);
        if !is_path(&record.url_path) || record.url_path == "/" || record.url_path.contains('*') {
            let message = format!("`{}` is not a path for recordings", record.url_path);
            self.report(
                &below("url_path"),
                message,
                "write one such as /_recordings",
            );
        }
        self.token(&below("idempotency_header"), &record.idempotency_header);
        for (n, name) in record.credentials.iter().enumerate() {
            self.token(&[at, &steps!["credentials", n]].concat(), name);
        }
        for (n, content_type) in record.content_types.iter().enumerate() {
            if !is_content_type(content_type) {
                self.report(
                    &[at, &steps!["content_types", n]].concat(),
                    format!("`{content_type}` is not a content type"),
                    "write one such as text/event-stream, without parameters",
                );
            }
        }
        if record.share {
            self.retention(&below("retention"), &record.retention);
        }
        if record.always && (!record.share || path.ends_with('*')) {
            self.report(
                &below("always"),
                "`always` is for a shared feed at an exact path",
                "add `share = true` and write the path of the feed, or leave `always` out",
            );
        }
        self.times(
            at,
            &[
                ("ttl", record.ttl),
                ("url_ttl", record.url_ttl),
                ("headers_timeout", record.headers_timeout),
                ("inactivity_timeout", record.inactivity_timeout),
            ],
        );
        self.bytes(at, "recording_bytes_max", record.recording_bytes_max);
        if record.recordings_per_caller_max == 0 {
            self.report(
                &below("recordings_per_caller_max"),
                "`recordings_per_caller_max` is 0",
                "the least is 1",
            );
        }
    }

    /// Checks the settings of a `proxy` route.
    pub(super) fn proxy(&mut self, at: &[Step], proxy: &Proxy) {
        let below = |key: &str| [at, &steps![key]].concat();
        self.namespace(&below("namespace"), &proxy.namespace);
        self.base_url(&below("base_url"), proxy.base_url.as_deref());
        if proxy.allow.is_empty() && self.complete {
            self.report(
                &below("allow"),
                "`allow` is empty, so nothing could be asked for",
                "write patterns such as https://api.example.com/v1/**",
            );
        }
        self.times(
            at,
            &[
                ("ttl", proxy.ttl),
                ("url_ttl", proxy.url_ttl),
                ("connect_timeout", proxy.connect_timeout),
                ("headers_timeout", proxy.headers_timeout),
                ("inactivity_timeout", proxy.inactivity_timeout),
            ],
        );
        self.bytes(at, "recording_bytes_max", proxy.recording_bytes_max);
    }

    /// Checks that no route can give away the recordings of another.
    pub(super) fn recordings(&mut self, config: &Config) {
        let (mut proxies, mut records) = (HashMap::new(), HashMap::new());
        for (n, site) in config.site.iter().enumerate() {
            for (r, route) in site.route.iter().enumerate() {
                match &route.kind {
                    RouteKind::Proxy(proxy) => {
                        let namespace = proxy.namespace.as_str();
                        let owner = *proxies.entry(namespace).or_insert(&proxy.secret);
                        if *owner != proxy.secret {
                            self.report(
                                &steps!["site", n, "route", r, "proxy", "secret"],
                                format!("a `proxy` route with another secret has the namespace `{namespace}` too"),
                                "give each a `namespace` of its own: either could read and delete the other's recordings",
                            );
                        }
                    }
                    RouteKind::Record(record) => {
                        let (namespace, path) = (record.namespace.as_str(), route.path.as_str());
                        let owner = *records.entry((namespace, path)).or_insert(record);
                        if owner != record {
                            self.report(
                                &steps!["site", n, "route", r, "record"],
                                format!("a `record` route of another site has the path `{path}` and the namespace `{namespace}` too, and other settings"),
                                "give each a `namespace` of its own: either would answer with the other's recordings",
                            );
                        }
                    }
                    RouteKind::Streams(_) | RouteKind::ReverseProxy(_) => {}
                }
            }
        }
    }

    fn recording_name(&mut self, at: &[Step], name: &str) {
        let dots = |part: &str| part.is_empty() || part == "." || part == "..";
        let odd = |c: char| c.is_control() || c == '?' || c == '#';
        if name.matches(ID).count() != 1 {
            let message = format!("the name `{name}` does not have {ID} in it, once");
            let hint = "write one such as chat/{id}: without it, recordings would share a stream";
            self.report(at, message, hint);
        } else if name.split('/').any(dots) || name.contains(odd) {
            let message = format!("`{name}` is not the name of a stream");
            self.report(at, message, "write one such as chat/{id}");
        }
    }

    fn token(&mut self, at: &[Step], name: &str) {
        if name.parse::<HeaderName>().is_err() {
            let message = format!("`{name}` is not the name of a header");
            self.report(at, message, "write one such as X-Api-Key");
        }
    }

    /// Times that are counted in whole seconds, or that nothing could keep to.
    fn times(&mut self, at: &[Step], times: &[(&str, Duration)]) {
        for &(key, time) in times {
            let is_lifetime = key.ends_with("ttl");
            if time.is_zero() || (is_lifetime && time.as_secs() == 0) {
                let message = format!("`{key}` is {}, too short", format_duration(time));
                self.report(
                    &[at, &steps![key]].concat(),
                    message,
                    "write a time such as \"60s\"",
                );
            }
        }
    }

    fn bytes(&mut self, at: &[Step], key: &str, bytes: u64) {
        if bytes == 0 {
            self.report(
                &[at, &steps![key]].concat(),
                format!("`{key}` is 0"),
                "write a size such as \"256MiB\"",
            );
        }
    }
}

fn is_content_type(text: &str) -> bool {
    let token = |part: &str| part.parse::<HeaderName>().is_ok();
    let parts = text.split_once('/');
    parts.is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}
