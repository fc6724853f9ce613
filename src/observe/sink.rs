//! Where lines of the log go: a bounded buffer that a thread of its own writes out.
//!
//! A request must not wait because whoever reads the log is slow, so a line is put into memory and
//! the thread writes all that has gathered in one call. When the buffer is full, lines are dropped
//! and counted: first those of the access log, which are many and of which each says little.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use prometheus::IntCounter;

/// The most bytes that wait to be written.
const BUFFER_BYTES: usize = 1024 * 1024;
/// The part of them that the access log may take.
const ACCESS_BYTES: usize = BUFFER_BYTES / 4 * 3;
/// What an empty buffer keeps allocated.
const KEPT_BYTES: usize = 64 * 1024;
/// How long a line of the level error waits until it is written: the process may be about to abort.
const ERROR_WAIT: Duration = Duration::from_millis(200);
/// How long the end of the log waits for what is left.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// A line of the access log.
    Access,
    /// Any other.
    Normal,
    /// One that should be on its way before the program goes on.
    Error,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes ever put into `pending`, and bytes of them ever written.
    queued: u64,
    written: u64,
    closed: bool,
    /// The writer did not manage a line in time, so that nobody should wait for it again until it
    /// has made progress.
    stalled: bool,
}

/// The buffer. Made by [`Sink::start`], which also starts the thread.
pub(super) struct Sink {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    dropped: IntCounter,
    error_wait: Duration,
}

