//! Which route a request takes: by listener, host and path.

use super::edge::{Edge, Passing};
use super::forward::Forwarder;
use super::proxy_protocol::Proxy;
use crate::config::{
    CacheScope, Config, Limits, Listen, ReverseProxy, Route as RouteConfig, RouteKind,
    Site as SiteConfig, Streams,
};
use crate::edge;
use crate::observe::metrics::{Metrics, RouteMetrics};
use crate::recorder::sign::Signer;
use crate::recorder::{self, Recorder};
use crate::serve::{self, ServeError};
use crate::types::StreamPath;
use crate::upstream::{UpstreamError, Upstreams};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The sites of one listener.
pub struct Routes {
    sites: Vec<Arc<Site>>,
}

/// Where something is served, and what.
pub struct Site {
    listen: Vec<Listen>,
    hosts: Vec<String>,
    /// Exact paths first, then longer patterns before shorter ones.
    routes: Vec<Arc<Route>>,
}

/// A path pattern and what is served there.
pub struct Route {
    /// The pattern without its `*`.
    prefix: String,
    exact: bool,
    pub kind: Kind,
    pub metrics: Arc<RouteMetrics>,
}

/// What a route serves.
pub enum Kind {
    Streams(Box<serve::Route>),
    /// Streams whose home is elsewhere.
    Edge(Box<Edge>),
    /// Upstreams whose answers are recorded.
    Record(Arc<recorder::Route>, Arc<Forwarder>),
    /// Upstreams.
    ReverseProxy(Arc<Forwarder>),
    /// The streams of recordings, by their signed URLs.
    Recordings(Box<Recordings>),
    /// The proxy protocol.
    Proxy(Box<Proxy>),
}

/// The streams of recordings, by their signed URLs.
pub struct Recordings {
    pub streams: serve::Route,
    pub signer: Signer,
}

/// All sites. It must run inside a Tokio runtime: their upstreams are checked from now on.
pub(super) fn sites(
    config: &Config,
    building: &Building<'_>,
) -> Result<Vec<Arc<Site>>, UpstreamError> {
    let sites = config.site.iter();
    sites
        .map(|site| Site::new(site, building).map(Arc::new))
        .collect()
}

/// What routes are made with.
pub(super) struct Building<'a> {
    pub(super) limits: &'a Limits,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) recorder: &'a Arc<Recorder>,
    /// There is one if a route has an origin.
    pub(super) edge: Option<&'a Arc<edge::Edge>>,
    /// Cancelled when clients are to go.
    pub(super) draining: &'a CancellationToken,
    /// Cancelled when upstreams need no longer be checked.
    pub(super) stop: &'a CancellationToken,
}

impl Routes {
    /// The routes of all sites that listen at an address.
    pub fn of_listener(sites: &[Arc<Site>], listen: &Listen) -> Self {
        let sites = sites.iter().filter(|site| site.listen.contains(listen));
        Self {
            sites: sites.cloned().collect(),
        }
    }

    /// The route of a path at a host (without port). The more exact host name wins, then the more
    /// exact path.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let site = self
            .sites
            .iter()
            .filter_map(|site| Some((site.fits(host)?, site)))
            .max_by_key(|(exactness, _)| *exactness)?
            .1;
        site.routes.iter().find(|route| route.matches(path))
    }
}

