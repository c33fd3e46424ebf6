use http::{HeaderMap, HeaderName, request, uri::PathAndQuery};
use std::{net::SocketAddr, sync::Arc};
use tokio::time::Instant;

use crate::{etcd::method::Method, grpc};

/// Who calls.
#[derive(Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The address of ours that it connected to.
    pub local: SocketAddr,
    /// Common name of the certificate it showed.
    pub name: Option<String>,
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
    pub deadline: Option<Instant>,
    pub peer: Arc<Peer>,
    /// The data thread the call runs on.
    pub worker: usize,
}

/// Names a cluster for a call that carries no key.
const CLUSTER: HeaderName = HeaderName::from_static("seawall-cluster");

impl Call {
    pub fn new(head: request::Parts, peer: Arc<Peer>, worker: usize) -> Self {
        let mut headers = head.headers;
        let deadline = grpc::deadline(&headers, Instant::now());
        let cluster = headers.remove(CLUSTER);
        let cluster = cluster.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
        let path = head.uri.path_and_query().cloned();
        let headers = Arc::new(headers);
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self {
            method: Method::from_path(path.path()),
            path,
            headers,
            cluster,
            deadline,
            peer,
            worker,
        }
    }
}
