//! What the lists are about: each name as a call carries it, and as it is remembered.

use crate::admission::{Client, Shape};
use bytes::Bytes;
use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
};

/// Bytes of a key that tell it from others. etcd's limit is that of a whole request.
const KEY_MAX: usize = 512;

/// Borrowed from a call, so that looking up a known name allocates nothing.
pub(super) trait Name: Hash {
    type Kept;

    fn is(&self, kept: &Self::Kept) -> bool;

    fn keep(&self) -> Self::Kept;
}

/// A name and its hash, which is computed once for all windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed<N> {
    pub(super) hash: u64,
    pub(super) name: N,
}

impl<N: Name> Hashed<N> {
    pub(super) fn new(name: N, hasher: &impl BuildHasher) -> Self {
        Self { hash: hasher.hash_one(&name), name }
    }
}

/// A key or a prefix in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) cluster: Arc<str>,
    pub(super) key: Bytes,
}

#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct KeyName<'a> {
    cluster: &'a Arc<str>,
    key: &'a [u8],
}

impl<'a> KeyName<'a> {
    pub(super) fn new(cluster: &'a Arc<str>, key: &'a [u8]) -> Self {
        Self { cluster, key: &key[..key.len().min(KEY_MAX)] }
    }
}

impl Name for KeyName<'_> {
    type Kept = Key;

    fn is(&self, kept: &Key) -> bool {
        *self.key == *kept.key && **self.cluster == *kept.cluster
    }

    /// Copies the key, which is a slice of the whole request and would hold its memory.
    fn keep(&self) -> Key {
        Key { cluster: Arc::clone(self.cluster), key: Bytes::copy_from_slice(self.key) }
    }
}

impl Name for &Arc<Client> {
    type Kept = Arc<Client>;

    fn is(&self, kept: &Arc<Client>) -> bool {
        Arc::ptr_eq(self, kept) || **self == *kept
    }

    fn keep(&self) -> Arc<Client> {
        Arc::clone(self)
    }
}

/// Who asks what of which prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Use {
    pub(super) prefix: Key,
    pub(super) client: Arc<Client>,
    pub(super) shape: Shape,
}

#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct UseName<'a> {
    pub(super) prefix: KeyName<'a>,
    pub(super) client: &'a Arc<Client>,
    pub(super) shape: Shape,
}

impl Name for UseName<'_> {
    type Kept = Use;

    fn is(&self, kept: &Use) -> bool {
        self.shape == kept.shape && self.client.is(&kept.client) && self.prefix.is(&kept.prefix)
    }

    fn keep(&self) -> Use {
        let (prefix, client) = (self.prefix.keep(), self.client.keep());
        Use { prefix, client, shape: self.shape }
    }
}
