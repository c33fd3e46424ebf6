//! Messages as text: requests are written in it, answers compared in it. Fields that the schema
//! does not know are shown too.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, Value,
    text_format::FormatOptions,
};
use std::{path::Path, sync::LazyLock};

const FILES: [&str; 4] = ["rpc.proto", "lock.proto", "election.proto", "health.proto"];

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(FILES, [package.join("proto")]).expect("the schema compiles");
    DescriptorPool::from_file_descriptor_set(files).expect("the schema is whole")
});

/// What differs from server to server: only whether it is set is compared.
const OWN: [&str; 16] = [
    "etcdserverpb.ResponseHeader.cluster_id",
    "etcdserverpb.ResponseHeader.member_id",
    "etcdserverpb.ResponseHeader.raft_term",
    "etcdserverpb.StatusResponse.dbSize",
    "etcdserverpb.StatusResponse.leader",
    "etcdserverpb.StatusResponse.raftIndex",
    "etcdserverpb.StatusResponse.raftTerm",
    "etcdserverpb.StatusResponse.raftAppliedIndex",
    "etcdserverpb.StatusResponse.dbSizeInUse",
    "etcdserverpb.Member.ID",
    "etcdserverpb.Member.peerURLs",
    "etcdserverpb.Member.clientURLs",
    "etcdserverpb.AlarmMember.memberID",
    "etcdserverpb.AuthenticateResponse.token",
    // etcd brings its storage up to date some seconds after its first start.
    "etcdserverpb.StatusResponse.storageVersion",
    // Seconds pass.
    "etcdserverpb.LeaseTimeToLiveResponse.TTL",
];

/// The method called `Service/Method`, whatever the package.
pub(crate) fn method(name: &str) -> Result<MethodDescriptor> {
    let (service, method) = name.split_once('/').context("Service/Method")?;
    let service = POOL.services().find(|known| known.name() == service);
    let service = service.with_context(|| format!("no service of {name}"))?;
    let found = service.methods().find(|known| known.name() == method);
    found.with_context(|| format!("no method {name}"))
}

/// `/package.Service/Method`.
pub(crate) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The bytes of the message that `text` describes in protobuf's text format.
pub(crate) fn encode(kind: MessageDescriptor, text: &str) -> Result<Bytes> {
    let message = DynamicMessage::parse_text_format(kind, text);
    Ok(message.with_context(|| format!("not a request: {text}"))?.encode_to_vec().into())
}

/// The message in text, with a 1 for what is the server's own.
pub(crate) fn show(kind: MessageDescriptor, bytes: &[u8]) -> Result<String> {
    let mut message = DynamicMessage::decode(kind, bytes)?;
    level(&mut message);
    Ok(message.to_text_format_with_options(&FormatOptions::new().skip_unknown_fields(false)))
}

fn level(message: &mut DynamicMessage) {
    for (field, value) in message.fields_mut() {
        if OWN.contains(&field.full_name()) {
            level_own(value);
        } else if field.full_name() == UNORDERED {
            sort(value);
        } else {
            level_nested(value);
        }
    }
}

/// In the order of a map's iteration, which is none.
const UNORDERED: &str = "etcdserverpb.LeaseTimeToLiveResponse.keys";

fn level_nested(value: &mut Value) {
    match value {
        Value::Message(message) => level(message),
        Value::List(values) => values.iter_mut().for_each(level_nested),
        _ => {}
    }
}

fn sort(value: &mut Value) {
    if let Value::List(values) = value {
        values.sort_by(|one, other| one.as_bytes().cmp(&other.as_bytes()));
    }
}

fn level_own(value: &mut Value) {
    match value {
        Value::U64(number) => *number = (*number).min(1),
        Value::I64(number) => *number = number.signum(),
        Value::U32(number) => *number = (*number).min(1),
        Value::String(text) => *text = "own".into(),
        Value::Bytes(bytes) => *bytes = Bytes::from_static(b"own"),
        Value::List(values) => values.iter_mut().for_each(level_own),
        _ => {}
    }
}

/// A number in an answer of `method`, by the names that lead to it; the first of what is repeated.
pub(crate) fn number(method_name: &str, bytes: &[u8], path: &str) -> Result<i64> {
    match value(method_name, bytes, path)? {
        Value::I64(number) => Ok(number),
        Value::U64(number) => Ok(number as i64),
        other => bail!("{path} is {other:?}"),
    }
}

/// Bytes or text in an answer of `method`, in the same manner.
pub(crate) fn bytes(method_name: &str, message: &[u8], path: &str) -> Result<Bytes> {
    match value(method_name, message, path)? {
        Value::Bytes(bytes) => Ok(bytes),
        Value::String(text) => Ok(text.into()),
        other => bail!("{path} is {other:?}"),
    }
}

fn value(method_name: &str, bytes: &[u8], path: &str) -> Result<Value> {
    let message = DynamicMessage::decode(method(method_name)?.output(), bytes)?;
    path.split('.').try_fold(Value::Message(message), |value, name| {
        let message = value.as_message().with_context(|| format!("no message above {name}"))?;
        let field = message.get_field_by_name(name).with_context(|| format!("no field {name}"))?;
        match field.into_owned() {
            Value::List(values) => {
                values.into_iter().next().with_context(|| format!("{name} is empty"))
            }
            value => Ok(value),
        }
    })
}

/// Bytes as the text format writes them.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    format!("'{}'", bytes.escape_ascii())
}

/// How often a repeated field of an answer of `method` is there.
pub(crate) fn count(method_name: &str, bytes: &[u8], field: &str) -> Result<usize> {
    let message = DynamicMessage::decode(method(method_name)?.output(), bytes)?;
    let values = message.get_field_by_name(field).with_context(|| format!("no field {field}"))?;
    Ok(values.as_list().with_context(|| format!("{field} is not repeated"))?.len())
}

/// The length of an answer of `method` but for its header, in which ids of all lengths are.
pub(crate) fn len_without_header(method_name: &str, bytes: &[u8]) -> Result<usize> {
    let mut message = DynamicMessage::decode(method(method_name)?.output(), bytes)?;
    message.clear_field_by_name("header");
    Ok(message.encoded_len())
}
