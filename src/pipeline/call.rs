use http::{HeaderMap, HeaderName, request, uri::PathAndQuery};
use std::{net::SocketAddr, sync::Arc};
use tokio::time::Instant;

use crate::{admission::Client, etcd::method::Method, grpc};

/// Who calls, on one connection.
#[derive(Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The address of ours that it connected to.
    pub local: SocketAddr,
    /// What it goes by in rules and statistics.
    pub client: Arc<Client>,
    pub tls: bool,
}

/// One call of a client, without its messages. Complete when it is made, and never changed.
#[derive(Debug)]
pub struct Call {
    /// `None` for a method that this build does not know, of a service that it does.
    pub method: Option<Method>,
    pub path: PathAndQuery,
    /// The client's metadata, without what was meant for us.
    pub headers: Arc<HeaderMap>,
    /// The cluster that the client named in `seawall-cluster`.
    pub cluster: Option<String>,
    /// The protection that the client overrides, named in `seawall-override`.
    pub overrides: Option<String>,
    pub deadline: Option<Instant>,
    pub peer: Arc<Peer>,
    /// The data thread the call runs on.
    pub worker: usize,
}

/// Names a cluster for a call that carries no key.
const CLUSTER: HeaderName = HeaderName::from_static("seawall-cluster");

/// Names a guard that is not to stand in this call's way.
const OVERRIDE: HeaderName = HeaderName::from_static("seawall-override");

impl Peer {
    /// `name` is the common name of the certificate that it showed.
    pub fn new(address: SocketAddr, local: SocketAddr, name: Option<&str>, tls: bool) -> Self {
        Self { address, local, client: Arc::new(Client::new(address.ip(), name)), tls }
    }
}

impl Call {
    pub fn new(head: request::Parts, peer: Arc<Peer>, worker: usize) -> Self {
        let mut headers = head.headers;
        let deadline = grpc::deadline(&headers, Instant::now());
        let mut ours = |name| {
            let value = headers.remove(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (cluster, overrides) = (ours(CLUSTER), ours(OVERRIDE));
        let path = head.uri.path_and_query().cloned();
        let headers = Arc::new(headers);
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self {
            method: Method::from_path(path.path()),
            path,
            headers,
            cluster,
            overrides,
            deadline,
            peer,
            worker,
        }
    }
}
