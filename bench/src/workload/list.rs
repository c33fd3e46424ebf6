use super::{Objects, Operation};
use crate::client::{
    Connection, Failure, Listed, RangeScan,
    etcd::{self, RangeRequest},
};

/// Lists everything under one prefix, without a limit. The answer is counted, not kept.
#[derive(Debug)]
pub(super) struct List {
    /// Length of all key-values, which nobody changes.
    kvs_bytes: u64,
    revision: i64,
}

impl List {
    pub(super) const OBJECTS: Objects = Objects::Of10KiB;

    pub(super) fn new(kvs_bytes: u64) -> Self {
        Self { kvs_bytes, revision: 0 }
    }

    pub(super) async fn ask(connection: &Connection) -> Result<Listed, Failure> {
        let request = RangeRequest {
            key: Self::OBJECTS.prefix().into(),
            range_end: Self::OBJECTS.range_end().into(),
            limit: 0,
        };
        connection.call::<RangeScan>(etcd::RANGE, &request).await
    }

    fn check(&mut self, listed: &Listed) -> Result<u64, Failure> {
        if listed.revision < self.revision.max(1) {
            return Err(Failure::Wrong("a revision that goes back"));
        }
        self.revision = listed.revision;
        let keys = Objects::KEYS as u64;
        if (listed.kvs, listed.count, listed.more) != (keys, keys, false) {
            return Err(Failure::Wrong("not all keys"));
        }
        if listed.kvs_bytes != self.kvs_bytes {
            return Err(Failure::Wrong("key-values of another length"));
        }
        Ok(listed.message_bytes)
    }
}

impl Operation for List {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        self.check(&Self::ask(connection).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_list_is_right() {
        let keys = Objects::KEYS as u64;
        let whole = Listed {
            revision: 20_001,
            message_bytes: 105_000_000,
            kvs: keys,
            kvs_bytes: 104_000_000,
            small: Vec::new(),
            more: false,
            count: keys,
        };
        let check = |listed: &Listed| List::new(104_000_000).check(listed);
        assert_eq!(check(&whole), Ok(105_000_000));
        for short in [
            Listed { revision: 0, ..whole.clone() },
            Listed { kvs: keys - 1, ..whole.clone() },
            Listed { count: keys + 1, ..whole.clone() },
            Listed { more: true, ..whole.clone() },
            Listed { kvs_bytes: 103_999_999, ..whole },
        ] {
            assert!(check(&short).is_err(), "{short:?}");
        }
    }
}
