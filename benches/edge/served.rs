//! A server as a process beside this one, with a directory of its own.

use crate::process::Usage;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server while it runs. It is ended when this is dropped, and its data removed.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

const START_MAX: Duration = Duration::from_mins(1);

impl Served {
    /// Headwater with a site of these routes.
    pub(crate) fn headwater(binary: &Path, scratch: &Path, routes: &str) -> io::Result<Self> {
        let dir = tempfile::tempdir_in(scratch)?;
        let address = free_address()?;
        let text = format!(
            r#"
            data_dir = "{dir}/data"
            [logging]
            level = "warn"
            access = false
            [[site]]
            listen = ["{address}"]
            {routes}
            "#,
            dir = dir.path().display(),
        );
        let config = dir.path().join("headwater.toml");
        fs::write(&config, text)?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(config);
        Self::start(command, address, dir)
    }

    /// nginx before an upstream, with so many workers, these settings of `http` and of the
    /// only location. Paths in them are below its directory, which its workers must reach: where
    /// root starts it, they stay root.
    pub(crate) fn nginx(
        scratch: &Path,
        upstream: SocketAddr,
        workers: &str,
        http: &str,
        location: &str,
    ) -> io::Result<Self> {
        let tempdir = tempfile::tempdir_in(scratch)?;
        let address = free_address()?;
        let dir = tempdir.path();
        let text = format!(
            "daemon off; user root; worker_processes {workers}; error_log stderr warn; pid pid;
            events {{ worker_connections 8192; }}
            http {{
                access_log off; keepalive_requests 1000000000;
                client_body_temp_path body; proxy_temp_path proxy;
                fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
                scgi_temp_path scgi;
                {http}
                upstream up {{ server {upstream}; keepalive 64; }}
                server {{
                    listen {address};
                    location / {{
                        {location}
                        proxy_pass http://up;
                        proxy_http_version 1.1;
                        proxy_set_header Connection \"\";
                    }}
                }}
            }}"
        );
        let config = dir.join("nginx.conf");
        fs::write(&config, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(config);
        Self::start(command, address, tempdir)
    }

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

    /// What the process and its children have used, and the memory of the largest of them.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let mut all = Usage::of(self.child.id())?;
        for child in children(self.child.id()).filter_map(|pid| Usage::of(pid).ok()) {
            all.cpu += child.cpu;
            all.written += child.written;
            all.resident = all.resident.max(child.resident);
        }
        Ok(all)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Not killed, so that nginx ends its workers too.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

fn children(pid: u32) -> impl Iterator<Item = u32> {
    let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let pids = pids.unwrap_or_default();
    let pids: Vec<u32> = pids
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    pids.into_iter()
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
