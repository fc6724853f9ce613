//! The ways from the upstream to its clients.

use crate::process::Usage;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

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

/// A way while it is open. Its process is ended when this is dropped.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    /// The process that serves, which is a child of nginx's first.
    serving: Option<u32>,
    child: Option<Child>,
    _dir: TempDir,
}

const START_MAX: Duration = Duration::from_mins(1);

impl Way {
    pub(crate) fn start(
        kind: Kind,
        headwater: &Path,
        scratch: &Path,
        upstream: SocketAddr,
    ) -> io::Result<Self> {
        let dir = tempfile::tempdir_in(scratch)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = match kind {
            Kind::Direct => {
                return Ok(Self {
                    address: upstream,
                    serving: None,
                    child: None,
                    _dir: dir,
                });
            }
            Kind::Nginx => nginx(dir.path(), address, upstream)?,
            Kind::ReverseProxy | Kind::Record => {
                server(kind, headwater, dir.path(), address, upstream)?
            }
        };
        let log = fs::File::create(dir.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut way = Self {
            address,
            serving: Some(child.id()),
            child: Some(child),
            _dir: dir,
        };
        way.wait()?;
        if kind == Kind::Nginx {
            way.serving = way.serving.and_then(first_child);
        }
        Ok(way)
    }

    fn wait(&self) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("a server does not listen"))
    }

    /// What the serving process has used; `None` where there is none.
    pub(crate) fn usage(&self) -> io::Result<Option<Usage>> {
        self.serving.map(Usage::of).transpose()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // So that nginx ends its workers too.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn nginx(dir: &Path, address: SocketAddr, upstream: SocketAddr) -> io::Result<Command> {
    let text = format!(
        "daemon off; worker_processes 1; error_log stderr warn; pid {dir}/pid;
        events {{ worker_connections 8192; }}
        http {{
            access_log off;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            upstream up {{ server {upstream}; keepalive 64; }}
            server {{
                listen {address};
                location / {{
                    proxy_pass http://up;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_buffering off;
                }}
            }}
        }}",
        dir = dir.display(),
    );
    let config = dir.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(config);
    Ok(command)
}

fn server(
    kind: Kind,
    headwater: &Path,
    dir: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
) -> io::Result<Command> {
    let more = match kind {
        Kind::Record => ", recordings_per_caller_max = 100000",
        _ => "",
    };
    let text = format!(
        r#"
        data_dir = "{dir}/data"
        [logging]
        level = "warn"
        access = false
        [[site]]
        listen = ["{address}"]
        [[site.route]]
        path = "/*"
        {key} = {{ upstreams = ["http://{upstream}"]{more} }}
        "#,
        dir = dir.display(),
        key = kind.name(),
    );
    let config = dir.join("headwater.toml");
    fs::write(&config, text)?;
    let mut command = Command::new(headwater);
    command.arg("run").arg("--config").arg(config);
    Ok(command)
}