impl Sink {
    /// Starts a thread that writes to `output`. Lines that are dropped are counted in `dropped`.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        dropped: IntCounter,
    ) -> io::Result<Arc<Self>> {
        Self::start_with(output, dropped, ERROR_WAIT)
    }

    fn start_with(
        output: impl Write + Send + 'static,
        dropped: IntCounter,
        error_wait: Duration,
    ) -> io::Result<Arc<Self>> {
        let sink = Arc::new(Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            dropped,
            error_wait,
        });
        let writer = Arc::clone(&sink);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_out(output))?;
        Ok(sink)
    }

    /// Takes a line, with its line end.
    pub(super) fn push(&self, line: &[u8], weight: Weight) {
        let limit = match weight {
            Weight::Access => ACCESS_BYTES,
            Weight::Normal | Weight::Error => BUFFER_BYTES,
        };
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            // The thread is gone: what is said at the very end is said at once. An error here has
            // nobody left to be told.
            let _ = io::stderr().write_all(line);
            return;
        }
        if state.pending.len() + line.len() > limit {
            self.dropped.inc();
            return;
        }
        if state.pending.is_empty() {
            self.filled.notify_one();
        }
        state.pending.extend_from_slice(line);
        state.queued += line.len() as u64;
        if weight == Weight::Error && !state.stalled {
            state.stalled = !self.wait_until_written(&mut state, self.error_wait);
        }
    }

    /// Writes out what waits, for at most two seconds, and ends the thread. Lines that come later go
    /// to stderr directly.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.filled.notify_one();
        self.wait_until_written(&mut state, CLOSE_WAIT);
    }

    /// Waits until all that is queued now is written; whether it was in time.
    fn wait_until_written(&self, state: &mut MutexGuard<'_, State>, limit: Duration) -> bool {
        let target = state.queued;
        let deadline = Instant::now() + limit;
        while state.written < target {
            if self.drained.wait_until(state, deadline).timed_out() {
                return state.written >= target;
            }
        }
        true
    }

    /// The thread: writes until the sink is closed and empty.
    fn write_out(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        let mut state = self.state.lock();
        loop {
            if !state.pending.is_empty() {
                std::mem::swap(&mut state.pending, &mut batch);
                MutexGuard::unlocked(&mut state, || self.write_batch(&mut output, &mut batch));
                state.written = state.queued - state.pending.len() as u64;
                state.stalled = false;
                self.drained.notify_all();
            } else if state.closed {
                return;
            } else {
                self.filled.wait(&mut state);
            }
        }
    }

    fn write_batch(&self, output: &mut impl Write, batch: &mut Vec<u8>) {
        if output
            .write_all(batch)
            .and_then(|()| output.flush())
            .is_err()
        {
            // There is no other place to complain to.
            let lines = memchr::memchr_iter(b'\n', batch).count();
            self.dropped.inc_by(lines as u64);
        }
        batch.clear();
        batch.shrink_to(KEPT_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An output that hands on what it is given, and waits for leave before each write.
    struct Gated {
        leave: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.leave.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(error_wait: Duration) -> (Arc<Sink>, IntCounter, Sender<()>, Receiver<Vec<u8>>) {
        let (leave, on_leave) = channel();
        let (written, on_written) = channel();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let output = Gated {
            leave: on_leave,
            written,
        };
        let sink = Sink::start_with(output, dropped.clone(), error_wait).unwrap();
        (sink, dropped, leave, on_written)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_written_in_order_and_gathered_while_the_output_is_busy() {
        let (sink, dropped, leave, written) = gated(SOON);
        sink.push(b"one\n", Weight::Normal);
        // The thread has taken the first line and is held by the output.
        while !sink.state.lock().pending.is_empty() {
            thread::yield_now();
        }
        sink.push(b"two\n", Weight::Access);
        sink.push(b"three\n", Weight::Normal);
        leave.send(()).unwrap();
        leave.send(()).unwrap();
        assert_eq!(written.recv_timeout(SOON).unwrap(), b"one\n");
        assert_eq!(written.recv_timeout(SOON).unwrap(), b"two\nthree\n");
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_full_buffer_drops_access_lines_first_and_never_blocks() {
        let (sink, dropped, leave, written) = gated(SOON);
        sink.push(b"taken\n", Weight::Normal);
        while !sink.state.lock().pending.is_empty() {
            thread::yield_now();
        }
        let line = [b'x'; 1024];
        for _ in 0..ACCESS_BYTES / line.len() {
            sink.push(&line, Weight::Access);
        }
        assert_eq!(dropped.get(), 0);
        sink.push(&line, Weight::Access);
        assert_eq!(dropped.get(), 1);
        for _ in 0..(BUFFER_BYTES - ACCESS_BYTES) / line.len() {
            sink.push(&line, Weight::Normal);
        }
        assert_eq!(dropped.get(), 1);
        sink.push(&line, Weight::Normal);
        assert_eq!(dropped.get(), 2);
        assert!(written.try_recv().is_err());
        // The output breaks: the one whole line that it had is lost too.
        drop(leave);
        sink.close();
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn an_error_is_written_before_the_program_goes_on() {
        let (sink, _, leave, written) = gated(SOON);
        leave.send(()).unwrap();
        sink.push(b"failed\n", Weight::Error);
        assert_eq!(written.try_recv().unwrap(), b"failed\n");
    }

    #[test]
    fn errors_wait_once_for_an_output_that_is_stuck() {
        const WAIT: Duration = Duration::from_millis(50);
        let (sink, _, leave, written) = gated(WAIT);
        let begin = Instant::now();
        for _ in 0..50 {
            sink.push(b"failed\n", Weight::Error);
        }
        let waited = begin.elapsed();
        assert!(waited >= WAIT, "{waited:?}");
        assert!(waited < WAIT * 10, "{waited:?}");
        for _ in 0..2 {
            leave.send(()).unwrap();
        }
        let mut bytes = written.recv_timeout(SOON).unwrap();
        bytes.extend(written.recv_timeout(SOON).unwrap());
        assert_eq!(bytes.len(), 50 * b"failed\n".len());
    }

    #[test]
    fn closing_writes_what_is_left() {
        let (sink, _, leave, written) = gated(SOON);
        leave.send(()).unwrap();
        sink.push(b"last\n", Weight::Access);
        sink.close();
        assert_eq!(written.try_recv().unwrap(), b"last\n");
    }
}
