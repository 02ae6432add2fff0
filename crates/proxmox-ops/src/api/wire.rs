//! HTTP/1.1 over a stream that we bring: `ureq` over a [`Stream`], one connection at a time.
//!
//! The daemon sets who asks when it has read the head of a request, and forgets it when it serves another one
//! before the body has come. So a request, head and body, leaves in one write, no longer than one packet of
//! an SSH channel.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet_core::{deadline::Deadline, ssh::Stream};
use ureq::{
    Agent,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport},
    },
};

/// Longest request, head and body: one packet of an SSH channel, less room for what surrounds it.
pub const MAX_REQUEST: usize = 32 * 1024 - 256;
/// Longest form in such a request: what its head takes, ticket and all, is left out.
pub const MAX_FORM: usize = MAX_REQUEST - 2048;
/// Longest answer that is read: what a command in a VM wrote, of which the guest agent keeps 16 MiB of each kind, and
/// JSON writes a control character in six bytes. A log, or a list of ten thousand VMs, is far shorter.
const MAX_ANSWER: u64 = 2 * 6 * (16 << 20) + (1 << 20);
/// The daemon closes a connection that was idle for 5 s; one idle for this long is not used again.
const IDLE: Duration = Duration::from_millis(4000);

/// What the daemon answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The words after the status: the first line of the daemon's message.
    pub reason: String,
    /// The body as it came.
    pub body: Vec<u8>,
}

/// A request that got no answer.
#[derive(Debug)]
pub enum Lost {
    /// Nothing of it was sent.
    NotSent(String),
    /// It was sent, wholly or partly; the connection ended without an answer.
    NoAnswer(String),
    /// It was sent and the deadline passed.
    TimedOut,
}

/// What the client and the transport inside `ureq` share.
struct Shared {
    deadline: Deadline,
    sent: bool,
    head: Vec<u8>,
}

type SharedCell = Arc<Mutex<Shared>>;

fn lock<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection to the daemon.
pub struct Connection {
    agent: Agent,
    shared: SharedCell,
    last_used: Instant,
    usable: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("usable", &self.usable).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection over an open stream.
    pub fn new(stream: Box<dyn Stream>) -> Connection {
        let shared =
            Arc::new(Mutex::new(Shared { deadline: Deadline::secs(0), sent: false, head: Vec::new() }));
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent("proxmox-ops")
            .accept("application/json")
            .max_idle_connections(1)
            .build();
        let once = Once { stream: Mutex::new(Some(stream)), shared: Arc::clone(&shared) };
        let agent = Agent::with_parts(config, once, NoResolver);
        Connection { agent, shared, last_used: Instant::now(), usable: true }
    }

    /// Whether another request may be sent on it.
    pub fn is_usable(&self) -> bool {
        self.usable && self.last_used.elapsed() < IDLE
    }

    /// Makes it as if it had been idle for so long.
    #[cfg(test)]
    pub(crate) fn age(&mut self, by: Duration) {
        self.last_used = self.last_used.checked_sub(by).unwrap_or(self.last_used);
    }

    /// Sends one request and reads its whole answer.
    pub fn ask(
        &mut self,
        method: &str,
        path_and_query: &str,
        headers: &[(&'static str, String)],
        form: Option<&str>,
        deadline: Deadline,
    ) -> Result<Answer, Lost> {
        *lock(&self.shared) = Shared { deadline, sent: false, head: Vec::new() };
        // Whatever happens below, the connection is good again only after a whole answer.
        self.usable = false;
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("http://localhost{path_and_query}"));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let sent = match form {
            Some(form) => request
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(form.to_owned())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
            None => request.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request)),
        };
        let mut response = sent.map_err(|e| self.lost(&e, deadline))?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()
            .map_err(|e| self.lost(&e, deadline))?;
        let closes = response
            .headers()
            .get("connection")
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.eq_ignore_ascii_case("close"));
        self.usable = status < 400 && !closes;
        self.last_used = Instant::now();
        let reason = reason_of(&lock(&self.shared).head);
        Ok(Answer { status, reason, body })
    }

    fn lost(&self, error: &ureq::Error, deadline: Deadline) -> Lost {
        match (lock(&self.shared).sent, deadline.passed()) {
            (false, _) => Lost::NotSent(error.to_string()),
            (true, true) => Lost::TimedOut,
            (true, false) => Lost::NoAnswer(error.to_string()),
        }
    }
}

/// The reason phrase of a status line; the daemon writes it as it comes, so bytes are read leniently.
fn reason_of(head: &[u8]) -> String {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.trim_end().splitn(3, ' ').nth(2).unwrap_or_default().to_owned()
}

