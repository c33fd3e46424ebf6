//! Routes written as kube-apiserver's `--etcd-servers-overrides`.
//!
//! The flag names resources by API group (`group/resource#url;url`, several of them separated by
//! commas, the core group being empty), and keys name them by kube-apiserver's own layout below its
//! `--etcd-prefix`. This file knows that layout.

/// One resource with servers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// As it was written: `/events`, `apps/deployments`, `cilium.io/ciliumendpoints`.
    pub resource: String,
    /// The routing prefix that takes all of its keys.
    pub prefix: String,
    pub servers: Vec<String>,
}

/// What kube-apiserver puts its keys below unless told otherwise.
pub const ETCD_PREFIX: &str = "/registry";

/// Reads the flag's value; `etcd_prefix` is kube-apiserver's `--etcd-prefix`.
pub fn parse(text: &str, etcd_prefix: &str) -> Result<Vec<Override>, Error> {
    text.split(',').map(|entry| parse_entry(entry.trim(), etcd_prefix)).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "\"{0}\" is not of the form group/resource#url;url (the core group is empty: /events#url)"
    )]
    Form(String),
    #[error("\"{0}\" names no server after the #")]
    NoServer(String),
    #[error(
        "\"{group}/*\" cannot be told from keys, where built-in resources lie at {root}/<resource> \
         without their group; list its resources one by one"
    )]
    BuiltInGroup { group: String, root: String },
    #[error(
        "\"{0}\" is not a built-in API group, and groups of custom resources contain a dot; the \
         core group is empty (/events)"
    )]
    UnknownGroup(String),
    #[error("events.k8s.io/events are kept with the core group's events; write /events")]
    EventsOfTheirGroup,
}

fn parse_entry(entry: &str, etcd_prefix: &str) -> Result<Override, Error> {
    let form = || Error::Form(entry.into());
    let (resource, servers) = entry.split_once('#').ok_or_else(form)?;
    let (group, name) = resource.split_once('/').ok_or_else(form)?;
    if name.is_empty() || name.contains('/') || servers.contains('#') {
        return Err(form());
    }
    let servers: Vec<String> = servers.split(';').map(|url| url.trim().to_string()).collect();
    if servers.iter().any(String::is_empty) {
        return Err(Error::NoServer(entry.into()));
    }
    let prefix = prefix(group, name, etcd_prefix)?;
    Ok(Override { resource: resource.into(), prefix, servers })
}

fn prefix(group: &str, name: &str, etcd_prefix: &str) -> Result<String, Error> {
    // kube-apiserver cleans the path in the same way.
    let root = format!("/{}", etcd_prefix.trim_matches('/'));
    let root = root.trim_end_matches('/');
    let path = match (group, name) {
        (group, "*") if keeps_group_in_keys(group) => group.to_string(),
        (group, name) if keeps_group_in_keys(group) => format!("{group}/{name}"),
        (group, _) if !BUILT_IN_GROUPS.contains(&group) => {
            return Err(Error::UnknownGroup(group.into()));
        }
        (group, "*") => {
            return Err(Error::BuiltInGroup { group: group.into(), root: root.into() });
        }
        ("events.k8s.io", "events") => return Err(Error::EventsOfTheirGroup),
        ("", "nodes") => "minions".into(),
        ("", "services") => "services/specs".into(),
        ("", "endpoints") => "services/endpoints".into(),
        ("", "replicationcontrollers") => "controllers".into(),
        ("networking.k8s.io" | "extensions", "ingresses") => "ingress".into(),
        (_, name) => name.into(),
    };
    Ok(format!("{root}/{path}"))
}

/// Custom resources do, and so do the definitions of resources and of aggregated APIs.
fn keeps_group_in_keys(group: &str) -> bool {
    match group {
        "apiextensions.k8s.io" | "apiregistration.k8s.io" => true,
        _ => group.contains('.') && !BUILT_IN_GROUPS.contains(&group),
    }
}

/// The groups kube-apiserver itself stores; a name under `k8s.io` alone does not tell, since custom
/// resources such as `gateway.networking.k8s.io` have one too.
const BUILT_IN_GROUPS: [&str; 24] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_of(resource: &str) -> Result<String, String> {
        let parsed = parse(&format!("{resource}#http://127.0.0.1:2379"), ETCD_PREFIX);
        parsed.map(|overrides| overrides[0].prefix.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_several_resources_with_several_servers() {
        let text = "/events#https://a:2379;https://b:2379,apps/deployments#http://c:2379";
        let expected = |resource: &str, prefix: &str, servers: &[&str]| Override {
            resource: resource.into(),
            prefix: prefix.into(),
            servers: servers.iter().map(|url| url.to_string()).collect(),
        };
        assert_eq!(
            parse(text, ETCD_PREFIX),
            Ok(vec![
                expected("/events", "/registry/events", &["https://a:2379", "https://b:2379"]),
                expected("apps/deployments", "/registry/deployments", &["http://c:2379"]),
            ])
        );
    }

    #[test]
    fn knows_the_layout_of_keys() {
        for (resource, prefix) in [
            ("/pods", "/registry/pods"),
            ("/nodes", "/registry/minions"),
            ("/services", "/registry/services/specs"),
            ("/endpoints", "/registry/services/endpoints"),
            ("/replicationcontrollers", "/registry/controllers"),
            ("networking.k8s.io/ingresses", "/registry/ingress"),
            ("coordination.k8s.io/leases", "/registry/leases"),
            ("discovery.k8s.io/endpointslices", "/registry/endpointslices"),
            ("cilium.io/ciliumendpoints", "/registry/cilium.io/ciliumendpoints"),
            ("gateway.networking.k8s.io/gateways", "/registry/gateway.networking.k8s.io/gateways"),
            ("cilium.io/*", "/registry/cilium.io"),
            (
                "apiextensions.k8s.io/customresourcedefinitions",
                "/registry/apiextensions.k8s.io/customresourcedefinitions",
            ),
        ] {
            assert_eq!(prefix_of(resource), Ok(prefix.into()), "{resource}");
        }
    }

    #[test]
    fn the_etcd_prefix_is_cleaned_like_a_path() {
        for etcd_prefix in ["k8s", "/k8s", "/k8s/"] {
            let parsed = parse("/events#http://a:1", etcd_prefix).expect("it is sound");
            assert_eq!(parsed[0].prefix, "/k8s/events", "{etcd_prefix}");
        }
        assert_eq!(parse("/events#http://a:1", "/").expect("it is sound")[0].prefix, "/events");
    }

    #[test]
    fn says_what_is_wrong_with_an_entry() {
        for (resource, part) in [
            ("apps/*", "\"apps/*\" cannot be told from keys"),
            ("/*", "built-in resources lie at /registry/<resource>"),
            ("events.k8s.io/events", "write /events"),
            ("app/deployments", "\"app\" is not a built-in API group"),
            ("events", "not of the form"),
            ("/", "not of the form"),
            ("a/b/c", "not of the form"),
        ] {
            let error = prefix_of(resource).expect_err(resource);
            assert!(error.contains(part), "{resource}: {error}");
        }
        assert_eq!(parse("/events#", "/r"), Err(Error::NoServer("/events#".into())));
        assert_eq!(parse("", "/r"), Err(Error::Form("".into())));
    }
}
