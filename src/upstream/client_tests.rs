//! Exchanges with an upstream that is a list of bytes.

use super::*;
use http::Method;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const PATIENCE: Duration = Duration::from_mins(1);

/// What an upstream does next on a connection.
#[derive(Clone, Copy)]
enum Step {
    /// Reads a request to the end of its head, and counts it.
    Read,
    Send(&'static str),
    /// Waits until the client has ended the connection.
    WaitForEnd,
    /// Closes the connection, whatever still comes.
    Close,
}

use Step::{Close, Read, Send, WaitForEnd};

struct Upstream {
    peer: HttpPeer,
    requests: Arc<AtomicUsize>,
    /// One for each connection that ended.
    ended: UnboundedReceiver<()>,
}

/// An upstream that takes these steps on its connections, one list for each.
async fn upstream(connections: &'static [&'static [Step]]) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
    let requests = Arc::<AtomicUsize>::default();
    let (end, ended) = unbounded_channel();
    let count = requests.clone();
    tokio::spawn(async move {
        for steps in connections {
            let stream = listener.accept().await.unwrap().0;
            tokio::spawn(take(stream, steps, count.clone(), end.clone()));
        }
    });
    Upstream {
        peer,
        requests,
        ended,
    }
}

async fn take(
    mut stream: TcpStream,
    steps: &[Step],
    requests: Arc<AtomicUsize>,
    end: UnboundedSender<()>,
) {
    for step in steps {
        match step {
            Read => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                requests.fetch_add(1, Ordering::Relaxed);
            }
            Send(bytes) => stream.write_all(bytes.as_bytes()).await.unwrap(),
            Close => break,
            WaitForEnd => while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {},
        }
    }
    drop(stream);
    let _ = end.send(());
}

fn request(method: Method) -> RequestHeader {
    let mut head = RequestHeader::build(method, b"/", None).unwrap();
    head.insert_header(header::HOST, "a.example").unwrap();
    head
}

async fn get(client: &Client, upstream: &Upstream) -> Result<Exchange, ExchangeError> {
    let head = request(Method::GET);
    client
        .send(&upstream.peer, head, Bytes::new(), PATIENCE)
        .await
}

