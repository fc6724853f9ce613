//! The server behind a socket, and one client of it on the same thread.

use super::World;
use headwater::config::Config;
use headwater::gateway::{self, Sockets};
use headwater::recorder::Recorder;
use pingora::services::Service as _;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CONFIG: &str = r#"
    data_dir = "."
    [logging]
    access = false
    [[site]]
    listen = ["127.0.0.1:0"]
    [[site.route]]
    path = "/*"
    streams = {}
"#;

/// A connection to a server.
pub(crate) struct Connection {
    client: TcpStream,
    world: World,
    /// The listeners end with it.
    _stop: watch::Sender<bool>,
}

impl Connection {
    pub(crate) fn to(world: World) -> Self {
        let config: Config = toml::from_str(CONFIG).expect("a configuration");
        let server = &world.server;
        let recorder = Recorder::new(
            server.log.clone(),
            server.clock.clone(),
            server.metrics.clone(),
            1,
        );
        let (stop, stopped) = watch::channel(false);
        let client = world.runtime.block_on(async {
            let addresses = config.site.iter().flat_map(|site| &site.listen);
            let sockets = Sockets::bind(addresses, 128 << 10).expect("a socket");
            let address = sockets.bound[0].1.to_string();
            let fds = sockets.into_fds();
            let work = CancellationToken::new();
            let services = gateway::services(&config, server, &Arc::new(recorder), None, &work);
            for mut service in services.expect("a service") {
                let (fds, stopped) = (fds.clone(), stopped.clone());
                tokio::spawn(async move { service.start_service(Some(fds), stopped, 1).await });
            }
            TcpStream::connect(address).await.expect("a connection")
        });
        Self {
            client,
            world,
            _stop: stop,
        }
    }

    /// Sends a request so many times, each when the one before is answered, and tells how many bytes
    /// the last answer had.
    pub(crate) fn call(&mut self, request: &[u8], times: usize) -> usize {
        let client = &mut self.client;
        self.world.runtime.block_on(async {
            let mut answer = [0; 4096];
            let mut bytes = 0;
            for _ in 0..times {
                client.write_all(request).await.expect("a server");
                // Small answers come whole.
                bytes = client.read(&mut answer).await.expect("an answer");
                assert!(answer.starts_with(b"HTTP/1.1 20"));
            }
            bytes
        })
    }
}
