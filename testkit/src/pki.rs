use crate::scratch::Scratch;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A certificate authority whose certificates lie as PEM files in a directory that goes with it.
///
/// Another `Pki` is another authority: its certificates are the ones that must not be trusted.
#[derive(Clone, Debug)]
pub struct Pki(Arc<Authority>);

#[derive(Debug)]
struct Authority {
    dir: Scratch,
    /// Held while files are written, so that a key and its certificate belong together.
    issuer: Mutex<Issuer<'static, KeyPair>>,
}

/// The files of one certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

const HOSTS: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

impl Pki {
    pub fn new() -> Result<Self> {
        let dir = Scratch::new()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("seawall test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        replace(&dir.path().join("ca.crt"), &cert.pem())?;
        let issuer = Mutex::new(Issuer::new(params, key));
        Ok(Self(Arc::new(Authority { dir, issuer })))
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.0.dir.path().join("ca.crt")
    }

    /// A certificate for servers on 127.0.0.1, ::1 and localhost.
    pub fn server(&self) -> Result<Identity> {
        self.issued(&Kind::SERVER)
    }

    /// Replaces the files of [`Pki::server`] in place with a new key and certificate.
    pub fn renew_server(&self) -> Result<Identity> {
        self.issue(&Kind::SERVER)
    }

    /// A server certificate whose time is over.
    pub fn expired_server(&self) -> Result<Identity> {
        self.issued(&Kind { file: "server-expired", expired: true, ..Kind::SERVER })
    }

    /// A client certificate with this common name, which must be usable as a file name.
    pub fn client(&self, common_name: &str) -> Result<Identity> {
        self.issued(&Kind::client(common_name, &format!("client-{common_name}")))
    }

    /// Replaces the files of [`Pki::client`] in place with a new key and certificate.
    pub fn renew_client(&self, common_name: &str) -> Result<Identity> {
        self.issue(&Kind::client(common_name, &format!("client-{common_name}")))
    }

    /// A client certificate whose time is over.
    pub fn expired_client(&self, common_name: &str) -> Result<Identity> {
        let file = format!("expired-client-{common_name}");
        self.issued(&Kind { expired: true, ..Kind::client(common_name, &file) })
    }

    /// The files as they are, or new ones if there are none.
    fn issued(&self, kind: &Kind<'_>) -> Result<Identity> {
        let identity = self.files(kind);
        // The certificate is written last.
        if identity.cert.exists() { Ok(identity) } else { self.issue(kind) }
    }

    fn issue(&self, kind: &Kind<'_>) -> Result<Identity> {
        let mut params = CertificateParams::new(HOSTS.map(str::to_owned))?;
        params.distinguished_name = named(kind.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = kind.usages.to_vec();
        if kind.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 2);
        }
        let (key, identity) = (KeyPair::generate()?, self.files(kind));
        let issuer = self.0.issuer.lock().unwrap_or_else(PoisonError::into_inner);
        let cert = params.signed_by(&key, &*issuer)?;
        replace(&identity.key, &key.serialize_pem())?;
        replace(&identity.cert, &cert.pem())?;
        Ok(identity)
    }

    fn files(&self, kind: &Kind<'_>) -> Identity {
        let path = |extension| self.0.dir.path().join(format!("{}.{extension}", kind.file));
        Identity { cert: path("crt"), key: path("key") }
    }
}

/// What a certificate says, and where it lies.
struct Kind<'a> {
    file: &'a str,
    common_name: &'a str,
    usages: &'a [ExtendedKeyUsagePurpose],
    expired: bool,
}

impl<'a> Kind<'a> {
    /// Go's servers show theirs as a client too: etcd's HTTP gateway calls its own gRPC port.
    const SERVER: Kind<'static> = Kind {
        file: "server",
        common_name: "seawall test server",
        usages: &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        expired: false,
    };

    fn client(common_name: &'a str, file: &'a str) -> Self {
        Self { file, common_name, usages: &[ExtendedKeyUsagePurpose::ClientAuth], expired: false }
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// By rename, so that a reader sees the old file or the new one, never a half.
fn replace(path: &Path, pem: &str) -> Result<()> {
    let staged = path.with_extension("new");
    fs::write(&staged, pem)
        .and_then(|()| fs::rename(&staged, path))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_renewal_replaces_the_files() -> Result<()> {
        let pki = Pki::new()?;
        let first = pki.client("apiserver")?;
        let content = |identity: &Identity| -> Result<_> {
            Ok((fs::read(&identity.cert)?, fs::read(&identity.key)?))
        };
        let before = content(&first)?;
        assert_eq!(pki.client("apiserver")?, first);
        assert_eq!(content(&first)?, before);
        assert_eq!(pki.renew_client("apiserver")?, first);
        let after = content(&first)?;
        assert!(after.0 != before.0 && after.1 != before.1);
        Ok(())
    }

    #[test]
    fn clients_of_different_names_and_validity_have_files_of_their_own() -> Result<()> {
        let pki = Pki::new()?;
        let files = [pki.client("a")?, pki.client("b")?, pki.expired_client("a")?, pki.server()?];
        for (index, identity) in files.iter().enumerate() {
            assert!(identity.cert.is_file() && identity.key.is_file());
            assert!(!files[..index].contains(identity));
        }
        Ok(())
    }
}
