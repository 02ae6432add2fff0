//! Reaching a VM's address: straight, or through the node.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};

use fleet_core::{Error, Kind, Result, deadline::Deadline, ssh::Stream};

use crate::{node::Node, settings::Route};

/// How long a straight connection may take before the way through the node is taken.
const STRAIGHT: Duration = Duration::from_secs(1);

/// A straight TCP connection.
struct Straight {
    socket: TcpStream,
    deadline: Deadline,
}

impl Straight {
    fn open(address: IpAddr, port: u16, deadline: Deadline) -> std::io::Result<Straight> {
        // Zero is no time-out to the system; a passed deadline still tries for a moment.
        let limit = deadline.left().max(Duration::from_millis(1));
        let socket = TcpStream::connect_timeout(&SocketAddr::new(address, port), limit)?;
        socket.set_nodelay(true)?;
        Ok(Straight { socket, deadline })
    }

    fn limit(&self) -> Option<Duration> {
        Some(self.deadline.left().max(Duration::from_millis(1)))
    }
}

/// A time-out of a socket is told as `WouldBlock`; ours as what it is.
fn timed(outcome: std::io::Result<usize>) -> std::io::Result<usize> {
    outcome.map_err(|e| if e.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { e })
}

impl Read for Straight {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.socket.set_read_timeout(self.limit())?;
        timed(self.socket.read(buf))
    }
}

impl Write for Straight {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.socket.set_write_timeout(self.limit())?;
        timed(self.socket.write(buf))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

impl Stream for Straight {
    fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, rustix::net::RecvFlags::DONTWAIT)?.0)
    }

    fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        use rustix::net::SendFlags;
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn finish_writing(&mut self) -> std::io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    fn pollable(&self, reading: bool, writing: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reading);
        flags.set(PollFlags::OUT, writing);
        Some((self.socket.as_fd(), flags))
    }
}

/// Opens a connection to a VM's address by `route`. `node` connects to the node, when it is needed.
pub fn open(
    route: Route,
    node: &mut dyn FnMut() -> Result<std::rc::Rc<Node>>,
    (address, port): (IpAddr, u16),
    deadline: Deadline,
) -> Result<Box<dyn Stream>> {
    let straight = |limit: Deadline| -> Result<Box<dyn Stream>> {
        match Straight::open(address, port, limit) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(Error::new(Kind::Unreachable, format!("can not connect to {address} port {port}"))
                .caused_by(e)),
        }
    };
    match route {
        Route::Direct => straight(deadline),
        Route::Node => through(&*node()?, address, port, deadline),
        Route::Auto => straight(deadline.at_most(STRAIGHT)).or_else(|first| {
            through(&*node()?, address, port, deadline)
                .map_err(|e| e.now(format!("tried straight first: {}", first.chain())))
        }),
    }
}

fn through(node: &Node, address: IpAddr, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
    node.api.transport().open_tcp(&address.to_string(), port, deadline).map_err(|e| {
        e.context(format_args!("can not connect to {address} port {port} through the node"))
            .with_kind(Kind::Unreachable)
    })
}

/// Carries bytes between standard input and output and a stream, until the stream ends.
pub fn carry(mut stream: Box<dyn Stream>) -> Result<()> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    pump(&mut *stream, &stdin, &stdout)
}

