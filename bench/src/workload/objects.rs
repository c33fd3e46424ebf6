use bytes::Bytes;
use clap::ValueEnum;

/// 10,000 objects under one prefix, as kube-apiserver names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Objects {
    /// Of 2 KiB; all of them are 20 MiB.
    #[value(name = "2k")]
    Of2KiB,
    /// Of 10 KiB; all of them are 98 MiB.
    #[value(name = "10k")]
    Of10KiB,
}

impl Objects {
    pub(crate) const KEYS: usize = 10_000;

    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Of2KiB => "/registry/pods/",
            Self::Of10KiB => "/registry/bigpods/",
        }
    }

    /// The first key after all that begin with the prefix.
    pub(crate) fn range_end(self) -> &'static str {
        match self {
            Self::Of2KiB => "/registry/pods0",
            Self::Of10KiB => "/registry/bigpods0",
        }
    }

    pub(crate) fn key(self, index: usize) -> Bytes {
        format!("{}namespace-{:03}/pod-{index:05}", self.prefix(), index % 100).into()
    }

    pub(crate) fn value_bytes(self) -> usize {
        match self {
            Self::Of2KiB => 2 << 10,
            Self::Of10KiB => 10 << 10,
        }
    }
}
