//! Compiles `proto/` with protox, so that no `protoc` is needed to build the proxy.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 5] = ["kv.proto", "rpc.proto", "lock.proto", "election.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // The descriptors let a test compare the table of methods with the services.
    fs::write(
        PathBuf::from(env::var("OUT_DIR")?).join("services.bin"),
        descriptors.encode_to_vec(),
    )?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
