//! PEM files.

use super::{Error, describe};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{fs, path::Path, sync::Arc, time::SystemTime};

/// Certificate chain and private key.
pub(super) fn identity(
    cert: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = certificates(cert)?;
    if let Some(reason) = describe::unusable(&chain[0], SystemTime::now()) {
        // Shown all the same: the other side decides, and a clock may be wrong.
        tracing::warn!(file = %cert.display(), reason, "certificate");
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| Error::Pem { path: key.to_owned(), error })?;
    Ok((chain, secret))
}

/// Certificates of authorities.
pub(super) fn roots(path: &Path) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::Certificate {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(Arc::new(roots))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Pem { path: path.to_owned(), error })?;
    if chain.is_empty() {
        return Err(Error::NoCertificate(path.to_owned()));
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })
}
