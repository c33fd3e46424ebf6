//! Watchers that move between memory and etcd while the client's requests go on.

use super::{Asked, End, Request, Session, Step};
use crate::{
    etcd::{
        errors,
        proto::etcdserverpb::{
            ResponseHeader, WatchProgressRequest, WatchRequest, watch_request::RequestUnion,
        },
    },
    grpc,
    mirror::Pass,
    rpc::watch::{
        ids::{Moving, Source},
        memory::Order,
        seat::{self, Found, Returned},
        stopped,
    },
};
use tokio::time::Instant;

impl Session<'_> {
    /// Begins with the next watchers that have to move, if any. They get nothing until they have.
    pub(super) fn move_on(&mut self) -> bool {
        let Some(ids) = &self.ids else { return false };
        let context = self.context;
        let returning = ids.lock().return_next();
        if let Some(returning) = returning {
            self.drop_left(returning.cluster);
            self.homecomings.entry(returning.cluster).or_default().leave(Instant::now());
            self.step = Step::Asking(Box::pin(async move {
                Asked::Return(seat::find_again(context, returning).await)
            }));
            return true;
        }
        let Some(moving) = ids.lock().continue_next() else { return false };
        self.step = Step::Asking(Box::pin(async move {
            let entry = context.topology.at(moving.cluster).mirror().entry().await;
            let store = seat::store(context, moving.cluster).await;
            Asked::GoOn(moving, store, entry)
        }));
        true
    }

    /// Has a watcher that left memory created at etcd. The client does not hear of it.
    pub(super) async fn go_on(
        &mut self,
        Moving { cluster, request, seen }: Moving,
        store: Result<ResponseHeader, Pass>,
    ) -> Result<(), End> {
        self.owes_a_request = true;
        match store {
            Ok(header) if seen.is_in(&header) => {
                let request_union = Some(RequestUnion::CreateRequest(request));
                let framed = grpc::encode(&WatchRequest { request_union });
                self.send(Request { source: Source::Away(cluster), framed, creates: true }).await
            }
            Err(_) if !self.context.topology.is_single() => {
                self.refuse(cluster, errors::SERVER_STOPPED.1.to_owned()).await
            }
            // Another store, or one that cannot be asked: clients open their watchers anew, and find out.
            Ok(_) | Err(_) => Err(stopped()),
        }
    }

    /// Has a watcher created by who can serve it.
    pub(super) async fn on_found(&mut self, request: Request, found: Found) -> Result<(), End> {
        let cluster = request.source.cluster();
        match found {
            Found::Memory(seat) => {
                self.step = Step::Waiting(Source::Memory(cluster));
                self.order(cluster, Order::Create(seat)).await;
                Ok(())
            }
            Found::Away(create) => {
                if let Some(ids) = &self.ids {
                    ids.lock().ask(Some(create));
                }
                self.send(Request { source: Source::Away(cluster), ..request }).await
            }
            Found::Etcd => self.send(request).await,
        }
    }

    /// Whether etcd serves watchers that memory could.
    pub(super) fn is_away(&self) -> bool {
        self.upstreams.keys().any(|source| matches!(source, Source::Away(_)))
    }

    /// Looks whether they could come back. Only while no request waits for its answer.
    pub(super) async fn look(&mut self) -> Result<(), End> {
        let sources: Vec<_> = self.upstreams.keys().copied().collect();
        for source in sources {
            if let Source::Away(cluster) = source {
                self.look_at(cluster).await;
            }
        }
        Ok(())
    }

    async fn look_at(&mut self, cluster: usize) {
        let (Some(ids), Some(upstream)) =
            (&self.ids, self.upstreams.get_mut(&Source::Away(cluster)))
        else {
            return;
        };
        let placed = self.context.topology.at(cluster);
        let mirror = placed.mirror();
        let ready = placed.cluster.orders_progress()
            && seat::has_room(self.context, mirror, ids.lock().homes(cluster));
        let (homecoming, now) = (self.homecomings.entry(cluster).or_default(), Instant::now());
        if !homecoming.is_due(ready, now) {
            return;
        }
        // Others are coming back: there will be another look.
        let Some(turn) = mirror.try_return() else { return };
        homecoming.ask(turn, now);
        ids.lock().away(cluster).ask(now);
        let request_union = Some(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        // Fails when the cluster has ended its stream, of which its relay tells.
        let _ = upstream.up.send(grpc::encode(&WatchRequest { request_union })).await;
    }

    /// Keeps the watchers of a stream there, since something is to be sent on it.
    pub(super) fn hold(&mut self, source: Source) {
        let (Source::Away(cluster), Some(ids)) = (source, &self.ids) else { return };
        ids.lock().away(cluster).hold();
        self.drop_left(cluster);
    }

    /// Drops the stream that the watchers away from the memory of a cluster have left, if they have.
    pub(super) fn drop_left(&mut self, cluster: usize) {
        if self.ids.as_ref().is_some_and(|ids| ids.lock().take_left(cluster)) {
            self.upstreams.remove(&Source::Away(cluster));
        }
    }

    /// Has those seated that came back. The others go on at etcd.
    pub(super) async fn on_returned(&mut self, Returned { cluster, seats, others }: Returned) {
        self.owes_a_request = true;
        self.homecomings.entry(cluster).or_default().end();
        if let Some(ids) = &self.ids {
            let mut ids = ids.lock();
            others.into_iter().for_each(|moving| ids.goes_back(moving));
        }
        if !seats.is_empty() {
            self.order(cluster, Order::Return(seats)).await;
        }
    }
}
