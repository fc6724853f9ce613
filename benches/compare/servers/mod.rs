//! The servers: how each is started, and what the operating system says of it.

mod commands;
mod install;

use crate::http::Client;
use crate::meter::{Cost, family};
use crate::syscalls::SystemCalls;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub(crate) enum Kind {
    Headwater,
    /// The Rust server with storage of its own.
    DurableStreams,
    /// The Rust server on axum.
    Axum,
    /// The reference server on Node.js.
    Node,
    /// nginx, which ends TLS, in front of `durable-streams`.
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Headwater,
        Self::DurableStreams,
        Self::Axum,
        Self::Node,
        Self::Nginx,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Headwater => "headwater",
            Self::DurableStreams => "durable-streams",
            Self::Axum => "durable-streams-server",
            Self::Node => "@durable-streams/server",
            Self::Nginx => "nginx, durable-streams",
        }
    }

    /// The version that is measured, and how it is set up.
    pub(crate) fn description(self) -> String {
        match self {
            Self::Headwater => format!(
                "{}, durability `sync`, defaults, access log off",
                env!("CARGO_PKG_VERSION")
            ),
            Self::DurableStreams => {
                let version = commands::DURABLE_STREAMS.version;
                format!("{version} (a crate), defaults: durability `wal`")
            }
            Self::Axum => {
                let version = commands::AXUM.version;
                format!("{version} (a crate), storage `file-durable`, bounds raised to 16 GiB")
            }
            Self::Node => "0.3.7 (npm), data in files, compression off".to_owned(),
            Self::Nginx => {
                let said = Command::new("nginx").arg("-v").output();
                let said = said.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
                let said = said.unwrap_or_default();
                let version = said.rsplit('/').next().unwrap_or_default().trim();
                format!("nginx {version} with TLS and HTTP/2, in front of durable-streams")
            }
        }
    }
}

/// How to start servers.
pub(crate) struct Setup {
    pub(crate) headwater: PathBuf,
    /// Where the others are installed.
    pub(crate) competitors: PathBuf,
    /// Where their data lies for as long as they run: on a disk that syncs.
    pub(crate) scratch: PathBuf,
    /// Further lines for Headwater's table `[log]`.
    pub(crate) log_settings: String,
    /// Whether system calls are counted.
    pub(crate) syscalls: bool,
}

/// A server while it runs. It is killed when this is dropped, and its data removed.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    command: Vec<String>,
    /// What stands in front of it.
    front: Option<Child>,
    files_max: u32,
    syscalls: bool,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    dir: TempDir,
}

const START_MAX: Duration = Duration::from_mins(2);
const START_CHECK: Duration = Duration::from_millis(1);

impl Server {
    /// Starts a server without data, which may open so many files.
    pub(crate) fn start(setup: &Setup, kind: Kind, files_max: u32) -> io::Result<Self> {
        Self::start_as(setup, kind, files_max, None)
    }

    /// Starts a server without data that is also reached over TLS.
    pub(crate) fn start_tls(setup: &Setup, kind: Kind) -> io::Result<Self> {
        let tls = free_address()?;
        Self::start_as(setup, kind, crate::open_files_max()?, Some(tls))
    }

    fn start_as(
        setup: &Setup,
        kind: Kind,
        files_max: u32,
        tls: Option<SocketAddr>,
    ) -> io::Result<Self> {
        fs::create_dir_all(&setup.scratch)?;
        let dir = tempfile::Builder::new().tempdir_in(&setup.scratch)?;
        let address = free_address()?;
        let port = address.port();
        if tls.is_some() {
            commands::put_certificate(dir.path())?;
        }
        let command = match kind {
            Kind::Headwater => commands::headwater(setup, dir.path(), address, tls)?,
            Kind::DurableStreams | Kind::Nginx => {
                commands::durable_streams(setup, dir.path(), port)?
            }
            Kind::Axum => commands::axum(setup, dir.path(), address)?,
            Kind::Node => commands::node(dir.path(), port)?,
        };
        let mut server = Self {
            kind,
            child: spawn(&command, files_max, dir.path())?,
            command,
            front: None,
            files_max,
            syscalls: setup.syscalls,
            address,
            tls,
            dir,
        };
        server.wait(|client| client.request("GET", "none", "", b"").is_ok())?;
        if let (Kind::Nginx, Some(tls)) = (kind, tls) {
            let command = commands::nginx(server.dir.path(), tls, address)?;
            server.front = Some(spawn(&command, files_max, server.dir.path())?);
        }
        if let Some(tls) = tls {
            server.wait_until(|| std::net::TcpStream::connect(tls).is_ok())?;
        }
        Ok(server)
    }

    /// Kills the server as a crash would, starts it again, and tells how long it took from there to
    /// the first answer with these bytes.
    pub(crate) fn crash_and_restart(
        &mut self,
        stream: &str,
        expected: &[u8],
    ) -> io::Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let begun = Instant::now();
        self.child = spawn(&self.command, self.files_max, self.dir.path())?;
        self.wait(|client| {
            let answer = client.request("GET", stream, "", b"");
            answer.is_ok_and(|answer| answer.status == 200 && answer.body == expected)
        })?;
        Ok(begun.elapsed())
    }

    fn wait(&mut self, answers: impl Fn(&mut Client) -> bool) -> io::Result<()> {
        let address = self.address;
        self.wait_until(|| Client::connect(address).is_ok_and(|mut client| answers(&mut client)))
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if ready() {
                return Ok(());
            }
            let front = self.front.as_mut().map(Child::try_wait).transpose()?;
            if self.child.try_wait()?.or(front.flatten()).is_some() {
                break;
            }
            std::thread::sleep(START_CHECK);
        }
        let name = self.kind.name();
        let said = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        Err(io::Error::other(format!("{name} does not start: {said}")))
    }

    /// What it has used, and what stands in front of it.
    pub(crate) fn cost(&self) -> io::Result<Cost> {
        let cost = Cost::of_family(self.child.id())?;
        match &self.front {
            Some(front) => Ok(cost.and(Cost::of_family(front.id())?)),
            None => Ok(cost),
        }
    }

    /// Begins to count the system calls that it makes, if they are to be counted.
    pub(crate) fn count_system_calls(&self) -> io::Result<Option<SystemCalls>> {
        if !self.syscalls {
            return Ok(None);
        }
        let front = self.front.iter().map(Child::id);
        let pids: Vec<u32> = front.chain([self.child.id()]).flat_map(family).collect();
        SystemCalls::begin(&pids, self.dir()).map(Some)
    }

    /// How often RocksDB has compacted, where the server has one.
    pub(crate) fn compactions(&self) -> Option<usize> {
        let files = fs::read_dir(self.dir().join("data/streams")).ok()?;
        // A long log goes on in another file.
        let logs = files.flatten().filter(|file| {
            let name = file.file_name();
            name.to_str().is_some_and(|name| name.starts_with("LOG"))
        });
        let count = |log: fs::DirEntry| {
            let log = fs::read_to_string(log.path()).unwrap_or_default();
            log.matches("\"compaction_finished\"").count()
        };
        Some(logs.map(count).sum())
    }

    /// A directory for files of the measurement.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(front) = &mut self.front {
            // Not killed, so that it ends its workers too.
            let _ = Command::new("kill").arg(front.id().to_string()).status();
            let _ = front.wait();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A shell lowers the limit of open files before it becomes the server.
fn spawn(command: &[String], files_max: u32, dir: &Path) -> io::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))?;
    Command::new("sh")
        .args([
            "-c",
            "ulimit -n \"$0\" && exec \"$@\"",
            &files_max.to_string(),
        ])
        .args(command)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
