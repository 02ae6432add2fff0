//! SSH over libssh2: settings from the user's `ssh_config`, host keys always checked, both streams pumped
//! without blocking, every wait with a deadline.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use crate::{Error, Result, child::Command, deadline::Deadline, ui::Ui};

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

/// A stream through the remote host, with a deadline on each wait of its reads and writes.
pub trait Stream: Read + Write + Send + Sync + 'static {
    /// Until when reads and writes may wait from now on.
    fn set_deadline(&mut self, deadline: Deadline);
}

/// A way to run things on a host: a real session, or one in memory for tests.
pub trait Transport {
    /// Runs `command` (a shell line, built with [`crate::child::quote`]), gives it `stdin`, collects both outputs.
    fn exec(&self, command: &str, stdin: &[u8], deadline: Deadline) -> Result<ExecOutput>;
    /// Opens a TCP connection from the host to `host:port` (`direct-tcpip`).
    fn open_tcp(&self, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>>;
}

/// An authenticated connection to a host whose key was checked.
pub struct Session {}

impl Session {
    /// Connects, checks the host's key, and logs in.
    pub fn connect(target: &Target, ui: Ui, deadline: Deadline) -> Result<Session> {
        let _ = (target, ui, deadline);
        Err(Error::failed("not written yet"))
    }

    /// The host's key, one OpenSSH public key line without a comment.
    pub fn host_key(&self) -> &str {
        ""
    }
}

impl Transport for Session {
    fn exec(&self, command: &str, stdin: &[u8], deadline: Deadline) -> Result<ExecOutput> {
        let _ = (command, stdin, deadline);
        Err(Error::failed("not written yet"))
    }

    fn open_tcp(&self, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
        let _ = (host, port, deadline);
        Err(Error::failed("not written yet"))
    }
}
