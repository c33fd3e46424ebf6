//! Who loads etcd, as JSON.

use super::View;
use crate::attribution::Window;
use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Debug, Deserialize)]
pub(super) struct Params {
    window: Option<Window>,
}

/// The lists of the window that is asked for, or those of each by its name.
pub(super) async fn top(
    State(view): State<Arc<View>>,
    Query(Params { window }): Query<Params>,
) -> Response {
    match window {
        Some(window) => Json(view.attribution.ranking(window)).into_response(),
        None => Json(view.attribution.top()).into_response(),
    }
}
