//! What may happen to a log, at random: requests, time, work, eviction, restarts and crashes.

use super::model::{Model, Outcome};
use super::requests::{Draw, Paths, Request, draws};
use super::world::{BEGIN_MS, Disk, World};
use crate::config::LogConfig;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Builder;

/// Paths that the requests are about: few, so that they meet.
pub(super) const PATHS: Paths = 0..5;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Request(Draw),
    /// Milliseconds go by.
    Advance(u64),
    Expire,
    Work,
    Evict,
    Restart {
        segment_bytes: u64,
    },
    Crash {
        seed: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        24 => draws().prop_map(Step::Request),
        2 => (1u64..3000).prop_map(Step::Advance),
        1 => Just(Step::Expire),
        2 => Just(Step::Work),
        2 => Just(Step::Evict),
        1 => (40u64..400).prop_map(|segment_bytes| Step::Restart { segment_bytes }),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Memory that is too small for some, and segments that are soon full.
fn configs() -> impl Strategy<Value = LogConfig> {
    let sizes = (
        40u64..400,
        prop::sample::select(vec![0u64, 400, 1 << 20]),
        prop::sample::select(vec![0u64, 600, 1 << 20]),
    );
    sizes.prop_map(|(segment_bytes, hot_bytes_max, cache_bytes)| LogConfig {
        segment_bytes,
        cache_bytes,
        hot_bytes_max,
        ..LogConfig::default()
    })
}

/// A log and its model, side by side.
pub(super) struct Pair {
    pub(super) world: World,
    pub(super) model: Model,
}

impl Pair {
    /// Takes a step with both; the outcomes are the same. Returns the streams that it changed, if
    /// it was a request.
    pub(super) async fn take(&mut self, step: Step) -> Option<Vec<usize>> {
        let Self { world, model } = self;
        match step {
            Step::Request(draw) => {
                let request = draw.resolve(model, &PATHS);
                let expected = model.run(&request);
                assert_eq!(world.run(&request).await, expected, "{request:?}");
                return Some(changed(&request, &expected));
            }
            Step::Advance(ms) => {
                world.clock.advance_ms(ms);
                model.now_ms += ms;
            }
            Step::Expire => {
                world.expire().await;
                model.expire();
            }
            Step::Work => {
                world.work().await;
                model.work();
                for path in PATHS {
                    if let Ok(view) = world.view(path).await {
                        model.trim_to(path, view.earliest);
                    }
                }
            }
            Step::Evict => world.evict().await,
            Step::Restart { segment_bytes } => {
                world.config.segment_bytes = segment_bytes;
                world.restart();
            }
            Step::Crash { seed } => world.crash(seed).await,
        }
        None
    }
}

fn changed(request: &Request, outcome: &Outcome) -> Vec<usize> {
    let mut paths = vec![request.path()];
    if let (Request::Create(create), Outcome::Created { .. }) = (request, outcome) {
        paths.extend(create.fork.as_ref().map(|fork| fork.source));
    }
    paths
}

/// Runs many cases of random steps. `PROPTEST_CASES` runs more of them.
pub(super) fn for_all<F: Future<Output = ()>>(
    cases: u32,
    disk: impl Fn() -> Disk,
    follow: impl Fn(Pair, Vec<Step>) -> F,
) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let asked = std::env::var("PROPTEST_CASES").ok();
    let config = ProptestConfig {
        cases: asked.map_or(cases, |cases| cases.parse().unwrap()),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let run = |(config, steps)| {
        let pair = Pair {
            world: World::open(disk(), config),
            model: Model::at(BEGIN_MS),
        };
        runtime.block_on(follow(pair, steps));
        Ok(())
    };
    let outcome = TestRunner::new(config).run(&(configs(), steps()), run);
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
