//! A progress bar on a terminal, for what takes long.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner needs no bar.
const QUIET: Duration = Duration::from_secs(1);
/// A body is handed over in pieces of this size, so that the bar moves while it is sent.
const PIECE_BYTES: usize = 64 << 10;

/// How much of an input is sent. Its clones are one bar.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    bar: ProgressBar,
    since: Instant,
    is_terminal: bool,
}

impl Progress {
    /// A bar that appears when it takes long, if there is a terminal to show it.
    pub(super) fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            since: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Says how much there is to do, if that is known.
    pub(super) fn expect(&self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.bar.set_length(bytes);
        }
    }

    /// A body that moves the bar as it is sent.
    pub(super) fn body(&self, bytes: &Bytes) -> Counted {
        Counted {
            rest: bytes.clone(),
            progress: self.clone(),
            sent: Sent::default(),
        }
    }

    /// The body was not taken after all.
    pub(super) fn withdraw(&self, sent: &Sent) {
        self.bar.dec(sent.0.swap(0, Ordering::Relaxed));
    }

    /// The body was taken, and with it so much of the input, which may be more or less.
    pub(super) fn settle(&self, sent: &Sent, input_bytes: u64) {
        self.withdraw(sent);
        self.advance(input_bytes);
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn advance(&self, bytes: u64) {
        if self.is_terminal && self.bar.is_hidden() && self.since.elapsed() >= QUIET {
            self.show();
        }
        self.bar.inc(bytes);
    }

    fn show(&self) {
        let template = match self.bar.length() {
            Some(_) => "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            None => "{spinner} {bytes} in {elapsed}",
        };
        // The template is a constant of ours; without it the default one would do.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
    }
}

/// How much of one body was handed over.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<AtomicU64>);

/// The body of a request, counted as it is handed over.
#[derive(Debug)]
pub(super) struct Counted {
    rest: Bytes,
    progress: Progress,
    sent: Sent,
}

impl Counted {
    /// The count, which stays when the body is gone.
    pub(super) fn sent(&self) -> Sent {
        self.sent.clone()
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(size);
        self.sent.0.fetch_add(size as u64, Ordering::Relaxed);
        self.progress.advance(size as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_over(body: &mut Counted) -> Vec<usize> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut sizes = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut context) {
            sizes.extend(frame.data_ref().map(Bytes::len));
        }
        sizes
    }

    #[test]
    fn a_body_is_counted_as_it_is_handed_over() {
        let progress = Progress::new();
        let bytes = Bytes::from(vec![0; PIECE_BYTES + 1]);
        let mut body = progress.body(&bytes);
        assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
        let sent = body.sent();
        assert_eq!(handed_over(&mut body), [PIECE_BYTES, 1]);
        assert!(body.is_end_stream());
        assert_eq!(progress.bar.position(), bytes.len() as u64);
        progress.withdraw(&sent);
        assert_eq!(progress.bar.position(), 0);
        handed_over(&mut progress.body(&bytes));
        let again = progress.body(&bytes);
        progress.settle(&again.sent(), 7);
        assert_eq!(progress.bar.position(), bytes.len() as u64 + 7);
    }
}
