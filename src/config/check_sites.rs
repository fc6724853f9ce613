//! What the types cannot say about sites: names, paths, certificates, and addresses that are in each
//! other's way.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::check::{Check, steps};
use super::tree::Step;
use super::{Certificate, Config, Listen, Retention, Route, RouteKind, Site, Streams};
use crate::units::format_duration;

/// The shortest life of an SSE connection: official clients give up after three that are shorter
/// than a second.
const SSE_RECYCLE_MIN: Duration = Duration::from_secs(2);

impl Check<'_, '_> {
    /// Checks each site, and then what they have in common.
    pub(super) fn sites(&mut self, config: &Config) {
        for (n, site) in config.site.iter().enumerate() {
            self.site(n, site);
        }
        self.recordings(config);
        self.listeners(config);
    }

    fn site(&mut self, n: usize, site: &Site) {
        if site.listen.is_empty() && self.complete {
            let hint = "write an address such as [\"0.0.0.0:4437\"]";
            self.report(&steps!["site", n, "listen"], "`listen` is empty", hint);
        }
        for (h, host) in site.hosts.iter().enumerate() {
            if let Some(hint) = host_problem(host) {
                let message = format!("`{host}` is not a host name");
                self.report(&steps!["site", n, "hosts", h], message, hint);
            }
        }
        if let Some(h) = repeated(&site.hosts) {
            let message = format!("the host `{}` is there twice", site.hosts[h]);
            self.report(
                &steps!["site", n, "hosts", h],
                message,
                "leave one of them out",
            );
        }
        if let Some(tls) = &site.tls {
            if tls.certificates.is_empty() && self.complete {
                self.report(
                    &steps!["site", n, "tls"],
                    "`certificates` is empty",
                    "write { cert = \"server.pem\", key = \"server.key\" }, or leave `tls` out",
                );
            }
            for (c, certificate) in tls.certificates.iter().enumerate() {
                self.certificate(&steps!["site", n, "tls", "certificates", c], certificate);
            }
        }
        self.routes(n, &site.route);
    }

    fn routes(&mut self, n: usize, routes: &[Route]) {
        if routes.is_empty() && self.complete {
            self.report(
                &steps!["site", n, "route"],
                "the site has no route, so nothing would be served there",
                "add [[site.route]] with path = \"/v1/stream/*\" and streams = {}",
            );
        }
        let paths: Vec<&str> = routes.iter().map(|route| route.path.as_str()).collect();
        if let Some(r) = repeated(&paths) {
            let message = format!("the path `{}` is there twice", paths[r]);
            self.report(
                &steps!["site", n, "route", r, "path"],
                message,
                "leave one of them out",
            );
        }
        for (r, route) in routes.iter().enumerate() {
            if let Some((what, hint)) = path_problem(&route.path) {
                let message = format!("the path `{}` {what}", route.path);
                self.report(&steps!["site", n, "route", r, "path"], message, hint);
            }
            match &route.kind {
                RouteKind::Streams(streams) => {
                    self.streams(&steps!["site", n, "route", r, "streams"], streams);
                }
                RouteKind::ReverseProxy(settings) => {
                    self.upstreams(&steps!["site", n, "route", r, "reverse_proxy"], settings);
                }
                RouteKind::Record(settings) => {
                    let shared = settings.reverse_proxy();
                    let at = steps!["site", n, "route", r, "record"];
                    self.upstreams(&at, &shared);
                    self.record(&at, &route.path, settings);
                }
                RouteKind::Proxy(settings) => {
                    self.proxy(&steps!["site", n, "route", r, "proxy"], settings);
                }
            }
        }
    }

    fn streams(&mut self, at: &[Step], streams: &Streams) {
        let below = |key: &str| [at, &steps![key]].concat();
        self.namespace(&below("namespace"), &streams.namespace);
        if streams.sse_recycle < SSE_RECYCLE_MIN {
            self.report(
                &below("sse_recycle"),
                format!(
                    "`sse_recycle` is {}, too short",
                    format_duration(streams.sse_recycle)
                ),
                "the least is 2s: clients take shorter connections for a failure",
            );
        }
        if streams.long_poll_timeout.is_zero() {
            let hint = "write a time such as \"30s\"";
            self.report(
                &below("long_poll_timeout"),
                "`long_poll_timeout` is no time at all",
                hint,
            );
        }
        if let Some(retention) = &streams.retention {
            self.retention(&below("retention"), retention);
        }
        if let Some(origin) = &streams.origin {
            self.origin(&below("origin"), origin);
        }
        self.base_url(&below("base_url"), streams.base_url.as_deref());
    }

