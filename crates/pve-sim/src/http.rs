//! The API daemon's HTTP: authentication, bodies, limits, and the form of answers and failures.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    ext::ReasonPhrase,
    header,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    api::{self, Call, Fail, Reply},
    auth::{Refused, Who, authenticate},
    cut::Cut,
    faults::{Fault, Stream},
    ledger::Party,
    log::What,
    node::Node,
    params::Params,
};

/// A connection is closed after so long without a request.
const IDLE: Duration = Duration::from_secs(5);
/// The last answer of a connection that has served so many says `close`.
const REQUESTS: u32 = 100;
const LARGEST_BODY: usize = 512 * 1024;
const LARGEST_HEAD: usize = 8 * 1024;

/// Counts reads, so that a request in two writes can be told from one in one.
struct Counted<S> {
    stream: S,
    reads: Arc<AtomicU32>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Why a connection ends without an answer.
#[derive(Debug)]
struct NoAnswer;

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for NoAnswer {}

struct Connection {
    node: Arc<Node>,
    served: AtomicU32,
    reads: Arc<AtomicU32>,
    reads_before: Mutex<u32>,
    dropped: AtomicBool,
}

/// Serves HTTP/1 on a stream until it ends.
pub async fn serve<S>(node: Arc<Node>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let reads = Arc::new(AtomicU32::new(0));
    let mut restarts = node.restarts.subscribe();
    restarts.mark_unchanged();
    let connection = Arc::new(Connection {
        node: Arc::clone(&node),
        served: AtomicU32::new(0),
        reads: Arc::clone(&reads),
        reads_before: Mutex::new(0),
        dropped: AtomicBool::new(false),
    });
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { connection.answer(request).await }
    });
    let stream = Cut::new(node, stream, Stream::ApiDown, Some(Stream::ApiUp));
    let io = TokioIo::new(Counted { stream, reads });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE).max_headers(64);
    // How a connection ended is the client's business.
    tokio::select! {
        _ = server.serve_connection(io, service) => {}
        _ = restarts.changed() => {}
    }
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let outcome = self.serve(request).await;
        *self.reads_before.lock().unwrap_or_else(PoisonError::into_inner) =
            self.reads.load(Ordering::Relaxed);
        if self.dropped.load(Ordering::Relaxed) {
            return Err(NoAnswer);
        }
        let (status, reason, body) = match outcome {
            Ok((data, beside)) => {
                let mut body = Map::new();
                body.insert("data".to_owned(), data);
                body.extend(beside);
                (200, None, Some(Value::Object(body)))
            }
            Err(fail) => {
                let reason = fail.message.lines().next().unwrap_or_default().to_owned();
                if fail.message.chars().any(|c| u32::from(c) > 0xff) {
                    return Err(NoAnswer);
                }
                let body = fail.json.then(|| {
                    let mut body = Map::new();
                    body.insert("data".to_owned(), Value::Null);
                    body.insert("message".to_owned(), Value::String(fail.message));
                    if let Some(errors) = fail.errors {
                        body.insert("errors".to_owned(), Value::Object(errors));
                    }
                    Value::Object(body)
                });
                (fail.status, Some(reason), body)
            }
        };
        let text = body.map(|b| b.to_string()).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Characters up to U+00FF only, see above; those of control as they are is more than a status line takes.
        let latin = |r: String| r.chars().filter(|c| !c.is_control()).map(|c| c as u8).collect::<Vec<u8>>();
        if let Some(reason) = reason.and_then(|r| ReasonPhrase::try_from(latin(r)).ok()) {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        headers.insert(header::SERVER, header::HeaderValue::from_static("pve-api-daemon/3.0"));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("max-age=0"));
        headers
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json;charset=UTF-8"));
        if status >= 400 || served >= REQUESTS {
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn serve(&self, request: Request<Incoming>) -> Reply<(Value, Map<String, Value>)> {
        let node = &self.node;
        let (parts, body) = request.into_parts();
        let method = parts.method.as_str().to_owned();
        let path = parts.uri.path().to_owned();
        if parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
            > LARGEST_HEAD
        {
            self.dropped.store(true, Ordering::Relaxed);
            return Err(Fail::http(500, "dropped"));
        }
        if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "DELETE") {
            return Err(Fail::http(501, format!("method '{method}' not available")));
        }
        let Some(below) = path.strip_prefix("/api2/") else {
            return Err(Fail::http(500, format!("no such file '{path}'")));
        };
        let Some(below) = below.strip_prefix("json") else {
            let format = below.split('/').next().unwrap_or_default();
            let rest = &below[format.len()..];
            return Err(Fail::http(501, format!("no formatter for uri {rest}, {format}")));
        };
        let expired = node.fault(|f| match f {
            Fault::TicketsExpire { after: 0 } => Some((true, true)),
            Fault::TicketsExpire { after } => {
                *after -= 1;
                Some((false, false))
            }
            _ => None,
        });
        if expired == Some(true) {
            node.expire_tickets();
        }
        let ticketless = method == "POST" && below == "/access/ticket";
        let who = match authenticate(node, &parts.headers) {
            Ok(who) => who,
            Err(_) if ticketless => Who::root(),
            Err(refused) => {
                tokio::time::sleep(node.latency().auth_failure).await;
                return Err(Fail::http(
                    401,
                    match refused {
                        Refused::NoTicket => "No ticket",
                        Refused::Failed => "Authentication failed!",
                    },
                ));
            }
        };
        let segments: Vec<String> = below
            .split('/')
            .filter(|s| !s.is_empty())
            // The genuine daemon takes a path for bytes, not for UTF-8.
            .map(|s| percent_encoding::percent_decode_str(s).map(char::from).collect())
            .collect();
        let (params, split) = self.parameters(&method, &parts, body).await?;
        let call = Call { method: method.clone(), path: segments, params, who };
        let shown = format!("/{}", call.path.join("/"));
        let n = node.log.add(What::Http {
            method: method.clone(),
            path: shown.clone(),
            params: call.params.to_json(),
        });
        let at_work = node.ledger.begin(Party::Node, format!("{method} {shown}"));
        let at_work = if shown.contains("/agent/") { at_work.if_done() } else { at_work };
        let outcome = self.with_faults(&call, &method, &shown, split).await;
        if outcome.is_ok() {
            at_work.done();
        }
        let (status, message) = match &outcome {
            _ if self.dropped.load(Ordering::Relaxed) => (0, String::new()),
            Ok(_) => (200, String::new()),
            Err(fail) => (fail.status, fail.message.trim_end().to_owned()),
        };
        node.log.add(What::Answer { of: n, status, message });
        outcome
    }

    async fn with_faults(
        &self,
        call: &Call,
        method: &str,
        path: &str,
        split: bool,
    ) -> Reply<(Value, Map<String, Value>)> {
        let node = &self.node;
        if method == "GET" {
            node.works(node.latency().read).await;
        }
        if split && node.has_fault(|f| *f == Fault::TwoWrites) {
            return Err(Fail::new("user name not set"));
        }
        let slow = node.fault(|f| match f {
            Fault::Slow { path: p, by } if path.contains(p.as_str()) => Some((*by, false)),
            _ => None,
        });
        if let Some(by) = slow {
            tokio::time::sleep(by).await;
        }
        let restarted = node.fault(|f| match f {
            Fault::DaemonRestarts { after: 0 } => Some((true, true)),
            Fault::DaemonRestarts { after } => {
                *after -= 1;
                Some((false, false))
            }
            _ => None,
        });
        if restarted == Some(true) {
            self.dropped.store(true, Ordering::Relaxed);
            node.restart_daemon();
            return Err(Fail::http(500, "dropped"));
        }
        let drop = node.fault(|f| match f {
            Fault::DropLink { after: 0, done } => Some((Some(*done), true)),
            Fault::DropLink { after, .. } => {
                *after -= 1;
                Some((None, false))
            }
            Fault::DropLinkAt { method: m, path: p, done } if m == method && path.contains(p.as_str()) => {
                Some((Some(*done), true))
            }
            _ => None,
        });
        if let Some(Some(done)) = drop {
            if done {
                // Carried out; only the answer is lost.
                let _ = api::answer(node, call).await;
            }
            self.dropped.store(true, Ordering::Relaxed);
            node.cut.send_modify(|n| *n += 1);
            return Err(Fail::http(500, "dropped"));
        }
        let late = node.fault(|f| match f {
            Fault::ReadLate { method: m, path: p, by } if m == method && path.contains(p.as_str()) => {
                Some((*by, true))
            }
            _ => None,
        });
        if let Some(by) = late {
            let (node, call) = (Arc::clone(node), call.clone());
            tokio::spawn(async move {
                tokio::time::sleep(by).await;
                // Nobody is there any more to be answered.
                let _ = api::answer(&node, &call).await;
            });
            self.dropped.store(true, Ordering::Relaxed);
            self.node.cut.send_modify(|n| *n += 1);
            return Err(Fail::http(500, "dropped"));
        }
        let canned = node.fault(|f| match f {
            Fault::Answer { method: m, path: p, status, message, times }
                if m == method && path.contains(p.as_str()) =>
            {
                let fail =
                    Fail { status: *status, message: format!("{message}\n"), errors: None, json: true };
                *times = times.saturating_sub(1);
                Some((fail, *times == 0))
            }
            _ => None,
        });
        match canned {
            Some(fail) => Err(fail),
            None => api::answer(node, call).await,
        }
    }

    /// The parameters, and whether head and body came in more than one read.
    async fn parameters(
        &self,
        method: &str,
        parts: &hyper::http::request::Parts,
        body: Incoming,
    ) -> Reply<(Params, bool)> {
        let query = parts.uri.query().unwrap_or_default();
        let length =
            parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Fail::http(501, "chunked transfer encoding not supported"));
        }
        if matches!(method, "GET" | "DELETE") {
            if length.is_some_and(|l| l > 0) {
                return Err(Fail::http(501, format!("Unexpected content for method '{method}'")));
            }
            return Ok((Params::from_form(query), false));
        }
        if length.is_some_and(|l| l > LARGEST_BODY) {
            return Err(Fail::http(501, "for data too large"));
        }
        let bytes = body.collect().await.map_err(|_| Fail::http(500, "connection lost"))?.to_bytes();
        let before = *self.reads_before.lock().unwrap_or_else(PoisonError::into_inner);
        let split = !bytes.is_empty() && self.reads.load(Ordering::Relaxed) > before + 1;
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if bytes.is_empty() {
            return Ok((Params::from_form(query), split));
        }
        let params = if kind.starts_with("application/json") {
            let value: Value = serde_json::from_slice(&bytes).map_err(|e| {
                Fail::http(500, format!("malformed JSON string, {e} at AnyEvent.pm line 934."))
            })?;
            Params::from_json(&value)
        } else if kind.is_empty() || kind.starts_with("application/x-www-form-urlencoded") {
            Params::from_form(&String::from_utf8_lossy(&bytes))
        } else {
            return Err(Fail::http(506, format!("upload 'Content-Type '{kind}' not implemented")));
        };
        Ok((params, split))
    }
}
