//! The Durable Streams proxy protocol.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Serves the Durable Streams proxy protocol: clients name the upstream, from a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The secret by which a service proves that it may create, look at and delete recordings.
    pub secret: String,

    /// The upstream URLs that may be asked for.
    pub allow: Vec<String>,
}
