//! Readers of events that wait for the same.
//!
//! A stream with many readers wakes all of them with each append. A task for each would be queued,
//! would register anew with the stream, and would look at its timer and its socket each time: that
//! takes longer than what is sent. So who waits beside many others is taken into a crowd, one task
//! that writes the same bytes to each. It does only what needs no waiting; a reader with anything
//! else to do goes back to a task of its own, which ends up here again.

use super::admission::Open;
use super::bare::Connection;
use super::events::Events;
use super::session::Gateway;
use super::wire::chunk;
use crate::serve::Hot;
use crate::waits::Alarm;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::Instant;

/// Readers that a crowd takes. Others wait while it writes to all of them.
const READERS_MAX: usize = 32;

/// The crowds that readers may join, by what they wait for.
#[derive(Default)]
pub(super) struct Crowds(Mutex<HashMap<usize, Entrance>>);

/// Where readers join a crowd.
struct Entrance {
    joining: UnboundedSender<Waiting>,
    /// Readers that it still takes.
    room: usize,
}

/// A reader that waits.
pub(super) struct Waiting {
    pub(super) events: Box<Events>,
    pub(super) connection: Connection,
    pub(super) open: Open,
}

impl Crowds {
    /// Lets a reader wait with others for `moved`.
    pub(super) fn join(gateway: &Arc<Gateway>, moved: Arc<Notify>, reader: Waiting) {
        let mut entrances = gateway.crowds.0.lock();
        let key = Arc::as_ptr(&moved) as usize;
        let reader = match entrances.get_mut(&key) {
            Some(entrance) if entrance.room > 0 => {
                entrance.room -= 1;
                match entrance.joining.send(reader) {
                    Ok(()) => return,
                    Err(refused) => refused.0,
                }
            }
            _ => reader,
        };
        let (joining, joined) = unbounded_channel();
        let room = READERS_MAX - 1;
        entrances.insert(key, Entrance { joining, room });
        let crowd = Crowd {
            gateway: gateway.clone(),
            moved,
            joined,
            readers: vec![reader],
            sockets: Arc::default(),
        };
        tokio::spawn(crowd.run());
    }
}

/// One task of readers.
struct Crowd {
    gateway: Arc<Gateway>,
    /// Tells of something new.
    moved: Arc<Notify>,
    joined: UnboundedReceiver<Waiting>,
    readers: Vec<Waiting>,
    sockets: Arc<Sockets>,
}

/// Events, and how they go over a connection.
type Framed = Option<(Bytes, Bytes)>;

/// Tells that a socket may be read from: its client has left, or sends something ahead.
#[derive(Default)]
struct Sockets(Notify);

impl Wake for Sockets {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Crowd {
    async fn run(mut self) {
        let sockets = self.sockets.clone();
        let mut alarm = Alarm::default();
        let stop = self.gateway.server.draining.clone();
        let mut stop = pin!(stop.cancelled());
        self.look_at_sockets().await;
        loop {
            let moved = self.moved.clone();
            let mut moved = pin!(moved.notified());
            // Registered before the look, so that no move falls between.
            moved.as_mut().enable();
            let turn = self.serve(Instant::now()).await;
            if self.readers.is_empty() {
                match self.close() {
                    Some(reader) => self.readers.push(reader),
                    None => return,
                }
                self.look_at_sockets().await;
                continue;
            }
            if is_ready(moved.as_mut()).await {
                // Other tasks have their turn between two events.
                yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = moved => {}
                () = sockets.0.notified() => self.look_at_sockets().await,
                Some(reader) = self.joined.recv() => {
                    self.readers.push(reader);
                    self.look_at_sockets().await;
                }
                () = alarm.until(turn) => {}
                () = &mut stop => {
                    while let Some(reader) = self.readers.pop() {
                        self.leave(reader);
                    }
                }
            }
        }
    }

    /// Writes to each reader what there is for it. Returns when the first of them has a turn.
    async fn serve(&mut self, now: Instant) -> Instant {
        let mut turn = now + self.gateway.connections.idle_timeout;
        let mut last = None;
        self.keep(|reader| {
            let stays = reader.write(now, &mut last);
            if stays {
                turn = turn.min(reader.events.live.turn());
            }
            stays
        })
        .await;
        turn
    }

    /// Lets go of readers whose sockets have something to say, and waits for the others'.
    async fn look_at_sockets(&mut self) {
        let waker = Waker::from(self.sockets.clone());
        self.keep(|reader| {
            let mut context = Context::from_waker(&waker);
            reader.connection.is_silent(&mut context)
        })
        .await;
    }

    /// Keeps the readers that stay, and lets the others go, without a pause: the budget of a task is
    /// for one connection.
    async fn keep(&mut self, mut stays: impl FnMut(&mut Waiting) -> bool) {
        let leaving = unconstrained(async {
            let leaving = self.readers.extract_if(.., |reader| !stays(reader));
            leaving.collect::<Vec<_>>()
        });
        for reader in leaving.await {
            self.leave(reader);
        }
    }

    fn leave(&self, reader: Waiting) {
        let Waiting {
            events,
            connection,
            open,
        } = reader;
        tokio::spawn(events.go_on(connection, self.gateway.clone(), open));
    }

    /// Closes the entrance, unless it is that of another crowd already. Returns who came in before.
    fn close(&mut self) -> Option<Waiting> {
        let mut entrances = self.gateway.crowds.0.lock();
        if !self.joined.is_closed() {
            entrances.remove(&(Arc::as_ptr(&self.moved) as usize));
        }
        self.joined.try_recv().ok()
    }
}

impl Waiting {
    /// Writes what there is for the reader. False if there is anything else to do for it.
    fn write(&mut self, now: Instant, last: &mut Framed) -> bool {
        loop {
            let next = match self.events.live.hot(now) {
                Hot::Events(next) => next,
                Hot::Nothing => return true,
                Hot::Unknown => return false,
            };
            self.events.begun.sent.bytes += next.len() as u64;
            let chunk = match last {
                Some((last, chunk)) if is_same(last, &next) => chunk.clone(),
                _ => {
                    let chunk = chunk(&next);
                    *last = Some((next, chunk.clone()));
                    chunk
                }
            };
            if !self.connection.write_at_once(chunk) {
                return false;
            }
        }
    }
}

async fn is_ready(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

/// Whether these are the same bytes in memory.
fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}
