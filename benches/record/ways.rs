//! The ways from the upstream to its clients.

use crate::process::Usage;
use crate::served::Served;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// A way that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// No proxy.
    Direct,
    /// nginx, without buffering.
    Nginx,
    /// A `reverse_proxy` route.
    ReverseProxy,
    /// A `record` route.
    Record,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Nginx, Self::ReverseProxy, Self::Record];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::ReverseProxy => "reverse_proxy",
            Self::Record => "record",
        }
    }
}

/// A way while it is open.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    /// What stands between.
    server: Option<Served>,
}

impl Way {
    pub(crate) fn start(
        kind: Kind,
        headwater: &Path,
        scratch: &Path,
        upstream: SocketAddr,
    ) -> io::Result<Self> {
        let route = |settings: &str| {
            let name = kind.name();
            let route = format!(
                r#"
                [[site.route]]
                path = "/*"
                {name} = {{ upstreams = ["http://{upstream}"]{settings} }}
                "#
            );
            Served::headwater(headwater, scratch, &route)
        };
        let server = match kind {
            Kind::Direct => None,
            Kind::Nginx => Some(Served::nginx(
                scratch,
                upstream,
                "1",
                "",
                "proxy_buffering off;",
            )?),
            Kind::ReverseProxy => Some(route("")?),
            Kind::Record => Some(route(", recordings_per_caller_max = 100000")?),
        };
        Ok(Self {
            address: server.as_ref().map_or(upstream, |server| server.address),
            server,
        })
    }

    /// What it has used that stands between; `None` where there is nothing.
    pub(crate) fn usage(&self) -> io::Result<Option<Usage>> {
        self.server.as_ref().map(Served::usage).transpose()
    }
}
