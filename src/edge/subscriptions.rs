//! All streams that are followed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::asked::{Subject, Who};
use super::follow;
use super::route::Route;
use super::subscription::{Lease, Status, Subscription};
use crate::observe::admin::PurgeTarget;
use crate::serve::ServeError;

/// All streams that are followed, by origin and path, and then by what else decides about answers.
pub(super) struct Subscriptions {
    streams: Mutex<Streams>,
    max: usize,
}

/// The subscriptions to one stream.
type OfStream = HashMap<Who, Arc<Subscription>>;

#[derive(Default)]
struct Streams {
    by_stream: HashMap<Arc<str>, OfStream>,
    count: usize,
}

/// Figures for the metrics.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The live readers of each.
    pub(super) readers: Vec<u64>,
    /// Those that wait for their origin.
    pub(super) reconnecting: i64,
    /// For how long the longest of them has waited.
    pub(super) behind: Duration,
}

impl Streams {
    fn find(&self, subject: &Subject) -> Option<Lease> {
        let found = self.by_stream.get(&subject.key)?.get(&subject.who())?;
        let over = matches!(found.status(), Status::Gone | Status::Closed(_));
        (!over).then(|| found.enter())
    }
}

impl Subscriptions {
    pub(super) fn new(max: usize) -> Self {
        Self {
            streams: Mutex::default(),
            max,
        }
    }

    /// The subscription to what is asked for, if there is one that is not over.
    pub(super) fn find(&self, subject: &Subject) -> Option<Lease> {
        self.streams.lock().find(subject)
    }

    /// The subscription to what is asked for, or else the one that `begin` makes, which is then
    /// followed.
    pub(super) fn find_or_begin(
        &self,
        route: &Arc<Route>,
        subject: &Subject,
        begin: impl FnOnce() -> Subscription,
    ) -> Result<Lease, ServeError> {
        let mut streams = self.streams.lock();
        if let Some(found) = streams.find(subject) {
            return Ok(found);
        }
        if streams.count >= self.max {
            return Err(ServeError::TooManyFollowed);
        }
        let begun = Arc::new(begin());
        let lease = begun.enter();
        let all = streams.by_stream.entry(subject.key.clone()).or_default();
        let who = subject.who();
        if all.insert(who, begun.clone()).is_none() {
            streams.count += 1;
        }
        tokio::spawn(follow::follow(route.clone(), begun));
        Ok(lease)
    }

    /// Lets go of a subscription, unless it has readers again. False if it has.
    pub(super) fn remove_unread(&self, subscription: &Arc<Subscription>) -> bool {
        self.remove_if(subscription, |subscription| subscription.readers() == 0)
    }

    /// Lets go of a subscription that is over. Readers that have it still get what is in it.
    pub(super) fn remove(&self, subscription: &Arc<Subscription>) {
        self.remove_if(subscription, |_| true);
    }

    fn remove_if(
        &self,
        subscription: &Arc<Subscription>,
        condition: impl Fn(&Subscription) -> bool,
    ) -> bool {
        let subject = &subscription.subject;
        let (stream, who) = (&subject.key, subject.who());
        let mut streams = self.streams.lock();
        // Under the lock, as nobody enters without it.
        if !condition(subscription) {
            return false;
        }
        let streams = &mut *streams;
        if let Some(all) = streams.by_stream.get_mut(stream) {
            let same = all.get(&who);
            if same.is_some_and(|same| Arc::ptr_eq(same, subscription)) {
                all.remove(&who);
                streams.count -= 1;
            }
            if all.is_empty() {
                streams.by_stream.remove(stream);
            }
        }
        true
    }

    /// A stream is gone: so are all subscriptions to it.
    pub(super) fn end(&self, stream: &str) {
        let ended = {
            let mut streams = self.streams.lock();
            let ended = streams.by_stream.remove(stream).unwrap_or_default();
            streams.count -= ended.len();
            ended
        };
        for subscription in ended.into_values() {
            subscription.set_gone();
        }
    }

    /// A stream is gone for those who ask like this, and perhaps for them alone.
    pub(super) fn end_for(&self, subject: &Subject) {
        let streams = self.streams.lock();
        let all = streams.by_stream.get(&subject.key);
        if let Some(subscription) = all.and_then(|all| all.get(&subject.who())) {
            subscription.set_gone();
        }
    }

    /// This edge passed an append on.
    pub(super) fn written(&self, stream: &str, next: &str, closed: bool) {
        let streams = self.streams.lock();
        for subscription in streams
            .by_stream
            .get(stream)
            .into_iter()
            .flat_map(HashMap::values)
        {
            subscription.set_written(next, closed);
        }
    }

    /// Forgets what was last heard of streams. Their readers stay.
    pub(super) fn forget(&self, target: &PurgeTarget) {
        let streams = self.streams.lock();
        for subscription in streams.by_stream.values().flat_map(HashMap::values) {
            let meant = match target {
                PurgeTarget::Path { origin, path } => {
                    let subject = &subscription.subject;
                    let of_origin = origin.as_ref().is_none_or(|name| name == subject.origin());
                    of_origin && *subject.stream == **path
                }
                PurgeTarget::Tag(tag) => subscription.sharing().has_tag(tag),
            };
            if meant {
                subscription.forget();
            }
        }
    }

    pub(super) fn figures(&self) -> Figures {
        let streams = self.streams.lock();
        let mut figures = Figures::default();
        for subscription in streams.by_stream.values().flat_map(HashMap::values) {
            figures.readers.push(subscription.readers() as u64);
            if let Status::Connecting(since) = subscription.status() {
                figures.reconnecting += 1;
                figures.behind = figures.behind.max(since.elapsed());
            }
        }
        figures
    }
}
