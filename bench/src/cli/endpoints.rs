use crate::client::Certificates;
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;

/// How one comes to etcd servers that run already, and where one writes there.
#[derive(Args, Debug)]
pub(super) struct EndpointFlags {
    #[command(flatten)]
    certification: Certification,

    /// What all keys begin with. kube-apiserver's own is /registry: give an etcd that holds a cluster
    /// another one
    #[arg(long, default_value = "/registry")]
    root: String,
}

/// With which certificates one comes to them.
#[derive(Args, Debug)]
pub(super) struct Certification {
    /// Certificates that servers are verified with
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The client's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Certification {
    pub(super) fn certificates(&self) -> Certificates {
        Certificates { ca: self.ca.clone(), identity: self.cert.clone().zip(self.key.clone()) }
    }
}

impl EndpointFlags {
    pub(super) fn certificates(&self) -> Certificates {
        self.certification.certificates()
    }

    pub(super) fn root(&self) -> Result<String> {
        let root = self.root.trim_end_matches('/');
        if root.is_empty() || !root.starts_with('/') {
            bail!("--root begins with a slash and names something");
        }
        Ok(root.to_owned())
    }
}