/// Gives the one stream that it was made with.
struct Once {
    stream: Mutex<Option<Box<dyn Stream>>>,
    shared: SharedCell,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl Connector for Once {
    type Out = Wire;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        let stream = lock(&self.stream).take().ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::NotConnected, "the daemon had closed the connection")
        })?;
        Ok(Some(Wire {
            stream,
            shared: Arc::clone(&self.shared),
            buffers: LazyBuffers::new(64 * 1024, 64 * 1024),
            outgoing: Vec::new(),
            open: true,
        }))
    }
}

/// There is nothing to resolve: the stream is open already.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(std::net::SocketAddr::from(([127, 0, 0, 1], 85)));
        Ok(addresses)
    }
}

/// A stream as `ureq` wants one. Output is gathered until an answer is waited for.
struct Wire {
    stream: Box<dyn Stream>,
    shared: SharedCell,
    buffers: LazyBuffers,
    outgoing: Vec<u8>,
    open: bool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    fn send(&mut self, deadline: Deadline) -> Result<(), ureq::Error> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        if self.outgoing.len() > MAX_REQUEST {
            self.open = false;
            let text = format!("the request is {} bytes long, {MAX_REQUEST} at most", self.outgoing.len());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text).into());
        }
        lock(&self.shared).sent = true;
        self.stream.set_deadline(deadline);
        let written = self.stream.write_all(&self.outgoing).and_then(|()| self.stream.flush());
        self.outgoing.clear();
        self.open &= written.is_ok();
        Ok(written?)
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.outgoing.extend_from_slice(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let deadline = lock(&self.shared).deadline;
        self.send(deadline)?;
        self.stream.set_deadline(deadline);
        let buffer = self.buffers.input_append_buf();
        let read = self.stream.read(buffer);
        self.open &= matches!(read, Ok(1..));
        let amount = read?;
        let mut shared = lock(&self.shared);
        if shared.head.len() < 1024 {
            shared.head.extend_from_slice(&buffer[..amount.min(1024)]);
        }
        drop(shared);
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, io::Write as _, os::unix::net::UnixStream};

    use fleet_core::ssh::SocketStream;

    use super::*;

    /// A connection to a daemon that answers a request with these bytes, and then closes it or waits for more.
    fn asked(answer: &[u8], closes: bool) -> (Connection, Result<Answer, Lost>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        if closes {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut connection = Connection::new(Box::new(SocketStream::from(ours)));
        let outcome = connection.ask("POST", "/x", &[], Some("a=b"), Deadline::secs(30));
        let mut request = [0; 4096];
        let length = theirs.read(&mut request).unwrap();
        assert!(request[..length].ends_with(b"a=b"));
        (connection, outcome)
    }

    #[test]
    fn a_connection_that_the_daemon_gives_up_is_not_used_again() {
        let answer = |status: &str, word: &str| {
            format!("HTTP/1.1 {status}\r\nConnection: {word}\r\nContent-Length: 2\r\n\r\n{{}}")
        };
        // Of a hundred requests the last is answered so.
        for (status, word, usable) in [
            ("200 OK", "Keep-Alive", true),
            ("200 OK", "close", false),
            ("500 no such thing", "close", false),
            ("500 no such thing", "Keep-Alive", false),
        ] {
            let (connection, outcome) = asked(answer(status, word).as_bytes(), false);
            let outcome = outcome.unwrap();
            assert_eq!(
                (outcome.body.as_slice(), connection.is_usable()),
                (b"{}".as_slice(), usable),
                "{word}"
            );
            assert_eq!(outcome.reason, status.split_once(' ').unwrap().1);
        }
    }

    #[test]
    fn an_answer_that_is_cut_at_any_byte_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: Keep-Alive\r\n\r\n{\"data\":null}";
        for at in 0..whole.len() {
            let (connection, outcome) = asked(&whole[..at], true);
            assert!(matches!(outcome, Err(Lost::NoAnswer(_))), "{at}: {outcome:?}");
            assert!(!connection.is_usable());
        }
        let (_, outcome) = asked(whole, true);
        assert_eq!(outcome.unwrap().body, b"{\"data\":null}");
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{\"data\r\n7;x=1\r\n\":null}\r\n0\r\n\r\n";
        for at in 0..chunked.len() - 4 {
            let (_, outcome) = asked(&chunked[..at], true);
            assert!(matches!(outcome, Err(Lost::NoAnswer(_))), "{at}: {outcome:?}");
        }
        assert_eq!(asked(chunked, false).1.unwrap().body, b"{\"data\":null}");
    }
}
