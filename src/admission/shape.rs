//! The shapes of requests that are told apart, and the class of each: the table that everything
//! about a call follows from.

use super::Class;

macro_rules! shapes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $class:ident;)*) => {
        /// What a request asks for, told from its fields alone.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Shape {
            $($(#[$doc])* $variant,)*
        }

        impl Shape {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As in rules, metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The class of a request of this shape, unless its keys are those that the control
            /// plane hangs on.
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$variant => Class::$class,)*
                }
            }
        }
    };
}

shapes! {
    /// kube-apiserver's and etcdctl's question whether etcd works.
    Health          "health"           Critical;
    /// One key.
    Get             "get"              PointRead;
    /// One key that is asked for the revision in the header: the bare name of a resource.
    CurrentRevision "current_revision" Probe;
    /// How many keys there are.
    Count           "count"            Background;
    /// The keys of a range without their values: kube-apiserver's statistics.
    Keys            "keys"             Background;
    /// At most [`super::classify::PAGE_MAX`] keys of a range.
    Page            "page"             PagedList;
    /// Large pages at one fixed revision: kube-apiserver's consistency check.
    CheckPage       "check_page"       Background;
    /// A larger page, such as kube-apiserver's watch cache begins with.
    BulkPage        "bulk_page"        HeavyList;
    /// All keys of a range, in their order.
    List            "list"             HeavyList;
    /// A range that etcd reads whole in order to sort or filter it, whatever its limit.
    SortedList      "sorted_list"      HeavyList;
    /// A put by itself.
    Put             "put"              Write;
    /// A transaction that puts a key if there is none.
    Create          "create"           Write;
    /// A transaction that puts a key if it has not changed.
    Update          "update"           Write;
    /// One key, by itself or if it has not changed.
    Delete          "delete"           Write;
    /// A range of keys.
    DeleteRange     "delete_range"     Write;
    /// A transaction that only reads.
    ReadTxn         "read_txn"         PointRead;
    /// Any other transaction.
    Txn             "txn"              Write;
    Compact         "compact"          Critical;
    Watch           "watch"            Watch;
    /// Grant, keep-alive, revoke.
    Lease           "lease"            Critical;
    LeaseRead       "lease_read"       PointRead;
    /// etcd's locks and elections.
    Election        "election"         Critical;
    /// Follows an election.
    Observe         "observe"          Watch;
    /// What kube-apiserver and `etcdctl endpoint health` ask of a member.
    Status          "status"           Critical;
    /// All data of a member, or a hash over it.
    Snapshot        "snapshot"         Background;
    /// Changes or inspects the cluster itself, and whatever is not known.
    Admin           "admin"            Admin;
}
