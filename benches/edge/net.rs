//! The servers: an origin, an edge before it, nginx before it.

use crate::served::Served;
use std::io;
use std::path::PathBuf;

/// What is needed to start them.
pub(crate) struct World {
    pub(crate) headwater: PathBuf,
    pub(crate) scratch: PathBuf,
}

impl World {
    /// A server with streams of its own.
    pub(crate) fn origin(&self) -> io::Result<Served> {
        self.server("")
    }

    /// An edge before an origin.
    pub(crate) fn edge(&self, origin: &Served) -> io::Result<Served> {
        let origin = origin.address;
        self.server(&format!(
            r#", origin = {{ upstreams = ["http://{origin}"] }}"#
        ))
    }

    fn server(&self, more: &str) -> io::Result<Served> {
        let routes = format!(
            r#"
            [[site.route]]
            path = "{prefix}*"
            # Readers stay for as long as they are measured.
            streams = {{ sse_recycle = "1h"{more} }}
            "#,
            prefix = crate::http::PREFIX,
        );
        Served::headwater(&self.headwater, &self.scratch, &routes)
    }

    /// nginx with a cache before an origin, as in conf/examples/nginx.conf.
    pub(crate) fn nginx(&self, origin: &Served) -> io::Result<Served> {
        let http = "sendfile on;
            proxy_cache_path cache levels=1:2 keys_zone=cache:16m use_temp_path=off;";
        let location = "proxy_cache cache;
            proxy_cache_key $host$request_uri;
            proxy_cache_lock on;";
        Served::nginx(&self.scratch, origin.address, "auto", http, location)
    }
}
