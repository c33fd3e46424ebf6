use super::{Connection, Failure, grpc, status};
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::StatusCode;
use prost::Message;

/// A call with messages both ways, such as a watch.
pub(crate) struct Stream {
    requests: SendStream<Bytes>,
    head: Option<ResponseFuture>,
    answers: Option<RecvStream>,
    buffer: BytesMut,
}

const PREFIX_BYTES: usize = 5;

impl Connection {
    pub(crate) async fn stream(&self, method: super::etcd::Method) -> Result<Stream, Failure> {
        let mut sender = self.sender.clone().ready().await?;
        let (head, requests) = sender.send_request(self.request(method), false)?;
        Ok(Stream { requests, head: Some(head), answers: None, buffer: BytesMut::new() })
    }
}

impl Stream {
    /// Messages that a client sends on a stream are small and few, so they fit its window.
    pub(crate) fn send(&mut self, message: &impl Message) -> Result<(), Failure> {
        Ok(self.requests.send_data(grpc::frame(message), false)?)
    }

    /// # Errors
    ///
    /// Also when the stream ends, since a watch ends only when something is wrong.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<M, Failure> {
        loop {
            if let Some(message) = self.take()? {
                return M::decode(message)
                    .map_err(|_| Failure::Wrong("a message that is no protobuf"));
            }
            let answers = self.answers().await?;
            match answers.data().await {
                Some(data) => {
                    let data = data?;
                    answers.flow_control().release_capacity(data.len())?;
                    self.buffer.extend_from_slice(&data);
                }
                None => {
                    let trailers = answers.trailers().await?.unwrap_or_default();
                    status(&trailers).unwrap_or(Err(Failure::Wrong("no status")))?;
                    return Err(Failure::Lost("the stream has ended".to_owned()));
                }
            }
        }
    }

    async fn answers(&mut self) -> Result<&mut RecvStream, Failure> {
        // It stays where it is for whoever stops to wait and comes again.
        if let Some(head) = &mut self.head {
            let answered = head.await;
            self.head = None;
            let (head, answers) = answered?.into_parts();
            if head.status != StatusCode::OK {
                return Err(Failure::Http(head.status.as_u16()));
            }
            if let Some(failure) = status(&head.headers) {
                return failure.and(Err(Failure::Wrong("no message")));
            }
            self.answers = Some(answers);
        }
        self.answers.as_mut().ok_or(Failure::Wrong("a stream that has failed before"))
    }

    fn take(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.buffer.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let mut prefix = &self.buffer[..PREFIX_BYTES];
        if prefix.get_u8() != 0 {
            return Err(Failure::Wrong("a compressed message"));
        }
        let length = prefix.get_u32() as usize;
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}
