//! SSH over libssh2: settings from the user's `ssh_config`, host keys always checked, both streams pumped
//! without blocking, every wait with a deadline.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::Arc,
};

use crate::{Error, Result, child::Command, deadline::Deadline};

mod address;
mod agent;
mod auth;
mod dial;
mod exec;
mod host_key;
pub mod keys;
mod known_hosts;
mod link;
pub mod memory;
mod peer;
mod pump;
mod refusal;
mod session;
mod settings;
mod socket;
mod stream;
mod user;

pub use address::HostPort;
pub use agent::keys as agent_keys;
pub use peer::Relay;
pub use pump::{Pumped, pump, pump_stdio};
pub use rustix::event::PollFlags;
pub use session::Session;
pub use settings::Environment;
pub use socket::{SocketStream, connect_tcp};
pub use user::configured_user;

/// Whom to connect to, and how it proves who it is.
#[derive(Debug, Clone)]
pub struct Target {
    /// An ssh_config alias, a DNS name, an address, `HOST:PORT` or `[ADDRESS]:PORT`.
    pub host: String,
    /// Login; from the ssh_config when not given.
    pub user: Option<String>,
    /// How the host's key is checked.
    pub host_key: HostKeyPolicy,
    /// Keys to log in with, before those of the ssh_config.
    pub identities: Vec<PathBuf>,
    /// Carries the bytes instead of a TCP connection: reads and writes them on its standard streams.
    /// The ssh_config is not asked then.
    pub proxy: Option<Command>,
}

/// How a host's key is checked. There is no way to accept any key.
#[derive(Debug, Clone)]
pub enum HostKeyPolicy {
    /// Against the known-hosts files of the user's settings; an unknown host is asked about on a terminal.
    KnownHosts,
    /// It must be this key: one OpenSSH public key line.
    Pinned(String),
    /// Against the known-hosts files first; where they do not know the host, against what a host that is proven
    /// already says about it.
    Vouched(Vouched),
}

/// What a host that is proven already says about another one.
#[derive(Debug, Clone, Default)]
pub struct Vouched {
    /// Lines as in a known-hosts file.
    pub lines: String,
    /// Where they are, for messages.
    pub source: String,
}

/// Another host of the cluster that a session's own host belongs to.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What messages call it; also a name of it in known-hosts lines.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// What vouches for its key beside the known-hosts files.
    pub vouched: Vouched,
}

/// How to get to a [`Peer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerWay {
    /// As the session's own host is reached: straight, or over its jump hosts.
    Straight,
    /// Through the session's own host.
    Through,
}

/// What a remote command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: ExecStatus,
}

/// How a remote command ended; only told after a clean end of its streams and close of its channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecStatus {
    /// With this exit code.
    Code(i32),
    /// By this signal, named as SSH names it (`KILL`, `TERM`).
    Signal(String),
}

/// A stream of bytes, with a deadline on each wait of its reads and writes.
///
/// `read` gives 0 at the other side's end of file. The methods that do not wait are for pumping both ways in one
/// thread; a stream for tests may leave them out.
pub trait Stream: Read + Write + Send + Sync + 'static {
    /// Until when reads and writes may wait from now on (60 s from its opening when never set).
    fn set_deadline(&mut self, deadline: Deadline);

    /// As `read`, but [`io::ErrorKind::WouldBlock`] when nothing is there.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = buffer;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As `write`, but [`io::ErrorKind::WouldBlock`] when the other side takes nothing for now.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = bytes;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the other side that nothing more will be written; reading goes on.
    fn finish_writing(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The descriptor to poll, and for what, when a `try_read` (`reading`) or a `try_write` (`writing`) would
    /// have blocked.
    fn pollable(&self, reading: bool, writing: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let _ = (reading, writing);
        None
    }
}

/// A way to run things on a host: a real session, or one in memory for tests.
pub trait Transport {
    /// Runs `command` (a shell line, built with [`crate::child::quote`]), gives it `stdin`, collects both outputs.
    ///
    /// A connection lost after the command was sent is [`crate::Kind::OutcomeUnknown`]; a deadline that passes is
    /// [`crate::Kind::DeadlinePassed`], and the command may go on.
    fn exec(&self, command: &str, stdin: &[u8], deadline: Deadline) -> Result<ExecOutput>;

    /// Opens a TCP connection from the host to `host:port` (`direct-tcpip`).
    ///
    /// [`forwarding_forbidden`] tells whether the host's sshd allows none; `host:port` itself not answering is
    /// [`crate::Kind::Unreachable`].
    fn open_tcp(&self, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>>;

    /// Runs `command` and gives its standard input and output as a stream: a relay where forwarding is forbidden.
    /// If it ends before it gave a byte, the read says how it ended and what it said on standard error.
    fn open_exec_stream(&self, command: &str, deadline: Deadline) -> Result<Box<dyn Stream>> {
        let _ = deadline;
        Err(Error::failed(format!("this transport can not run `{command}` as a stream")))
    }
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn exec(&self, command: &str, stdin: &[u8], deadline: Deadline) -> Result<ExecOutput> {
        (**self).exec(command, stdin, deadline)
    }

    fn open_tcp(&self, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
        (**self).open_tcp(host, port, deadline)
    }

    fn open_exec_stream(&self, command: &str, deadline: Deadline) -> Result<Box<dyn Stream>> {
        (**self).open_exec_stream(command, deadline)
    }
}

impl ExecOutput {
    /// Standard output as text; invalid bytes are replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; invalid bytes are replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.status == ExecStatus::Code(0)
    }

    /// Itself if the exit code was 0, else an error with the command, how it ended, and the end of what it said.
    pub fn checked(self, command: &str, host: &str) -> Result<ExecOutput> {
        if self.success() {
            return Ok(self);
        }
        let text = self.stderr_text();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let said = lines[lines.len().saturating_sub(8)..].join("\n");
        let said = if said.is_empty() { said } else { format!(": {said}") };
        Err(Error::failed(format!("`{}` on {host} {}{said}", exec::shown(command), self.status)))
    }
}

impl std::fmt::Display for ExecStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExecStatus::Code(code) => write!(f, "exited with {code}"),
            ExecStatus::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// Whether an [`Transport::open_tcp`] failed because the host's sshd allows no forwarding (to that place), so
/// that a relay by [`Transport::open_exec_stream`] is worth a try.
pub fn forwarding_forbidden(error: &Error) -> bool {
    error.report().details.is_some_and(|details| details["ssh"] == FORWARDING_FORBIDDEN)
}

const FORWARDING_FORBIDDEN: &str = "forwarding-forbidden";
