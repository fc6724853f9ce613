//! The processes: an origin, an edge before it, nginx before it.

use crate::process::Usage;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What is needed to start them.
pub(crate) struct World {
    pub(crate) headwater: PathBuf,
    pub(crate) scratch: PathBuf,
}

/// A server while it runs. It is ended when this is dropped, and its data removed.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

const START_MAX: Duration = Duration::from_mins(1);

impl World {
    /// A server with streams of its own.
    pub(crate) fn origin(&self) -> io::Result<Server> {
        self.server("")
    }

    /// An edge before an origin.
    pub(crate) fn edge(&self, origin: &Server) -> io::Result<Server> {
        let origin = origin.address;
        self.server(&format!(
            r#", origin = {{ upstreams = ["http://{origin}"] }}"#
        ))
    }

    fn server(&self, more: &str) -> io::Result<Server> {
        let dir = tempfile::tempdir_in(&self.scratch)?;
        let address = free_address()?;
        let text = format!(
            r#"
            data_dir = "{dir}/data"
            [logging]
            level = "warn"
            access = false
            [[site]]
            listen = ["{address}"]
            [[site.route]]
            path = "{prefix}*"
            # Readers stay for as long as they are measured.
            streams = {{ sse_recycle = "1h"{more} }}
            "#,
            dir = dir.path().display(),
            prefix = crate::http::PREFIX,
        );
        let config = dir.path().join("headwater.toml");
        fs::write(&config, text)?;
        let mut command = Command::new(&self.headwater);
        command.arg("run").arg("--config").arg(config);
        Server::start(command, address, dir)
    }

    /// nginx with a cache before an origin, as in conf/examples/nginx.conf.
    pub(crate) fn nginx(&self, origin: &Server) -> io::Result<Server> {
        let tempdir = tempfile::tempdir_in(&self.scratch)?;
        let address = free_address()?;
        let dir = tempdir.path();
        let text = format!(
            "daemon off; worker_processes auto; error_log stderr warn; pid {dir}/pid;
            events {{ worker_connections 8192; }}
            http {{
                access_log off; sendfile on; keepalive_requests 1000000000;
                client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
                fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;
                scgi_temp_path {dir}/scgi;
                proxy_cache_path {dir}/cache levels=1:2 keys_zone=cache:16m use_temp_path=off;
                upstream up {{ server {origin}; keepalive 64; }}
                server {{
                    listen {address};
                    location / {{
                        proxy_cache cache;
                        proxy_cache_key $host$request_uri;
                        proxy_cache_lock on;
                        proxy_pass http://up;
                        proxy_http_version 1.1;
                        proxy_set_header Connection \"\";
                    }}
                }}
            }}",
            dir = dir.display(),
            origin = origin.address,
        );
        // Its workers may be another user.
        open_to_all(dir)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(config);
        Server::start(command, address, tempdir)
    }
}

fn open_to_all(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

impl Server {
    fn start(mut command: Command, address: SocketAddr, dir: TempDir) -> io::Result<Self> {
        let log = fs::File::create(dir.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let server = Self {
            address,
            child,
            _dir: dir,
        };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > START_MAX {
                return Err(io::Error::other("a server does not listen"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Processor time of the process and its children, in seconds.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        let own = Usage::of(self.child.id())?.cpu.as_secs_f64();
        let children = children(self.child.id());
        let theirs = children.filter_map(|pid| Usage::of(pid).ok());
        Ok(own + theirs.map(|usage| usage.cpu.as_secs_f64()).sum::<f64>())
    }

    pub(crate) fn resident_mib(&self) -> io::Result<f64> {
        Ok(Usage::of(self.child.id())?.resident_mib())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // So that nginx ends its workers too.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

fn children(pid: u32) -> impl Iterator<Item = u32> {
    let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let pids: Vec<u32> = pids
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    pids.into_iter()
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
