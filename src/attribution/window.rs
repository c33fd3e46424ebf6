//! What was seen in the last minute and the last hour.

use super::{
    largest::{Largest, Sized},
    names::{Hashed, Key, KeyName, Use, UseName},
    sketch::{Sketch, Summary},
    top::Load,
};
use crate::admission::Client;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// A window is this many parts, of which the oldest is dropped as a whole.
pub(super) const PARTS: u64 = 6;

/// How far back a list reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    Minute,
    Hour,
}

impl Window {
    pub const fn length(self) -> Duration {
        match self {
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(60 * 60),
        }
    }

    /// The number of the part that lies `age` after the start.
    pub(super) fn part(self, age: Duration) -> u64 {
        age.as_secs() / (self.length().as_secs() / PARTS)
    }
}

/// The lists of one part of a window.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) total: Load,
    prefixes: Sketch<Key>,
    clients: Sketch<Arc<Client>>,
    uses: Sketch<Use>,
    objects: Largest<Key>,
}

/// The names of one call.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub(super) prefix: Hashed<KeyName<'a>>,
    pub(super) client: Hashed<&'a Arc<Client>>,
    pub(super) used: Hashed<UseName<'a>>,
}

/// A copy of lists.
#[derive(Debug)]
pub(super) struct Summaries {
    pub(super) total: Load,
    pub(super) prefixes: Summary<Key>,
    pub(super) clients: Summary<Arc<Client>>,
    pub(super) uses: Summary<Use>,
    pub(super) objects: Vec<Sized<Key>>,
}

impl Lists {
    fn new(entries: usize) -> Self {
        Self {
            total: Load::default(),
            prefixes: Sketch::new(entries),
            clients: Sketch::new(entries),
            uses: Sketch::new(entries),
            objects: Largest::new(entries),
        }
    }

    pub(super) fn add(&mut self, names: &Names<'_>, load: &Load) {
        self.total += *load;
        self.prefixes.add(&names.prefix, load);
        self.clients.add(&names.client, load);
        self.uses.add(&names.used, load);
    }

    pub(super) fn object(&mut self, name: &Hashed<KeyName<'_>>, size: u64) {
        self.objects.see(name, size);
    }

    fn resize(&mut self, entries: usize) {
        self.prefixes.resize(entries);
        self.clients.resize(entries);
        self.uses.resize(entries);
        self.objects.resize(entries);
    }

    fn clear(&mut self) {
        self.total = Load::default();
        self.prefixes.clear();
        self.clients.clear();
        self.uses.clear();
        self.objects.clear();
    }

    fn summaries(&self) -> Summaries {
        Summaries {
            total: self.total,
            prefixes: self.prefixes.summary(),
            clients: self.clients.summary(),
            uses: self.uses.summary(),
            objects: self.objects.sizes(),
        }
    }
}

/// The parts of one window, each in the place of the one before it by a whole window.
#[derive(Debug)]
pub(super) struct Ring {
    window: Window,
    parts: [Part; PARTS as usize],
}

#[derive(Debug)]
struct Part {
    number: u64,
    lists: Lists,
}

impl Ring {
    pub(super) fn new(window: Window, entries: usize) -> Self {
        let part = |_| Part { number: 0, lists: Lists::new(entries) };
        Self { window, parts: std::array::from_fn(part) }
    }

    /// Where a call is counted that ends `age` after the start.
    pub(super) fn at(&mut self, age: Duration) -> &mut Lists {
        let number = self.window.part(age);
        let part = &mut self.parts[(number % PARTS) as usize];
        if part.number < number {
            part.lists.clear();
            part.number = number;
        }
        &mut part.lists
    }

    /// A copy of a part, if there was a call in its time.
    pub(super) fn part(&self, number: u64) -> Option<Summaries> {
        let part = &self.parts[(number % PARTS) as usize];
        (part.number == number).then(|| part.lists.summaries())
    }

    pub(super) fn resize(&mut self, entries: usize) {
        self.parts.iter_mut().for_each(|part| part.lists.resize(entries));
    }
}
