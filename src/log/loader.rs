//! The threads that load streams.
//!
//! A load mostly finds what it reads in the memory of the operating system. Then a thread for each
//! takes longer to wake than the load takes, so a few threads do all that wait. Where the disk makes
//! them wait, more are added.

use super::ReadError;
use super::kv::Kv;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Threads at the least, where so much waits.
const THREADS_MIN: usize = 2;
const THREADS_MAX: usize = 128;
/// A load that waits for longer than this has too few threads before it.
const LATE: Duration = Duration::from_millis(1);

pub(super) struct Loader {
    kv: Arc<dyn Kv>,
    queue: Mutex<Queue>,
    /// Threads that are started without a look at how long others wait.
    threads_min: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    threads: usize,
}

type Load = Box<dyn FnOnce(&dyn Kv) + Send>;

struct Waiting {
    since: Instant,
    load: Load,
}

impl Loader {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Arc<Self> {
        let processors = std::thread::available_parallelism();
        Arc::new(Self {
            kv,
            queue: Mutex::default(),
            threads_min: processors.map_or(THREADS_MIN, |count| count.get().max(THREADS_MIN)),
        })
    }

    /// Runs a short read of the store where it holds up nobody.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        load: impl FnOnce(&dyn Kv) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (done, loaded) = oneshot::channel();
        self.push(Waiting {
            since: Instant::now(),
            // Who asked may have left.
            load: Box::new(move |kv| drop(done.send(load(kv)))),
        });
        loaded.await.map_err(|_| ReadError::cut_off())?
    }

    fn push(self: &Arc<Self>, waiting: Waiting) {
        let mut queue = self.queue.lock();
        let late = queue.waiting.front();
        let late = late.is_some_and(|first| waiting.since - first.since > LATE);
        queue.waiting.push_back(waiting);
        if queue.threads < self.threads_min || (late && queue.threads < THREADS_MAX) {
            queue.threads += 1;
            drop(queue);
            let loader = self.clone();
            spawn_blocking(move || loader.work());
        }
    }

    /// Loads until nothing waits.
    fn work(&self) {
        while let Some(waiting) = self.next() {
            // What is cut off is told by the channel that it drops.
            let _ = catch_unwind(AssertUnwindSafe(|| (waiting.load)(&*self.kv)));
        }
    }

    /// The load that has waited longest. If there is none, this thread ends.
    fn next(&self) -> Option<Waiting> {
        let mut queue = self.queue.lock();
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.threads -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store::MemoryStore;
    use super::*;
    use futures_util::future::join_all;
    use std::sync::Barrier;
    use tokio::task::JoinSet;

    fn loader() -> Arc<Loader> {
        Loader::new(MemoryStore::new())
    }

    #[tokio::test]
    async fn what_waits_is_loaded_by_few_threads() {
        let loader = loader();
        let loads = (0..1000).map(|number| {
            let loader = loader.clone();
            async move { loader.run(move |_| Ok(number)).await.unwrap() }
        });
        let loaded = join_all(loads).await;
        assert!(loaded.into_iter().eq(0..1000));
        assert_eq!(loader.queue.lock().waiting.len(), 0);
    }

    /// Loads that wait for each other, as for a disk: no fixed number of threads does them all.
    #[tokio::test]
    async fn there_are_more_threads_where_loads_wait() {
        let loader = loader();
        let count = loader.threads_min + 5;
        let together = Arc::new(Barrier::new(count));
        let mut waiting: JoinSet<()> = (0..count)
            .map(|_| {
                let (loader, together) = (loader.clone(), together.clone());
                let load = move |_: &dyn Kv| {
                    together.wait();
                    Ok(())
                };
                async move { loader.run(load).await.unwrap() }
            })
            .collect();
        let mut others = JoinSet::new();
        while !waiting.is_empty() {
            tokio::time::sleep(2 * LATE).await;
            let loader = loader.clone();
            others.spawn(async move { loader.run(|_| Ok(())).await.unwrap() });
            while waiting.try_join_next().is_some() {}
        }
        others.join_all().await;
    }

    #[tokio::test]
    async fn a_load_that_panics_is_cut_off_alone() {
        let loader = loader();
        for _ in 0..2 * loader.threads_min {
            let load = |_: &dyn Kv| -> Result<(), ReadError> { panic!("a load") };
            let error = loader.run(load).await.unwrap_err();
            assert!(matches!(error, ReadError::Store(_)));
        }
        assert_eq!(loader.run(|_| Ok(1)).await.unwrap(), 1);
    }
}