impl Site {
    fn new(config: &SiteConfig, building: &Building<'_>) -> Result<Self, UpstreamError> {
        let routes = config.route.iter();
        let mut routes: Vec<_> = routes
            .map(|route| Route::new(route, building).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let recordings = recording_paths(config).into_iter();
        routes.extend(recordings.map(|path| Arc::new(Route::of_recordings(path, building))));
        Ok(Self::with(config, routes))
    }

    fn with(config: &SiteConfig, mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by_key(|route| (!route.exact, std::cmp::Reverse(route.prefix.len())));
        Self {
            listen: config.listen.clone(),
            hosts: config.hosts.clone(),
            routes,
        }
    }

    /// How exactly a host is named by this site; `None` if it is not.
    fn fits(&self, host: &str) -> Option<usize> {
        if self.hosts.is_empty() {
            return Some(0);
        }
        let exactness = |name: &String| match name.strip_prefix('*') {
            Some(suffix) => {
                (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len())
            }
            None => (name == host).then_some(usize::MAX),
        };
        self.hosts.iter().filter_map(exactness).max()
    }
}

/// An edge route, and what passes requests on to each of its origins.
fn edge(pattern: &str, route: Arc<edge::Route>, building: &Building<'_>) -> Edge {
    let forwarder = |(home, upstreams): (edge::Home, &Arc<Upstreams>)| {
        let route = route.clone();
        let passing = Passing { route, home };
        let forwarder = Forwarder::to_origin(upstreams.clone(), pattern, building, passing);
        Arc::new(forwarder)
    };
    let forwarders = route.homes().map(forwarder).collect();
    Edge { route, forwarders }
}

/// How the streams of recordings are served. Whoever has a URL may read; a cache must not hand it
/// on.
pub(super) fn recorded_streams(cors: bool) -> serve::Route {
    serve::Route::new(Streams {
        cache: CacheScope::Private,
        cors,
        ..Streams::default()
    })
}

/// The path of a `proxy` route, below which its recordings are.
fn base_path(pattern: &str) -> &str {
    pattern.trim_end_matches('*').trim_end_matches('/')
}

/// The paths below which the recordings of a site are read.
fn recording_paths(config: &SiteConfig) -> BTreeSet<&str> {
    let routes = config.route.iter();
    routes
        .filter_map(|route| match &route.kind {
            RouteKind::Record(record) => Some(record.url_path.as_str()),
            _ => None,
        })
        .collect()
}

impl Route {
    fn new(config: &RouteConfig, building: &Building<'_>) -> Result<Self, UpstreamError> {
        let Building {
            metrics,
            recorder,
            stop,
            ..
        } = building;
        let pattern = &config.path;
        let upstreams = |settings: &ReverseProxy| {
            let upstreams = Upstreams::new(settings, metrics.upstreams(pattern))?;
            upstreams.start(stop);
            Ok(upstreams)
        };
        let forwarder = |upstreams| Arc::new(Forwarder::new(upstreams, pattern, building));
        let kind = match &config.kind {
            RouteKind::Streams(streams) => match streams.origin.as_deref().zip(building.edge) {
                None => Kind::Streams(Box::new(serve::Route::new(streams.clone()))),
                Some((origin, shared)) => {
                    let route = edge::Route::new(
                        shared.clone(),
                        streams.clone(),
                        origin,
                        &metrics.upstreams(pattern),
                    )?;
                    Kind::Edge(Box::new(edge(pattern, route, building)))
                }
            },
            RouteKind::Record(record) => {
                let upstreams = upstreams(&record.reverse_proxy())?;
                let forwarder = forwarder(upstreams.clone());
                let route = Arc::new(recorder.route(pattern, record, upstreams));
                if record.share && record.always {
                    let kept = Arc::clone(recorder).keep(route.clone(), pattern.clone());
                    tokio::spawn(kept);
                }
                Kind::Record(route, forwarder)
            }
            RouteKind::Proxy(proxy) => {
                let base = base_path(pattern);
                let route = recorder.proxy_route(base, proxy)?;
                Kind::Proxy(Box::new(Proxy::new(proxy, route)))
            }
            RouteKind::ReverseProxy(settings) => {
                Kind::ReverseProxy(forwarder(upstreams(settings)?))
            }
        };
        Ok(Self::with(pattern, kind, metrics))
    }

    /// The route by which recordings are read whose URLs begin with `path`.
    fn of_recordings(path: &str, building: &Building<'_>) -> Self {
        let pattern = format!("{}/*", path.trim_end_matches('/'));
        let recordings = Recordings {
            streams: recorded_streams(true),
            signer: building.recorder.signer(),
        };
        let kind = Kind::Recordings(Box::new(recordings));
        Self::with(&pattern, kind, building.metrics)
    }

    fn with(pattern: &str, kind: Kind, metrics: &Metrics) -> Self {
        let prefix = pattern.strip_suffix('*');
        let (prefix, exact) = match kind {
            // The path itself, and what is below it.
            Kind::Proxy(_) => (base_path(pattern), false),
            _ => (prefix.unwrap_or(pattern), prefix.is_none()),
        };
        Self {
            prefix: prefix.to_owned(),
            exact,
            kind,
            metrics: metrics.route(pattern),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(&self.prefix) {
            Some("") => true,
            Some(_) if self.exact => false,
            Some(below) => self.prefix.ends_with('/') || below.starts_with('/'),
            None => false,
        }
    }

    /// Whether pages of any origin may read errors of this route.
    pub fn cors(&self) -> bool {
        match &self.kind {
            Kind::Streams(streams) => streams.config.cors,
            Kind::Edge(edge) => edge.route.settings.cors,
            Kind::Recordings(recordings) => recordings.streams.config.cors,
            Kind::Proxy(proxy) => proxy.streams.config.cors,
            Kind::Record(..) | Kind::ReverseProxy(_) => false,
        }
    }

    /// The stream that a URL's path names; the path is still percent-encoded.
    pub fn stream_path(&self, namespace: &str, path: &str) -> Result<StreamPath, ServeError> {
        let below = self.below(path)?;
        if below == "__ds" || below.starts_with("__ds/") {
            return Err(ServeError::Subscriptions);
        }
        Ok(StreamPath::new(namespace, &below))
    }

    /// The one part of a path that lies below this route, if there is one.
    pub fn segment<'a>(&self, path: &'a str) -> Result<Option<Cow<'a, str>>, ServeError> {
        let below = path.strip_prefix(&self.prefix).ok_or(ServeError::NoRoute)?;
        match below.strip_prefix('/').unwrap_or(below) {
            "" => Ok(None),
            segment => decode(segment).map(Some),
        }
    }

