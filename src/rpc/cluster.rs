//! `Cluster.MemberList`, in which clients find the addresses they dial next.

use super::Context;
use crate::{
    admission::Class,
    etcd::{method::Method, wire},
    grpc::{self, Incoming},
    pipeline::{Manner, Responder},
};
use bytes::BytesMut;

/// `MemberListResponse.members` and `Member.clientURLs`.
const MEMBERS: u32 = 2;
const CLIENT_URLS: u32 = 4;

/// Every member with Seawall's address as its own, or clients that keep their list of endpoints up
/// to date would go on past Seawall.
pub(super) async fn member_list(context: Context, mut incoming: Incoming, responder: Responder) {
    let method = Method::MemberList;
    let Some(responder) = context.allowed_method(method, responder) else { return };
    let Some((message, responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let Some((placed, responder)) = context.named(responder) else { return };
    let Some(responder) = context.admit(&placed, method, &message, responder).await else {
        return;
    };
    let manner = Manner::of(method, Class::Admin);
    let Some((list, responder)) = context.ask(&placed, manner, &message, responder).await else {
        return;
    };
    // What makes no sense to us goes on as it is.
    let advertised = advertise(&list.payload(), &context.advertised());
    let framed = advertised.map_or_else(|_| list.framed(), |list| grpc::frame(&list));
    responder.message(framed).await;
}

impl Context {
    /// The URLs under which clients reach this listener.
    fn advertised(&self) -> Vec<String> {
        if !self.topology.advertise.is_empty() {
            return self.topology.advertise.clone();
        }
        let peer = &self.call.peer;
        let scheme = if peer.tls { "https" } else { "http" };
        vec![format!("{scheme}://{}", peer.local)]
    }
}

/// `list` with `urls` as the client URLs of every member that has any: one that has none has not
/// started yet.
fn advertise(list: &[u8], urls: &[String]) -> Result<BytesMut, wire::Malformed> {
    let mut out = BytesMut::with_capacity(list.len() + 64 * urls.len());
    for field in wire::fields(list) {
        let field = field?;
        if field.number == MEMBERS {
            wire::put_bytes(MEMBERS, &advertise_member(field.value.bytes(), urls)?, &mut out);
        } else {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out)
}

fn advertise_member(member: &[u8], urls: &[String]) -> Result<BytesMut, wire::Malformed> {
    let mut out = BytesMut::with_capacity(member.len());
    let mut replaced = false;
    for field in wire::fields(member) {
        let field = field?;
        if field.number != CLIENT_URLS {
            out.extend_from_slice(field.raw);
        } else if !std::mem::replace(&mut replaced, true) {
            urls.iter().for_each(|url| wire::put_bytes(CLIENT_URLS, url.as_bytes(), &mut out));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, urls: &[&str]) -> Vec<u8> {
        let mut member = BytesMut::new();
        wire::put_bytes(2, name.as_bytes(), &mut member);
        urls.iter().for_each(|url| wire::put_bytes(CLIENT_URLS, url.as_bytes(), &mut member));
        wire::put_bytes(99, b"of tomorrow", &mut member);
        member.to_vec()
    }

    fn list(members: &[Vec<u8>]) -> Vec<u8> {
        let mut list = BytesMut::new();
        wire::put_bytes(1, b"", &mut list);
        members.iter().for_each(|member| wire::put_bytes(MEMBERS, member, &mut list));
        list.to_vec()
    }

    #[test]
    fn members_that_serve_clients_do_so_through_us() {
        let before = list(&[member("a", &["http://a:2379", "http://b:2379"]), member("new", &[])]);
        let after = advertise(&before, &["http://seawall:2379".into()]).expect("a list");
        assert_eq!(after, list(&[member("a", &["http://seawall:2379"]), member("new", &[])]));
    }

    #[test]
    fn nonsense_is_told_from_a_list() {
        assert!(advertise(b"\x12\xff", &[]).is_err());
    }
}
