//! An ordered, persistent set of objects that counts.
//!
//! A B+ tree whose nodes are shared between versions: a clone costs nothing, and a change copies the
//! few nodes above it that another version still holds. Every branch knows the totals below it, so
//! the count and the encoded length of any interval of keys cost one descent, where etcd walks all
//! its keys. That, and eight bytes of the tree for an object, is why this is not a map of a library.

mod node;
#[cfg(test)]
mod tests;

use super::object::Object;
use node::{Child, FILL, Node, child_at, child_for, find, sum};
use std::{
    iter::Sum,
    ops::{Add, Range, Sub},
    slice,
    sync::Arc,
};

/// The objects of a collection in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    root: Arc<Node>,
    totals: Totals,
}

/// What is known of a number of objects without walking through them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub count: usize,
    /// Bytes of the `kvs` fields with their values, whether these are held or not.
    pub bytes: usize,
    /// Bytes of the `kvs` fields as `keys_only` has them.
    pub keys_bytes: usize,
    /// Objects that a lease holds.
    pub leased: usize,
}

impl Tree {
    /// A tree of objects whose keys ascend.
    pub fn from_sorted(objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        let objects: Vec<_> = objects.into_iter().collect();
        debug_assert!(objects.is_sorted_by(|a, b| a.key() < b.key()));
        let leaves = objects.chunks(FILL).map(|leaf| Node::Leaf(leaf.to_vec()));
        let mut level: Vec<_> = leaves.filter_map(Child::of).collect();
        while level.len() > 1 {
            let branches = level.chunks(FILL).map(|branch| Node::Branch(branch.to_vec()));
            level = branches.filter_map(Child::of).collect();
        }
        level.pop().map_or_else(Self::default, |root| Self { root: root.node, totals: root.totals })
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub fn get(&self, key: &[u8]) -> Option<&Arc<Object>> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(objects) => return find(objects, key).ok().map(|at| &objects[at]),
                Node::Branch(children) => node = &children[child_for(children, key)].node,
            }
        }
    }

    /// How many keys come before `key`, and what they amount to.
    pub fn before_key(&self, key: &[u8]) -> Totals {
        let (mut node, mut before) = (&*self.root, Totals::default());
        loop {
            match node {
                Node::Leaf(objects) => {
                    let at = find(objects, key).unwrap_or_else(|at| at);
                    return before + sum(&objects[..at]);
                }
                Node::Branch(children) => {
                    let at = child_for(children, key);
                    before = before + children[..at].iter().map(|child| child.totals).sum();
                    node = &children[at].node;
                }
            }
        }
    }

    /// What the first `rank` objects amount to.
    pub fn before_rank(&self, rank: usize) -> Totals {
        let (mut node, mut before) = (&*self.root, Totals::default());
        loop {
            match node {
                Node::Leaf(objects) => {
                    return before + sum(&objects[..(rank - before.count).min(objects.len())]);
                }
                Node::Branch(children) => {
                    let (at, skipped) = child_at(children, rank - before.count);
                    before = before + skipped;
                    node = &children[at].node;
                }
            }
        }
    }

    /// The objects from the one at `rank` on.
    pub fn from_rank(&self, rank: usize) -> Iter<'_> {
        let (mut node, mut rest) = (&*self.root, rank);
        let mut branches = Vec::new();
        loop {
            match node {
                Node::Leaf(objects) => {
                    let leaf = objects[rest.min(objects.len())..].iter();
                    return Iter { branches, leaf };
                }
                Node::Branch(children) => {
                    let (at, skipped) = child_at(children, rest);
                    rest -= skipped.count;
                    branches.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
            }
        }
    }

    /// The objects at these ranks.
    pub fn ranks(&self, ranks: Range<usize>) -> impl Iterator<Item = &Arc<Object>> {
        self.from_rank(ranks.start).take(ranks.len())
    }

    /// Puts an object in its place, and returns the one that was there.
    pub fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let added = Totals::of(&object);
        let (replaced, split) = Arc::make_mut(&mut self.root).put(object);
        if let Some(right) = split {
            let left = std::mem::take(Arc::make_mut(&mut self.root));
            let halves = [left, right].into_iter().filter_map(Child::of).collect();
            self.root = Arc::new(Node::Branch(halves));
        }
        let removed = replaced.as_deref().map(Totals::of).unwrap_or_default();
        self.totals = self.totals + added - removed;
        replaced
    }

    /// Removes the object of a key, and returns it.
    pub fn remove(&mut self, key: &[u8]) -> Option<Arc<Object>> {
        // What is not there must not copy nodes.
        self.get(key)?;
        let removed = Arc::make_mut(&mut self.root).remove(key)?;
        while let Node::Branch(children) = &*self.root
            && let [only] = &children[..]
        {
            self.root = Arc::clone(&only.node);
        }
        self.totals = self.totals - Totals::of(&removed);
        Some(removed)
    }
}

impl Totals {
    pub(super) fn of(object: &Object) -> Self {
        Self {
            count: 1,
            bytes: object.length(false),
            keys_bytes: object.length(true),
            leased: usize::from(object.lease != 0),
        }
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            bytes: self.bytes + other.bytes,
            keys_bytes: self.keys_bytes + other.keys_bytes,
            leased: self.leased + other.leased,
        }
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            count: self.count - other.count,
            bytes: self.bytes - other.bytes,
            keys_bytes: self.keys_bytes - other.keys_bytes,
            leased: self.leased - other.leased,
        }
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), Add::add)
    }
}

/// Objects in the order of their keys.
#[derive(Debug)]
pub struct Iter<'t> {
    /// What is left of the branches above the leaf, the root's first.
    branches: Vec<slice::Iter<'t, Child>>,
    leaf: slice::Iter<'t, Arc<Object>>,
}

impl<'t> Iterator for Iter<'t> {
    type Item = &'t Arc<Object>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(object) = self.leaf.next() {
                return Some(object);
            }
            match self.branches.last_mut()?.next().map(|child| &*child.node) {
                Some(Node::Leaf(objects)) => self.leaf = objects.iter(),
                Some(Node::Branch(children)) => self.branches.push(children.iter()),
                None => {
                    self.branches.pop();
                }
            }
        }
    }
}
