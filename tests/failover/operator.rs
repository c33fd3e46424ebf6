//! What an operator asks of the admin port.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Status code and body of `http://admin/path`.
pub(crate) async fn get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(TIMEOUT, exchange).await.with_context(|| format!("{path} hangs"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let code = head.split(' ').nth(1).context("an answer without a code")?;
    Ok((code.parse()?, body.to_owned()))
}

/// Switches something.
#[allow(dead_code)] // Not everywhere that this is used.
pub(crate) async fn post(admin: SocketAddr, path: &str) -> Result<()> {
    let request = format!("POST {path} HTTP/1.0\r\nx-seawall-switch: yes\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(TIMEOUT, exchange).await.with_context(|| format!("{path} hangs"))??;
    ensure!(answer.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(())
}

/// The document at /status.
pub(crate) async fn status(admin: SocketAddr) -> Result<Value> {
    let (code, body) = get(admin, "/status").await?;
    ensure!(code == 200, "/status answers {code}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// The state of the member with this URL, in whatever cluster it is.
pub(crate) async fn member_state(admin: SocketAddr, endpoint: &str) -> Result<String> {
    let status = status(admin).await?;
    let clusters = status["clusters"].as_object().context("clusters")?;
    let mut members = clusters.values().flat_map(|cluster| cluster["members"].as_array()).flatten();
    let member = members.find(|member| member["endpoint"] == endpoint);
    let state = member.and_then(|member| member["state"].as_str());
    Ok(state.with_context(|| format!("no {endpoint} in {status}"))?.to_owned())
}

/// Sum of a metric over its labels; 0 when it has none yet.
pub(crate) async fn metric(admin: SocketAddr, name: &str) -> Result<f64> {
    let (_, text) = get(admin, "/metrics").await?;
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    Ok(values.sum())
}
