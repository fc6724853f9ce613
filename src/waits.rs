//! What is waited for beside something that mostly comes first: the end of a time, a stop.
//!
//! Both stay from one wait to the next. To set a timer or to register for a stop, and even to ask
//! whether it is there, takes locks that all workers share, and costs as much as a small event.

use futures_util::future::poll_immediate;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::future::pending;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// A timer that is moved only when it fires too early.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Returns at `due`, or as soon as it is asked after that. Nothing is lost when the future is
    /// dropped.
    pub async fn until(&mut self, due: Instant) {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        loop {
            timer.as_mut().await;
            if timer.deadline() >= due {
                return;
            }
            // It was set for an earlier wait.
            timer.as_mut().reset(due);
        }
    }
}

/// A future that hardly ever ends. It is polled when it was woken, not whenever its task is.
#[derive(Debug)]
pub struct Seldom<F>(FuturesUnordered<F>);

impl<F: Future> Seldom<F> {
    pub fn new(future: F) -> Self {
        Self(FuturesUnordered::from_iter([future]))
    }

    /// Whether the future has ended by now, if that was not told before.
    pub fn has_ended(&mut self) -> bool {
        self.end().now_or_never().is_some()
    }

    /// Returns what the future ends with; never, if it has ended before. Nothing is lost when this is
    /// dropped.
    pub async fn end(&mut self) -> F::Output {
        match self.0.next().await {
            Some(output) => output,
            None => pending().await,
        }
    }
}

/// What a future ends with, if it does so in time. Most writes do at once: there is a timer only for
/// the others.
pub async fn in_time<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match poll_immediate(future.as_mut()).await {
        Some(output) => Ok(output),
        None => timeout(limit, future).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::sync::oneshot;

    const LONG: Duration = Duration::from_secs(100);
    const SHORT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_when_the_present_wait_is_over() {
        let mut alarm = Alarm::default();
        let begin = Instant::now();
        for waits in 1..=30 {
            let due = Instant::now() + LONG;
            assert!(timeout(SHORT, alarm.until(due)).await.is_err(), "{waits}");
        }
        let due = Instant::now() + LONG;
        alarm.until(due).await;
        assert_eq!(Instant::now(), due);
        assert_eq!(begin.elapsed(), 30 * SHORT + LONG);
        alarm.until(due).await;
        assert_eq!(Instant::now(), due, "it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_earlier_if_the_present_wait_is_shorter() {
        let mut alarm = Alarm::default();
        let begin = Instant::now();
        assert!(timeout(SHORT, alarm.until(begin + LONG)).await.is_err());
        alarm.until(begin + 2 * SHORT).await;
        assert_eq!(begin.elapsed(), 2 * SHORT);
        alarm.until(begin + LONG).await;
        assert_eq!(begin.elapsed(), LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn what_seldom_ends_is_polled_when_it_is_woken() {
        let polls = Cell::new(0);
        let (stop, mut stopped) = oneshot::channel();
        let mut seldom = Seldom::new(poll_fn(|context| {
            polls.set(polls.get() + 1);
            Pin::new(&mut stopped).poll(context)
        }));
        for _ in 0..10 {
            assert!(timeout(SHORT, seldom.end()).await.is_err());
        }
        assert_eq!(polls.get(), 1);
        stop.send("stop").unwrap();
        assert_eq!(seldom.end().await, Ok("stop"));
        assert_eq!(polls.get(), 2);
        assert!(timeout(SHORT, seldom.end()).await.is_err(), "it has ended");
    }

    #[tokio::test]
    async fn whether_something_has_ended_is_known_without_waiting() {
        let (stop, stopped) = oneshot::channel();
        let mut seldom = Seldom::new(stopped);
        assert!(!seldom.has_ended());
        let waits = tokio::spawn(async move {
            let stopped = seldom.end().await;
            (stopped, seldom.has_ended())
        });
        tokio::task::yield_now().await;
        stop.send(1).unwrap();
        assert_eq!(waits.await.unwrap(), (Ok(1), false));
        let mut seldom = Seldom::new(async {});
        assert!(seldom.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up() {
        assert_eq!(in_time(SHORT, async { 1 }).await, Ok(1));
        assert!(in_time(SHORT, pending::<()>()).await.is_err());
        let begin = Instant::now();
        assert!(in_time(LONG, tokio::time::sleep(SHORT)).await.is_ok());
        assert_eq!(begin.elapsed(), SHORT);
    }

    #[tokio::test]
    async fn what_has_ended_already_is_seen_at_once() {
        let mut seldom = Seldom::new(poll_fn(|_| Poll::Ready(1)));
        assert_eq!(seldom.end().await, 1);
    }
}
