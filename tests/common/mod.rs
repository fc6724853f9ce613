//! What the integration tests share: a server to start, kill and start again,
//! and a client that sends exactly the bytes it is told to.
//!
//! Nothing here measures time. A wait ends when its condition holds; the caps
//! only turn a hang into a failure, so that a slow machine fails no test.

pub(crate) mod http;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::{Connection, Response};
use rand::Rng;
use tempfile::TempDir;

/// How long anything may take before it counts as a hang.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

const START_ATTEMPTS: u32 = 5;

/// How a server is started. Each text is put into its table of the
/// configuration as it is.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) durability: &'static str,
    pub(crate) top: String,
    pub(crate) log: String,
    pub(crate) limits: String,
    /// Further addresses of the site, beside a free port of 127.0.0.1.
    pub(crate) listen: Vec<String>,
    pub(crate) site: String,
    /// Settings of the streams route, such as `sse_recycle = "2s"`.
    pub(crate) streams: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// The limit of open files, soft and hard.
    pub(crate) open_files: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            durability: "sync",
            top: String::new(),
            log: String::new(),
            limits: String::new(),
            listen: Vec::new(),
            site: String::new(),
            streams: vec![r#"long_poll_timeout = "500ms""#.to_owned()],
            env: Vec::new(),
            open_files: None,
        }
    }
}

impl Setup {
    /// For tests of other things than durability: what is written survives the
    /// end of the process, and nothing waits for the disk.
    pub(crate) fn quick() -> Self {
        Self {
            durability: "os",
            ..Self::default()
        }
    }

    fn config(&self, data: &Path, port: u16, admin: u16) -> String {
        let mut listen = format!(r#""127.0.0.1:{port}""#);
        for address in &self.listen {
            let _ = write!(listen, r#", "{address}""#);
        }
        format!(
            r#"data_dir = "{data}"
admin = "127.0.0.1:{admin}"
{top}

[log]
durability = "{durability}"
{log}

[limits]
{limits}

[logging]
access = false

[[site]]
listen = [{listen}]
{site}

[[site.route]]
path = "/v1/stream/*"
streams = {{ {streams} }}
"#,
            data = data.display(),
            top = self.top,
            durability = self.durability,
            log = self.log,
            limits = self.limits,
            site = self.site,
            streams = self.streams.join(", "),
        )
    }

    pub(crate) fn start(self) -> Server {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut server = Server {
            setup: self,
            dir,
            port: 0,
            admin_port: 0,
            process: None,
        };
        for attempt in 1.. {
            server.port = free_port();
            server.admin_port = free_port();
            server.spawn();
            match server.wait_until_ready() {
                Ok(()) => break,
                // Another process may have taken the port in between.
                Err(why) if attempt == START_ATTEMPTS => panic!("{why}"),
                Err(_) => {}
            }
        }
        server
    }
}

/// The program, with a limit of open files. A shell sets it before it becomes the program.
pub(crate) fn headwater(open_files: Option<u32>) -> Command {
    let program = env!("CARGO_BIN_EXE_headwater");
    let Some(open_files) = open_files else {
        return Command::new(program);
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .args([&open_files.to_string(), program]);
    command
}

/// A running server, killed when it is dropped.
pub(crate) struct Server {
    setup: Setup,
    dir: TempDir,
    port: u16,
    admin_port: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.admin_port))
    }