    pub(super) fn namespace(&mut self, at: &[Step], namespace: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if namespace.is_empty() || namespace.len() > 64 || !namespace.chars().all(fits) {
            self.report(
                at,
                format!("`{namespace}` is not a namespace"),
                "write 1 to 64 letters, digits, `-` and `_`",
            );
        }
    }

    pub(super) fn base_url(&mut self, at: &[Step], url: Option<&str>) {
        if let Some(url) = url
            && !is_base_url(url)
        {
            self.report(
                at,
                format!("`{url}` is not the base of a URL"),
                "write the scheme and host, without a slash at the end, such as https://streams.example.com",
            );
        }
    }

    pub(super) fn retention(&mut self, at: &[Step], retention: &Retention) {
        let below = |key: &str| [at, &steps![key]].concat();
        if retention.bytes.is_none() && retention.age.is_none() && self.complete {
            self.report(
                at,
                "`retention` says neither `bytes` nor `age`",
                "write one of them or both, or leave it out to keep everything",
            );
        }
        if retention.bytes == Some(0) {
            let hint = "write a size such as \"1GiB\"";
            self.report(&below("bytes"), "`bytes` is 0", hint);
        }
        if let Some(age) = retention.age
            && (age.is_zero() || age.subsec_nanos() > 0)
        {
            self.report(
                &below("age"),
                format!("`age` is {}", format_duration(age)),
                "write whole seconds, at least one: clients are told so",
            );
        }
    }

