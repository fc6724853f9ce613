//! Random requests, restarts, crashes and work, compared with the model after each step.

use super::audit::{audit, audit_at_rest};
use super::steps::{PATHS, Pair, Step, for_all};
use super::store::MemoryStore;
use super::world::Disk;

async fn follow(mut pair: Pair, steps: Vec<Step>) {
    for step in steps {
        if let Some(changed) = pair.take(step).await {
            for path in changed {
                pair.world.compare_stream(&pair.model, path).await;
            }
        } else {
            pair.world.compare(&pair.model, PATHS).await;
            pair.world.settle().await;
            audit(pair.world.store());
        }
    }
    pair.take(Step::Work).await;
    pair.world.compare(&pair.model, PATHS).await;
    audit_at_rest(pair.world.store());
}

#[test]
fn the_log_behaves_as_the_model() {
    for_all(1500, || Disk::Memory(MemoryStore::new()), follow);
}

#[test]
fn the_log_behaves_as_the_model_over_rocksdb() {
    for_all(40, Disk::rocks, follow);
}
