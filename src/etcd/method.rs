//! Every RPC of etcd's client port: one row a method.

/// What travels in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One message there, one back.
    Unary,
    /// One message there, any number back.
    ServerStream,
    /// Any number both ways, for as long as both sides like.
    Bidi,
}

/// Whether a call may be sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing: may be repeated on another member.
    Read,
    /// May have been carried out once its bytes left: never repeated after that.
    Write,
}

/// Which member of a cluster serves a call best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// The least loaded one.
    Any,
    /// The leader, which would be asked by any other member anyway.
    Leader,
    /// One that is not the leader, to keep its work away from writes.
    Follower,
}

macro_rules! methods {
    ($($variant:ident $path:literal $shape:ident $effect:ident $affinity:ident;)*) => {
        /// A method that Seawall knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Method {
            $($variant,)*
        }

        impl Method {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The method with this `:path`.
            pub fn from_path(path: &str) -> Option<Self> {
                match path {
                    $($path => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// `/package.Service/Name`.
            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$variant => $path,)*
                }
            }

            pub const fn shape(self) -> Shape {
                match self {
                    $(Self::$variant => Shape::$shape,)*
                }
            }

            pub const fn effect(self) -> Effect {
                match self {
                    $(Self::$variant => Effect::$effect,)*
                }
            }

            pub const fn affinity(self) -> Affinity {
                match self {
                    $(Self::$variant => Affinity::$affinity,)*
                }
            }
        }
    };
}

methods! {
    Range                "/etcdserverpb.KV/Range"                       Unary        Read  Any;
    RangeStream          "/etcdserverpb.KV/RangeStream"                 ServerStream Read  Any;
    Put                  "/etcdserverpb.KV/Put"                         Unary        Write Leader;
    DeleteRange          "/etcdserverpb.KV/DeleteRange"                 Unary        Write Leader;
    Txn                  "/etcdserverpb.KV/Txn"                         Unary        Write Leader;
    Compact              "/etcdserverpb.KV/Compact"                     Unary        Write Leader;
    Watch                "/etcdserverpb.Watch/Watch"                    Bidi         Read  Any;
    LeaseGrant           "/etcdserverpb.Lease/LeaseGrant"               Unary        Write Leader;
    LeaseRevoke          "/etcdserverpb.Lease/LeaseRevoke"              Unary        Write Leader;
    LeaseKeepAlive       "/etcdserverpb.Lease/LeaseKeepAlive"           Bidi         Write Leader;
    LeaseTimeToLive      "/etcdserverpb.Lease/LeaseTimeToLive"          Unary        Read  Leader;
    LeaseLeases          "/etcdserverpb.Lease/LeaseLeases"              Unary        Read  Leader;
    MemberAdd            "/etcdserverpb.Cluster/MemberAdd"              Unary        Write Leader;
    MemberRemove         "/etcdserverpb.Cluster/MemberRemove"           Unary        Write Leader;
    MemberUpdate         "/etcdserverpb.Cluster/MemberUpdate"           Unary        Write Leader;
    MemberList           "/etcdserverpb.Cluster/MemberList"             Unary        Read  Any;
    MemberPromote        "/etcdserverpb.Cluster/MemberPromote"          Unary        Write Leader;
    Alarm                "/etcdserverpb.Maintenance/Alarm"              Unary        Write Leader;
    Status               "/etcdserverpb.Maintenance/Status"             Unary        Read  Any;
    Defragment           "/etcdserverpb.Maintenance/Defragment"         Unary        Write Follower;
    Hash                 "/etcdserverpb.Maintenance/Hash"               Unary        Read  Follower;
    HashKv               "/etcdserverpb.Maintenance/HashKV"             Unary        Read  Follower;
    Snapshot             "/etcdserverpb.Maintenance/Snapshot"           ServerStream Read  Follower;
    MoveLeader           "/etcdserverpb.Maintenance/MoveLeader"         Unary        Write Leader;
    Downgrade            "/etcdserverpb.Maintenance/Downgrade"          Unary        Write Leader;
    AuthEnable           "/etcdserverpb.Auth/AuthEnable"                Unary        Write Leader;
    AuthDisable          "/etcdserverpb.Auth/AuthDisable"               Unary        Write Leader;
    AuthStatus           "/etcdserverpb.Auth/AuthStatus"                Unary        Read  Leader;
    Authenticate         "/etcdserverpb.Auth/Authenticate"              Unary        Write Leader;
    UserAdd              "/etcdserverpb.Auth/UserAdd"                   Unary        Write Leader;
    UserGet              "/etcdserverpb.Auth/UserGet"                   Unary        Read  Leader;
    UserList             "/etcdserverpb.Auth/UserList"                  Unary        Read  Leader;
    UserDelete           "/etcdserverpb.Auth/UserDelete"                Unary        Write Leader;
    UserChangePassword   "/etcdserverpb.Auth/UserChangePassword"        Unary        Write Leader;
    UserGrantRole        "/etcdserverpb.Auth/UserGrantRole"             Unary        Write Leader;
    UserRevokeRole       "/etcdserverpb.Auth/UserRevokeRole"            Unary        Write Leader;
    RoleAdd              "/etcdserverpb.Auth/RoleAdd"                   Unary        Write Leader;
    RoleGet              "/etcdserverpb.Auth/RoleGet"                   Unary        Read  Leader;
    RoleList             "/etcdserverpb.Auth/RoleList"                  Unary        Read  Leader;
    RoleDelete           "/etcdserverpb.Auth/RoleDelete"                Unary        Write Leader;
    RoleGrantPermission  "/etcdserverpb.Auth/RoleGrantPermission"       Unary        Write Leader;
    RoleRevokePermission "/etcdserverpb.Auth/RoleRevokePermission"      Unary        Write Leader;
    Lock                 "/v3lockpb.Lock/Lock"                          Unary        Write Any;
    Unlock               "/v3lockpb.Lock/Unlock"                        Unary        Write Any;
    Campaign             "/v3electionpb.Election/Campaign"              Unary        Write Any;
    Proclaim             "/v3electionpb.Election/Proclaim"              Unary        Write Any;
    Leader               "/v3electionpb.Election/Leader"                Unary        Read  Any;
    Observe              "/v3electionpb.Election/Observe"               ServerStream Read  Any;
    Resign               "/v3electionpb.Election/Resign"                Unary        Write Any;
    HealthCheck          "/grpc.health.v1.Health/Check"                 Unary        Read  Any;
    HealthWatch          "/grpc.health.v1.Health/Watch"                 ServerStream Read  Any;
}

