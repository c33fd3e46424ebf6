//! `Auth`: one token for all clusters, and a guard. The rest is passed through.

use super::{Context, answer, error::Error, status};
use crate::{
    admission::Class,
    etcd::{
        errors,
        method::Method,
        proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse},
        wire,
    },
    grpc::Incoming,
    pipeline::{Manner, Placed, Responder},
};
use futures_util::future::join_all;
use http::HeaderMap;

/// Refuses what ends an etcd 3.4 as later ones do: a grant that says nothing of what is granted.
pub(super) async fn grant_permission(
    context: Context,
    mut incoming: Incoming,
    responder: Responder,
) {
    let method = Method::RoleGrantPermission;
    let Some(responder) = context.allowed_method(method, responder) else { return };
    let Some((message, responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let grants = |field: Result<wire::Field<'_>, _>| field.is_ok_and(|field| field.number == PERM);
    if !wire::fields(&message.payload()).any(grants) {
        return responder.status(&status::of(&Error::Known(errors::PERMISSION_NOT_GIVEN)));
    }
    let Some((placed, responder)) = context.named(responder) else { return };
    let Some(responder) = context.admit(&placed, method, &message, responder).await else {
        return;
    };
    let manner = Manner::of(method, Class::Admin);
    context.forward(placed, manner, &message, responder).await;
}

/// `AuthRoleGrantPermissionRequest.perm`.
const PERM: u32 = 2;

/// Authenticates at every cluster and answers with the tokens of all in one.
pub(super) async fn authenticate(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<AuthenticateRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let Some((placed, responder)) = context.named(responder) else { return };
    let method = Method::Authenticate;
    let Some(responder) = context.admit(&placed, method, &message, responder).await else {
        return;
    };
    let manner = Manner::of(method, Class::Admin);
    if context.topology.is_single() || context.call.cluster.is_some() {
        return context.forward(placed, manner, &message, responder).await;
    }
    answer(everywhere(&context, &request), responder).await;
}

async fn everywhere(
    context: &Context,
    request: &AuthenticateRequest,
) -> Result<AuthenticateResponse, Error> {
    let mut response = at(context, context.topology.default(), request).await?;
    let others = context.topology.secondaries().map(|placed| token_at(context, placed, request));
    let mut tokens = vec![Some(std::mem::take(&mut response.token))];
    tokens.extend(join_all(others).await);
    response.token = context.topology.tokens.join(&tokens);
    Ok(response)
}

/// Without a token a cluster's keys are refused by the cluster itself, and a client that is told
/// that its token is not valid authenticates anew.
async fn token_at(
    context: &Context,
    placed: Placed<'_>,
    request: &AuthenticateRequest,
) -> Option<String> {
    match at(context, placed, request).await {
        Ok(response) => Some(response.token),
        Err(error) => {
            tracing::debug!(cluster = &*placed.cluster.name, %error, "no token");
            None
        }
    }
}

async fn at(
    context: &Context,
    placed: Placed<'_>,
    request: &AuthenticateRequest,
) -> Result<AuthenticateResponse, Error> {
    let (worker, deadline) = (context.call.worker, context.call.deadline);
    let (method, headers) = (Method::Authenticate, HeaderMap::new());
    let asked = placed.cluster.ask(method, request, headers, worker, deadline).await?;
    asked.map_err(Error::Etcd)
}
