//! Which of the bodies being received gives way to those that wait for room. Time is an argument.

use std::time::{Duration, Instant};

/// After so long, what a body has received counts half.
const HALF_LIFE: Duration = Duration::from_secs(4);
/// A body is slow if what it has received lately is less than this part of all that it has received:
/// after a standstill of eight seconds, or more than twenty at the same rate.
const SLOW: f64 = 0.25;
/// What each body counts as having received lately besides. So small ones come last: their going
/// makes little room.
const GRANTED_BYTES: f64 = 65_536.0;

/// How a body comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    received: f64,
    /// What of it came lately, as of `at`.
    lately: f64,
    /// `None` while it is not read: that it does not grow then is not its sender's doing.
    at: Option<Instant>,
}

impl Progress {
    /// A body of which nothing has come.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            received: 0.0,
            lately: 0.0,
            at: Some(now),
        }
    }

    /// So many bytes came.
    pub(super) fn receive(&mut self, bytes: usize, now: Instant) {
        self.lately = self.lately_at(now) + bytes as f64;
        self.received += bytes as f64;
        self.at = Some(now);
    }

    /// It is not read until [`Progress::resume`].
    pub(super) fn pause(&mut self, now: Instant) {
        self.lately = self.lately_at(now);
        self.at = None;
    }

    /// It is read on.
    pub(super) fn resume(&mut self, now: Instant) {
        self.at = Some(now);
    }

    fn lately_at(&self, now: Instant) -> f64 {
        let since = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        let half_lives = since.as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.lately * (-half_lives).exp2()
    }

    /// How fast it is for what it holds, if that is slow.
    fn slowness(&self, now: Instant) -> Option<f64> {
        self.at?;
        let lately = self.lately_at(now);
        let slow = lately < SLOW * self.received;
        slow.then(|| (lately + GRANTED_BYTES) / self.received)
    }
}

/// The body that gives way, if one of them is slow.
pub(super) fn slowest<T>(bodies: impl Iterator<Item = (T, Progress)>, now: Instant) -> Option<T> {
    bodies
        .filter_map(|(body, progress)| Some((body, progress.slowness(now)?)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(body, _)| body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Bodies over time: each of them receives what its rule says for each second.
    fn slowest_after(seconds: u64, bodies: &[&dyn Fn(u64) -> usize]) -> Option<usize> {
        let begin = Instant::now();
        let mut all = vec![Progress::new(begin); bodies.len()];
        for second in 0..seconds {
            let now = begin + Duration::from_secs(second);
            for (progress, received) in all.iter_mut().zip(bodies) {
                progress.receive(received(second), now);
            }
        }
        let now = begin + Duration::from_secs(seconds);
        slowest(all.into_iter().enumerate(), now)
    }

    /// Whatever it sends: all at once and then nothing is the least that it can do.
    #[test]
    fn a_body_that_has_just_begun_is_not_slow() {
        let stalls = |second| if second == 0 { 60 * MIB } else { 0 };
        assert_eq!(slowest_after(5, &[&stalls]), None);
        assert_eq!(slowest_after(12, &[&stalls]), Some(0));
        assert_eq!(slowest_after(60, &[&|_| 0]), None, "it holds nothing");
    }

    #[test]
    fn a_body_that_trickles_gives_way_to_none_that_is_faster() {
        let steady = |_| MIB;
        let trickles = |second| if second == 0 { 60 * MIB } else { 1 };
        let drips = |_| 1;
        assert_eq!(slowest_after(15, &[&steady, &trickles]), Some(1));
        assert_eq!(slowest_after(15, &[&steady]), None);
        assert_eq!(slowest_after(40, &[&steady, &trickles]), Some(1));
        assert_eq!(slowest_after(40, &[&drips, &trickles, &drips]), Some(1));
    }

    /// A body can be steady, and hold its room for too long all the same.
    #[test]
    fn a_body_that_takes_long_is_slow() {
        let steady = |_| MIB;
        let slower = |_| MIB / 2;
        assert_eq!(slowest_after(10, &[&steady, &slower]), None);
        assert!(slowest_after(60, &[&steady]).is_some());
    }

    /// What makes little room goes only where nothing else does.
    #[test]
    fn small_bodies_come_last() {
        let small = |second| if second == 0 { 1000 } else { 0 };
        let large = |second| if second == 0 { 60 * MIB } else { 10 * 1024 };
        assert_eq!(slowest_after(30, &[&small, &large, &small]), Some(1));
        assert_eq!(slowest_after(30, &[&small]), Some(0));
    }

    #[test]
    fn a_body_that_waits_itself_is_not_slow() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let is_slow = |progress, seconds| slowest([((), progress)].into_iter(), after(seconds));
        let mut progress = Progress::new(begin);
        progress.receive(60 * MIB, begin);
        progress.pause(after(1));
        assert!(is_slow(progress, 100).is_none());
        progress.resume(after(100));
        assert!(is_slow(progress, 105).is_none());
        assert!(is_slow(progress, 109).is_some());
    }
}
