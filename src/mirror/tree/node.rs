//! The nodes of the tree. A node that is about to change is this version's own.

use super::{Object, Totals};
use std::{ops::Range, sync::Arc};

/// Entries of a node at most. A change copies this many pointers a level.
const MAX: usize = 32;
/// Entries below which a node joins its neighbour.
const MIN: usize = MAX / 4;
/// Entries of a node that is built whole, which leaves room for changes.
pub(super) const FILL: usize = MAX * 3 / 4;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Leaf(Vec<Arc<Object>>),
    /// None of whose nodes is empty.
    Branch(Vec<Child>),
}

#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) first: Arc<Object>,
    pub(super) totals: Totals,
    pub(super) node: Arc<Node>,
}

impl Node {
    /// Also returns what a node that became too large has split off.
    pub(super) fn put(&mut self, object: Arc<Object>) -> (Option<Arc<Object>>, Option<Self>) {
        let replaced = match self {
            Self::Leaf(objects) => match find(objects, object.key()) {
                Ok(at) => Some(std::mem::replace(&mut objects[at], object)),
                Err(at) => {
                    objects.insert(at, object);
                    None
                }
            },
            Self::Branch(children) => {
                let at = child_for(children, object.key());
                let (replaced, split) = Arc::make_mut(&mut children[at].node).put(object);
                renew(children, at..at + 1, split);
                replaced
            }
        };
        (replaced, self.split())
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Arc<Object>> {
        match self {
            Self::Leaf(objects) => find(objects, key).ok().map(|at| objects.remove(at)),
            Self::Branch(children) => {
                let at = child_for(children, key);
                let node = Arc::make_mut(&mut children[at].node);
                let removed = node.remove(key)?;
                if node.len() >= MIN || children.len() == 1 {
                    renew(children, at..at + 1, None);
                } else {
                    let left = at.min(children.len() - 2);
                    let right = Node::clone(&children[left + 1].node);
                    let joined = Arc::make_mut(&mut children[left].node);
                    let split = joined.append(right).or_else(|| joined.split());
                    renew(children, left..left + 2, split);
                }
                Some(removed)
            }
        }
    }

    /// The right half of what has become too large.
    fn split(&mut self) -> Option<Self> {
        (self.len() > MAX).then(|| match self {
            Self::Leaf(objects) => Self::Leaf(objects.split_off(objects.len() / 2)),
            Self::Branch(children) => Self::Branch(children.split_off(children.len() / 2)),
        })
    }

    /// Takes in a neighbour; gives it back if it is of another level, as none is.
    fn append(&mut self, right: Self) -> Option<Self> {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.extend(right),
            (Self::Branch(left), Self::Branch(right)) => left.extend(right),
            (_, other) => return Some(other),
        }
        None
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(objects) => objects.len(),
            Self::Branch(children) => children.len(),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl Child {
    /// `None` for a node without objects.
    pub(super) fn of(node: Node) -> Option<Self> {
        Self::shared(Arc::new(node))
    }

    fn shared(node: Arc<Node>) -> Option<Self> {
        let (first, totals) = match &*node {
            Node::Leaf(objects) => (objects.first()?, sum(objects)),
            Node::Branch(children) => {
                (&children.first()?.first, children.iter().map(|child| child.totals).sum())
            }
        };
        Some(Self { first: Arc::clone(first), totals, node })
    }
}

/// Describes the first of these children anew, and puts `split` in the place of the others.
fn renew(children: &mut Vec<Child>, changed: Range<usize>, split: Option<Node>) {
    let node = Arc::clone(&children[changed.start].node);
    let now = Child::shared(node).into_iter().chain(split.and_then(Child::of));
    children.splice(changed, now);
}

pub(super) fn find(objects: &[Arc<Object>], key: &[u8]) -> Result<usize, usize> {
    objects.binary_search_by(|object| object.key().cmp(key))
}

/// The child that holds `key`, if any does.
pub(super) fn child_for(children: &[Child], key: &[u8]) -> usize {
    children.partition_point(|child| child.first.key() <= key).saturating_sub(1)
}

/// The child that holds the object at `rank`, or the last one, and what comes before it.
pub(super) fn child_at(children: &[Child], rank: usize) -> (usize, Totals) {
    let mut before = Totals::default();
    for (at, child) in children.iter().enumerate() {
        if rank < before.count + child.totals.count || at + 1 == children.len() {
            return (at, before);
        }
        before = before + child.totals;
    }
    (0, before)
}

pub(super) fn sum(objects: &[Arc<Object>]) -> Totals {
    objects.iter().map(|object| Totals::of(object)).sum()
}
