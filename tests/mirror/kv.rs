//! A client of etcd's that shows what came back, byte for byte.

use crate::client::{Client, Reply, Status};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, ResponseHeader,
    },
};
use std::net::SocketAddr;
use tonic::Code;

pub(crate) struct Kv {
    client: Client,
    metadata: Vec<(String, String)>,
}

/// What etcd or Seawall says instead of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) text: String,
}

pub(crate) type Answer<T> = Result<T, Refused>;

impl Kv {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self { client: Client::connect(address).await?, metadata: Vec::new() })
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }

    /// All that came back.
    pub(crate) async fn reply(&self, method: Method, request: &impl Message) -> Result<Reply> {
        let metadata: Vec<_> = self.metadata.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        self.client.unary(method.path(), &metadata, &request.encode_to_vec()).await
    }

    /// The bytes of the one message.
    pub(crate) async fn bytes(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<Answer<Bytes>> {
        let reply = self.reply(method, request).await?;
        match reply.status {
            Status::Grpc { code: Code::Ok, .. } => {
                reply.messages.into_iter().next().context("no message").map(Ok)
            }
            Status::Grpc { code, message, .. } => Ok(Err(Refused { code, text: message })),
            Status::Reset(reason) => bail!("reset: {reason}"),
        }
    }

    pub(crate) async fn ask<T: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<Answer<T>> {
        match self.bytes(method, request).await? {
            Ok(bytes) => Ok(Ok(T::decode(bytes)?)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    pub(crate) async fn range(&self, request: &RangeRequest) -> Result<Answer<RangeResponse>> {
        self.ask(Method::Range, request).await
    }

    /// The header of the answer; whoever is refused has failed.
    pub(crate) async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<ResponseHeader> {
        let (key, value) = (key.to_owned().into(), value.into().into());
        let request = PutRequest { key, value, ..PutRequest::default() };
        let put: Answer<PutResponse> = self.ask(Method::Put, &request).await?;
        let put = put.map_err(|refused| anyhow::anyhow!("put: {refused:?}"))?;
        put.header.context("no header")
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        let key = key.to_owned().into();
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let deleted: Answer<DeleteRangeResponse> = self.ask(Method::DeleteRange, &request).await?;
        deleted.map(drop).map_err(|refused| anyhow::anyhow!("delete: {refused:?}"))
    }

    pub(crate) async fn compact(&self, revision: i64) -> Result<()> {
        let request = CompactionRequest { revision, physical: true };
        let compacted: Answer<CompactionResponse> = self.ask(Method::Compact, &request).await?;
        compacted.map(drop).map_err(|refused| anyhow::anyhow!("compact: {refused:?}"))
    }

    pub(crate) async fn header(&self) -> Result<ResponseHeader> {
        let answer = self.range(&one("\0")).await?;
        let answer = answer.map_err(|refused| anyhow::anyhow!("range: {refused:?}"))?;
        answer.header.context("no header")
    }

    pub(crate) async fn revision(&self) -> Result<i64> {
        Ok(self.header().await?.revision)
    }
}

pub(crate) fn one(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

/// All keys below a prefix.
pub(crate) fn list(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    RangeRequest { range_end: end.into(), ..one(prefix) }
}

pub(crate) fn count(prefix: &str) -> RangeRequest {
    RangeRequest { count_only: true, ..list(prefix) }
}
