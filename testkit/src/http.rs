use anyhow::{Context, Result, ensure};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than etcd's own health check takes to give up, short enough to ask again.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The body of `http://address/path`, when the answer is 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0, so that the body is neither chunked nor followed by another answer.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(TIMEOUT, exchange)
        .await
        .with_context(|| format!("no answer to {path} at {address}"))?
        .with_context(|| format!("asking {address} for {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{path} at {address}: {status}: {body}");
    Ok(body.to_owned())
}
