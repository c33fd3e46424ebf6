//! The live page: one document, which asks nothing of any other host.

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS},
    response::{Html, IntoResponse},
};

/// Put together when compiling.
const PAGE: &str = concat!(
    include_str!("page/head.html"),
    "<style>\n",
    include_str!("page/page.css"),
    "</style>\n",
    include_str!("page/body.html"),
    "<script>\n",
    include_str!("page/table.js"),
    include_str!("page/switch.js"),
    include_str!("page/page.js"),
    "</script>\n",
);

/// What it is made of is in it, and it speaks to this port only.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; frame-ancestors 'none'";

pub(super) async fn page() -> impl IntoResponse {
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Another version brings another page.
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE))
}
