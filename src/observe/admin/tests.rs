use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;
use pingora::server::Fds;
use pingora::services::Service as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A running admin listener.
struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

fn parts() -> Parts {
    Parts {
        metrics: Arc::new(Metrics::new()),
        readiness: Arc::new(|| Readiness::Ready),
        checkpoint: Arc::new(|name| Ok(PathBuf::from("/data/checkpoints").join(name))),
        purge: Arc::new(|_| None),
    }
}

/// Starts the service as the server does, on a socket that was bound before, so that no other
/// program can take the port between.
fn start(parts: Parts) -> Running {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let mut sockets = Fds::new();
    sockets.add(address.to_string(), socket.into_raw_fd());
    let mut service = service(parts, &Listen::Tcp(address)).unwrap();
    let (stop, stopped) = watch::channel(false);
    let ended = tokio::spawn(async move {
        let sockets = Arc::new(Mutex::new(sockets));
        service.start_service(Some(sockets), stopped, 1).await;
    });
    Running {
        address,
        stop,
        ended,
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    #[track_caller]
    fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["code"], code);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
}

/// Sends a request and reads its answer by its length, so that the connection can be used again.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        let read = timeout(SOON, stream.read_buf(&mut bytes)).await.unwrap();
        assert!(read.unwrap() > 0, "closed after {bytes:?}");
    };
    let mut reply = Reply {
        status: 0,
        head: String::from_utf8(bytes[..head_end].to_vec()).unwrap(),
        body: String::new(),
    };
    reply.status = reply.head[9..12].parse().unwrap();
    let mut body = bytes.split_off(head_end);
    if !request.starts_with("HEAD") {
        let length: usize = reply.header("content-length").unwrap().parse().unwrap();
        while body.len() < length {
            let read = timeout(SOON, stream.read_buf(&mut body)).await.unwrap();
            assert!(read.unwrap() > 0, "closed within the body of {reply:?}");
        }
        assert_eq!(body.len(), length, "more than the body of {reply:?}");
    }
    reply.body = String::from_utf8(body).unwrap();
    reply
}

async fn once(running: &Running, method: &str, target: &str) -> Reply {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    ask(&mut stream, &request(method, target)).await
}

fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[tokio::test]
async fn health_is_answered_on_one_connection_again_and_again() {
    let running = start(parts());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for _ in 0..2 {
        let get = ask(&mut stream, &request("GET", "/healthz?verbose=1")).await;
        assert_eq!((get.status, get.body.as_str()), (200, "alive\n"));
        assert_eq!(get.header("cache-control"), Some("no-store"));
        let head = ask(&mut stream, &request("HEAD", "/healthz")).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(head.header("content-length"), Some("6"));
        assert_eq!(head.header("content-type"), get.header("content-type"));
        ask(&mut stream, &request("GET", "/nothing"))
            .await
            .assert_problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let running = start(parts());
    for target in ["/", "/metrics/", "/healthz/x", "//healthz", "/checkpoints"] {
        once(&running, "GET", target)
            .await
            .assert_problem(404, "NOT_FOUND");
    }
    for (method, target, allowed) in [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
        ("BREW", "/metrics", "GET, HEAD"),
        ("GET", "/checkpoint?name=a", "POST"),
    ] {
        let reply = once(&running, method, target).await;
        reply.assert_problem(405, "METHOD_NOT_ALLOWED");
        assert_eq!(reply.header("allow"), Some(allowed));
    }
}

#[tokio::test]
async fn readiness_is_what_the_server_says() {
    let now = Arc::new(Mutex::new(Readiness::Starting));
    let said = Arc::clone(&now);
    let running = start(Parts {
        readiness: Arc::new(move || said.lock().clone()),
        ..parts()
    });
    once(&running, "GET", "/readyz")
        .await
        .assert_problem(503, "STARTING");
    *now.lock() = Readiness::Ready;
    let ready = once(&running, "GET", "/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    *now.lock() = Readiness::StorageFailed("fsync: \"EIO\"".to_owned());
    let failed = once(&running, "GET", "/readyz").await;
    failed.assert_problem(503, "STORAGE_FAILED");
    assert_eq!(failed.json()["detail"], "fsync: \"EIO\"");
    *now.lock() = Readiness::Stopping;
    once(&running, "GET", "/readyz")
        .await
        .assert_problem(503, "STOPPING");
    let head = once(&running, "HEAD", "/readyz").await;
    assert_eq!((head.status, head.body.as_str()), (503, ""));
    assert_eq!(once(&running, "GET", "/healthz").await.status, 200);
}

#[tokio::test]
async fn a_database_that_hangs_costs_readiness_and_one_thread() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let running = start(Parts {
        readiness: Arc::new(move || {
            called.fetch_add(1, Ordering::Relaxed);
            let _ = held.lock().recv();
            Readiness::Ready
        }),
        ..parts()
    });
    let (one, other) = tokio::join!(
        once(&running, "GET", "/readyz"),
        once(&running, "GET", "/readyz")
    );
    one.assert_problem(503, "STORAGE_SILENT");
    other.assert_problem(503, "STORAGE_SILENT");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(once(&running, "GET", "/healthz").await.status, 200);
    assert_eq!(once(&running, "GET", "/metrics").await.status, 200);
    drop(release);
    assert_eq!(once(&running, "GET", "/readyz").await.status, 200);
}

