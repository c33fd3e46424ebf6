//! Who may switch protections.
//!
//! With a token, whoever shows it. Without one, processes of this machine, by hand: a page in
//! somebody's browser must not, unless it is our own and no name could have been made to point here.

use super::{View, protection::refused};
use crate::{
    admission::Client,
    telemetry::audit::{self, audit},
};
use axum::{
    Extension,
    extract::FromRequestParts,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{AUTHORIZATION, HOST, InvalidHeaderValue, ORIGIN, WWW_AUTHENTICATE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use subtle::ConstantTimeEq;

/// Proof that a request does not come from a page of another site: a browser asks first before it
/// sends such a header there, and is not allowed to.
pub const SWITCH: HeaderName = HeaderName::from_static("x-seawall-switch");

/// Fewer could be found out by trying.
const TOKEN_MIN: usize = 16;

/// Characters of a path that are written down; those of what can be switched are fewer.
const PATH_MAX: usize = 256;

/// What a file holds that lets its reader switch protections.
pub struct Token(Vec<u8>);

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: expected a token of at least {TOKEN_MIN} printable characters without spaces", .0.display())]
    Unusable(PathBuf),
}

impl Token {
    /// Reads it; space around it is not part of it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text =
            fs::read(path).map_err(|error| TokenError::Read { path: path.to_owned(), error })?;
        let token = text.trim_ascii();
        match token.len() >= TOKEN_MIN && token.iter().all(u8::is_ascii_graphic) {
            true => Ok(Self(token.to_owned())),
            false => Err(TokenError::Unusable(path.to_owned())),
        }
    }

    /// As a header shows it.
    ///
    /// # Errors
    ///
    /// When it may not stand in one, which reading it has ruled out.
    pub fn bearer(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", &self.0[..]].concat())?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Takes as long whatever was shown, so that trying tells nothing but yes or no.
    fn is(&self, shown: &[u8]) -> bool {
        self.0.ct_eq(shown).into()
    }
}

/// A secret is not for logs.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Who is on the other side of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer(pub(super) Arc<Client>);

/// Who switches something, and may. To be asked for is to be checked.
#[derive(Debug)]
pub(super) struct Operator(pub(super) Arc<Client>);

impl FromRequestParts<Arc<View>> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, view: &Arc<View>) -> Result<Self, Response> {
        let peer = Extension::from_request_parts(parts, view).await;
        let Extension(Peer(client)) = peer.map_err(IntoResponse::into_response)?;
        let checked = match &view.token_file {
            Some(file) => check_token(file, &parts.headers),
            None => check_peer(client.address, &parts.headers),
        };
        match checked {
            Ok(()) => Ok(Self(client)),
            Err(denied) => Err(deny(&client, parts.uri.path(), denied)),
        }
    }
}

/// Whoever tries to find out the token is to be noticed.
fn deny(Client { name, address }: &Client, path: &str, (code, why): Denied) -> Response {
    let path: String = path.chars().take(PATH_MAX).collect();
    audit::of_client(|| {
        audit!("switch_refused", client = &**name, %address, path, reason = why, "a switch was refused");
    });
    match code {
        StatusCode::UNAUTHORIZED => {
            ([(WWW_AUTHENTICATE, "Bearer")], refused(code, &why)).into_response()
        }
        _ => refused(code, &why),
    }
}

/// Why a request may switch nothing.
type Denied = (StatusCode, &'static str);

/// The file is read each time, which is rare, so that a changed token holds at once.
fn check_token(file: &Path, headers: &HeaderMap) -> Result<(), Denied> {
    let token = Token::read(file).map_err(|error| {
        tracing::error!(%error, "nothing can be switched without the admin token");
        (StatusCode::INTERNAL_SERVER_ERROR, "the admin token cannot be read")
    })?;
    let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let why = match shown.map(|shown| shown.strip_prefix(b"Bearer ")) {
        None => "to switch anything, send the header authorization: Bearer TOKEN",
        Some(Some(shown)) if token.is(shown) => return Ok(()),
        Some(_) => "this is not the admin token",
    };
    Err((StatusCode::UNAUTHORIZED, why))
}

/// Where there is no token.
fn check_peer(peer: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
    let by_hand = headers.get(SWITCH).is_some_and(|value| value == "yes");
    let why = if !peer.to_canonical().is_loopback() {
        "without admin.token_file only this machine may switch anything"
    } else if headers.contains_key(ORIGIN) && !is_own_page(headers) {
        "nothing is switched from a browser, but by Seawall's page at an IP address, or with \
         admin.token_file"
    } else if !by_hand {
        "to switch anything, send the header x-seawall-switch: yes"
    } else {
        return Ok(());
    };
    Err((StatusCode::FORBIDDEN, why))
}

/// Whether a page of this port asks, opened at an IP address or `localhost`: another name could have
/// been made to point here, and then its page would look like ours.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else { return false };
    let Some((_, from)) = origin.split_once("://") else { return false };
    let is_address = host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_local = host.split(':').next() == Some("localhost");
    from == host && (is_address || is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1";

    #[track_caller]
    fn check(peer: &str, headers: &[(HeaderName, &'static str)], expected: Result<(), &str>) {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let met = check_peer(peer.parse().expect(peer), &headers.collect());
        match expected {
            Ok(()) => assert_eq!(met, Ok(())),
            Err(part) => assert!(met.expect_err(part).1.contains(part), "{met:?}"),
        }
    }

    #[test]
    fn without_a_token_this_machine_switches_by_hand() {
        let by_hand = [(SWITCH, "yes")];
        for local in [LOCAL, "::1", "::ffff:127.0.0.1"] {
            check(local, &by_hand, Ok(()));
        }
        check("10.0.0.1", &by_hand, Err("only this machine"));
        check(LOCAL, &[], Err("x-seawall-switch"));
        check(LOCAL, &[(SWITCH, "no")], Err("x-seawall-switch"));
    }

    #[test]
    fn a_page_switches_only_where_its_name_cannot_be_someone_elses() {
        for (origin, host, ours) in [
            ("http://127.0.0.1:23791", "127.0.0.1:23791", true),
            ("http://[::1]:23791", "[::1]:23791", true),
            ("https://127.0.0.1", "127.0.0.1", true),
            ("http://localhost:23791", "localhost:23791", true),
            ("http://localhost.example:23791", "localhost.example:23791", false),
            ("http://seawall:23791", "seawall:23791", false),
            ("http://127.0.0.1:8080", "127.0.0.1:23791", false),
            ("null", "127.0.0.1:23791", false),
        ] {
            let headers = [(SWITCH, "yes"), (ORIGIN, origin), (HOST, host)];
            check(LOCAL, &headers, if ours { Ok(()) } else { Err("from a browser") });
        }
    }

    #[test]
    fn a_token_is_compared_whole() {
        let token = Token(b"0123456789abcdef".to_vec());
        assert!(token.is(b"0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }
}
