//! Workers that commit what they append by themselves, and what else goes on meanwhile.

use super::model::Outcome;
use super::requests::{append, stream};
use super::store::{Call, MemoryStore};
use super::world::{World, small};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::thread::ThreadId;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Longer than any machine takes to answer.
const LONG: Duration = Duration::from_mins(1);

async fn world() -> (Arc<World>, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = Arc::new(World::over(&store, small()));
    world.create(&stream(0)).await;
    (world, store)
}

/// Appends, and says on which thread.
async fn append_here(world: &World) -> ThreadId {
    let outcome = world.append(&append(0, b"data")).await;
    assert!(matches!(outcome, Outcome::Appended { .. }));
    std::thread::current().id()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_alone_is_committed_where_it_is_made() {
    let (world, store) = world().await;
    // The first go to a thread, until a sync was quick.
    loop {
        let writer = world.clone();
        let made = tokio::spawn(async move { append_here(&writer).await });
        let made_by = made.await.unwrap();
        if store.synced_by() == Some(made_by) {
            return;
        }
    }
}

/// A connection to a server that answers each byte once it has been served.
async fn connect<S: Future<Output = ()> + Send>(
    mut serve: impl FnMut() -> S + Send + 'static,
) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        while let Ok(byte) = connection.read_u8().await {
            serve().await;
            connection.write_u8(byte).await.unwrap();
        }
    });
    let connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(LONG)).unwrap();
    connection
}

/// Holds up syncs. Also a test that fails lets go of them, or its runtime would wait for a worker.
struct Held<'a>(&'a MemoryStore);

impl<'a> Held<'a> {
    fn of(store: &'a MemoryStore) -> Self {
        store.hold(Call::Sync);
        Self(store)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release(Call::Sync);
    }
}

fn ask(connection: &mut TcpStream) {
    connection.write_all(b"?").unwrap();
}

fn wait_for_answer(connection: &mut TcpStream) {
    connection.read_exact(&mut [0]).unwrap();
}

/// The worker that commits may be the one that waits for sockets. The thread of the test is none of
/// the workers, and waits for nothing of the runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_connections_are_served_while_the_disk_holds_a_worker_up() {
    let (world, store) = world().await;
    let (made_by, makers) = mpsc::channel();
    let mut appender = connect({
        let world = world.clone();
        move || {
            let (world, made_by) = (world.clone(), made_by.clone());
            async move { made_by.send(append_here(&world).await).unwrap() }
        }
    })
    .await;
    let mut other = connect(|| async {}).await;
    let by_its_worker = || store.synced_by() == makers.recv().ok();
    let mut held_up = 0;
    while held_up < 5 {
        ask(&mut appender);
        wait_for_answer(&mut appender);
        // Behind a sync that was not quick it goes to a thread.
        if !by_its_worker() {
            continue;
        }
        let held = Held::of(&store);
        ask(&mut appender);
        while !store.waits(Call::Sync) {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..3 {
            ask(&mut other);
            wait_for_answer(&mut other);
        }
        drop(held);
        wait_for_answer(&mut appender);
        held_up += u32::from(by_its_worker());
    }
}
