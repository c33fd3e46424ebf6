//! Authentication tokens of several clusters in the one token that a client holds.
//!
//! A token of one etcd cluster means nothing to another. So a client that authenticates gets the
//! tokens of all of them in one: nothing needs to be remembered here, and the token is as good at
//! another Seawall or after a restart. Shape: `<default's token>|<cluster>=<its token>|...`; etcd's
//! own tokens hold no `|`.

use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

/// The names that tokens are kept under, by index of the cluster.
#[derive(Debug)]
pub struct Tokens {
    clusters: Vec<Arc<str>>,
}

/// Where clients put their token; etcd reads the first.
pub(super) const TOKENS: [&str; 2] = ["token", "authorization"];

const BEARER: &str = "Bearer ";

/// Whether the client has a name at etcd, by a token; else it is to etcd what Seawall is.
pub fn has_token(headers: &HeaderMap) -> bool {
    TOKENS.iter().any(|name| headers.contains_key(*name))
}

impl Tokens {
    pub fn new(clusters: Vec<Arc<str>>) -> Self {
        Self { clusters }
    }

    /// One token out of those of all clusters, in their order; a cluster without authentication has
    /// none.
    pub fn join(&self, tokens: &[Option<String>]) -> String {
        let mut joined = tokens.first().cloned().flatten().unwrap_or_default();
        for (name, token) in self.clusters.iter().zip(tokens).skip(1) {
            if let Some(token) = token {
                joined.push_str(&format!("|{name}={token}"));
            }
        }
        joined
    }

    /// Leaves in `headers` the token for the cluster at `index` alone.
    pub fn apply(&self, index: usize, headers: &mut Arc<HeaderMap>) {
        if self.clusters.len() == 1 || !has_token(headers) {
            return;
        }
        let headers = Arc::make_mut(headers);
        for name in TOKENS {
            let Some(joined) = headers.get(name).and_then(|value| value.to_str().ok()) else {
                continue;
            };
            let (scheme, joined) = match joined.strip_prefix(BEARER) {
                Some(joined) => (BEARER, joined),
                None => ("", joined),
            };
            let token = self.part(index, joined).map(|token| format!("{scheme}{token}"));
            match token.and_then(|token| HeaderValue::try_from(token).ok()) {
                Some(token) => headers.insert(name, token),
                None => headers.remove(name),
            };
        }
    }

    fn part<'t>(&self, index: usize, joined: &'t str) -> Option<&'t str> {
        let mut parts = joined.split('|');
        let default = parts.next();
        if index == 0 {
            return default;
        }
        let name = &*self.clusters[index];
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(vec!["main".into(), "events".into(), "leases".into()])
    }

    fn applied(index: usize, header: &'static str, token: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header, token.parse().expect("a header"));
        let mut headers = Arc::new(headers);
        tokens().apply(index, &mut headers);
        headers.get(header).map(|token| token.to_str().expect("text").to_owned())
    }

    #[test]
    fn each_cluster_sees_its_own_token_only() {
        let joined = tokens().join(&[Some("aa.1".into()), None, Some("cc.3".into())]);
        assert_eq!(applied(0, "token", &joined).as_deref(), Some("aa.1"));
        assert_eq!(applied(1, "token", &joined), None);
        assert_eq!(applied(2, "token", &joined).as_deref(), Some("cc.3"));
        let bearer = format!("Bearer {joined}");
        assert_eq!(applied(2, "authorization", &bearer).as_deref(), Some("Bearer cc.3"));
    }

    #[test]
    fn a_token_got_from_etcd_itself_works_at_the_default_cluster() {
        assert_eq!(applied(0, "token", "aa.1").as_deref(), Some("aa.1"));
        assert_eq!(applied(1, "token", "aa.1"), None);
    }
}
