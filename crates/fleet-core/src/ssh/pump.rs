//! Bytes both ways between a stream and two descriptors, in one thread: what `proxmox-ops connect` does between
//! a VM and its standard input and output.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::FileType,
    net::SendFlags,
};

use super::{Stream, link::poll_all};
use crate::{Error, Result, deadline::Deadline};

const BUFFER: usize = 128 * 1024;
/// How long the other side may take nothing at all although it is not closed.
const STALLED: u64 = 300;

/// How long nothing is looked at while nothing moves: at first, and at most. Another thread of the same session may
/// take in what this stream waits for, and then no descriptor tells of it.
const LOOKS: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(250)];

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pumped {
    /// From the descriptor into the stream.
    pub sent: u64,
    /// From the stream to the descriptor.
    pub received: u64,
}

/// Carries bytes between `stream` and this process's standard input and output.
///
/// The end of standard input is passed on as a half close. It is over when the stream ends and all of it is
/// written, or when nobody reads standard output any more.
pub fn pump_stdio(stream: &mut dyn Stream) -> Result<Pumped> {
    pump(stream, rustix::stdio::stdin(), rustix::stdio::stdout())
}

/// As [`pump_stdio`], with other descriptors; their blocking mode is left as it is, since others may share it.
pub fn pump(stream: &mut dyn Stream, input: impl AsFd, output: impl AsFd) -> Result<Pumped> {
    let mut pump = Pump {
        input: input.as_fd(),
        output: output.as_fd(),
        output_type: rustix::fs::fstat(&output)
            .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
        to_stream: Buffer::new(),
        to_output: Buffer::new(),
        input_open: true,
        finished: false,
        pumped: Pumped::default(),
    };
    pump.run(stream)
}

/// A stretch of bytes on its way.
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: vec![0; BUFFER], from: 0, to: 0 }
    }

    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    fn fill(&mut self, n: usize) {
        (self.from, self.to) = (0, n);
    }

    fn take(&mut self, n: usize) {
        self.from += n;
    }
}

struct Pump<'a> {
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    output_type: FileType,
    to_stream: Buffer,
    to_output: Buffer,
    input_open: bool,
    finished: bool,
    pumped: Pumped,
}

impl Pump<'_> {
    fn run(&mut self, stream: &mut dyn Stream) -> Result<Pumped> {
        let lost = |e: io::Error| Error::unreachable("the stream broke off").caused_by(e);
        let mut input_ready = false;
        let mut pause = LOOKS[0];
        loop {
            stream.set_deadline(Deadline::secs(STALLED));
            let mut moved = false;
            if self.to_output.is_empty() {
                match stream.try_read(&mut self.to_output.bytes) {
                    Ok(0) => return Ok(self.pumped),
                    Ok(n) => {
                        self.to_output.fill(n);
                        self.pumped.received += n as u64;
                        moved = true;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(lost(e)),
                }
            }
            if !self.to_output.is_empty() {
                match self.write_output() {
                    Ok(n) => {
                        self.to_output.take(n);
                        moved |= n > 0;
                    }
                    // Whoever reads us has gone: that is an end like any other.
                    Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Ok(self.pumped),
                    Err(e) => return Err(Error::failed("can not write what was received").caused_by(e)),
                }
            }
            if self.to_stream.is_empty() && self.input_open && input_ready {
                match rustix::io::read(self.input, &mut self.to_stream.bytes) {
                    Ok(0) | Err(rustix::io::Errno::CONNRESET) => self.input_open = false,
                    Ok(n) => self.to_stream.fill(n),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(e) => return Err(Error::failed("can not read what is to be sent").caused_by(e)),
                }
                moved = true;
            }
            if !self.to_stream.is_empty() {
                match stream.try_write(self.to_stream.rest()) {
                    Ok(n) => {
                        self.to_stream.take(n);
                        self.pumped.sent += n as u64;
                        moved |= n > 0;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    // It takes no more, but may still have something to say; its end comes by reading.
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                        self.to_stream.fill(0);
                        (self.input_open, self.finished) = (false, true);
                    }
                    Err(e) => return Err(lost(e)),
                }
            } else if !self.input_open && !self.finished {
                stream.finish_writing().map_err(lost)?;
                self.finished = true;
            }
            pause = if moved { LOOKS[0] } else { (pause * 2).min(LOOKS[1]) };
            match self.poll(stream, if moved { Duration::ZERO } else { pause })? {
                Polled::Gone => return Ok(self.pumped),
                Polled::Ready { input } => input_ready = input,
            }
        }
    }

    /// Waits for whatever can go on, at most for `pause`.
    fn poll(&self, stream: &dyn Stream, pause: Duration) -> Result<Polled> {
        let (fd, events) = stream
            .pollable(self.to_output.is_empty(), !self.to_stream.is_empty())
            .ok_or_else(|| Error::failed("this stream can not be pumped"))?;
        let wants_input = self.input_open && self.to_stream.is_empty();
        let for_output = if self.to_output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds =
            vec![PollFd::from_borrowed_fd(fd, events), PollFd::from_borrowed_fd(self.output, for_output)];
        if wants_input {
            fds.push(PollFd::from_borrowed_fd(self.input, PollFlags::IN));
        }
        poll_all(&mut fds, pause);
        if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
            && !fds[1].revents().contains(PollFlags::OUT)
        {
            return Ok(Polled::Gone);
        }
        let ready = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok(Polled::Ready { input: fds.get(2).is_some_and(|input| input.revents().intersects(ready)) })
    }

    /// Writes what the output takes without waiting.
    fn write_output(&self) -> rustix::io::Result<usize> {
        let rest = self.to_output.rest();
        match self.output_type {
            FileType::Socket => {
                match rustix::net::send(self.output, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
                    done => done,
                }
            }
            FileType::Fifo => {
                // A pipe that polls writable takes this much without blocking (pipe(7)).
                let mut written = 0;
                while written < rest.len() {
                    let mut fds = [PollFd::from_borrowed_fd(self.output, PollFlags::OUT)];
                    poll_all(&mut fds, Duration::ZERO);
                    if !fds[0].revents().intersects(PollFlags::OUT | PollFlags::ERR) {
                        break;
                    }
                    let piece = &rest[written..rest.len().min(written + rustix::pipe::PIPE_BUF)];
                    match rustix::io::write(self.output, piece) {
                        Ok(n) => written += n,
                        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => break,
                        Err(e) => return Err(e),
                    }
                }
                Ok(written)
            }
            // Files and terminals do not make the other direction wait for long.
            _ => match rustix::io::write(self.output, rest) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(0),
                done => done,
            },
        }
    }
}

enum Polled {
    Gone,
    Ready { input: bool },
}
