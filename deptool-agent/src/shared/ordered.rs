//! Ordered sets and maps that are built by inserting. `collect` sorts first, and each type that is sorted adds 3 KB to the
//! agent.

use std::collections::{BTreeMap, BTreeSet};

pub trait Ordered: Iterator + Sized {
    fn into_set(self) -> BTreeSet<Self::Item>
    where
        Self::Item: Ord,
    {
        let mut set = BTreeSet::new();
        set.extend(self);
        set
    }

    /// Of two pairs with the same key, the last one is kept.
    fn into_map<K: Ord, V>(self) -> BTreeMap<K, V>
    where
        Self: Iterator<Item = (K, V)>,
    {
        let mut map = BTreeMap::new();
        map.extend(self);
        map
    }
}

impl<I: Iterator> Ordered for I {}
