//! Ordered collections, filled one by one.
//!
//! `collect` sorts first, by an algorithm that is compiled anew for each type: 4 KB of an agent that is sent to every
//! host, each time. What is collected here is small, or comes in order.

use std::collections::{BTreeMap, BTreeSet};

/// The set of `items`.
pub fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

/// The map of these pairs. Of those with the same key the last counts.
pub fn map<K: Ord, V>(pairs: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(pairs);
    map
}
