//! What every call meets before it goes to etcd.

use super::{Context, error::Error, status};
use crate::{
    admission::{Changes, Cost, Kind, Mode, Permit, Place, Plan, Subject, classify},
    attribution::Observation,
    etcd::{key_range::KeyRange, method::Method},
    grpc::Message,
    pipeline::{Account, Counting, Gone, Placed, Responder},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// What a client names in `seawall-override` to delete many keys at once.
pub(super) const DELETES: &str = "deletes";

/// One request of a stream, as it is put down to its client and place.
pub(super) fn one_of_stream<'a>(
    cluster: &'a Arc<str>,
    subject: &'a Subject,
    request: &Message,
) -> Observation<'a> {
    let cost = Cost { keys: 1, bytes: request.framed().len() as u64 };
    Observation::of(cluster, subject, cost)
}

impl Context {
    /// The call as protections see it.
    pub(super) fn subject(
        &self,
        method: impl Into<Option<Method>>,
        kind: Kind,
        keys: Option<KeyRange>,
        value_size: usize,
    ) -> Subject {
        Subject {
            method: method.into(),
            shape: kind.shape,
            class: kind.class,
            place: keys.as_ref().map(Place::of).unwrap_or_default(),
            keys,
            others: Vec::new(),
            client: Arc::clone(&self.call.peer.client),
            value_size: value_size as u64,
        }
    }

    /// The same of a call that is known by its method and the keys that it names.
    pub(super) fn subject_of(&self, method: Method, keys: Option<KeyRange>) -> Subject {
        self.subject(method, classify::method(method.path()), keys, 0)
    }

    /// Puts the call down to its client and place.
    pub(super) fn attribute(
        &self,
        placed: &Placed<'_>,
        subject: &Subject,
        request: &Message,
        responder: &mut Responder,
    ) {
        responder.record.placed(subject.class, &placed.cluster.name);
        responder.record.attribute(Account {
            attribution: Arc::clone(&self.edge.attribution),
            worker: self.call.worker,
            cluster: Arc::clone(&placed.cluster.name),
            subject: subject.clone(),
            request_bytes: request.framed().len(),
            limit: 0,
            cost: None,
            charge: None,
            waited: Duration::ZERO,
        });
        if subject.value_size > 0
            && let Some(keys) = &subject.keys
        {
            self.object(placed, &keys.start, subject.value_size);
        }
    }

    /// The same for a call that is known by its method.
    pub(super) fn attribute_method(
        &self,
        placed: &Placed<'_>,
        method: Method,
        request: &Message,
        responder: &mut Responder,
    ) -> Subject {
        let subject = self.subject_of(method, None);
        self.attribute(placed, &subject, request, responder);
        subject
    }

    /// Puts one request of a stream down to its client and place, since the stream may never end.
    pub(super) fn attribute_one(&self, cluster: &Arc<str>, subject: &Subject, request: &Message) {
        let seen = one_of_stream(cluster, subject, request);
        self.edge.attribution.observe(self.call.worker, &seen);
    }

    /// Takes note of the size of an object.
    pub(super) fn object(&self, placed: &Placed<'_>, key: &Bytes, size: u64) {
        self.edge.attribution.object(self.call.worker, &placed.cluster.name, key, size);
    }

    /// What the rules say of the call, once it has waited for the rates that they set.
    pub(super) async fn plan(
        &self,
        placed: &Placed<'_>,
        subject: &Subject,
        responder: &mut Responder,
    ) -> Result<Result<Plan, Error>, Gone> {
        let began = Instant::now();
        let planning = self.edge.protection.plan(placed.gate(), subject, self.call.deadline);
        let planned = responder.unless_gone(Box::pin(planning)).await?;
        if let Some(account) = responder.record.account() {
            account.waited += began.elapsed();
        }
        Ok(planned.map_err(Error::from))
    }

    /// The same, and the call's turn at etcd.
    pub(super) async fn enter(
        &self,
        placed: &Placed<'_>,
        subject: &Subject,
        responder: &mut Responder,
    ) -> Result<Result<Permit, Error>, Gone> {
        let plan = match self.plan(placed, subject, responder).await? {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error)),
        };
        self.enter_by(placed, subject, &plan, responder).await
    }

    /// Puts a call down that is known by its method, and has it wait for its turn at etcd, which it has
    /// until it is answered; answers the call where it gets none.
    pub(super) async fn admit(
        &self,
        placed: &Placed<'_>,
        method: Method,
        request: &Message,
        responder: Responder,
    ) -> Option<Responder> {
        let (permit, mut responder) = self.permitted(placed, method, request, responder).await?;
        responder.record.in_turn(permit);
        Some(responder)
    }

    /// The same where more is to be done with the turn.
    pub(super) async fn permitted(
        &self,
        placed: &Placed<'_>,
        method: Method,
        request: &Message,
        mut responder: Responder,
    ) -> Option<(Permit, Responder)> {
        let subject = self.attribute_method(placed, method, request, &mut responder);
        match self.enter(placed, &subject, &mut responder).await {
            Ok(Ok(permit)) => Some((permit, responder)),
            Ok(Err(error)) => {
                responder.status(&status::of(&error));
                None
            }
            Err(Gone) => None,
        }
    }

    /// The call's turn at etcd. What it is charged with is put right when its answer has ended.
    pub(super) async fn enter_by(
        &self,
        placed: &Placed<'_>,
        subject: &Subject,
        plan: &Plan,
        responder: &mut Responder,
    ) -> Result<Result<Permit, Error>, Gone> {
        let protection = &self.edge.protection;
        let entering = protection.enter(placed.gate(), subject, plan, self.call.deadline);
        let mut entered = responder.unless_gone(Box::pin(entering)).await?;
        if let (Ok(permit), Some(account)) = (&mut entered, responder.record.account()) {
            account.waited += permit.waited;
            account.charge = permit.take_charge(protection, subject);
        }
        Ok(entered.map_err(Error::from))
    }

    /// The same for a write, if it may be stored. What has to be counted for that is counted in the
    /// write's own turn, so that it is bounded as writes are.
    pub(super) async fn enter_to_write(
        &self,
        placed: &Placed<'_>,
        subject: &Subject,
        changes: Changes<'_>,
        responder: &mut Responder,
    ) -> Result<Result<Permit, Error>, Gone> {
        let plan = match self.plan(placed, subject, responder).await? {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error)),
        };
        let protection = &self.edge.protection;
        if let Err(denied) = protection.check_write(placed.gate(), subject, &plan) {
            return Ok(Err(denied.into()));
        }
        let permit = match self.enter_by(placed, subject, &plan, responder).await? {
            Ok(permit) => permit,
            Err(error) => return Ok(Err(error)),
        };
        let census = Counting {
            cluster: placed.cluster,
            mirror: placed.mirror(),
            recalls: protection.mirror() == Mode::Enforce,
            headers: super::materialize::credentials(self, placed),
            worker: self.call.worker,
        };
        let deadline = self.call.deadline;
        let guarding = protection.guard(placed.gate(), subject, &plan, changes, deadline, &census);
        let growth = responder.unless_gone(Box::pin(guarding)).await?;
        Ok(growth.map(|growth| permit.growing(growth)).map_err(Error::from))
    }

    /// Whether the client insists on deleting many keys.
    pub(super) fn insists(&self) -> bool {
        self.call.overrides.as_deref() == Some(DELETES)
    }
}