#[tokio::test]
async fn a_check_that_panics_is_not_ready() {
    let running = start(Parts {
        readiness: Arc::new(|| panic!("on purpose")),
        ..parts()
    });
    for _ in 0..2 {
        once(&running, "GET", "/readyz")
            .await
            .assert_problem(503, "STORAGE_FAILED");
    }
}

#[tokio::test]
async fn metrics_are_rendered_off_the_async_workers() {
    let parts = parts();
    parts.metrics.on_scrape(Box::new(|metrics| {
        // Panics on an async worker, as a read of RocksDB would block it.
        tokio::runtime::Handle::current().block_on(async {});
        metrics.open_streams.set(42);
    }));
    let running = start(parts);
    let reply = once(&running, "GET", "/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some(CONTENT_TYPE));
    assert!(
        reply.body.contains("\nheadwater_open_streams 42\n"),
        "{}",
        reply.body
    );
    let head = once(&running, "HEAD", "/metrics").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn metrics_that_fail_say_so() {
    let parts = parts();
    parts.metrics.on_scrape(Box::new(|_| panic!("on purpose")));
    let running = start(parts);
    once(&running, "GET", "/metrics")
        .await
        .assert_problem(503, "METRICS_FAILED");
}

#[tokio::test]
async fn a_checkpoint_is_written_under_its_name() {
    let running = start(parts());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for target in [
        "/checkpoint?name=2026-01-02",
        "/checkpoint?a=b&name=2026%2D01-02",
    ] {
        let reply = ask(&mut stream, &request("POST", target)).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let written = reply.json();
        assert_eq!(written["name"], "2026-01-02");
        assert_eq!(written["path"], "/data/checkpoints/2026-01-02");
        assert!(written["duration_ms"].is_u64());
    }
    // A body is not wanted, but does not cost the connection.
    let with_body = "POST /checkpoint?name=b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(&mut stream, with_body).await.status, 201);
    assert_eq!(
        ask(&mut stream, &request("GET", "/healthz")).await.status,
        200
    );
}

#[tokio::test]
async fn a_checkpoint_that_is_not_written_says_why() {
    let running = start(Parts {
        checkpoint: Arc::new(|name| match name {
            "there" => Err(CheckpointError::Exists),
            "panic" => panic!("on purpose"),
            _ => Err(CheckpointError::Failed("No space left".to_owned())),
        }),
        ..parts()
    });
    let there = once(&running, "POST", "/checkpoint?name=there").await;
    there.assert_problem(409, "CHECKPOINT_EXISTS");
    let full = once(&running, "POST", "/checkpoint?name=full").await;
    full.assert_problem(500, "CHECKPOINT_FAILED");
    assert_eq!(full.json()["detail"], "No space left");
    for _ in 0..2 {
        let panicked = once(&running, "POST", "/checkpoint?name=panic").await;
        panicked.assert_problem(500, "CHECKPOINT_FAILED");
    }
    for query in [
        "",
        "?",
        "?name=",
        "?name=a&name=b",
        "?name=..",
        "?name=%2e%2e",
        "?name=a%00",
    ] {
        let reply = once(&running, "POST", &format!("/checkpoint{query}")).await;
        reply.assert_problem(400, "CHECKPOINT_NAME");
    }
}

#[tokio::test]
async fn one_checkpoint_is_written_at_a_time() {
    let (begun, on_begun) = tokio::sync::oneshot::channel();
    let begun = Mutex::new(Some(begun));
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let running = start(Parts {
        checkpoint: Arc::new(move |name| {
            if let Some(begun) = begun.lock().take() {
                begun.send(()).unwrap();
            }
            let _ = held.lock().recv();
            Ok(PathBuf::from(name))
        }),
        ..parts()
    });
    let mut first = TcpStream::connect(running.address).await.unwrap();
    let asked = request("POST", "/checkpoint?name=one");
    let first = tokio::spawn(async move { ask(&mut first, &asked).await });
    timeout(SOON, on_begun).await.unwrap().unwrap();
    let second = once(&running, "POST", "/checkpoint?name=two").await;
    second.assert_problem(409, "CHECKPOINT_RUNNING");
    drop(release);
    assert_eq!(first.await.unwrap().status, 201);
    let third = once(&running, "POST", "/checkpoint?name=two").await;
    assert_eq!(third.status, 201);
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_write_checkpoints() {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let running = start(Parts {
        checkpoint: Arc::new(move |name| {
            called.fetch_add(1, Ordering::Relaxed);
            Ok(PathBuf::from(name))
        }),
        ..parts()
    });
    for origin in ["https://example.com", "null"] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let posted = format!(
            "POST /checkpoint?name=a HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        ask(&mut stream, &posted)
            .await
            .assert_problem(403, "CROSS_ORIGIN");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_purge_is_of_what_the_query_names() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let running = start(Parts {
        purge: Arc::new(move |target| {
            let fails = target == PurgeTarget::Tag("bad".to_owned());
            seen.lock().push(target);
            let failure = || Err(std::io::Error::other("the disk is gone"));
            Some(if fails { failure() } else { Ok(7) })
        }),
        ..parts()
    });
    for query in [
        "path=/v1/stream/a%20b",
        "path=a&origin=one",
        "tag=stream:x/y",
    ] {
        let purged = once(&running, "POST", &format!("/purge?{query}")).await;
        assert_eq!((purged.status, &purged.json()["answers"]), (200, &7.into()));
    }
    let path = |origin: Option<&str>, path: &str| PurgeTarget::Path {
        origin: origin.map(str::to_owned),
        path: path.to_owned(),
    };
    let tag = PurgeTarget::Tag("stream:x/y".to_owned());
    let expected = [path(None, "/v1/stream/a b"), path(Some("one"), "a"), tag];
    assert_eq!(*asked.lock(), expected);
    for query in ["", "path=a&path=b", "path=a&tag=b", "origin=a", "tag=%ff"] {
        let refused = once(&running, "POST", &format!("/purge?{query}")).await;
        refused.assert_problem(400, "PURGE_TARGET");
    }
    let failed = once(&running, "POST", "/purge?tag=bad").await;
    failed.assert_problem(500, "PURGE_FAILED");
    assert_eq!(failed.json()["detail"], "the disk is gone");
    let without = start(parts());
    let nothing = once(&without, "POST", "/purge?path=a").await;
    nothing.assert_problem(404, "NO_CACHE");
}

#[test]
fn names_of_checkpoints_are_one_visible_directory() {
    let longest = "a".repeat(CHECKPOINT_NAME_BYTES_MAX);
    for valid in [
        "a",
        "9",
        "2026-01-02T03.04.05Z",
        "nightly_1",
        "a..b",
        &longest,
    ] {
        assert!(is_checkpoint_name(valid), "{valid}");
    }
    let too_long = "a".repeat(CHECKPOINT_NAME_BYTES_MAX + 1);
    for invalid in [
        "", ".", "..", ".a", "-a", "_a", "a/b", "a\\b", "a b", "a\n", "a\0", "ä", "a%2fb", "~a",
        &too_long,
    ] {
        assert!(!is_checkpoint_name(invalid), "{invalid}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner_and_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    // One that a dead process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut service = service(parts(), &Listen::Unix(path.clone())).unwrap();
    let (stop, stopped) = watch::channel(false);
    let ended = tokio::spawn(async move { service.start_service(None, stopped, 1).await });
    let mut stream = loop {
        if let Ok(stream) = UnixStream::connect(&path).await {
            break stream;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(
        ask(&mut stream, &request("GET", "/healthz")).await.status,
        200
    );
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    stop.send(true).unwrap();
    timeout(SOON, ended).await.unwrap().unwrap();
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let refused = service(parts(), &Listen::Unix(path.clone())).err().unwrap();
    assert!(matches!(refused, AddressError::NotASocket(at) if at == path));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn it_ends_when_told() {
    let running = start(parts());
    assert_eq!(once(&running, "GET", "/healthz").await.status, 200);
    running.stop.send(true).unwrap();
    timeout(SOON, running.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