/// Carries bytes both ways in one thread: what `input` gives into the stream, what the stream gives to `output`.
/// At the end of `input` the stream is told so, and goes on until its own end.
fn pump(stream: &mut dyn Stream, input: impl AsFd, output: impl AsFd) -> Result<()> {
    let lost =
        |e: std::io::Error| Error::new(Kind::Unreachable, "the connection to the VM was lost").caused_by(e);
    let mut coming = vec![0; 64 * 1024];
    let mut going: Vec<u8> = Vec::new();
    let mut open = true;
    loop {
        let mut blocked = true;
        match stream.try_read(&mut coming) {
            Ok(0) => return Ok(()),
            Ok(amount) => {
                blocked = false;
                // Nobody reads any more: nothing is left to do.
                if !write_out(&output, &coming[..amount]) {
                    return Ok(());
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // A guest that reboots drops its connections; what it said has been handed on.
            Err(e) => return Err(lost(e)),
        }
        if !going.is_empty() {
            match stream.try_write(&going) {
                Ok(amount) => {
                    blocked &= amount == 0;
                    going.drain(..amount);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(lost(e)),
            }
        }
        let wants_input = open && going.is_empty();
        let (from_input, _) = wait(&*stream, wants_input.then(|| input.as_fd()), !going.is_empty(), blocked)?;
        if from_input {
            let mut buffer = [0; 32 * 1024];
            match rustix::io::read(&input, &mut buffer) {
                Ok(0) => {
                    open = false;
                    stream.finish_writing().map_err(lost)?;
                }
                Ok(amount) => going.extend_from_slice(&buffer[..amount]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(e) => {
                    return Err(
                        Error::failed("can not read standard input").caused_by(std::io::Error::from(e))
                    );
                }
            }
        }
    }
}

/// Waits until there is something to do: whether at `input`, whether at the stream. Does not wait unless
/// `blocked`. A stream without a descriptor is looked at again after a moment.
fn wait(
    stream: &dyn Stream,
    input: Option<BorrowedFd<'_>>,
    writing: bool,
    blocked: bool,
) -> Result<(bool, bool)> {
    let pollable = stream.pollable(true, writing);
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
    if let Some(input) = &input {
        fds.push(PollFd::new(input, PollFlags::IN));
    }
    if let Some((fd, flags)) = &pollable {
        fds.push(PollFd::new(fd, *flags));
    }
    // A stream may have more in its own buffers than its descriptor tells, and must keep its session alive.
    let limit = if !blocked {
        0
    } else if pollable.is_some() {
        1000
    } else {
        5
    };
    let limit = Timespec { tv_sec: limit / 1000, tv_nsec: limit % 1000 * 1_000_000 };
    match rustix::event::poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(Error::failed("can not wait for input").caused_by(std::io::Error::from(e))),
    }
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let from_input = input.is_some() && fds.first().is_some_and(ready);
    Ok((from_input, pollable.is_some() && fds.last().is_some_and(ready)))
}

/// Whether all of it could be written.
fn write_out(output: impl AsFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(&output, bytes) {
            Ok(amount) => bytes = &bytes[amount..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut fds = [PollFd::new(&output, PollFlags::OUT)];
                let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                let _ = rustix::event::poll(&mut fds, Some(&second));
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn never() -> Result<std::rc::Rc<Node>> {
        Err(Error::failed("the node was asked"))
    }

    #[test]
    fn a_straight_way_is_taken_where_there_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream =
            open(Route::Auto, &mut never, ([127, 0, 0, 1].into(), port), Deadline::secs(5)).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"SSH-2.0-x\r\n").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).unwrap(), 11);
        stream.set_deadline(Deadline::after(Duration::from_millis(5)));
        assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn bytes_are_carried_both_ways_until_the_other_side_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut copy = peer.try_clone().unwrap();
            std::io::copy(&mut peer, &mut copy).unwrap();
            copy.write_all(b"end").unwrap();
        });
        let mut stream =
            open(Route::Direct, &mut never, ([127, 0, 0, 1].into(), port), Deadline::secs(5)).unwrap();
        let (input, mut feed) = std::io::pipe().unwrap();
        let (mut result, output) = std::io::pipe().unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let expected = [sent.as_slice(), b"end"].concat();
        let feeder = std::thread::spawn(move || feed.write_all(&sent).unwrap());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            result.read_to_end(&mut all).unwrap();
            all
        });
        pump(&mut *stream, &input, &output).unwrap();
        drop(output);
        feeder.join().unwrap();
        echo.join().unwrap();
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn the_node_is_asked_only_where_the_route_says_so() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let to = ([127, 0, 0, 1].into(), port);
        let straight = open(Route::Direct, &mut never, to, Deadline::secs(5)).map(drop).unwrap_err();
        assert_eq!(straight.kind(), Kind::Unreachable);
        let auto = open(Route::Auto, &mut never, to, Deadline::secs(5)).map(drop).unwrap_err();
        assert_eq!(auto.message(), "the node was asked");
    }
}
