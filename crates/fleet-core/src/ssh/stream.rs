//! A channel as a stream of bytes: `direct-tcpip`, or the standard streams of a remote command.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    sync::Arc,
};

use rustix::event::PollFlags;

use super::{
    ExecStatus, Stream,
    exec::{read, shown, status, write},
    link::{Chan, Link, Outcome, Trouble},
};
use crate::deadline::Deadline;

/// How long a read or write may wait when nobody said.
const DEFAULT_LIMIT: u64 = 60;
/// How long the other side may take nothing of a packet that a `try_write` began.
const STALLED: u64 = 60;
/// How much of a remote command's standard error is kept for the error that it explains.
const STDERR_KEPT: usize = 4096;

/// See the module.
pub(super) struct ChannelStream {
    chan: Chan,
    deadline: Deadline,
    /// The remote command, if it is one's standard streams.
    command: Option<String>,
    stderr: Vec<u8>,
    received: bool,
}

impl ChannelStream {
    pub(super) fn new(chan: Chan, command: Option<String>) -> ChannelStream {
        ChannelStream {
            chan,
            deadline: Deadline::secs(DEFAULT_LIMIT),
            command,
            stderr: Vec::new(),
            received: false,
        }
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(self.chan.link())
    }

    /// One try; `None` when there is nothing yet, 0 at the end.
    fn receive(&mut self, buffer: &mut [u8], limit: Deadline) -> io::Result<Option<usize>> {
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        let link = self.link();
        let mut state = link.lock();
        let outcome = self.receive_locked(&link, &mut state, buffer, limit);
        drop(state);
        let received = outcome.map_err(|t| self.error("reading", &t))?;
        match received {
            Some((0, Some(ended))) if !self.received => Err(self.command_failed(&ended)),
            Some((n, _)) => {
                self.received |= n > 0;
                Ok(Some(n))
            }
            None => Ok(None),
        }
    }

    fn receive_locked(
        &mut self,
        link: &Link,
        state: &mut super::link::State,
        buffer: &mut [u8],
        limit: Deadline,
    ) -> Outcome<Option<(usize, Option<ExecStatus>)>> {
        let channel = self.chan.handle()?;
        if self.command.is_some() {
            // Left alone it would fill the window, and standard output with it would stop.
            let mut scrap = [0u8; 4096];
            let mut stderr = channel.stderr();
            while let Some(n @ 1..) =
                link.attempt(state, limit, Some(&channel), |s| read(&s.session, &mut stderr, &mut scrap))?
            {
                let room = STDERR_KEPT.saturating_sub(self.stderr.len()).min(n);
                self.stderr.extend_from_slice(&scrap[..room]);
            }
        }
        let mut stream = channel.stream(0);
        match link.attempt(state, limit, Some(&channel), |s| read(&s.session, &mut stream, buffer))? {
            Some(n @ 1..) => Ok(Some((n, None))),
            // Nothing, which is the end only if libssh2 says so.
            _ if channel.eof() => {
                if self.command.is_none() || self.received {
                    return Ok(Some((0, None)));
                }
                let mut closing = channel.clone();
                match link.attempt(state, limit, None, |_| closing.wait_close())? {
                    Some(()) => Ok(Some((0, Some(status(&channel).map_err(Trouble::Said)?)))),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// One try; `None` when the other side takes nothing for now.
    fn send(&mut self, bytes: &[u8], limit: Deadline) -> io::Result<Option<usize>> {
        if bytes.is_empty() {
            return Ok(Some(0));
        }
        let link = self.link();
        let mut state = link.lock();
        let outcome = self.send_locked(&link, &mut state, bytes, limit);
        drop(state);
        outcome.map_err(|t| self.error("writing", &t))?.transpose()
    }

    fn send_locked(
        &mut self,
        link: &Link,
        state: &mut super::link::State,
        bytes: &[u8],
        limit: Deadline,
    ) -> Outcome<Option<io::Result<usize>>> {
        let mut channel = self.chan.handle()?;
        let drain = channel.clone();
        let sent = link.attempt(state, limit, Some(&drain), |s| write(&s.session, &mut channel, bytes))?;
        if let Some(n @ 1..) = sent {
            return Ok(Some(Ok(n)));
        }
        // No room: for ever, if the other side has closed the channel.
        if channel.eof() && link.attempt(state, limit, None, |_| channel.wait_close())?.is_some() {
            let text = format!("the stream through {} was closed by the other side", link.host);
            return Ok(Some(Err(io::Error::new(io::ErrorKind::BrokenPipe, text))));
        }
        Ok(None)
    }

    fn error(&self, doing: &str, trouble: &Trouble) -> io::Error {
        let host = &self.chan.link().host;
        match trouble {
            Trouble::Deadline => {
                self.chan.link().suspect();
                self.late(doing)
            }
            Trouble::Lost(why) => io::Error::new(
                io::ErrorKind::ConnectionReset,
                format!("the connection to {host} was lost while {doing}: {why}"),
            ),
            other => io::Error::other(format!("{doing} through {host} failed: {other}")),
        }
    }

    fn late(&self, doing: &str) -> io::Error {
        let limit = super::dial::seconds(self.deadline.limit());
        let host = &self.chan.link().host;
        io::Error::new(io::ErrorKind::TimedOut, format!("gave up {doing} through {host} after {limit}"))
    }

    fn command_failed(&self, ended: &ExecStatus) -> io::Error {
        let command = shown(self.command.as_deref().unwrap_or_default());
        let said = String::from_utf8_lossy(&self.stderr);
        let how = match ended {
            ExecStatus::Code(code) => format!("exited with {code}"),
            ExecStatus::Signal(signal) => format!("was killed by {signal}"),
        };
        let text =
            format!("`{command}` on {} {how} and gave nothing: {}", self.chan.link().host, said.trim());
        io::Error::new(io::ErrorKind::UnexpectedEof, text.trim_end_matches([':', ' ']))
    }

    fn wait(&self, doing: &str) -> io::Result<()> {
        self.chan.link().wait(self.deadline).map_err(|t| self.error(doing, &t))
    }
}

impl Read for ChannelStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.receive(buffer, self.deadline)? {
                Some(n) => return Ok(n),
                None => self.wait("reading")?,
            }
        }
    }
}

impl Write for ChannelStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.send(bytes, self.deadline)? {
                Some(n) => return Ok(n),
                None => self.wait("writing")?,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // libssh2 buffers nothing; its own flush throws away what was received.
        Ok(())
    }
}

impl Stream for ChannelStream {
    fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer, Deadline::secs(STALLED))?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, Deadline::secs(STALLED))?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn finish_writing(&mut self) -> io::Result<()> {
        let link = self.link();
        loop {
            let mut state = link.lock();
            let outcome = self.chan.handle().and_then(|mut channel| {
                let drain = channel.clone();
                link.attempt(&mut state, self.deadline, Some(&drain), |_| channel.send_eof())
            });
            drop(state);
            match outcome {
                Ok(Some(())) | Err(Trouble::Said(_)) => return Ok(()),
                Ok(None) => self.wait("ending")?,
                Err(trouble) => return Err(self.error("ending", &trouble)),
            }
        }
    }

    fn pollable(&self, _reading: bool, _writing: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        // Room to write comes as a message too.
        Some((self.chan.link().socket(), PollFlags::IN))
    }
}
