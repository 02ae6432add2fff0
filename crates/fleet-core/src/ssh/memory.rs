//! A transport in memory: commands are answered from a script, connections by a function. For tests of what is
//! built on a [`Transport`].

use std::{
    collections::VecDeque,
    fmt,
    os::unix::net::UnixStream,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{ExecOutput, ExecStatus, SocketStream, Stream, Transport};
use crate::{Error, Result, deadline::Deadline};

/// What was asked of a [`MemoryTransport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A command and its standard input.
    Exec(String, Vec<u8>),
    /// A connection to a host and port.
    Tcp(String, u16),
    /// A command as a stream.
    Stream(String),
}

type Answerer = Box<dyn FnMut(&str, &[u8]) -> Option<Result<ExecOutput>> + Send>;
type Server = Box<dyn Fn(UnixStream) + Send + Sync>;

/// See the module.
#[derive(Default)]
pub struct MemoryTransport {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    answerers: Vec<Answerer>,
    servers: Vec<(Call, std::sync::Arc<Server>)>,
    forbidden: bool,
    calls: Vec<Call>,
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryTransport({} calls)", self.lock().calls.len())
    }
}

impl MemoryTransport {
    /// One that knows no answer.
    pub fn new() -> MemoryTransport {
        MemoryTransport::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(self, change: impl FnOnce(&mut Inner)) -> MemoryTransport {
        change(&mut self.lock());
        self
    }

    /// Answers exactly `command` with these outputs, one after the other; the last is given again.
    #[must_use]
    pub fn answer(self, command: &str, outputs: impl IntoIterator<Item = ExecOutput>) -> MemoryTransport {
        let command = command.to_owned();
        let mut outputs: VecDeque<ExecOutput> = outputs.into_iter().collect();
        self.answer_with(move |asked, _| {
            if asked != command {
                return None;
            }
            if outputs.len() > 1 { outputs.pop_front() } else { outputs.front().cloned() }.map(Ok)
        })
    }

    /// Asks `answerer` about each command and its standard input, after those that were added before.
    #[must_use]
    pub fn answer_with(
        self,
        answerer: impl FnMut(&str, &[u8]) -> Option<Result<ExecOutput>> + Send + 'static,
    ) -> MemoryTransport {
        self.with(|inner| inner.answerers.push(Box::new(answerer)))
    }

    /// Answers connections to `host:port`: `server` gets the other end, in a thread of its own.
    #[must_use]
    pub fn listen(
        self,
        host: &str,
        port: u16,
        server: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> MemoryTransport {
        let what = Call::Tcp(host.to_owned(), port);
        self.with(|inner| inner.servers.push((what, std::sync::Arc::new(Box::new(server)))))
    }

    /// Answers [`Transport::open_exec_stream`] of exactly `command` likewise.
    #[must_use]
    pub fn relay(
        self,
        command: &str,
        server: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> MemoryTransport {
        let what = Call::Stream(command.to_owned());
        self.with(|inner| inner.servers.push((what, std::sync::Arc::new(Box::new(server)))))
    }

    /// Refuses every connection as an sshd does that allows no forwarding.
    #[must_use]
    pub fn forbid_forwarding(self) -> MemoryTransport {
        self.with(|inner| inner.forbidden = true)
    }

    /// Everything that was asked, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    fn open(&self, what: Call) -> Option<Result<Box<dyn Stream>>> {
        let server = {
            let mut inner = self.lock();
            let server =
                inner.servers.iter().find(|(call, _)| *call == what).map(|(_, server)| server.clone());
            inner.calls.push(what);
            server?
        };
        Some(match UnixStream::pair() {
            Ok((ours, theirs)) => {
                std::thread::spawn(move || server(theirs));
                Ok(Box::new(SocketStream::from(ours)))
            }
            Err(e) => Err(Error::failed("can not make a socket pair").caused_by(e)),
        })
    }
}

/// What a command left that ended with exit code 0.
pub fn success(stdout: impl Into<Vec<u8>>) -> ExecOutput {
    ExecOutput { stdout: stdout.into(), stderr: Vec::new(), status: ExecStatus::Code(0) }
}

/// What a command left that ended with another exit code.
pub fn failure(code: i32, stderr: impl Into<Vec<u8>>) -> ExecOutput {
    ExecOutput { stdout: Vec::new(), stderr: stderr.into(), status: ExecStatus::Code(code) }
}

impl Transport for MemoryTransport {
    fn exec(&self, command: &str, stdin: &[u8], _deadline: Deadline) -> Result<ExecOutput> {
        let mut inner = self.lock();
        inner.calls.push(Call::Exec(command.to_owned(), stdin.to_vec()));
        inner
            .answerers
            .iter_mut()
            .find_map(|answerer| answerer(command, stdin))
            .unwrap_or_else(|| Err(Error::failed(format!("no answer to `{command}` is in the script"))))
    }

    fn open_tcp(&self, host: &str, port: u16, _deadline: Deadline) -> Result<Box<dyn Stream>> {
        if self.lock().forbidden {
            self.lock().calls.push(Call::Tcp(host.to_owned(), port));
            return Err(super::session::forbidden("memory", &super::address::show(host, port)));
        }
        self.open(Call::Tcp(host.to_owned(), port)).unwrap_or_else(|| {
            Err(Error::unreachable(format!(
                "nothing listens on {} in the script",
                super::address::show(host, port)
            )))
        })
    }

    fn open_exec_stream(&self, command: &str, _deadline: Deadline) -> Result<Box<dyn Stream>> {
        self.open(Call::Stream(command.to_owned()))
            .unwrap_or_else(|| Err(Error::failed(format!("no stream of `{command}` is in the script"))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_script_is_followed_and_what_was_asked_is_kept() {
        let transport = MemoryTransport::new().answer("id", [success("one"), failure(3, "two")]).listen(
            "10.0.0.1",
            80,
            |mut peer| {
                let mut got = [0; 2];
                let _ = peer.read_exact(&mut got).and_then(|()| peer.write_all(b"yo"));
            },
        );
        let limit = Deadline::secs(5);
        assert_eq!(transport.exec("id", b"in", limit).unwrap(), success("one"));
        assert_eq!(transport.exec("id", b"", limit).unwrap(), failure(3, "two"));
        assert_eq!(transport.exec("id", b"", limit).unwrap(), failure(3, "two"));
        assert!(transport.exec("ls", b"", limit).unwrap_err().message().contains("`ls`"));
        let mut stream = transport.open_tcp("10.0.0.1", 80, limit).unwrap();
        stream.write_all(b"hi").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "yo");
        assert!(transport.open_tcp("10.0.0.1", 81, limit).is_err());
        assert_eq!(transport.calls()[0], Call::Exec("id".into(), b"in".into()));
        assert_eq!(transport.calls()[5], Call::Tcp("10.0.0.1".into(), 81));
        let strict = MemoryTransport::new().forbid_forwarding();
        let error = strict.open_tcp("x", 1, limit).map(|_| ()).unwrap_err();
        assert!(super::super::forwarding_forbidden(&error));
    }
}