    pub(super) fn certificate(&mut self, at: &[Step], certificate: &Certificate) {
        let below = |key: &str| [at, &steps![key]].concat();
        let chain = CertificateDer::pem_file_iter(&certificate.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .and_then(|chain| match chain.len() {
                0 => Err(pem::Error::NoItemsFound),
                _ => Ok(chain),
            })
            .map_err(|error| self.pem(&below("cert"), &certificate.cert, "certificate", &error));
        let key = PrivateKeyDer::from_pem_file(&certificate.key)
            .map_err(|error| self.pem(&below("key"), &certificate.key, "private key", &error));
        let (Ok(chain), Ok(key)) = (chain, key) else {
            return;
        };
        let provider = rustls::crypto::ring::default_provider();
        if let Err(error) = CertifiedKey::from_der(chain, key, &provider) {
            self.report(
                at,
                format!(
                    "the certificate {} and the key {} cannot be used together: {error}",
                    certificate.cert.display(),
                    certificate.key.display(),
                ),
                "take the key with which the certificate was made",
            );
        }
    }

    pub(super) fn pem(&mut self, at: &[Step], file: &Path, what: &str, error: &pem::Error) {
        let file = file.display();
        let (message, hint) = match error {
            pem::Error::Io(error) => (
                format!("the file of the {what} cannot be read: {file}: {error}"),
                "a relative path starts at the directory in which the server is started",
            ),
            pem::Error::NoItemsFound => (
                format!("the file {file} has no {what} in it"),
                "it must be in PEM form, with a line that starts with -----BEGIN",
            ),
            _ => (
                format!("the {what} in {file} is damaged: {error}"),
                "it must be in PEM form, with lines that start with -----BEGIN and -----END",
            ),
        };
        self.report(at, message, hint);
    }

    /// What concerns several addresses at once.
    fn listeners(&mut self, config: &Config) {
        for (n, site) in config.site.iter().enumerate() {
            for (l, listen) in site.listen.iter().enumerate() {
                let at = steps!["site", n, "listen", l];
                let before = site.listen[..l].iter();
                if let Some(taken) = before.rev().find(|taken| overlap(taken, listen)) {
                    let message = if taken == listen {
                        format!("`{listen}` is there twice")
                    } else {
                        format!("`{listen}` and `{taken}` cannot both be listened at")
                    };
                    self.report(&at, message, "leave one of them out");
                }
                if let Some(admin) = &config.admin
                    && overlap(admin, listen)
                {
                    let message = format!("`{admin}` is the address of a site too");
                    let hint = "give `admin` an address of its own, such as 127.0.0.1:4438";
                    self.report(&steps!["admin"], message, hint);
                }
                for (earlier, other) in config.site[..n].iter().enumerate() {
                    self.shared(&at, (earlier, other), site, listen);
                }
            }
        }
    }

    /// Whether `site`, with the address `listen` at `at`, gets on with a site before it.
    fn shared(&mut self, at: &[Step], earlier: (usize, &Site), site: &Site, listen: &Listen) {
        let (earlier, other) = earlier;
        let taken = other.listen.iter().position(|taken| overlap(taken, listen));
        let Some(taken) = taken else { return };
        let theirs = &other.listen[taken];
        let there = self.whereabouts(&steps!["site", earlier, "listen", taken]);
        if theirs != listen {
            self.report(
                at,
                format!("`{listen}` and `{theirs}` ({there}) cannot both be listened at"),
                "one of them includes the other: use the same in both sites",
            );
        } else if site.tls.is_some() != other.tls.is_some() {
            self.report(
                at,
                format!("`{listen}` is used with TLS and without it ({there})"),
                "give the two sites different ports, or `tls` to both",
            );
        } else if let Some(host) = shared_host(&site.hosts, &other.hosts) {
            self.report(
                at,
                format!(
                    "`{listen}` already serves {host} ({there}), so this site would not be reached"
                ),
                "give the sites different `hosts`, or join them into one",
            );
        }
    }
}

/// The place of the first item that was there before.
fn repeated<T: Eq + Hash>(items: &[T]) -> Option<usize> {
    let mut seen = HashSet::new();
    items.iter().position(|item| !seen.insert(item))
}

/// A host that both sites name, in words, if there is one.
fn shared_host(ours: &[String], theirs: &[String]) -> Option<String> {
    if ours.is_empty() && theirs.is_empty() {
        return Some("any host".to_owned());
    }
    let host = ours.iter().find(|host| theirs.contains(host))?;
    Some(format!("the host {host}"))
}

/// Whether two listeners would be in each other's way. `[::]` leaves IPv4 to who names it, and for
/// port 0 the system chooses.
fn overlap(a: &Listen, b: &Listen) -> bool {
    let (Listen::Tcp(a), Listen::Tcp(b)) = (a, b) else {
        return a == b;
    };
    let every = |address: &SocketAddr| address.ip().is_unspecified();
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (every(a) || every(b))))
}

/// What to write instead of `host`, if it is not a host name.
fn host_problem(host: &str) -> Option<&'static str> {
    if host == "*" {
        return Some("leave `hosts` out for any host");
    }
    if host.contains("://") || host.contains('/') {
        return Some("write the name alone, without a scheme and a path");
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_some_and(|ip| ip.parse::<IpAddr>().is_ok()) {
        return None;
    }
    if host.contains(':') {
        return Some("write the name alone, without a port");
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        !label.is_empty()
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    (!name.split('.').all(label))
        .then_some("write a name such as streams.example.com, or *.example.com for all below it")
}

/// What is wrong with the path of a route, and what to write instead.
fn path_problem(path: &str) -> Option<(&'static str, &'static str)> {
    if !path.starts_with('/') {
        return Some((
            "does not start with a slash",
            "write a path such as /v1/stream/*",
        ));
    }
    let before = path.strip_suffix("/*").unwrap_or(path);
    if before.contains('*') {
        let hint = "it can only be the last part, as in /v1/stream/*";
        return Some(("has a `*` elsewhere than at its end", hint));
    }
    let odd = |c: char| c == '?' || c == '#' || c.is_control() || c == ' ';
    if path.contains(odd) {
        return Some((
            "has a character that no path of a request has",
            "write it as it stands in a URL",
        ));
    }
    let dots = |part: &str| part == "." || part == "..";
    path.split('/')
        .any(dots)
        .then_some(("has a part `.` or `..`", "write the path without it"))
}

fn is_base_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.query().is_none()
        && !url.contains(['#', '@'])
        && !url.ends_with('/')
}
