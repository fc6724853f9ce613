//! Removing expired streams and looking after data that ages, by an index of times: no stream is
//! looked at before its time.

use super::delete::remove;
use super::keys::{TimerKind, read_timer_key, timers_until};
use super::kv::{Kv, KvError, Table, Write};
use super::operation::Operation;
use super::queue::CommitError;
use super::{Log, ReadError, retention};
use crate::types::{StreamId, StreamPath, UnixMs};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Timers that are looked at before others get a turn.
const ROUND_MAX: usize = 1000;

impl Log {
    pub(super) async fn expire_often(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            while !self.failed() {
                match self.expire_due().await {
                    Ok(ROUND_MAX) => tokio::task::yield_now().await,
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "expiring streams failed");
                        break;
                    }
                }
            }
        }
    }

    /// Looks at the streams whose time may be over. Returns how many timers there were, when what
    /// became of them is durable.
    pub(super) async fn expire_due(self: &Arc<Self>) -> Result<usize, ReadError> {
        let now_ms = self.clock.now_ms();
        let due = self
            .blocking(move |kv: &dyn Kv| due_timers(kv, now_ms))
            .await?;
        let mut last_ticket = 0;
        for timer in &due {
            last_ticket = self.expire(timer, now_ms).await?;
        }
        // The next look must not find the same timers again.
        self.committer
            .settled(last_ticket)
            .await
            .map_err(|error| not_committed(&error))?;
        Ok(due.len())
    }

    async fn expire(&self, timer: &Timer, now_ms: UnixMs) -> Result<u64, ReadError> {
        let stream = self.stream(&timer.path).await?;
        let room = self
            .committer
            .admit(0)
            .await
            .map_err(|error| not_committed(&error))?;
        let mut sequenced = stream.sequenced.lock();
        let mut writes = vec![Write::Delete(Table::Timers, timer.key.clone())];
        let used_ms = stream.used_ms();
        let state = sequenced.state.as_mut().filter(|state| {
            // A stream that was replaced has a timer of its own.
            state.meta.id == timer.id && !state.deleted
        });
        let change = match (state, timer.kind) {
            (None, _) => Operation::of_writes(writes).unacknowledged(),
            (Some(state), TimerKind::Retention) => retention::age(&stream, state, writes, now_ms),
            (Some(state), TimerKind::Expiry) => {
                state.last_used_ms = state.last_used_ms.max(used_ms);
                match state.deadline_ms() {
                    Some(deadline) if deadline > now_ms => {
                        let key = TimerKind::Expiry.key(deadline, timer.id);
                        let path = Bytes::copy_from_slice(timer.path.key().as_bytes());
                        writes.push(Write::Put(Table::Timers, key, path));
                        let state = Some(state.clone());
                        Operation::of_state(&stream, state, writes, Vec::new())
                    }
                    _ => {
                        self.metrics.expired_streams.inc();
                        remove(&stream, &mut sequenced, writes)
                    }
                }
            }
        };
        sequenced.ticket = self.committer.push(change, Some(room)).0;
        Ok(sequenced.ticket)
    }
}

fn not_committed(error: &CommitError) -> ReadError {
    ReadError::Store(KvError(error.to_string()))
}

struct Timer {
    key: Bytes,
    id: StreamId,
    kind: TimerKind,
    path: StreamPath,
}

fn due_timers(kv: &dyn Kv, now_ms: UnixMs) -> Result<Vec<Timer>, ReadError> {
    let mut due = Vec::new();
    let mut unreadable = None;
    let end = timers_until(now_ms + 1);
    kv.scan(Table::Timers, &[], &end, &mut |key, value| {
        match read_timer(key, value) {
            Ok(timer) => due.push(timer),
            Err(error) => unreadable = Some(error),
        }
        if due.len() < ROUND_MAX {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    match unreadable {
        Some(error) => Err(error),
        None => Ok(due),
    }
}

fn read_timer(key: &[u8], value: &[u8]) -> Result<Timer, ReadError> {
    let (_, id, kind) = read_timer_key(key)?;
    let path = std::str::from_utf8(value)
        .ok()
        .and_then(StreamPath::from_key)
        .ok_or(super::keys::Corrupt("timer"))?;
    Ok(Timer {
        key: Bytes::copy_from_slice(key),
        id,
        kind,
        path,
    })
}