impl Method {
    /// `Name` of `/package.Service/Name`.
    pub fn name(self) -> &'static str {
        self.path().rsplit('/').next().unwrap_or_default()
    }
}

/// Whether `path` names a service of etcd's, so that a method it does not know may be one that a
/// newer etcd does.
pub fn is_known_service(path: &str) -> bool {
    Method::ALL.iter().any(|method| service(method.path()) == service(path))
}

/// `package.Service` of `/package.Service/Name`.
pub fn service(path: &str) -> &str {
    path.strip_prefix('/').and_then(|path| path.split_once('/')).map_or("", |(service, _)| service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use std::collections::BTreeSet;

    #[test]
    fn every_method_of_the_services_has_a_row_with_its_shape() {
        let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/services.bin"));
        let files =
            FileDescriptorSet::decode(&bytes[..]).expect("the descriptors that build.rs wrote");
        let mut declared = BTreeSet::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let row =
                        Method::from_path(&path).unwrap_or_else(|| panic!("{path} has no row"));
                    let shape = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => Shape::Unary,
                        (false, true) => Shape::ServerStream,
                        (true, _) => Shape::Bidi,
                    };
                    assert_eq!(row.shape(), shape, "{path}");
                    declared.insert(path);
                }
            }
        }
        assert_eq!(declared.len(), Method::ALL.len(), "rows without a method in proto/");
    }

    #[test]
    fn a_method_of_tomorrow_belongs_to_a_known_service() {
        assert!(is_known_service("/etcdserverpb.KV/RangeBackwards"));
        assert!(!is_known_service("/etcdserverpb.Unheard/Of"));
        assert!(!is_known_service("/etcdserverpb.KV"));
        assert!(!is_known_service(""));
    }
}
