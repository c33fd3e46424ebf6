//! TLS on both sides: certificates from files, looked at again when the files change.

mod describe;
mod files;
mod reload;
mod verify;

use reload::Reloading;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use verify::Explained;

pub use describe::describe;

/// Why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {error}", .path.display())]
    Pem { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("{}: holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("{}: {reason}", .path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{} and {}: {error}", .cert.display(), .key.display())]
    KeyPair { cert: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("the system's certificate authorities: {0}")]
    System(String),
    #[error("{0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error("{0}")]
    Config(#[from] rustls::Error),
}

/// Why a handshake failed; names the certificate where one was refused.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("TLS: {0}")]
    Failed(String),
    #[error("{0:?} is not a name that a certificate can be for")]
    Name(String),
    #[error("TLS: not finished after {}s", .0.as_secs_f32())]
    Timeout(Duration),
}

/// Files for the side that connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorFiles {
    /// Authorities of the servers; the system's own when absent.
    pub ca: Option<PathBuf>,
    /// Certificate and key shown to servers.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub protocols: Protocols,
    pub reload_interval: Duration,
}

/// Connects to servers whose certificates are checked.
#[derive(Debug)]
pub struct Connector(Arc<Reloading<ClientConfig>>);

impl Connector {
    /// # Errors
    ///
    /// When a file cannot be read or is not what it should be.
    pub fn load(files: ConnectorFiles) -> Result<Self, Error> {
        let interval = files.reload_interval;
        let paths = [files.ca.clone()]
            .into_iter()
            .flatten()
            .chain(files.identity.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]))
            .collect();
        Reloading::start(paths, interval, move || client_config(&files)).map(Self)
    }

    /// Shakes hands with the server, which must prove to be `name`.
    ///
    /// # Errors
    ///
    /// See [`HandshakeError`].
    pub async fn connect(
        &self,
        name: &str,
        stream: TcpStream,
    ) -> Result<client::TlsStream<TcpStream>, HandshakeError> {
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| HandshakeError::Name(name.to_owned()))?;
        let connector = TlsConnector::from(self.0.current());
        let connected = connector.connect(server, stream).await;
        connected.map_err(|error| HandshakeError::Failed(error.to_string()))
    }
}

/// What is shown to clients and asked of them, under etcd's own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptorConfig {
    /// PEM file with the certificate chain shown to clients.
    pub cert_file: PathBuf,
    /// PEM file with its private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities that sign client certificates.
    pub trusted_ca_file: Option<PathBuf>,
    /// Refuse clients that show no certificate signed by `trusted_ca_file`.
    pub client_cert_auth: bool,
    pub min_version: TlsVersion,
    /// A client that has not finished its handshake after this long is disconnected.
    pub handshake_timeout: Duration,
    /// How often the files are looked at for changes.
    pub reload_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// The protocols that are spoken over TLS, the preferred one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    Http1,
    Http2,
    Http2OrHttp1,
}

impl Protocols {
    fn alpn(self) -> Vec<Vec<u8>> {
        let names: &[&str] = match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::Http2OrHttp1 => &["h2", "http/1.1"],
        };
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }
}

/// Accepts clients, whose certificates are checked where that is asked for.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<Reloading<ServerConfig>>,
    handshake_timeout: Duration,
}

impl Acceptor {
    /// # Errors
    ///
    /// When a file cannot be read or is not what it should be.
    pub fn load(config: AcceptorConfig, protocols: Protocols) -> Result<Self, Error> {
        let (interval, handshake_timeout) = (config.reload_interval, config.handshake_timeout);
        let AcceptorConfig { cert_file, key_file, trusted_ca_file, .. } = config.clone();
        let paths = [Some(cert_file), Some(key_file), trusted_ca_file];
        let paths = paths.into_iter().flatten().collect();
        let config = Reloading::start(paths, interval, move || server_config(&config, protocols))?;
        Ok(Self { config, handshake_timeout })
    }

    /// # Errors
    ///
    /// See [`HandshakeError`].
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<server::TlsStream<TcpStream>, HandshakeError> {
        let accepting = TlsAcceptor::from(self.config.current()).accept(stream);
        match tokio::time::timeout(self.handshake_timeout, accepting).await {
            Ok(accepted) => accepted.map_err(|error| HandshakeError::Failed(error.to_string())),
            Err(_) => Err(HandshakeError::Timeout(self.handshake_timeout)),
        }
    }
}

/// The common name in the certificate that the client showed, which etcd takes as a user's name.
pub fn client_name<T>(stream: &server::TlsStream<T>) -> Option<String> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    describe::common_name(certificate)
}

fn client_config(files: &ConnectorFiles) -> Result<ClientConfig, Error> {
    let roots = match &files.ca {
        Some(path) => files::roots(path)?,
        None => system_roots()?,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Explained(verifier)));
    let mut config = match &files.identity {
        Some((cert, key)) => {
            let (chain, secret) = files::identity(cert, key)?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| key_pair(cert, key, error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = files.protocols.alpn();
    Ok(config)
}

fn server_config(files: &AcceptorConfig, protocols: Protocols) -> Result<ServerConfig, Error> {
    let versions = match files.min_version {
        TlsVersion::Tls13 => &VERSIONS[..1],
        TlsVersion::Tls12 => &VERSIONS,
    };
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let builder = match &files.trusted_ca_file {
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(files::roots(path)?, provider());
            let verifier = match files.client_cert_auth {
                true => verifier.build()?,
                false => verifier.allow_unauthenticated().build()?,
            };
            builder.with_client_cert_verifier(Arc::new(Explained(verifier)))
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, secret) = files::identity(&files.cert_file, &files.key_file)?;
    let mut config = builder
        .with_single_cert(chain, secret)
        .map_err(|error| key_pair(&files.cert_file, &files.key_file, error))?;
    config.alpn_protocols = protocols.alpn();
    Ok(config)
}

fn key_pair(cert: &Path, key: &Path, error: rustls::Error) -> Error {
    Error::KeyPair { cert: cert.to_owned(), key: key.to_owned(), error }
}

fn system_roots() -> Result<Arc<RootCertStore>, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::System(format!("none found {}", errors.join(", "))));
    }
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Newest first.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
