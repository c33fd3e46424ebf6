//! `seawall top`

pub(super) mod format;
mod once;
mod protections;
mod screen;
mod session;
mod source;
mod table;

use super::{
    Failure,
    args::{By, Top, Window},
    print,
};
use session::Session;
use source::Source;
use std::{
    io::{self, IsTerminal},
    time::Duration,
};

/// More often would only load the proxy.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Window {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

impl By {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
        }
    }
}

pub(super) fn top(args: &Top) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Runtime(error.into()))?;
    // Files are looked at again by a task.
    let entered = runtime.enter();
    let source = Source::new(args).map_err(Failure::Usage)?;
    drop(entered);
    if args.once || !io::stdout().is_terminal() {
        let snapshot = runtime.block_on(source.snapshot(args.window));
        let mut snapshot = snapshot.map_err(Failure::Runtime)?;
        snapshot.compare(None);
        return print(&once::text(&snapshot, args.window, args.by));
    }
    let session = Session::new(source, args.interval.max(INTERVAL_MIN), args.window, args.by);
    runtime.block_on(session.run()).map_err(Failure::Runtime)
}
