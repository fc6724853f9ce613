//! A route: a path, and exactly one key that says what is served there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Proxy, Record, ReverseProxy, Streams};

/// A path and what is served there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RouteForm", into = "RouteForm")]
pub struct Route {
    /// The path: exact, or, ending in `/*`, everything below it.
    pub path: String,

    /// What is served there.
    pub kind: RouteKind,
}

/// What a route does. In the file, a route has exactly one key that names its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteKind {
    /// Streams from this server's own log.
    Streams(Streams),
    /// Upstreams whose streaming answers are recorded.
    Record(Box<Record>),
    /// The Durable Streams proxy protocol.
    Proxy(Box<Proxy>),
    /// Upstreams.
    ReverseProxy(Box<ReverseProxy>),
}

/// A path and what is served there. A route has, besides `path`, exactly one key that says what it
/// does.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    { "required": ["streams"] },
    { "required": ["record"] },
    { "required": ["proxy"] },
    { "required": ["reverse_proxy"] },
]))]
struct RouteForm {
    /// The path: exact, or, ending in `/*`, everything below it. An exact path wins over a pattern,
    /// and a longer pattern over a shorter one.
    #[schemars(regex(pattern = r"^(/[^*]*(/\*)?|/\*)$"))]
    path: String,

    /// Serves the Durable Streams protocol from this server's own log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Streams")]
    streams: Option<Streams>,

    /// Passes requests on to upstreams, and records answers that stream, so that their readers can
    /// resume them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Record")]
    record: Option<Box<Record>>,

    /// Serves the Durable Streams proxy protocol: clients name the upstream, from a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Proxy")]
    proxy: Option<Box<Proxy>>,

    /// Passes requests on to upstreams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ReverseProxy")]
    reverse_proxy: Option<Box<ReverseProxy>>,
}

impl TryFrom<RouteForm> for Route {
    type Error = String;

    fn try_from(form: RouteForm) -> Result<Self, String> {
        let path = form.path;
        let kinds = [
            form.streams.map(RouteKind::Streams),
            form.record.map(RouteKind::Record),
            form.proxy.map(RouteKind::Proxy),
            form.reverse_proxy.map(RouteKind::ReverseProxy),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Ok(Self { path, kind }),
            (None, _) => Err(format!(
                "the route `{path}` does not say what it serves; add `streams = {{}}`, or `record`, `proxy` or `reverse_proxy`"
            )),
            (Some(_), Some(_)) => Err(format!(
                "the route `{path}` says twice what it serves; keep one of `streams`, `record`, `proxy` and `reverse_proxy`"
            )),
        }
    }
}

impl From<Route> for RouteForm {
    fn from(route: Route) -> Self {
        let mut form = Self {
            path: route.path,
            streams: None,
            record: None,
            proxy: None,
            reverse_proxy: None,
        };
        match route.kind {
            RouteKind::Streams(streams) => form.streams = Some(streams),
            RouteKind::Record(record) => form.record = Some(record),
            RouteKind::Proxy(proxy) => form.proxy = Some(proxy),
            RouteKind::ReverseProxy(proxy) => form.reverse_proxy = Some(proxy),
        }
        form
    }
}

// By hand, because the form carries the keys and their descriptions.
impl JsonSchema for Route {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Route".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RouteForm::json_schema(generator)
    }
}
