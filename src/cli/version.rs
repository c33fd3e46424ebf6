//! `seawall version`

use serde_json::json;
use std::env::consts::{ARCH, OS};

pub(super) fn version(as_json: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match as_json {
        true => format!("{}\n", json!({ "version": version, "os": OS, "arch": ARCH })),
        false => format!("seawall {version} ({OS}/{ARCH})\n"),
    }
}
