//! A client that speaks HTTP/2 itself and so can say anything.

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{self, SendRequest},
};
use http::{HeaderMap, Request};
use std::{future::poll_fn, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is driven until this value goes, which closes it.
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A call of which the head was sent.
pub(crate) struct Call {
    pub(crate) sending: SendStream<Bytes>,
    answer: client::ResponseFuture,
}

/// The answer to a call, as it comes.
pub(crate) struct Answer {
    pub(crate) sending: SendStream<Bytes>,
    pub(crate) body: RecvStream,
    head: HeaderMap,
    received: BytesMut,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (requests, connection) = {
            // Of what it does not read, small frames too may wait here.
            let handshake = client::Builder::new().data_frame_budget(1 << 30).handshake(stream);
            timeout(TIMEOUT, handshake).await??
        };
        Ok(Self { requests, driver: tokio::spawn(connection) })
    }

    /// Begins a call.
    pub(crate) async fn call(&mut self, path: &str) -> Result<Call> {
        let request = request(path)?;
        let ready = poll_fn(|cx| self.requests.poll_ready(cx));
        timeout(TIMEOUT, ready).await.context("no place for a stream")??;
        let (answer, sending) = self.requests.send_request(request, false)?;
        Ok(Call { sending, answer })
    }

    /// Makes a call with this body, as it is, and returns its gRPC status.
    pub(crate) async fn exchange(&mut self, path: &str, body: Bytes) -> Result<(u16, String)> {
        let mut call = self.call(path).await?;
        call.sending.send_data(body, true)?;
        call.answer().await?.status().await
    }

    /// Waits for the server to close the connection; `Err` tells its reason.
    pub(crate) async fn closed(&mut self) -> Result<()> {
        Ok(timeout(TIMEOUT, &mut self.driver).await.context("it stays open")???)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Call {
    /// Waits for the head of the answer.
    pub(crate) async fn answer(self) -> Result<Answer> {
        let response = timeout(TIMEOUT, self.answer).await.context("no answer")??;
        let (head, body) = response.into_parts();
        let (sending, received) = (self.sending, BytesMut::new());
        Ok(Answer { sending, body, head: head.headers, received })
    }
}

impl Answer {
    /// The next message, without its prefix; `None` at the end.
    pub(crate) async fn message(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(&[_, a, b, c, d]) = self.received.first_chunk::<5>() {
                let whole = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
                if self.received.len() >= whole {
                    return Ok(Some(self.received.split_to(whole).freeze().slice(5..)));
                }
            }
            let data = timeout(TIMEOUT, self.body.data()).await.context("no more comes")?;
            let Some(data) = data.transpose()? else { return Ok(None) };
            self.body.flow_control().release_capacity(data.len())?;
            self.received.extend_from_slice(&data);
        }
    }

    /// Reads to the end and returns the gRPC status with its text.
    pub(crate) async fn status(mut self) -> Result<(u16, String)> {
        while self.message().await?.is_some() {}
        let trailers = timeout(TIMEOUT, self.body.trailers()).await.context("no trailers")??;
        let trailers = trailers.unwrap_or_default();
        let field = |name| trailers.get(name).or_else(|| self.head.get(name));
        let code = field("grpc-status").context("no status")?.to_str()?.parse()?;
        let text = field("grpc-message").map_or(Ok(""), |text| text.to_str())?;
        Ok((code, text.replace("%20", " ")))
    }
}

pub(crate) fn request(path: &str) -> Result<Request<()>> {
    Ok(Request::post(format!("http://seawall{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?)
}
