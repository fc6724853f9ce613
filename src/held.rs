//! Values that are the same for all who hold them, as long as anybody does.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Values by key. What nobody holds any longer is not found, and is taken out now and then.
#[derive(Debug)]
pub struct HeldMap<K, V>(HashMap<K, Weak<V>>);

impl<K, V> Default for HeldMap<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> HeldMap<K, V> {
    /// The value that somebody holds.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).and_then(Weak::upgrade)
    }

    /// The same, or else a new one.
    pub fn get_or_insert(&mut self, key: K, new: impl FnOnce() -> V) -> Arc<V> {
        if let Some(value) = self.get(&key) {
            return value;
        }
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, value| value.strong_count() > 0);
            // So much room that the next look at all of them is far.
            self.0.reserve(self.0.len() + 1);
        }
        let value = Arc::new(new());
        self.0.insert(key, Arc::downgrade(&value));
        value
    }

    /// Takes a value out: whoever asks from now on gets a new one.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)?.upgrade()
    }

    /// All that somebody holds.
    pub fn values(&self) -> impl Iterator<Item = Arc<V>> {
        self.0.values().filter_map(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_same_as_long_as_it_is_held() {
        let mut map = HeldMap::default();
        let one = map.get_or_insert("a", || 1);
        assert!(Arc::ptr_eq(&one, &map.get_or_insert("a", || 2)));
        assert_eq!(map.values().count(), 1);
        drop(one);
        assert_eq!((map.get("a"), map.values().count()), (None, 0));
        assert_eq!(*map.get_or_insert("a", || 3), 3);
    }

    #[test]
    fn what_is_taken_out_is_another_one_afterwards() {
        let mut map = HeldMap::default();
        let one = map.get_or_insert("a", || 1);
        assert_eq!(map.remove("a"), Some(one));
        assert_eq!(map.remove("a"), None);
        assert_eq!(*map.get_or_insert("a", || 2), 2);
    }

    #[test]
    fn what_nobody_holds_takes_no_memory() {
        let mut map = HeldMap::default();
        let mut held = Vec::new();
        for n in 0..10_000 {
            let value = map.get_or_insert(n, || n);
            if n % 1000 == 0 {
                held.push(value);
            }
        }
        assert_eq!(map.values().count(), held.len());
        assert!(map.0.capacity() < 100, "{}", map.0.capacity());
    }
}
