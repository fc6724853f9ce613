//! Upstreams: where requests are passed on to, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Passes requests on to upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReverseProxy {
    /// The upstreams: `http://` or `https://`, a host, and a port if it is not the usual one.
    #[schemars(length(min = 1))]
    pub upstreams: Vec<String>,
}
