//! What is answered from memory.

use super::{Checks, MILLISECOND, SECOND, protection::SIZE_MAX};
use crate::{
    config::{
        decode::item,
        file,
        units::{Duration, Size},
    },
    mirror::{self, Limits},
};
use bytes::Bytes;
use std::time;

impl Checks<'_> {
    /// How far it goes is a protection's matter; see [`Checks::protection`].
    pub(super) fn mirror(&mut self, file: file::Mirror) -> mirror::Config {
        let file::Mirror {
            mode: _,
            memory,
            history,
            wait_max,
            pinned,
            verify_interval,
            consistency_checks,
        } = file;
        if history > memory {
            let most = format!("at most the memory of {memory}");
            self.expected("mirror.history", most, history);
        }
        mirror::Config {
            memory_bytes: self.size("mirror.memory", memory, MEMORY_MIN..=SIZE_MAX),
            history: Limits { events: EVENTS_MAX, bytes: history.0 as usize },
            wait_max: self.duration("mirror.wait_max", wait_max, MILLISECOND),
            pinned: self.pinned(pinned),
            verify_interval: self.pause("mirror.verify_interval", verify_interval),
            consistency_checks,
        }
    }

    fn pinned(&mut self, names: Vec<String>) -> Vec<Bytes> {
        for (index, name) in names.iter().enumerate() {
            if !mirror::is_collection(name.as_bytes()) {
                let path = item("mirror.pinned", index);
                let what = "the prefix of a resource, without a slash at its end, such as \
                            /registry/pods or /registry/cilium.io/ciliumnodes";
                self.expected(&path, what, format_args!("{name:?}"));
            }
        }
        names.into_iter().map(Bytes::from).collect()
    }

    /// 0 is for never.
    fn pause(&mut self, path: &str, pause: Duration) -> Option<time::Duration> {
        (!pause.0.is_zero()).then(|| self.duration(path, pause, SECOND))
    }
}

/// Less holds nothing worth holding.
const MEMORY_MIN: Size = Size(1 << 20);

/// Of the smallest objects; bytes are the bound that is felt.
const EVENTS_MAX: usize = 200_000;
