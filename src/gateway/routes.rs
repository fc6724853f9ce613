//! Which route a request takes: by listener, host and path.

use crate::config::{Config, Listen, Route as RouteConfig, RouteKind, Site as SiteConfig};
use crate::observe::metrics::{Metrics, RouteMetrics};
use crate::serve::{self, ServeError};
use crate::types::StreamPath;
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// The sites of one listener.
pub struct Routes {
    sites: Vec<Site>,
}

struct Site {
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
    /// Not served yet.
    Later,
}

impl Routes {
    /// The routes of all sites that listen at an address.
    pub fn of_listener(config: &Config, listen: &Listen, metrics: &Metrics) -> Self {
        let sites = config
            .site
            .iter()
            .filter(|site| site.listen.contains(listen));
        Self {
            sites: sites.map(|site| Site::new(site, metrics)).collect(),
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
    fn new(config: &SiteConfig, metrics: &Metrics) -> Self {
        let mut routes: Vec<_> = config
            .route
            .iter()
            .map(|route| Arc::new(Route::new(route, metrics)))
            .collect();
        routes.sort_by_key(|route| (!route.exact, std::cmp::Reverse(route.prefix.len())));
        Self {
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

impl Route {
    fn new(config: &RouteConfig, metrics: &Metrics) -> Self {
        let kind = match &config.kind {
            RouteKind::Streams(streams) => {
                Kind::Streams(Box::new(serve::Route::new(streams.clone())))
            }
            RouteKind::Record(_) | RouteKind::Proxy(_) | RouteKind::ReverseProxy(_) => Kind::Later,
        };
        let prefix = config.path.strip_suffix('*');
        Self {
            prefix: prefix.unwrap_or(&config.path).to_owned(),
            exact: prefix.is_none(),
            kind,
            metrics: metrics.route(&config.path),
        }
    }

    fn matches(&self, path: &str) -> bool {
        if self.exact {
            path == self.prefix
        } else {
            path.starts_with(&self.prefix)
        }
    }

    /// Whether pages of any origin may read errors of this route.
    pub fn cors(&self) -> bool {
        match &self.kind {
            Kind::Streams(streams) => streams.config.cors,
            Kind::Later => false,
        }
    }

    /// The stream that a URL's path names; the path is still percent-encoded.
    pub fn stream_path(&self, namespace: &str, path: &str) -> Result<StreamPath, ServeError> {
        let below = if self.exact {
            // An exact route serves one stream, named like its path.
            path.trim_start_matches('/')
        } else {
            path.strip_prefix(&self.prefix).ok_or(ServeError::NoRoute)?
        };
        let decoded = percent_decode_str(below)
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
        if decoded == "__ds" || decoded.starts_with("__ds/") {
            return Err(ServeError::Subscriptions);
        }
        Ok(StreamPath::new(namespace, &decoded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> Routes {
        let config: Config = toml::from_str(text).unwrap();
        let listen = config.site[0].listen[0].clone();
        Routes::of_listener(&config, &listen, &Metrics::new())
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
            Kind::Later => String::new(),
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