    /// What a URL's path names below this route, decoded and safe.
    pub fn below<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, ServeError> {
        let below = if self.exact {
            // An exact route serves one stream, named like its path.
            path.trim_start_matches('/')
        } else {
            path.strip_prefix(&self.prefix).ok_or(ServeError::NoRoute)?
        };
        decode(below)
    }
}

fn decode(path: &str) -> Result<Cow<'_, str>, ServeError> {
    if is_plain(path) {
        return Ok(path.into());
    }
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| ServeError::Path("it is not UTF-8"))?;
    if decoded.is_empty() {
        return Err(ServeError::Path("it is empty"));
    }
    if decoded.chars().any(char::is_control) {
        return Err(ServeError::Path("it holds a control character"));
    }
    if decoded
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
    {
        return Err(ServeError::Path("it holds a . or .. segment"));
    }
    Ok(decoded)
}

/// Whether a path is of the most usual characters alone, so that it means what it says.
fn is_plain(path: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
    !path.is_empty() && path.bytes().all(usual)
}

/// Whether a path has a `.` or `..` segment, however it is written.
pub(super) fn has_dot_segments(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    for (written, meant) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/")] {
        if plain.contains(written) {
            plain = plain.replace(written, meant);
        }
    }
    plain
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> Routes {
        let config: Config = toml::from_str(text).unwrap();
        let listen = config.site[0].listen[0].clone();
        let metrics = Metrics::new();
        let route = |route: &RouteConfig| {
            let RouteKind::Streams(streams) = &route.kind else {
                panic!("the tests are about routes of streams");
            };
            let kind = Kind::Streams(Box::new(serve::Route::new(streams.clone())));
            Arc::new(Route::with(&route.path, kind, &metrics))
        };
        let site =
            |site: &SiteConfig| Arc::new(Site::with(site, site.route.iter().map(route).collect()));
        let sites: Vec<_> = config.site.iter().map(site).collect();
        Routes::of_listener(&sites, &listen)
    }

    const SITES: &str = r#"
        [[site]]
        listen = ["127.0.0.1:1"]
        hosts = ["a.example", "*.b.example"]
        route = [
            { path = "/*", streams = { namespace = "rest" } },
            { path = "/v1/stream/*", streams = {} },
            { path = "/v1/stream/one", streams = { namespace = "one" } },
        ]
        [[site]]
        listen = ["127.0.0.1:1"]
        hosts = ["x.b.example"]
        route = [{ path = "/x/*", streams = {} }]
    "#;

    fn namespace(host: &str, path: &str) -> Option<String> {
        let routes = routes(SITES);
        routes.find(host, path).map(|route| match &route.kind {
            Kind::Streams(streams) => streams.config.namespace.clone(),
            _ => String::new(),
        })
    }

    #[test]
    fn the_most_exact_route_wins() {
        assert_eq!(
            namespace("a.example", "/v1/stream/one").as_deref(),
            Some("one")
        );
        assert_eq!(
            namespace("a.example", "/v1/stream/two").as_deref(),
            Some("default")
        );
        assert_eq!(namespace("y.b.example", "/other").as_deref(), Some("rest"));
        assert_eq!(namespace("x.b.example", "/other"), None);
        assert_eq!(namespace("x.b.example", "/x/1").as_deref(), Some("default"));
        assert_eq!(namespace("b.example", "/other"), None);
        assert_eq!(namespace("c.example", "/other"), None);
    }

    #[test]
    fn paths_are_decoded_and_checked() {
        let routes = routes(SITES);
        let route = routes.find("a.example", "/v1/stream/a").unwrap();
        let path = |text: &str| route.stream_path("default", &format!("/v1/stream/{text}"));
        assert_eq!(path("a%2Fb").unwrap(), StreamPath::new("default", "a/b"));
        assert_eq!(path("%C3%A9").unwrap().path(), "é");
        for wrong in ["", "a/../b", "%2e%2e/b", "a/%2E", "a%00", "%ff", "a%0a"] {
            assert!(matches!(path(wrong), Err(ServeError::Path(_))), "{wrong}");
        }
        assert!(matches!(
            path("__ds/subscriptions/x"),
            Err(ServeError::Subscriptions)
        ));
    }
}
