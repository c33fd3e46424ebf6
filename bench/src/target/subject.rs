use super::{Programs, Running, Target};
use crate::{
    client::{Certificates, Dial},
    data::{DataSet, Resource},
};
use anyhow::{Context, Result};
use seawall_testkit::Cluster;
use std::fmt;

/// What is measured, and how one comes to it.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// Started in front of an etcd that is started too.
    Started(Target),
    /// Runs already.
    Endpoint(Endpoint),
}

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) dial: Dial,
}

impl Endpoint {
    /// Of `NAME=URL,URL`.
    pub(crate) fn parse(text: &str, certificates: &Certificates) -> Result<Self> {
        let (name, urls) = text.split_once('=').context("an endpoint is written NAME=URL,URL")?;
        let urls: Vec<_> = urls.split(',').map(str::to_owned).collect();
        let dial =
            Dial::of_urls(&urls, certificates).with_context(|| format!("endpoint {name}"))?;
        Ok(Self { name: name.to_owned(), dial })
    }
}

impl Subject {
    pub(crate) async fn start(
        &self,
        programs: &Programs,
        etcd: Option<&Cluster>,
        data: &DataSet,
        read: &[Resource],
    ) -> Result<Running> {
        match self {
            Self::Started(target) => {
                let etcd = etcd.context("an etcd is started for what is started in front of it")?;
                target.start(programs, etcd, data, read).await
            }
            Self::Endpoint(endpoint) => Ok(Running::elsewhere(endpoint.dial.clone())),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(target) => target.fmt(f),
            Self::Endpoint(endpoint) => f.write_str(&endpoint.name),
        }
    }
}
