//! A socket of this machine as a stream: a TCP connection that needs no host in between.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    event::PollFlags,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{Stream, dial, link::poll_one, settings::Family};
use crate::{Result, deadline::Deadline};

/// See the module.
#[derive(Debug)]
pub struct SocketStream {
    socket: OwnedFd,
    deadline: Deadline,
}

/// Connects to `host:port` straight from this machine. Not answering is [`crate::Kind::Unreachable`].
pub fn connect_tcp(host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
    let stream = dial::connect(host, port, Family::Any, deadline)?;
    // Without it small packets wait, which is slow but not wrong.
    let _ = dial::keep_alive(&stream);
    Ok(Box::new(SocketStream::from(stream)))
}

impl From<TcpStream> for SocketStream {
    fn from(stream: TcpStream) -> SocketStream {
        SocketStream::new(stream.into())
    }
}

impl From<UnixStream> for SocketStream {
    fn from(stream: UnixStream) -> SocketStream {
        SocketStream::new(stream.into())
    }
}

impl SocketStream {
    fn new(socket: OwnedFd) -> SocketStream {
        SocketStream { socket, deadline: Deadline::secs(60) }
    }

    fn wait(&self, events: PollFlags, doing: &str) -> io::Result<()> {
        if self.deadline.passed() {
            let limit = dial::seconds(self.deadline.limit());
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("gave up {doing} after {limit}")));
        }
        poll_one(self.socket.as_fd(), events, self.deadline.left());
        Ok(())
    }
}

impl Read for SocketStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN, "reading")?,
                done => return done,
            }
        }
    }
}

impl Write for SocketStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT, "writing")?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for SocketStream {
    fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((n, _)) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(Into::into),
            }
        }
    }

    fn finish_writing(&mut self) -> io::Result<()> {
        match rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write) {
            // The other side is gone already; reading will tell.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn pollable(&self, reading: bool, writing: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, reading);
        events.set(PollFlags::OUT, writing);
        Some((self.socket.as_fd(), events))
    }
}
