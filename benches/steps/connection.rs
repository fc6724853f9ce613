//! The server behind a socket, and one client of it on the same thread.

use super::World;
use super::listening::Listening;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection to a server.
pub(crate) struct Connection {
    client: TcpStream,
    /// Made once: a client that fills it anew each time would be counted for that.
    buffer: Vec<u8>,
    world: World,
    _listening: Listening,
}

impl Connection {
    pub(crate) fn to(world: World) -> Self {
        let listening = Listening::start(&world, "");
        let connecting = TcpStream::connect(&listening.address);
        let client = world.runtime.block_on(connecting);
        Self {
            client: client.expect("a connection"),
            buffer: vec![0; 4096],
            world,
            _listening: listening,
        }
    }

    /// Sends a request so many times, each when the one before is answered, and tells how many bytes
    /// the last answer had.
    pub(crate) fn call(&mut self, request: &[u8], times: usize) -> usize {
        let (client, answer) = (&mut self.client, &mut self.buffer);
        self.world.runtime.block_on(async {
            let mut bytes = 0;
            for _ in 0..times {
                client.write_all(request).await.expect("a server");
                // Small answers come whole.
                bytes = client.read(answer).await.expect("an answer");
                assert!(answer.starts_with(b"HTTP/1.1 20"));
            }
            bytes
        })
    }

    /// Begins to read the events of a stream behind its end.
    pub(crate) fn read_along(&mut self, path: &str) {
        let request =
            format!("GET /{path}?offset=now&live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let writing = self.client.write_all(request.as_bytes());
        self.world.runtime.block_on(writing).expect("a server");
        self.event();
    }

    /// Appends so many messages, each when the one before was received as an event, and tells how
    /// many bytes the last event had.
    pub(crate) fn receive(&mut self, path: &str, message: &Bytes, times: usize) -> usize {
        let mut bytes = 0;
        for _ in 0..times {
            self.world.append(path, message, 1);
            bytes = self.event();
        }
        bytes
    }

    /// Reads up to the end of an event, which is that of a chunk.
    fn event(&mut self) -> usize {
        let (client, event) = (&mut self.client, &mut self.buffer);
        self.world.runtime.block_on(async {
            let mut filled = 0;
            while !event[..filled].ends_with(b"\n\n\r\n") {
                let read = client.read(&mut event[filled..]).await.expect("an event");
                assert_ne!(read, 0, "the events have ended");
                filled += read;
            }
            filled
        })
    }
}
