//! A server that says what an etcd rarely can be brought to say.

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use parking_lot::Mutex;
use prost::Message;
use seawall::{
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::{
            etcdserverpb::{
                RangeRequest, RangeResponse, ResponseHeader, StatusResponse, WatchResponse,
            },
            mvccpb::KeyValue,
        },
    },
    grpc,
};
use seawall_testkit::eventually;
use std::{future::pending, mem, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tonic::{Code, Status};

/// An etcd that holds lists back until it is told to answer them, and small reads as it is told. It
/// ends with the test's runtime.
#[derive(Clone, Debug)]
pub(crate) struct Scripted(Arc<State>);

#[derive(Debug)]
struct State {
    address: SocketAddr,
    /// What it says to whatever it does not know.
    refusal: Status,
    manner: Mutex<(Manner, i64)>,
    /// Those that came, in their order.
    lists: Mutex<Vec<RangeRequest>>,
    /// Lists that may be answered.
    let_go: Semaphore,
    /// What it has; as long as that is nothing, lists wait.
    objects: Mutex<Vec<KeyValue>>,
    /// Ends answers to ranges, as what only a later etcd says.
    unheard_of: Mutex<Bytes>,
}

/// How small reads are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    AtOnce,
    /// After [`SLOW`].
    Slowly,
    Never,
}

/// Less than what Seawall gives up after.
const SLOW: Duration = Duration::from_millis(500);

impl Scripted {
    pub(crate) async fn start() -> Result<Self> {
        Self::refusing_writes(Code::Unimplemented, "unheard of").await
    }

    /// One that is well but for its writes, which it answers with this.
    pub(crate) async fn refusing_writes(code: Code, text: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let this = Self(Arc::new(State {
            address: listener.local_addr()?,
            refusal: Status::new(code, text),
            manner: Mutex::new((Manner::AtOnce, 1)),
            lists: Mutex::default(),
            let_go: Semaphore::new(0),
            objects: Mutex::default(),
            unheard_of: Mutex::default(),
        }));
        let accepting = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        Ok(this)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub(crate) fn answer_small_reads(&self, manner: Manner) {
        self.0.manner.lock().0 = manner;
    }

    /// Something was written, of which no watch tells.
    pub(crate) fn write_unseen(&self) {
        self.0.manner.lock().1 += 1;
    }

    /// Has these, in the order of their keys, and answers lists with them at once.
    pub(crate) fn has(&self, objects: Vec<KeyValue>) {
        *self.0.objects.lock() = objects;
    }

    pub(crate) fn say_unheard_of(&self, field: &'static [u8]) {
        *self.0.unheard_of.lock() = field.into();
    }

    /// Takes the lists that have come.
    pub(crate) fn take_lists(&self) -> Vec<RangeRequest> {
        mem::take(&mut self.0.lists.lock())
    }

    /// What it says to a list.
    pub(crate) fn answer_to(&self, list: &RangeRequest) -> RangeResponse {
        let range = KeyRange::of(list.key.clone(), list.range_end.clone());
        let objects = self.0.objects.lock();
        let mut kvs: Vec<_> =
            objects.iter().filter(|kv| range.contains(&kv.key)).cloned().collect();
        let count = kvs.len();
        kvs.truncate(if list.limit > 0 { list.limit as usize } else { count });
        if list.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        let more = kvs.len() < count;
        RangeResponse { header: self.header(), kvs, more, count: count as i64 }
    }

    pub(crate) fn let_go(&self, lists: usize) {
        self.0.let_go.add_permits(lists);
    }

    /// The lists that came, once there are so many.
    pub(crate) async fn lists(&self, number: usize) -> Result<Vec<RangeRequest>> {
        eventually(crate::client::DEADLINE, "lists at etcd", async || {
            let lists = self.0.lists.lock().clone();
            ensure!(lists.len() >= number, "{} have come", lists.len());
            Ok(lists)
        })
        .await
    }

    async fn serve(self, stream: TcpStream) -> Result<()> {
        let mut connection = server::handshake(stream).await?;
        while let Some(call) = connection.accept().await {
            let (request, respond) = call?;
            // The connection goes on meanwhile.
            tokio::spawn(self.clone().answer(request, respond));
        }
        Ok(())
    }

    async fn answer(
        self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Result<()> {
        let (head, body) = request.into_parts();
        match Method::from_path(head.uri.path()) {
            Some(Method::Range) => {
                let range = RangeRequest::decode(message(body).await?)?;
                self.range(&range).await?;
                let answer = self.answer_to(&range).encode_to_vec();
                send(respond, framed(&[&answer[..], &self.0.unheard_of.lock()].concat()))
            }
            Some(Method::Status) => {
                self.small().await;
                let (header, version) = (self.header(), "3.6.0".to_owned());
                let status = StatusResponse { header, version, leader: 1, ..Default::default() };
                send(respond, grpc::encode(&status))
            }
            Some(Method::Watch) => self.watch(body, respond).await,
            _ => refuse(respond, &self.0.refusal),
        }
    }

    async fn range(&self, range: &RangeRequest) -> Result<()> {
        if range.range_end.is_empty() {
            self.small().await;
        } else {
            self.0.lists.lock().push(range.clone());
            if self.0.objects.lock().is_empty() {
                self.0.let_go.acquire().await?.forget();
            }
        }
        Ok(())
    }

    /// Says that there is a watcher, and nothing more.
    async fn watch(&self, _open: RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
        let mut body = respond.send_response(grpc::head(), false)?;
        let (header, created) = (self.header(), true);
        let response = WatchResponse { header, created, ..WatchResponse::default() };
        body.send_data(grpc::encode(&response), false)?;
        pending().await
    }

    async fn small(&self) {
        let manner = self.0.manner.lock().0;
        match manner {
            Manner::AtOnce => {}
            Manner::Slowly => sleep(SLOW).await,
            Manner::Never => pending().await,
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        let revision = self.0.manner.lock().1;
        Some(ResponseHeader { cluster_id: 1, member_id: 1, revision, raft_term: 1 })
    }
}

/// The one message of a request.
async fn message(mut body: RecvStream) -> Result<Bytes> {
    let mut received = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        received.extend_from_slice(&piece);
    }
    let payload = received.freeze();
    (payload.len() >= grpc::PREFIX_LEN).then(|| payload.slice(grpc::PREFIX_LEN..)).context("none")
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    grpc::put_prefix(message.len(), &mut framed);
    framed.extend_from_slice(message);
    framed.freeze()
}

fn refuse(mut respond: SendResponse<Bytes>, refusal: &Status) -> Result<()> {
    respond.send_response(grpc::trailers_only(refusal), true)?;
    Ok(())
}

fn send(mut respond: SendResponse<Bytes>, message: Bytes) -> Result<()> {
    let mut body = respond.send_response(grpc::head(), false)?;
    body.send_data(message, false)?;
    Ok(body.send_trailers(grpc::trailers(&Status::ok("")))?)
}
