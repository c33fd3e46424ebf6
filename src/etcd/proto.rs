//! Messages generated from `proto/`. Bytes fields are slices of the buffer they were read from.

#![allow(unreachable_pub, missing_debug_implementations, clippy::all)]

pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

pub mod concurrency {
    include!(concat!(env!("OUT_DIR"), "/concurrency.rs"));
}

pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
