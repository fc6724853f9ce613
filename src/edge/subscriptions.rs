//! All streams that are followed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::asked::{Subject, Variant};
use super::cache::Scope;
use super::follow;
use super::route::{Route, stream_key};
use super::subscription::{Lease, Status, Subscription};
use crate::observe::admin::PurgeTarget;
use crate::serve::ServeError;

/// All streams that are followed, by origin and path, and then by what else decides about answers.
pub(super) struct Subscriptions {
    streams: Mutex<Streams>,
    max: usize,
}

/// The subscriptions to one stream.
type OfStream = HashMap<(Variant, Scope), Arc<Subscription>>;

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

impl Subscriptions {
    pub(super) fn new(max: usize) -> Self {
        Self {
            streams: Mutex::default(),
            max,
        }
    }

    /// The subscription to what is asked for, if there is one that is not over.
    pub(super) fn find(&self, route: &Route, subject: &Subject) -> Option<Lease> {
        let stream = route.stream_key(subject.home, &subject.stream);
        let streams = self.streams.lock();
        let who = (subject.variant.clone(), subject.scope);
        let found = streams.by_stream.get(&stream)?.get(&who)?;
        let over = matches!(found.status(), Status::Gone | Status::Closed(_));
        (!over).then(|| found.enter())
    }

    /// The subscription to what is asked for, or one that begins now at an offset.
    pub(super) fn find_or_begin(
        &self,
        route: &Arc<Route>,
        subject: &Subject,
        content_type: &Arc<str>,
        at: &Arc<str>,
    ) -> Result<Lease, ServeError> {
        if let Some(found) = self.find(route, subject) {
            return Ok(found);
        }
        let stream = route.stream_key(subject.home, &subject.stream);
        let who = (subject.variant.clone(), subject.scope);
        let mut streams = self.streams.lock();
        let same = streams.by_stream.get(&stream).and_then(|all| all.get(&who));
        if let Some(same) = same
            && !matches!(same.status(), Status::Gone | Status::Closed(_))
        {
            return Ok(same.enter());
        }
        if streams.count >= self.max {
            return Err(ServeError::TooManyFollowed);
        }
        let hot = route.edge.hot.clone();
        let begun = Subscription::new(subject.clone(), content_type.clone(), at.clone(), hot);
        let begun = Arc::new(begun);
        let lease = begun.enter();
        let all = streams.by_stream.entry(stream).or_default();
        if all.insert(who, begun.clone()).is_none() {
            streams.count += 1;
        }
        tokio::spawn(follow::follow(route.clone(), begun));
        Ok(lease)
    }

    /// Lets go of a subscription, unless it has readers again. False if it has.
    pub(super) fn remove_unread(&self, route: &Route, subscription: &Arc<Subscription>) -> bool {
        self.remove_if(route, subscription, |subscription| {
            subscription.readers() == 0
        })
    }

    /// Lets go of a subscription that is over. Readers that have it still get what is in it.
    pub(super) fn remove(&self, route: &Route, subscription: &Arc<Subscription>) {
        self.remove_if(route, subscription, |_| true);
    }

    fn remove_if(
        &self,
        route: &Route,
        subscription: &Arc<Subscription>,
        condition: impl Fn(&Subscription) -> bool,
    ) -> bool {
        let subject = &subscription.subject;
        let stream = route.stream_key(subject.home, &subject.stream);
        let who = (subject.variant.clone(), subject.scope);
        let mut streams = self.streams.lock();
        // Under the lock, as nobody enters without it.
        if !condition(subscription) {
            return false;
        }
        let streams = &mut *streams;
        if let Some(all) = streams.by_stream.get_mut(&stream) {
            let same = all.get(&who);
            if same.is_some_and(|same| Arc::ptr_eq(same, subscription)) {
                all.remove(&who);
                streams.count -= 1;
            }
            if all.is_empty() {
                streams.by_stream.remove(&stream);
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

    /// A stream is gone for these callers, and perhaps for them alone.
    pub(super) fn end_for(&self, stream: &str, scope: &Scope) {
        let streams = self.streams.lock();
        let all = streams.by_stream.get(stream).into_iter().flatten();
        for ((_, whose), subscription) in all {
            if whose == scope {
                subscription.set_gone();
            }
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
        let all = streams.by_stream.iter();
        let each = all.flat_map(|(key, all)| all.values().map(move |one| (key, one)));
        for (key, subscription) in each {
            let path = &*subscription.subject.stream;
            let meant = match target {
                PurgeTarget::Path {
                    origin,
                    path: wanted,
                } => match origin {
                    Some(origin) => **key == *stream_key(origin, wanted),
                    None => path == wanted,
                },
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
