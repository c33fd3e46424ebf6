//! Real etcd servers, certificates and faulty networks for tests, the demo and the bench.
//!
//! - [`Cluster`]: an etcd cluster on free ports of 127.0.0.1, whose members can be killed, paused,
//!   restarted, cut off from each other and left without a byte of disk; [`Binaries`] selects the version, [`Etcdctl`] drives it.
//! - [`Pki`]: certificates that a test trusts, and some that it does not.
//! - [`FaultProxy`]: a TCP connection that misbehaves on command.
//! - [`SeawallProcess`]: the built proxy as a process, with its addresses and its log.
//! - [`Process`]: any other program, such as a peer that Seawall is compared with.
//! - [`every_choice`], [`each_seed`]: orders in which things can happen, for tests of small hard parts.
//! - [`mod@eventually`]: waits for a condition, so that no test sleeps.
//!
//! Every process started here ends with its owner, also when the test process is killed.

mod binaries;
mod choices;
mod cluster;
mod disk;
mod etcdctl;
mod eventually;
mod fault_proxy;
mod http;
mod member;
mod pki;
mod ports;
mod process;
mod scratch;
mod seawall;
mod skipped;

pub use binaries::Binaries;
pub use choices::{Choices, each_seed, every_choice};
pub use cluster::{Cluster, ClusterBuilder};
pub use disk::has_own_disks;
pub use etcdctl::{Etcdctl, Output, etcdctl};
pub use eventually::eventually;
pub use fault_proxy::{Connections, Direction, Fault, FaultProxy};
pub use member::Member;
pub use pki::{Identity, Pki};
pub use process::{Process, Program, Usage};
pub use seawall::{LogLine, SeawallBuilder, SeawallProcess};
pub use skipped::skipped;
