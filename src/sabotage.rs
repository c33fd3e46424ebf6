//! Promises that a test has Seawall break, to see that its suite finds that out.
//!
//! Without the Cargo feature of this name, which no release has, none is ever broken, and the
//! compiler drops the code that would.

/// A mistake that such a proxy could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A read joins one that was sent before it arrived.
    JoinSent,
    /// A read is answered from memory, and nobody asks etcd how far it is.
    SkipProbe,
    /// A watcher is told of progress before it is told of the events up to there.
    OvertakeEvents,
    /// A lease is not kept alive where its keys live.
    ForgetLease,
    /// A write is sent again when its answer is lost.
    RepeatWrite,
}

impl Sabotage {
    pub const ALL: [Self; 5] = [
        Self::JoinSent,
        Self::SkipProbe,
        Self::OvertakeEvents,
        Self::ForgetLease,
        Self::RepeatWrite,
    ];

    /// As the environment names it in `SEAWALL_SABOTAGE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JoinSent => "join-sent",
            Self::SkipProbe => "skip-probe",
            Self::OvertakeEvents => "overtake-events",
            Self::ForgetLease => "forget-lease",
            Self::RepeatWrite => "repeat-write",
        }
    }

    /// Whether it was asked for.
    #[cfg(feature = "sabotage")]
    pub fn is_on(self) -> bool {
        use std::sync::LazyLock;
        static NAMED: LazyLock<Option<std::ffi::OsString>> =
            LazyLock::new(|| std::env::var_os("SEAWALL_SABOTAGE"));
        NAMED.as_ref().is_some_and(|named| named == self.as_str())
    }

    #[cfg(not(feature = "sabotage"))]
    pub const fn is_on(self) -> bool {
        false
    }
}
