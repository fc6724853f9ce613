//! Crashes at random moments under concurrent clients: what was acknowledged or seen is there
//! exactly once, what was not is there as a whole or not at all.

use super::audit::{audit, audit_at_rest};
use super::clients::{Follower, Forker, Owner, Producer, shared};
use super::store::MemoryStore;
use super::world::World;
use crate::config::LogConfig;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;

/// Set it to the seed of a run that failed.
const SEED: &str = "HEADWATER_TEST_SEED";
const ROUNDS: u64 = 120;
const SHARED: [usize; 2] = [1000, 1001];

fn seeds() -> Vec<u64> {
    match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..ROUNDS).map(|_| rand::random()).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    for seed in seeds() {
        eprintln!("{SEED}={seed}");
        crash(seed).await;
    }
}

/// All clients, and what they know.
struct Clients {
    owners: Vec<Owner>,
    producers: Vec<Producer>,
    followers: Vec<Arc<Follower>>,
    forkers: Vec<Forker>,
}

impl Clients {
    fn new(rng: &mut StdRng) -> Self {
        let closes_at = rng.random_range(5..100);
        let mut producers = Vec::new();
        for (path, producer) in SHARED
            .into_iter()
            .flat_map(|path| (0..3).map(move |p| (path, p)))
        {
            let closes_at = ((path, producer) == (SHARED[1], 0)).then_some(closes_at);
            producers.push(Producer::new(path, producer, rng.random(), closes_at));
        }
        let mut owner = |first| Owner::new(first..first + 4, rng.random());
        let owners = [0, 10, 20, 30].map(&mut owner).into();
        let mut forker = |path| Forker::new(path, path * 100..path * 100 + 50, rng.random());
        Self {
            owners,
            producers,
            followers: SHARED.map(|_| Arc::default()).into(),
            forkers: SHARED.map(&mut forker).into(),
        }
    }

    /// Runs all at once until the log dies.
    async fn run(self, world: &Arc<World>) -> Self {
        let run_owner = |owner: Owner| tokio::spawn(owner.run(world.clone()));
        let owners: Vec<_> = self.owners.into_iter().map(run_owner).collect();
        let run_producer = |producer: Producer| tokio::spawn(producer.run(world.clone()));
        let producers: Vec<_> = self.producers.into_iter().map(run_producer).collect();
        let run_forker = |forker: Forker| tokio::spawn(forker.run(world.clone()));
        let forkers: Vec<_> = self.forkers.into_iter().map(run_forker).collect();
        let follow = |(follower, path): (&Arc<Follower>, _)| {
            tokio::spawn(follower.clone().run(world.clone(), path))
        };
        let following: Vec<_> = self.followers.iter().zip(SHARED).map(follow).collect();
        let ended = Self {
            owners: joined(owners).await,
            producers: joined(producers).await,
            forkers: joined(forkers).await,
            followers: self.followers,
        };
        for follower in following {
            follower.abort();
        }
        ended
    }

    async fn check(self, world: &World) {
        for (follower, path) in self.followers.iter().zip(SHARED) {
            follower.check(world, path).await;
            let appends = world.read_all(path).await.unwrap();
            let closed = world.view(path).await.unwrap().closed;
            let producers = self
                .producers
                .iter()
                .filter(|producer| producer.path() == path);
            producers.for_each(|producer| producer.check(&appends, closed));
        }
        for forker in &self.forkers {
            forker.check(world).await;
        }
        for owner in self.owners {
            owner.check(world).await;
        }
        for producer in self.producers {
            producer.go_on(world).await;
        }
    }
}

async fn joined<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

async fn crash(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let store = MemoryStore::new();
    store.slow_syncs(Duration::from_micros(rng.random_range(0..400)));
    let config = LogConfig {
        segment_bytes: rng.random_range(60..600),
        hot_bytes_max: rng.random_range(0..2000),
        ..LogConfig::default()
    };
    let mut world = World::over(&store, config.clone());
    world.pack_at_once();
    for path in SHARED {
        world.create(&shared(path)).await;
    }
    store.die_at(rng.random_range(1..400));
    let world = Arc::new(world);
    let clients = Clients::new(&mut rng).run(&world).await;
    let mut image = store.crash(&mut rng);
    drop(world);
    audit(&*image);
    // The work that is left is interrupted, too.
    for _ in 0..3 {
        let mut world = World::over(&image, config.clone());
        image.die_at(rng.random_range(1..40));
        world.work().await;
        image = image.crash(&mut rng);
        audit(&*image);
    }
    let mut world = World::over(&image, config);
    world.work().await;
    audit_at_rest(&*image);
    clients.check(&world).await;
    world.work().await;
    audit_at_rest(&*image);
}
