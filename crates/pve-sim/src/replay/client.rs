//! Sends a recorded request to the simulated daemon, as HTTP, and reads its answer.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::record::Record;
use crate::{http, node::Node};

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// 0 if nothing did.
    pub(super) status: u64,
    pub(super) reason: String,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn upid(&self) -> Option<&str> {
        self.body["data"].as_str().filter(|text| text.starts_with("UPID:"))
    }
}

/// How a recording's request proves who sends it, as header lines.
fn credentials(record: &Record, ticket: &str) -> String {
    let ticket = super::encode(ticket);
    match record.json["auth"].as_str().unwrap_or("ticket") {
        "none" => String::new(),
        "bad" => "Cookie: PVEAuthCookie=PVE:root@pam:00000000::bad\r\n".to_owned(),
        "token" => format!("Authorization: PVEAPIToken={}={}\r\n", super::start::TOKEN, super::start::SECRET),
        "authheader" => format!("Authorization: PVEAuthCookie={ticket}\r\n"),
        "badcsrf" => format!("Cookie: PVEAuthCookie={ticket}\r\nCSRFPreventionToken: wrong\r\n"),
        _ => format!("Cookie: PVEAuthCookie={ticket}\r\n"),
    }
}

/// A body of which the recording has the beginning and the length: `x=aaa…(8204 bytes)`.
fn whole_body(text: &str) -> String {
    let cut = text.rsplit_once("...(").and_then(|(begin, rest)| {
        let length: usize = rest.strip_suffix(" bytes)")?.parse().ok()?;
        let last = begin.chars().last()?;
        Some(begin.to_owned() + &last.to_string().repeat(length.checked_sub(begin.len())?))
    });
    cut.unwrap_or_else(|| text.to_owned())
}

fn request(record: &Record, path: &str, ticket: &str) -> String {
    let method = record.method().unwrap_or_default();
    let form: Vec<String> =
        record.params().iter().map(|(k, v)| format!("{}={}", super::encode(k), super::encode(v))).collect();
    let form = form.join("&");
    let raw = record.json["raw_body"].as_str().map(whole_body);
    let mut target = path
        .strip_prefix('/')
        .filter(|p| p.starts_with('/'))
        .map_or_else(|| format!("/api2/json{path}"), str::to_owned);
    let mut head = String::new();
    let mut body = raw.unwrap_or_default();
    if body.is_empty() && matches!(method, "POST" | "PUT") {
        body = form;
    } else if !form.is_empty() {
        target = format!("{target}?{form}");
    }
    for (name, value) in record.json["request_headers"].as_object().into_iter().flatten() {
        head.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap_or_default()));
    }
    if record.json["request_headers"]["Host"].is_null() {
        head.push_str("Host: localhost\r\n");
    }
    if !body.is_empty() {
        let kind = record.json["content_type"].as_str().unwrap_or("application/x-www-form-urlencoded");
        head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()));
    } else if head.contains("chunked") {
        body = "0\r\n\r\n".to_owned();
    }
    format!("{method} {target} HTTP/1.1\r\n{head}{}\r\n{body}", credentials(record, ticket))
}

/// Sends `record` with its path written as `path`, on a connection of its own.
pub(super) async fn send(node: &Arc<Node>, record: &Record, path: &str, ticket: &str) -> Answer {
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(http::serve(Arc::clone(node), theirs));
    let request = request(record, path, ticket);
    let answer = match ours.write_all(request.as_bytes()).await {
        Ok(()) => read(&mut ours, record.method() == Some("HEAD")).await.unwrap_or_default(),
        Err(_) => Answer::default(),
    };
    drop(ours);
    server.abort();
    answer
}

async fn read(stream: &mut tokio::io::DuplexStream, headless: bool) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 16 * 1024];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    };
    // The status line is Latin-1.
    let head: String = bytes[..end].iter().map(|b| char::from(*b)).collect();
    let mut first = head.lines().next()?.splitn(3, ' ').skip(1);
    let status = first.next()?.parse().ok()?;
    let reason = first.next().unwrap_or_default().to_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    let length = if headless { 0 } else { length.unwrap_or(0) };
    while bytes.len() < end + length {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
    let body = serde_json::from_slice(&bytes[end..end + length]).unwrap_or(Value::Null);
    Some(Answer { status, reason, body })
}
