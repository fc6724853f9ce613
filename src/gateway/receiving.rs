//! The bodies being received, of which a slow one gives way while others wait for room.

use super::slowest::{Progress, slowest};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Where no body is slow, how long it takes until one is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// All that are being received.
#[derive(Default)]
pub(super) struct Receiving {
    bodies: Mutex<HashMap<u64, Arc<State>>>,
    last: AtomicU64,
    /// Held by the one for whom bodies give way, so that no more of them do than must.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    progress: Mutex<Progress>,
    /// Cancelled when it is to give way.
    asked: CancellationToken,
    /// Cancelled when it has, or has come whole.
    gone: CancellationToken,
}

/// One of them. It is dropped after the room that it holds, or when that is another's.
pub(super) struct Incoming<'a> {
    all: &'a Receiving,
    number: u64,
    state: Arc<State>,
}

impl Receiving {
    /// A body begins.
    pub(super) fn begin(&self) -> Incoming<'_> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State {
            progress: Mutex::new(Progress::new(Instant::now())),
            asked: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        self.bodies.lock().insert(number, state.clone());
        Incoming {
            all: self,
            number,
            state,
        }
    }

    /// Has slow bodies give way, one after the other, for as long as this is waited for.
    pub(super) async fn make_room(&self) -> Infallible {
        let _turn = self.turn.lock().await;
        loop {
            let Some(body) = self.slowest() else {
                sleep(LOOK_AGAIN).await;
                continue;
            };
            body.asked.cancel();
            body.gone.cancelled().await;
        }
    }

    fn slowest(&self) -> Option<Arc<State>> {
        let bodies = self.bodies.lock();
        let all = bodies.values().map(|body| (body, *body.progress.lock()));
        slowest(all, Instant::now()).cloned()
    }
}

impl Incoming<'_> {
    /// So many bytes of it came.
    pub(super) fn receive(&self, bytes: usize) {
        self.state.progress.lock().receive(bytes, Instant::now());
    }

    /// Waits for something else than its sender.
    pub(super) async fn wait<T>(&self, wait: impl Future<Output = T>) -> T {
        self.state.progress.lock().pause(Instant::now());
        let waited = wait.await;
        self.state.progress.lock().resume(Instant::now());
        waited
    }

    /// Waits until it is to give way.
    pub(super) async fn asked(&self) {
        self.state.asked.cancelled().await;
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.all.bodies.lock().remove(&self.number);
        self.state.gone.cancel();
    }
}
