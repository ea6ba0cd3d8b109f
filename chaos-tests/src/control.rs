//! Asking a node's control port: one small HTTPS request a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// Where a control port is and how to be let in. `Debug` does not show the token.
#[derive(Clone)]
pub struct ControlPort {
    /// Its address.
    pub address: SocketAddr,
    /// Its token.
    pub token: String,
    /// Trusts the pool's CA.
    pub tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for ControlPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPort")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A status code and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

impl ControlPort {
    /// Sends a request and takes the answer.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let answer = timeout(REQUEST_LIMIT, self.exchange(method, path, body)).await;
        answer.with_context(|| format!("{method} {path} took too long"))?
    }

    /// A counter among the node's metrics, without what all of them begin and end with.
    pub async fn counter(&self, name: &str) -> Result<u64> {
        let text = self.ok("GET", "/metrics", None).await?.body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("muster_{name}_total ")));
        Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let mut socket = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, socket)
            .await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        socket.flush().await?;
        let mut answer = Vec::new();
        if let Err(error) = socket.read_to_end(&mut answer).await {
            // A server may leave out TLS's own goodbye once the body is whole.
            if answer.is_empty() {
                return Err(error.into());
            }
        }
        parse(&String::from_utf8_lossy(&answer))
    }

    /// A request that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let answer = self.request(method, path, body).await?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer)
    }
}

/// Reads an answer whose length the end of the connection tells. Chunks are joined.
fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no HTTP status: {head}"))?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        join_chunks(body)
    } else {
        body.to_owned()
    };
    Ok(Answer { status, body })
}

fn join_chunks(mut rest: &str) -> String {
    let mut joined = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let Some((chunk, next)) = after.split_at_checked(size).filter(|_| size > 0) else {
            break;
        };
        joined.push_str(chunk);
        rest = next.strip_prefix("\r\n").unwrap_or(next);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let check = |text: &str, status: u16, body: &str| {
            assert_eq!(
                parse(text).expect("good"),
                Answer {
                    status,
                    body: body.to_owned()
                }
            );
        };
        check("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}", 200, "{}");
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, "");
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            200,
            "abcde",
        );
        parse("HTTP/1.1").expect_err("no head");
        parse("nothing\r\n\r\n").expect_err("no status");
    }
}
