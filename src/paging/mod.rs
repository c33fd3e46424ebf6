//! Large lists as many small ranges.
//!
//! A range without a limit between two known keys costs etcd what it returns and no more: it holds
//! little, and counts nothing that follows. Ranges that partition an interval, at one revision, are
//! together exactly the list. [`Splits`] learns where to cut, [`Pages`] reads one [`Page`] after the
//! other, and [`Assembly`] makes one answer of them. May import `upstream`.

mod assembly;
mod page;
mod pages;
mod splits;

pub use assembly::{Assembly, stream_chunk, stream_end};
pub use page::{Keys, Page};
pub use pages::{PAGES_HELD, Pages, Stopped};
pub use splits::{Cut, Splits};
