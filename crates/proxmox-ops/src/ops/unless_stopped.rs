//! Reads and writes that look, while they wait for the other side, whether the user wants to stop.

use std::{
    io::{self, ErrorKind, Read, Write},
    time::Duration,
};

use fleet_core::{deadline::Deadline, interrupt, ssh::Stream};
use rustix::event::{PollFd, Timespec};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// How long nothing is looked at where there is nothing to poll.
const BLIND: Duration = Duration::from_millis(3);

/// A stream until the user asks to stop: then an error, which [`interrupt::check`] tells apart from others.
pub(super) struct UnlessStopped<'a> {
    stream: &'a mut dyn Stream,
    deadline: Deadline,
}

impl<'a> UnlessStopped<'a> {
    /// Until `deadline`.
    pub(super) fn new(stream: &'a mut dyn Stream, deadline: Deadline) -> UnlessStopped<'a> {
        stream.set_deadline(deadline);
        UnlessStopped { stream, deadline }
    }

    /// Attempts something without waiting (`false`), until it has been done. What can not be done so is done waiting, as
    /// it is where the deadline has passed: that says it best.
    fn patiently(
        &mut self,
        writing: bool,
        mut attempt: impl FnMut(&mut dyn Stream, bool) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            if interrupt::asked() {
                return Err(io::Error::other("stopped by the user"));
            }
            match attempt(self.stream, false) {
                Err(e) if e.kind() == ErrorKind::WouldBlock && !self.deadline.passed() => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Unsupported) => {
                    return attempt(self.stream, true);
                }
                done => return done,
            }
            match self.stream.pollable(!writing, writing) {
                Some((fd, flags)) => {
                    let nanos = LOOK.min(self.deadline.left()).subsec_nanos();
                    let limit = Timespec { tv_sec: 0, tv_nsec: nanos.into() };
                    // A signal ends it, too: it is looked at next.
                    let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&limit));
                }
                None => self.deadline.sleep(BLIND),
            }
        }
    }
}

impl Read for UnlessStopped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(
            false,
            |stream, waits| {
                if waits { stream.read(buffer) } else { stream.try_read(buffer) }
            },
        )
    }
}

impl Write for UnlessStopped<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(
            true,
            |stream, waits| {
                if waits { stream.write(bytes) } else { stream.try_write(bytes) }
            },
        )
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
