//! Large lists as many small ranges.
//!
//! A range without a limit between two known keys costs etcd what it returns and no more: it holds
//! little, and counts nothing that follows. Ranges that partition an interval, at one revision, are
//! together exactly the list. [`Splits`] learns where to cut, [`Page`] is what comes back, and
//! [`Assembly`] makes one answer of them.

mod assembly;
mod page;
mod splits;

pub use assembly::{Assembly, stream_chunk, stream_end};
pub use page::{Keys, Page};
pub use splits::{Cut, Splits};
