//! Looks at the files that a configuration names, and into those with certificates.

use super::{
    Settings,
    origin::{Error, Origins, Problem},
    outputs::{try_audit_file, try_trace_file},
};
use crate::{
    admin,
    tls::{self, describe},
    upstream,
};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// Handshakes fail, or the process does not start.
    pub result: Result<(), Error>,
    /// Handshakes will fail soon, or less is done than was asked for.
    pub warnings: Vec<Problem>,
}

/// Reads every file: whether it is there and is what it should be, whether certificates and keys
/// belong together, and whether certificates are valid at `now`; and whether files that will be
/// written can be.
pub fn inspect(settings: &Settings, origins: &Origins, now: SystemTime) -> Inspection {
    let mut files = Files { origins, now, problems: Vec::new(), warnings: Vec::new() };
    for (index, listener) in settings.listeners.iter().enumerate() {
        if let Some(tls) = &listener.listener.tls {
            files.server(&format!("listeners[{index}].tls"), tls);
        }
    }
    if let Some(admin) = &settings.admin {
        files.admin(admin);
    }
    for cluster in &settings.clusters {
        files.cluster(&format!("clusters.{}.tls", cluster.name), &cluster.tls);
    }
    files.warnings.extend(try_trace_file(settings, origins));
    let audit = try_audit_file(settings, origins).err();
    files.problems.extend(audit.into_iter().flat_map(|error| error.problems));
    let result = match files.problems {
        problems if problems.is_empty() => Ok(()),
        problems => Err(Error::new(problems)),
    };
    Inspection { result, warnings: files.warnings }
}

/// Long enough to renew a certificate in working hours.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

struct Files<'a> {
    origins: &'a Origins,
    now: SystemTime,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Files<'_> {
    /// The token is asked for by itself, and so is of use to whoever overhears it.
    fn admin(&mut self, admin: &admin::Config) {
        if let Some(tls) = &admin.tls {
            self.server("admin.tls", tls);
        }
        let Some(token) = &admin.token_file else { return };
        if let Err(error) = admin::Token::read(token) {
            self.problem("admin.token_file", error.to_string());
        }
        if admin.tls.is_none() && !admin.address.ip().is_loopback() {
            let text =
                "the token crosses the network as it is; give admin.tls, or a loopback address";
            self.warnings.push(Problem::new(self.origins, "admin.token_file", text));
        }
    }

    fn server(&mut self, path: &str, tls: &tls::AcceptorConfig) {
        if let Some(authorities) = &tls.trusted_ca_file {
            self.authorities(&format!("{path}.trusted_ca_file"), authorities);
        }
        self.identity(path, &tls.cert_file, &tls.key_file);
    }

    fn cluster(&mut self, path: &str, tls: &upstream::TlsConfig) {
        if let Some(authorities) = &tls.ca_file {
            self.authorities(&format!("{path}.ca_file"), authorities);
        }
        if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
            self.identity(path, cert, key);
        }
    }

    fn authorities(&mut self, path: &str, file: &Path) {
        let Some(authorities) = self.certificates(path, file) else { return };
        let mut store = RootCertStore::empty();
        for authority in authorities {
            if let Err(error) = store.add(authority.clone()) {
                let text = format!("{}: {} {error}", file.display(), describe(&authority));
                self.problem(path, text);
            }
        }
    }

    fn identity(&mut self, path: &str, cert: &Path, key: &Path) {
        let chain = self.certificates(&format!("{path}.cert_file"), cert);
        let path = format!("{path}.key_file");
        let secret = match read(key).map(|pem| PrivateKeyDer::from_pem_slice(&pem)) {
            Ok(Ok(secret)) => secret,
            Ok(Err(error)) => return self.problem(&path, format!("{}: {error}", key.display())),
            Err(text) => return self.problem(&path, text),
        };
        if let Some(chain) = chain
            && let Err(error) = CertifiedKey::from_der(chain, secret, &ring::default_provider())
        {
            let text = format!("{} is no key for {}: {error}", key.display(), cert.display());
            self.problem(&path, text);
        }
    }

    fn certificates(&mut self, path: &str, file: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let parsed = read(file).and_then(|pem| {
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            certificates.map_err(|error| format!("{}: {error}", file.display()))
        });
        match parsed {
            Ok(certificates) if certificates.is_empty() => {
                self.problem(path, format!("{}: holds no certificate", file.display()));
                None
            }
            Ok(certificates) => {
                for certificate in &certificates {
                    self.validity(path, file, certificate);
                }
                Some(certificates)
            }
            Err(text) => {
                self.problem(path, text);
                None
            }
        }
    }

    fn validity(&mut self, path: &str, file: &Path, der: &CertificateDer<'_>) {
        let (file, name) = (file.display(), describe(der));
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return self.problem(path, format!("{file}: {name}"));
        };
        let seconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let validity = certificate.validity();
        if validity.not_after.timestamp() < seconds(self.now) {
            let since = validity.not_after;
            self.problem(path, format!("{file}: {name} has expired on {since}"));
        } else if validity.not_before.timestamp() > seconds(self.now) {
            let until = validity.not_before;
            self.problem(path, format!("{file}: {name} is not valid before {until}"));
        } else if validity.not_after.timestamp() < seconds(self.now + SOON) {
            let text = format!("{file}: {name} expires on {}; renew it", validity.not_after);
            self.warnings.push(Problem::new(self.origins, path, text));
        }
    }

    fn problem(&mut self, path: &str, text: String) {
        self.problems.push(Problem::new(self.origins, path, text));
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}
