use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// A certificate authority whose certificates lie as PEM files in a directory that goes with it.
///
/// Another `Pki` is another authority: its certificates are the ones that must not be trusted.
#[derive(Clone, Debug)]
pub struct Pki(Arc<Authority>);

#[derive(Debug)]
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy)]
enum Validity {
    Current,
    Expired,
}

/// Go's servers show theirs as a client too, when etcd's HTTP gateway calls its own gRPC port.
const SERVER_USAGES: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
const CLIENT_USAGES: [ExtendedKeyUsagePurpose; 1] = [ExtendedKeyUsagePurpose::ClientAuth];

impl Pki {
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("seawall-test-pki-").tempdir()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("seawall test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        replace(&dir.path().join("ca.crt"), &cert.pem())?;
        Ok(Self(Arc::new(Authority { dir, issuer: Issuer::new(params, key) })))
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.0.dir.path().join("ca.crt")
    }

    /// A certificate for servers on 127.0.0.1, ::1 and localhost.
    ///
    /// Asking again replaces the files in place with a new key and certificate, as a renewal does.
    /// The same holds for every other certificate of the same name.
    pub fn server(&self) -> Result<Identity> {
        self.issue("server", "seawall test server", &SERVER_USAGES, Validity::Current)
    }

    /// A server certificate whose time is over.
    pub fn expired_server(&self) -> Result<Identity> {
        self.issue("server-expired", "seawall test server", &SERVER_USAGES, Validity::Expired)
    }

    /// A client certificate with this common name, which must be usable as a file name.
    pub fn client(&self, common_name: &str) -> Result<Identity> {
        self.issue(&format!("client-{common_name}"), common_name, &CLIENT_USAGES, Validity::Current)
    }

    /// A client certificate whose time is over.
    pub fn expired_client(&self, common_name: &str) -> Result<Identity> {
        let file = format!("client-{common_name}-expired");
        self.issue(&file, common_name, &CLIENT_USAGES, Validity::Expired)
    }

    fn issue(
        &self,
        file: &str,
        common_name: &str,
        usages: &[ExtendedKeyUsagePurpose],
        validity: Validity,
    ) -> Result<Identity> {
        let hosts = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = named(common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        if let Validity::Expired = validity {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 2);
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.0.issuer)?;
        let path = |extension| self.0.dir.path().join(format!("{file}.{extension}"));
        let identity = Identity { cert: path("crt"), key: path("key") };
        replace(&identity.key, &key.serialize_pem())?;
        replace(&identity.cert, &cert.pem())?;
        Ok(identity)
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
    fn issuing_again_replaces_the_files_in_place() -> Result<()> {
        let pki = Pki::new()?;
        let first = pki.client("apiserver")?;
        let (cert, key) = (fs::read(&first.cert)?, fs::read(&first.key)?);
        let again = pki.client("apiserver")?;
        assert_eq!(again, first);
        assert_ne!(fs::read(&again.cert)?, cert);
        assert_ne!(fs::read(&again.key)?, key);
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
