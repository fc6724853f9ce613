//! The listeners of a server, on the thread of those who ask it.

use super::World;
use headwater::config::Config;
use headwater::gateway::{self, Sockets};
use headwater::recorder::Recorder;
use pingora::services::Service as _;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Listeners end with it.
pub(super) struct Listening {
    pub(super) address: String,
    _stop: watch::Sender<bool>,
}

impl Listening {
    /// Listens at a free port, with further settings of the site.
    pub(super) fn start(world: &World, settings: &str) -> Self {
        let config = format!(
            r#"
            data_dir = "."
            [logging]
            access = false
            [[site]]
            listen = ["127.0.0.1:0"]
            {settings}
            [[site.route]]
            path = "/*"
            streams = {{}}
            "#
        );
        let config: Config = toml::from_str(&config).expect("a configuration");
        let server = &world.server;
        let recorder = Recorder::new(server, 1);
        let (stop, stopped) = watch::channel(false);
        let _on = world.runtime.enter();
        let sockets = Sockets::bind(&[&config.site[0].listen[0]], 128 << 10).expect("a socket");
        let address = sockets.bound[0].1.to_string();
        let fds = sockets.into_fds();
        let work = CancellationToken::new();
        let listeners = gateway::listeners(&config, server, &Arc::new(recorder), None, &work);
        for mut service in listeners.expect("a listener").services {
            let (fds, stopped) = (fds.clone(), stopped.clone());
            tokio::spawn(async move { service.start_service(Some(fds), stopped, 1).await });
        }
        Self {
            address,
            _stop: stop,
        }
    }
}