    /// A directory that lives as long as the server, for what a test writes.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running server").id()
    }

    /// Whether the process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| process.try_wait().expect("wait").is_none())
    }

    /// Starts the process and does not wait for it to be ready.
    pub(crate) fn spawn(&mut self) {
        assert!(self.process.is_none(), "the server is running");
        let config = self.dir.path().join("headwater.toml");
        let text = self
            .setup
            .config(&self.data_dir(), self.port, self.admin_port);
        fs::write(&config, text).expect("write the configuration");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("open the log");
        let process = headwater(self.setup.open_files)
            .args(["run", "--config"])
            .arg(&config)
            .current_dir(self.dir.path())
            .envs(self.setup.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("start headwater");
        self.process = Some(process);
    }

    /// Waits for readiness; says why when the process ends instead.
    pub(crate) fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let process = self.process.as_mut().expect("a running server");
            if let Some(status) = process.try_wait().expect("wait") {
                self.process = None;
                return Err(format!("the server ended: {status}\n{}", self.said()));
            }
            if self.is_ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said = self.said();
                self.kill9();
                return Err(format!("the server did not become ready\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        Connection::open(self.admin_address())
            .and_then(|mut admin| admin.call("GET", "/readyz", &[], b""))
            .is_ok_and(|response| response.status == 200)
    }

    /// Starts the server again on the same data and the same ports.
    pub(crate) fn restart(&mut self) {
        for attempt in 1.. {
            self.spawn();
            match self.wait_until_ready() {
                Ok(()) => break,
                Err(why) if attempt == START_ATTEMPTS => panic!("{why}"),
                Err(_) => std::thread::sleep(Duration::from_secs(1)),
            }
        }
    }

    /// Ends the process without a word, as a crash does.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks the process to stop, and does not wait for it.
    pub(crate) fn send_sigterm(&self) {
        // The shell's own kill: not every machine has another.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -TERM {}", self.pid())])
            .status();
        assert!(sent.expect("sh").success());
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running server");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() > deadline {
                self.process = Some(process);
                panic!("the server did not stop");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server as an operator does.
    pub(crate) fn terminate(&mut self) {
        self.send_sigterm();
        let status = self.wait_for_exit();
        assert!(status.success(), "{status}\n{}", self.said());
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// The end of what the server has written about itself.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let from = text.len().saturating_sub(8_000);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }

    /// A number of kilobytes from the process' status, such as `VmHWM`.
    pub(crate) fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().split(' ').next());
        number.expect(field).parse().expect(field)
    }

    // --- Requests, each on a connection of its own. They panic when the
    // connection fails: the server is supposed to answer.

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address()).expect("connect")
    }

    pub(crate) fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let answer = self.connect().call(method, target, headers, body);
        answer.unwrap_or_else(|error| panic!("{method} {target}: {error}\n{}", self.said()))
    }

    pub(crate) fn admin(&self, target: &str) -> Response {
        let mut admin = Connection::open(self.admin_address()).expect("connect");
        admin.call("GET", target, &[], b"").expect("an answer")
    }

    pub(crate) fn create(&self, target: &str, content_type: &str, body: &[u8]) -> Response {
        let response = self.call("PUT", target, &[("content-type", content_type)], body);
        assert_eq!(response.status, 201, "{response:?}");
        response
    }

    pub(crate) fn append(&self, target: &str, content_type: &str, body: &[u8]) -> Response {
        let response = self.call("POST", target, &[("content-type", content_type)], body);
        assert_eq!(response.status, 204, "{response:?}");
        response
    }

    pub(crate) fn close(&self, target: &str) {
        let response = self.call("POST", target, &[("stream-closed", "true")], b"");
        assert_eq!(response.status, 204, "{response:?}");
    }

    /// Everything the stream holds, through as many answers as it takes.
    pub(crate) fn read_all(&self, target: &str) -> Vec<u8> {
        let mut content = Vec::new();
        self.read_each(target, |part| content.extend_from_slice(part));
        content
    }

    /// The messages of a JSON stream.
    pub(crate) fn read_json(&self, target: &str) -> Vec<serde_json::Value> {
        let mut messages = Vec::new();
        let mut connection = self.connect();
        let mut offset = "-1".to_owned();
        loop {
            let response = connection
                .call("GET", &format!("{target}?offset={offset}"), &[], b"")
                .expect("an answer");
            assert_eq!(response.status, 200, "{response:?}");
            let part: Vec<_> = serde_json::from_slice(&response.body).expect("a JSON array");
            messages.extend(part);
            response
                .expect("stream-next-offset")
                .clone_into(&mut offset);
            if response.header("stream-up-to-date").is_some() {
                return messages;
            }
        }
    }

    /// As `read_all`, for streams larger than what a test should hold.
    pub(crate) fn read_each(&self, target: &str, mut part: impl FnMut(&[u8])) {
        let mut connection = self.connect();
        let mut offset = "-1".to_owned();
        loop {
            connection
                .send_request("GET", &format!("{target}?offset={offset}"), &[], b"")
                .expect("send");
            let head = connection.read_head().expect("an answer");
            assert_eq!(head.status, 200, "{head:?}");
            connection
                .read_body("GET", &head, &mut part)
                .expect("a whole body");
            let next = head.expect("stream-next-offset");
            let done = head.header("stream-up-to-date").is_some();
            assert!(done || next > offset.as_str(), "{offset} led to {next}");
            next.clone_into(&mut offset);
            if done {
                return;
            }
        }
    }

    /// Shows that the server does its work: whatever a test did to it before.
    pub(crate) fn assert_healthy(&mut self) {
        assert!(self.is_alive(), "the server ended\n{}", self.said());
        assert!(self.is_ready(), "the server is not ready\n{}", self.said());
        let target = unique("health");
        self.create(&target, "text/plain", b"one ");
        self.append(&target, "text/plain", b"two");
        assert_eq!(self.read_all(&target), b"one two");
        let deleted = self.call("DELETE", &target, &[], b"");
        assert_eq!(deleted.status, 204, "{deleted:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- the end of what the server said ---\n{}", self.said());
        }
    }
}

/// The path of a stream that no other test uses.
pub(crate) fn unique(name: &str) -> String {
    format!("/v1/stream/{name}-{:016x}", rand::rng().random::<u64>())
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The seed of a test's random choices: from the environment to repeat a run,
/// else new; printed, so that a failing run can be repeated.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("HEADWATER_SEED").map_or_else(
        |_| rand::rng().random(),
        |text| text.parse().expect("HEADWATER_SEED is a number"),
    );
    println!("HEADWATER_SEED={seed}");
    seed
}

/// Bytes that look random, so that no compression shrinks them, and that can be
/// made again: xorshift64, eight at a time.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes()[..eight.len()]);
        }
    }

    pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

/// A port that nobody listens on, and that is given out once. It is below the
/// kernel's ephemeral range, so that no outgoing connection of another test
/// can take it while the server is down.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("no panic while it is held");
    loop {
        let port = rand::rng().random_range(10_000..32_000);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.push(port);
            return port;
        }
    }
}

/// Checks that an answer is an error as Headwater words it, and returns its code.
pub(crate) fn assert_problem(response: &Response, status: u16) -> String {
    assert_eq!(response.status, status, "{response:?}");
    assert_error_headers(response);
    assert_eq!(response.expect("content-type"), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(problem["status"], status, "{response:?}");
    assert!(problem["detail"].is_string(), "{response:?}");
    let code = problem["code"].as_str().expect("a code");
    let stable = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    assert!(!code.is_empty() && code.bytes().all(stable), "{code}");
    code.to_owned()
}

/// What the headers of every error say, also of one without a body.
pub(crate) fn assert_error_headers(response: &Response) {
    assert_eq!(response.expect("cache-control"), "no-store");
    assert_eq!(response.expect("x-content-type-options"), "nosniff");
    assert!(response.header("etag").is_none(), "{response:?}");
}
