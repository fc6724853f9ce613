//! Streams with a retention, and what is left of them.

use super::requests::{Create, stream};
use super::world::World;
use crate::log::ReadError;
use crate::log::kv::{Kv, Table};
use crate::types::{Position, Retention};
use std::ops::ControlFlow;

pub(super) const AGE_MS: u64 = 80_000;

pub(super) fn by_bytes(path: usize, bytes: u64) -> Create {
    let retention = Some(Retention {
        bytes: Some(bytes),
        age_ms: None,
    });
    Create {
        retention,
        ..stream(path)
    }
}

pub(super) fn by_age(path: usize) -> Create {
    let retention = Some(Retention {
        bytes: None,
        age_ms: Some(AGE_MS),
    });
    Create {
        retention,
        ..stream(path)
    }
}

pub(super) async fn bounds(world: &World, path: usize) -> (Position, Position) {
    let view = world.view(path).await.unwrap();
    (view.earliest, view.tail)
}

/// What lies in the store of all streams.
pub(super) fn stored_bytes(kv: &dyn Kv) -> usize {
    let mut bytes = 0;
    for table in [Table::Records, Table::Packed] {
        kv.scan(table, &[], &[0xff; 32], &mut |_, value| {
            bytes += value.len();
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    bytes
}

/// Time goes by, and what is due is done as often as a server does it.
pub(super) async fn live_through(world: &mut World, ms: u64) {
    for _ in 0..ms / 1000 {
        world.clock.advance_ms(1000);
        world.expire().await;
        world.work().await;
    }
}

pub(super) async fn is_trimmed(world: &World, path: usize, at: Position) -> bool {
    let (earliest, _) = bounds(world, path).await;
    let read = world.read(path, at).await;
    matches!(read, Err(ReadError::Trimmed { earliest: told }) if told == earliest)
}

pub(super) fn entries(kv: &dyn Kv, table: Table) -> usize {
    let mut entries = 0;
    kv.scan(table, &[], &[0xff; 32], &mut |_, _| {
        entries += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    entries
}
