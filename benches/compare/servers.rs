//! The servers: how each is started, and what the operating system says of it.

use crate::http::Client;
use crate::process::Usage;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Headwater,
    DurableStreams,
}

/// The competitor's crate, its version and its binary.
const CRATE: &str = "durable-streams";
const VERSION: &str = "0.1.5";
const BINARY: &str = "durable-streams-server";

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Headwater, Self::DurableStreams];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Headwater => "headwater",
            Self::DurableStreams => CRATE,
        }
    }
}

/// How to start servers.
pub(crate) struct Setup {
    pub(crate) headwater: PathBuf,
    pub(crate) competitor: PathBuf,
    /// Where their data lies for as long as they run: on a disk that syncs.
    pub(crate) scratch: PathBuf,
    /// Further lines for Headwater's table `[log]`.
    pub(crate) log_settings: String,
}

/// Installs the competitor unless it is there, and tells where its binary is.
pub(crate) fn install_competitor(cache: &Path) -> io::Result<PathBuf> {
    let root = cache.join("competitors");
    let binary = root.join("bin").join(BINARY);
    if !binary.exists() {
        eprintln!("installing {CRATE} {VERSION}");
        let status = Command::new("cargo")
            .args(["install", CRATE, "--version", VERSION, "--root"])
            .arg(&root)
            .env_remove("CARGO_TARGET_DIR")
            .status()?;
        if !status.success() {
            return Err(io::Error::other("the competitor could not be installed"));
        }
    }
    Ok(binary)
}

/// A server while it runs. It is killed when this is dropped, and its data removed.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    command: Vec<String>,
    files_max: u32,
    pub(crate) address: SocketAddr,
    dir: TempDir,
}

const START_MAX: Duration = Duration::from_mins(2);
const START_CHECK: Duration = Duration::from_millis(1);

impl Server {
    /// Starts a server without data, which may open so many files.
    pub(crate) fn start(setup: &Setup, kind: Kind, files_max: u32) -> io::Result<Self> {
        fs::create_dir_all(&setup.scratch)?;
        let dir = tempfile::Builder::new()
            .prefix(kind.name())
            .tempdir_in(&setup.scratch)?;
        let port = free_port()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let command = match kind {
            Kind::Headwater => headwater(setup, &dir, address)?,
            Kind::DurableStreams => competitor(setup, &dir, port),
        };
        let child = spawn(&command, files_max, dir.path())?;
        let server = Self {
            kind,
            child,
            command,
            files_max,
            address,
            dir,
        };
        server.wait(|client| client.request("GET", "none", "", b"").is_ok())?;
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

    fn wait(&self, answers: impl Fn(&mut Client) -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if Client::connect(self.address).is_ok_and(|mut client| answers(&mut client)) {
                return Ok(());
            }
            std::thread::sleep(START_CHECK);
        }
        let name = self.kind.name();
        let said = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        Err(io::Error::other(format!(
            "{name} does not answer; it said: {said}"
        )))
    }

    pub(crate) fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
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

fn headwater(setup: &Setup, dir: &TempDir, address: SocketAddr) -> io::Result<Vec<String>> {
    let data = dir.path().join("data");
    let text = format!(
        r#"
        data_dir = "{data}"
        [log]
        {log_settings}
        [logging]
        level = "warn"
        access = false
        [[site]]
        listen = ["{address}"]
        [[site.route]]
        path = "{prefix}*"
        # Readers stay for as long as they are measured.
        streams = {{ sse_recycle = "1h" }}
        "#,
        data = data.display(),
        log_settings = setup.log_settings,
        prefix = crate::http::PREFIX,
    );
    let config = dir.path().join("headwater.toml");
    fs::write(&config, text)?;
    Ok(vec![
        setup.headwater.display().to_string(),
        "run".to_owned(),
        "--config".to_owned(),
        config.display().to_string(),
    ])
}

/// Its defaults are durable.
fn competitor(setup: &Setup, dir: &TempDir, port: u16) -> Vec<String> {
    vec![
        setup.competitor.display().to_string(),
        "--port".to_owned(),
        port.to_string(),
        "--data-dir".to_owned(),
        dir.path().join("data").display().to_string(),
    ]
}