/// The body as far as it came, and how it ended.
async fn body_of(exchange: &mut Exchange) -> (String, Result<(), ExchangeError>) {
    let mut body = Vec::new();
    let ended = loop {
        match exchange.next().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (String::from_utf8(body).unwrap(), ended)
}

#[tokio::test]
async fn each_way_to_end_a_body_is_an_end() {
    let mut upstream = upstream(&[&[
        Read,
        Send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
        Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        Read,
        Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        Read,
        Send("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello"),
    ]])
    .await;
    let client = Client::new();
    for _ in 0..3 {
        let mut exchange = get(&client, &upstream).await.unwrap();
        assert_eq!(exchange.head.status, 200);
        let (text, ended) = body_of(&mut exchange).await;
        assert_eq!(text, "hello");
        ended.unwrap();
        // And again.
        assert!(exchange.next().await.unwrap().is_none());
    }
    // All of it on one connection.
    upstream.ended.recv().await.unwrap();
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_end() {
    let upstream = upstream(&[
        &[
            Read,
            Send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"),
        ],
        &[
            Read,
            Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ],
        &[
            Read,
            Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhello"),
        ],
    ])
    .await;
    let client = Client::new();
    for _ in 0..3 {
        let mut exchange = get(&client, &upstream).await.unwrap();
        let (text, ended) = body_of(&mut exchange).await;
        assert_eq!(text, "hello");
        assert!(matches!(ended, Err(ExchangeError::Broken(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_reset_is_no_end() {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello";
        stream.write_all(head).await.unwrap();
        told.await.unwrap();
        stream.set_zero_linger().unwrap();
    });
    let client = Client::new();
    let head = request(Method::GET);
    let mut exchange = client
        .send(&peer, head, Bytes::new(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(exchange.next().await.unwrap().unwrap(), "hello");
    tell.send(()).unwrap();
    let (_, ended) = body_of(&mut exchange).await;
    assert!(matches!(ended, Err(ExchangeError::Broken(_))), "{ended:?}");
}

#[tokio::test]
async fn errors_say_what_happened() {
    let silent = upstream(&[&[Read, WaitForEnd]]).await;
    let client = Client::new();
    let head = request(Method::GET);
    let wait = Duration::from_millis(50);
    let sent = client.send(&silent.peer, head, Bytes::new(), wait).await;
    assert!(matches!(sent, Err(ExchangeError::Timeout(_))));
    let other = upstream(&[&[Read, Send("SSH-2.0-OpenSSH\r\n\r\n"), WaitForEnd]]).await;
    let sent = get(&client, &other).await;
    assert!(matches!(sent, Err(ExchangeError::Protocol(_))));
    let gone = upstream(&[&[Read]]).await;
    let sent = get(&client, &gone).await;
    assert!(matches!(sent, Err(ExchangeError::Broken(_))));
    // The listener went with its last connection.
    let sent = get(&client, &gone).await;
    assert!(matches!(sent, Err(ExchangeError::Connect(_))));
}

#[tokio::test]
async fn dropping_an_exchange_ends_the_request() {
    let mut upstream = upstream(&[&[
        Read,
        Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        WaitForEnd,
    ]])
    .await;
    let client = Client::new();
    let mut exchange = get(&client, &upstream).await.unwrap();
    exchange.next().await.unwrap().unwrap();
    drop(exchange);
    upstream.ended.recv().await.unwrap();
}

/// Polls once, and drops.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = tokio::task::yield_now() => None,
    }
}

#[tokio::test]
async fn waiting_for_a_piece_can_be_given_up() {
    let (feed, mut fed) = unbounded_channel::<u8>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        stream.set_nodelay(true).unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while let Some(byte) = fed.recv().await {
            stream.write_u8(byte).await.unwrap();
        }
    });
    let client = Client::new();
    let head = request(Method::GET);
    let mut exchange = client
        .send(&peer, head, Bytes::new(), PATIENCE)
        .await
        .unwrap();
    let mut text = Vec::new();
    let mut done = false;
    for byte in b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" {
        feed.send(*byte).unwrap();
        for _ in 0..20 {
            match poll_once(exchange.next()).await {
                Some(Ok(Some(piece))) => text.extend_from_slice(&piece),
                Some(Ok(None)) => done = true,
                Some(Err(error)) => panic!("{error:?}"),
                None => {}
            }
        }
    }
    while !done {
        match exchange.next().await.unwrap() {
            Some(piece) => text.extend_from_slice(&piece),
            None => done = true,
        }
    }
    assert_eq!(text, b"hello world");
}

/// An upstream that answers a request, and hangs up at the next one on the same connection.
const HANGING_UP: &[Step] = &[
    Read,
    Send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    Read,
];
const ANSWERING: &[Step] = &[
    Read,
    Send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    WaitForEnd,
];

#[tokio::test]
async fn what_was_sent_is_not_sent_again_unless_it_may_be_repeated() {
    for (method, succeeds) in [(Method::GET, true), (Method::POST, false)] {
        let upstream = upstream(&[HANGING_UP, ANSWERING]).await;
        let client = Client::new();
        let mut first = get(&client, &upstream).await.unwrap();
        body_of(&mut first).await.1.unwrap();
        let second = request(method);
        let sent = client
            .send(&upstream.peer, second, Bytes::new(), PATIENCE)
            .await;
        assert_eq!(sent.is_ok(), succeeds);
        let requests = upstream.requests.load(Ordering::Relaxed);
        assert_eq!(requests, if succeeds { 3 } else { 2 });
    }
}

/// More than a socket takes that nobody reads from.
const LARGE_BYTES: usize = 16 << 20;

async fn post(upstream: &Upstream, body: Bytes) -> Result<Exchange, ExchangeError> {
    let head = request(Method::POST);
    Client::new()
        .send(&upstream.peer, head, body, PATIENCE)
        .await
}

#[tokio::test]
async fn an_upstream_may_refuse_a_request_before_it_has_all_of_it() {
    const REFUSAL: Step = Send("HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge");
    let mut upstream = upstream(&[&[Read, REFUSAL, Close], &[Read, REFUSAL, WaitForEnd]]).await;
    for _ in 0..2 {
        let body = Bytes::from(vec![b'x'; LARGE_BYTES]);
        let mut exchange = post(&upstream, body).await.unwrap();
        assert_eq!(exchange.head.status, 413);
        assert_eq!(body_of(&mut exchange).await.0, "large");
        // It waits for the rest of the request, and nobody else may use it.
        drop(exchange);
        upstream.ended.recv().await.unwrap();
    }
}

#[tokio::test]
async fn an_upstream_that_answers_early_gets_the_whole_request_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"y") {
            stream.read_buf(&mut request).await.unwrap();
        }
        let body = request
            .windows(4)
            .position(|end| end == b"\r\n\r\n")
            .unwrap()
            + 4;
        let length = (request.len() - body).to_string();
        stream.write_all(length.as_bytes()).await.unwrap();
    });
    let body = Bytes::from([vec![b'x'; LARGE_BYTES], vec![b'y']].concat());
    let head = request(Method::POST);
    let sent = Client::new().send(&peer, head, body, PATIENCE).await;
    let (text, ended) = body_of(&mut sent.unwrap()).await;
    assert_eq!(text, (LARGE_BYTES + 1).to_string());
    ended.unwrap();
}

#[tokio::test]
async fn an_upstream_of_http2_may_refuse_a_request_before_it_has_all_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
    peer.options.set_http_version(2, 2);
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().0;
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    for length in [2, LARGE_BYTES] {
        for _ in 0..20 {
            let head = request(Method::POST);
            let body = Bytes::from(vec![b'x'; length]);
            let sent = Client::new().send(&peer, head, body, PATIENCE).await;
            let Err(error) = sent else {
                panic!("it was refused");
            };
            assert!(error.may_repeat(&Method::POST), "{length}: {error:?}");
        }
    }
}
