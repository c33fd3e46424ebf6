//! Bytes that are not HTTP/2, or not as it should be.

use crate::{DEADLINE, Victim};
use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Says this and waits for the server to close the connection.
async fn is_closed_after(victim: &Victim, what: &str, said: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(victim.address()?).await?;
    // The server may have closed before it heard all.
    stream.write_all(said).await.ok();
    let mut answer = Vec::new();
    // A reset is as good an end as an orderly one.
    let ended = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    drop(ended.with_context(|| format!("the connection stays open after {what}"))?);
    Ok(())
}

/// Says this and leaves.
async fn says(victim: &Victim, said: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(victim.address()?).await?;
    Ok(stream.write_all(said).await?)
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Bytes without a meaning, the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn what_is_not_http_is_closed() -> Result<()> {
    let victim = Victim::new().await?;
    let tls_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(256)].concat();
    let zeros = vec![0; 4096];
    let endless_head = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let cases: [(&str, &[u8]); 7] = [
        ("noise", &noise(4096)),
        ("zeros", &zeros),
        ("a TLS hello", &tls_hello),
        ("a broken preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n????????????????"),
        ("a preface of HTTP/1", b"PRI / HTTP/1.1\r\n\r\n"),
        ("an endless head", &endless_head),
        ("a bare line", b"\r\n\r\nhello\r\n\r\n"),
    ];
    for (what, said) in cases {
        is_closed_after(&victim, what, said).await?;
    }
    for unfinished in [&b""[..], b"P", b"PRI ", b"PRI * HTTP/2.0\r\n\r\nSM", PREFACE] {
        says(&victim, unfinished).await?;
    }
    victim.is_unharmed().await
}

#[tokio::test]
async fn malformed_frames_end_the_connection() -> Result<()> {
    let victim = Victim::new().await?;
    let cases = [
        ("noise after the preface", noise(4096)),
        ("DATA on the connection", frame(0, 0, 0, b"x")),
        ("DATA on an idle stream", frame(0, 0, 5, b"x")),
        ("HEADERS on an even stream", frame(1, 4, 2, &[0x82])),
        ("HEADERS that cannot be decoded", frame(1, 4, 1, &[0xff; 64])),
        ("HEADERS padded beyond their end", frame(1, 4 | 8, 1, &[200, 0x82])),
        ("RST_STREAM on an idle stream", frame(3, 0, 7, &[0, 0, 0, 8])),
        ("RST_STREAM that is short", frame(3, 0, 1, &[0])),
        ("SETTINGS of odd length", frame(4, 0, 0, &[0, 1, 2])),
        ("SETTINGS on a stream", frame(4, 0, 1, &[])),
        ("an absurd window in SETTINGS", frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("PUSH_PROMISE from a client", frame(5, 4, 1, &[0, 0, 0, 2, 0x82])),
        ("PING of odd length", frame(6, 0, 0, &[1, 2, 3])),
        ("GOAWAY that is short", frame(7, 0, 0, &[0])),
        ("WINDOW_UPDATE of nothing", frame(8, 0, 0, &[0; 4])),
        ("CONTINUATION of nothing", frame(9, 4, 1, &[0x82])),
        (
            "a frame that is too long",
            [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 64]].concat(),
        ),
    ];
    for (what, said) in cases {
        is_closed_after(&victim, what, &[PREFACE, SETTINGS, &said].concat()).await?;
    }
    victim.is_unharmed().await
}
