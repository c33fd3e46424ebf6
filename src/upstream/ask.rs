//! Small calls of our own, decoded.

use super::{Answer, Cluster, Error, Exchange, Lane, Member, Outbound};
use crate::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion},
    },
    grpc,
};
use http::{HeaderMap, HeaderValue, header, uri::PathAndQuery};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Code, Status};

/// The data thread that no client's call runs on: probes and what Seawall asks on its own behalf.
pub const CONTROL: usize = 0;

/// Largest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;

impl Cluster {
    /// Makes a unary call and decodes its answer.
    ///
    /// # Errors
    ///
    /// The outer error when there is no answer, the inner one when the answer is an error.
    pub async fn ask<T: prost::Message + Default>(
        &self,
        method: Method,
        request: &impl prost::Message,
        headers: HeaderMap,
        worker: usize,
        deadline: Option<Instant>,
    ) -> Result<Result<T, Status>, Error> {
        let mut outbound = outbound(method, request, worker, Lane::Light);
        Arc::make_mut(&mut outbound.headers).extend(headers);
        outbound.deadline = deadline;
        self.call(&outbound, method.effect()).await?.decode().await
    }
}

impl Member {
    /// The same, of this very member.
    pub(super) async fn ask<T: prost::Message + Default>(
        self: &Arc<Self>,
        worker: usize,
        lane: Lane,
        method: Method,
        request: &impl prost::Message,
    ) -> Result<Result<T, Status>, Error> {
        let outbound = outbound(method, request, worker, lane);
        let unreachable =
            |reason| Error::Unreachable { cluster: self.settings.name.as_str().into(), reason };
        let slot = self.pool(worker, lane).acquire(self).await.map_err(unreachable)?;
        let exchange = Exchange::start(self, slot, &outbound).await;
        exchange
            .map_err(|error| unreachable(error.to_string().into()))?
            .answer()
            .await?
            .decode()
            .await
    }
}

impl Answer {
    /// Reads the one message of a unary answer, or its error.
    ///
    /// # Errors
    ///
    /// The outer error when the answer broke off.
    pub async fn decode<T: prost::Message + Default>(mut self) -> Result<Result<T, Status>, Error> {
        let framed = match self.message().await? {
            Ok(framed) => framed,
            Err(status) => return Ok(Err(status)),
        };
        let undecodable =
            |error: prost::DecodeError| Status::new(Code::Internal, error.to_string());
        Ok(T::decode(framed.payload()).map_err(undecodable))
    }

    /// The length of the one message, before any of it is read; `None` where there is none.
    ///
    /// # Errors
    ///
    /// When the answer broke off.
    pub async fn length(&mut self) -> Result<Option<usize>, Error> {
        match self.body.peek_length().await {
            Ok(length) => Ok(length),
            Err(grpc::ReadError::Broken(error)) => Err(self.broken(&error)),
            // Whoever reads it is told.
            Err(_) => Ok(None),
        }
    }

    /// The one message of a unary answer, or its error.
    ///
    /// # Errors
    ///
    /// The outer error when the answer broke off.
    pub async fn message(&mut self) -> Result<Result<grpc::Message, Status>, Error> {
        self.message_up_to(ANSWER_BYTES_MAX).await
    }

    /// The same, of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// The outer error when the answer broke off.
    pub async fn message_up_to(
        &mut self,
        max: usize,
    ) -> Result<Result<grpc::Message, Status>, Error> {
        if let Some(status) = grpc::from_headers(&self.head.headers)
            && status.code() != Code::Ok
        {
            return Ok(Err(status));
        }
        let message = match self.body.message(max).await {
            Ok(message) => message,
            Err(grpc::ReadError::Broken(error)) => return Err(self.broken(&error)),
            Err(error) => return Ok(Err(Status::new(Code::Internal, error.to_string()))),
        };
        let trailers = match self.body.trailers().await {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(error) => return Err(self.broken(&error)),
        };
        Ok(match (grpc::from_headers(&trailers), message) {
            (Some(status), _) if status.code() != Code::Ok => Err(status),
            (_, Some(message)) => Ok(message),
            (_, None) => Err(Status::new(Code::Internal, "etcd's answer has no message")),
        })
    }
}

impl Cluster {
    /// Opens a watch of one watcher that ends when its member has no leader. Dropping the answer
    /// ends it, too.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn watch(&self, create: WatchCreateRequest, worker: usize) -> Result<Answer, Error> {
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let mut outbound = outbound(Method::Watch, &request, worker, Lane::Watch);
        Arc::make_mut(&mut outbound.headers).insert("hasleader", HeaderValue::from_static("true"));
        let request = outbound.body.take().unwrap_or_default();
        let mut exchange = self.stream(&outbound).await?;
        if let Some(up) = &mut exchange.outgoing {
            // Fails when the stream has ended, as its answer says.
            let _ = up.send(request).await;
        }
        exchange.answer().await
    }
}

/// A call of our own, ready to be sent.
pub fn outbound(
    method: Method,
    request: &impl prost::Message,
    worker: usize,
    lane: Lane,
) -> Outbound {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    Outbound {
        path: PathAndQuery::from_static(method.path()),
        headers: Arc::new(headers),
        body: Some(grpc::encode(request)),
        lane,
        affinity: method.affinity(),
        worker,
        deadline: None,
    }
}

const USER_AGENT: &str = concat!("seawall/", env!("CARGO_PKG_VERSION"));
