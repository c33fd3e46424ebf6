//! What a person calls a certificate.

use std::time::SystemTime;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

/// Subject, issuer and time of validity.
pub fn describe(der: &[u8]) -> String {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => {
            let validity = certificate.validity();
            format!(
                "certificate of {:?} (issued by {:?}, valid from {} to {})",
                certificate.subject().to_string(),
                certificate.issuer().to_string(),
                validity.not_before,
                validity.not_after
            )
        }
        Err(error) => format!("certificate that cannot be read ({error})"),
    }
}

/// The first common name of the subject.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// Why the certificate is not valid at `now`; `None` when it is.
pub(super) fn unusable(der: &[u8], now: SystemTime) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let now = ASN1Time::from_timestamp(i64::try_from(now.as_secs()).ok()?).ok()?;
    let validity = certificate.validity();
    if now > validity.not_after {
        return Some(format!("{} has expired", describe(der)));
    }
    (now < validity.not_before).then(|| format!("{} is not valid yet", describe(der)))
}
