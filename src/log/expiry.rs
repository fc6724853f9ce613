//! Removing expired streams and looking after data that ages, by an index of times: no stream is
//! looked at before its time.

use super::delete::remove;
use super::keys::{TimerKind, read_timer_key, timers_until};
use super::kv::{Kv, Table, Write};
use super::operation::Operation;
use super::queue::CommitError;
use super::worker::WorkError;
use super::{Log, ReadError, retention};
use crate::observe::metrics::Metrics;
use crate::types::{StreamId, StreamPath, UnixMs};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Timers that are looked at before others get a turn.
const ROUND_MAX: usize = 1000;
/// When a stream is looked at again that cannot be read.
const PUT_OFF_MS: u64 = 60 * 60 * 1000;

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
    pub(super) async fn expire_due(self: &Arc<Self>) -> Result<usize, WorkError> {
        let now_ms = self.clock.now_ms();
        let metrics = self.metrics.clone();
        let due = self
            .blocking(move |kv: &dyn Kv| due_timers(kv, &metrics, now_ms))
            .await?;
        let mut last_ticket = 0;
        for timer in &due {
            last_ticket = match self.expire(timer, now_ms).await {
                Err(WorkError::Read(error)) => {
                    unreadable(&self.metrics, &error, Some(timer.id));
                    self.put_off(timer, now_ms).await?
                }
                expired => expired?,
            };
        }
        // The next look must not find the same timers again.
        self.committer.settled(last_ticket).await?;
        Ok(due.len())
    }

    /// Moves the timer of a stream that cannot be read, so that it is not the first at each look.
    async fn put_off(&self, timer: &Timer, now_ms: UnixMs) -> Result<u64, CommitError> {
        let room = self.committer.admit(0).await?;
        let key = timer.kind.key(now_ms + PUT_OFF_MS, timer.id);
        let writes = vec![
            Write::Delete(Table::Timers, timer.key.clone()),
            timer.put(key),
        ];
        let later = Operation::of_writes(writes).unacknowledged();
        Ok(self.committer.push(later, Some(room)).0)
    }

    async fn expire(&self, timer: &Timer, now_ms: UnixMs) -> Result<u64, WorkError> {
        let stream = self.stream(&timer.path).await?;
        let room = self.committer.admit(0).await?;
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
                        writes.push(timer.put(timer.kind.key(deadline, timer.id)));
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

struct Timer {
    key: Bytes,
    id: StreamId,
    kind: TimerKind,
    path: StreamPath,
}

impl Timer {
    /// Sets the timer under another key.
    fn put(&self, key: Bytes) -> Write {
        let path = Bytes::copy_from_slice(self.path.key().as_bytes());
        Write::Put(Table::Timers, key, path)
    }
}

/// Takes note of a timer at whose time nothing can be done. It holds up no others.
fn unreadable(metrics: &Metrics, error: &ReadError, stream: Option<StreamId>) {
    // Its number, and not its name, which may be as good as a key.
    tracing::error!(%error, stream, "a stream whose time has come cannot be looked at");
    metrics.work_errors.inc();
}

fn due_timers(kv: &dyn Kv, metrics: &Metrics, now_ms: UnixMs) -> Result<Vec<Timer>, ReadError> {
    let mut due = Vec::new();
    let end = timers_until(now_ms + 1);
    kv.scan(Table::Timers, &[], &end, &mut |key, value| {
        match read_timer(key, value) {
            Ok(timer) => due.push(timer),
            Err(error) => {
                let id = read_timer_key(key).ok().map(|(_, id, _)| id);
                unreadable(metrics, &error, id);
            }
        }
        if due.len() < ROUND_MAX {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(due)
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
