//! A connection from the node to an address and port: forwarded by its sshd, or where that forbids it, carried by a
//! relay that runs on the node.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    time::Duration,
};

use fleet_core::{
    Error, Kind, Result,
    child::quote,
    deadline::Deadline,
    ssh::{PollFlags, Stream, Transport, forwarding_forbidden},
};

/// What the relay says once it is connected. The command line does not hold it in one piece, so that a shell that
/// shows what it runs does not say it.
const GREETING: &[u8] = b"fleet-relay-ready\n";
/// How much the login shell's start-up files may print before it.
const MOST: usize = 64 * 1024;

/// Opens it. Not answering is [`Kind::Unreachable`], whatever the way.
pub fn connect(
    transport: &dyn Transport,
    host: &str,
    port: u16,
    deadline: Deadline,
) -> Result<Box<dyn Stream>> {
    match transport.open_tcp(host, port, deadline) {
        Err(e) if forwarding_forbidden(&e) => open(transport, host, port, deadline),
        other => other,
    }
}

/// Opens it by the relay, past whatever the login shell's start-up files print.
pub fn open(transport: &dyn Transport, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
    begin(transport, &command(host, port), (host, port), deadline)
}

/// Opens it as soon as the port is open: the relay tries to connect every 150 ms until then, each try beside those
/// before it. Nothing may be written before it is open.
pub fn open_when_ready(
    transport: &dyn Transport,
    host: &str,
    port: u16,
    deadline: Deadline,
) -> Result<Box<dyn Stream>> {
    begin(transport, &waiting_command(host, port, deadline.left()), (host, port), deadline)
}

fn begin(
    transport: &dyn Transport,
    command: &str,
    (host, port): (&str, u16),
    deadline: Deadline,
) -> Result<Box<dyn Stream>> {
    let failed = |why: String| {
        Error::new(
            Kind::Unreachable,
            format!("the relay on the node to {host} port {port} did not begin: {why}"),
        )
    };
    let mut stream = transport.open_exec_stream(command, deadline)?;
    stream.set_deadline(deadline);
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) if said.len() < MOST => said.extend_from_slice(&buffer[..n]),
            Ok(_) => {
                return Err(failed(match last_line(&said) {
                    Some(line) => format!("it said '{}'", line.escape_debug()),
                    None => "it said nothing".to_owned(),
                })
                .hint("does the login run something else than what it is told? `ssh HOST echo it` must print `it`"));
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return Err(deadline.error(format_args!("the relay on the node to {host} port {port}")));
            }
            Err(e) => return Err(failed(e.to_string())),
        }
        if let Some(at) = said.windows(GREETING.len()).position(|bytes| bytes == GREETING) {
            said.drain(..at + GREETING.len());
            return Ok(if said.is_empty() { stream } else { Box::new(Rest { rest: said, stream }) });
        }
    }
}

/// The last line that says something, cut short.
fn last_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(|line| line.chars().take(200).collect())
}

/// Carries both ways between the standard streams and `$s`. Ends when the other side closes; at the end of our input,
/// that is told so and may still answer.
const CARRY: &str = "binmode $_ for (*STDIN, *STDOUT, $s); \
        sub all { my ($to, $data) = @_; \
            while (length $data) { my $n = syswrite($to, $data) // exit 1; substr($data, 0, $n, ''); } } \
        all(\\*STDOUT, join(q(-), qw(fleet relay ready)) . \"\\n\"); \
        my $r = IO::Select->new(\\*STDIN, $s); \
        while (my @ready = $r->can_read) { for my $from (@ready) { \
            my $n = sysread($from, my $data, 65536); \
            if (!$n) { exit 0 if $from == $s; $r->remove($from); shutdown($s, 1); next; } \
            all($from == $s ? \\*STDOUT : $s, $data); } }";

/// The command line of the relay. Perl is on every node: it is what Proxmox VE is written in.
pub fn command(host: &str, port: u16) -> String {
    const CONNECT: &str = "my $s = IO::Socket::IP->new(PeerHost => shift, PeerPort => shift) \
        or die \"connect: $!\\n\"; ";
    perl(CONNECT, &format!("{} {port}", quote(host)))
}

/// The same, which waits for the port to open for so long. It ends when nobody waits any more.
fn waiting_command(host: &str, port: u16, limit: Duration) -> String {
    /// A try whose first packet was dropped would be repeated by the kernel only after a second, so others begin
    /// beside it, a dozen at most; one that is refused is followed by the next one after a while.
    const WAIT: &str = "my ($end, $h, $p, $s, @t) = (time + shift, shift, shift); \
        my $in = IO::Select->new(\\*STDIN); \
        until ($s) { \
            die \"nothing answered\\n\" if time > $end; \
            my $n = IO::Socket::IP->new(PeerHost => $h, PeerPort => $p, Blocking => 0); \
            push @t, $n if $n; shift @t if @t > 12; \
            my $refused = !$n; \
            for my $c (@t ? IO::Select->new(@t)->can_write(0.15) : ()) { \
                if (!$c->sockopt(Socket::SO_ERROR())) { $s = $c; last; } \
                $refused = 1; @t = grep { $_ != $c } @t; } \
            exit 1 if !$s && $in->can_read($refused ? 0.1 : 0) && !sysread(STDIN, my $x, 1); } \
        @t = (); $s->blocking(1); ";
    perl(WAIT, &format!("{} {} {port}", limit.as_secs() + 1, quote(host)))
}

fn perl(connect: &str, arguments: &str) -> String {
    format!(
        "perl -MSocket -MIO::Socket::IP -MIO::Select -e {} {arguments}",
        quote(&format!("{connect}{CARRY}"))
    )
}

/// A stream of which something was read too early.
struct Rest {
    rest: Vec<u8>,
    stream: Box<dyn Stream>,
}

impl Rest {
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.rest.is_empty() {
            return None;
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest[..n]);
        self.rest.drain(..n);
        Some(n)
    }
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.take(buffer) {
            Some(n) => Ok(n),
            None => self.stream.read(buffer),
        }
    }
}

impl Write for Rest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Rest {
    fn set_deadline(&mut self, deadline: Deadline) {
        self.stream.set_deadline(deadline);
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.take(buffer) {
            Some(n) => Ok(n),
            None => self.stream.try_read(buffer),
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn finish_writing(&mut self) -> io::Result<()> {
        self.stream.finish_writing()
    }

    fn pollable(&self, reading: bool, writing: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.stream.pollable(reading, writing)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::testing::Local;

    /// A port where what was sent is counted and twice as much sent back; the first bytes come unasked.
    fn daemon(amount: usize) -> (u16, std::thread::JoinHandle<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"SSH-2.0-x\r\n").unwrap();
            let mut got = vec![0; amount];
            peer.read_exact(&mut got).unwrap();
            peer.write_all(&vec![b'y'; 2 * amount]).unwrap();
            got.iter().all(|b| *b == b'x')
        };
        (port, std::thread::spawn(serve))
    }

    #[test]
    fn the_relay_carries_both_ways_and_ends_with_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        const PERL: &str = "perl -MSocket -MIO::Socket::IP";
        // Start-up files greet, without a line's end, and a shell may show what it runs.
        for before in ["", "printf 'Welcome to prom. '; exec 2>&1; set -x; "] {
            let (port, server) = daemon(100_000);
            let node = Local::new("/nowhere", dir.path()).replacing(PERL, &format!("{before}{PERL}"));
            let mut stream = open(&node, "127.0.0.1", port, Deadline::secs(60)).unwrap();
            stream.write_all(&vec![b'x'; 100_000]).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(server.join().unwrap());
            assert_eq!((answer.len(), &answer[..11]), (200_011, b"SSH-2.0-x\r\n".as_slice()), "{before}");
        }
    }

    /// A port that refuses, then one that drops what comes because its queue is full, then one that answers.
    #[test]
    fn a_port_that_opens_later_is_waited_for() {
        use rustix::net::{self, AddressFamily, SocketType};
        let dir = tempfile::tempdir().unwrap();
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        net::bind(&socket, &any).unwrap();
        let port = std::net::SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap().port();
        let node = Local::new("/nowhere", dir.path());
        let waits = std::thread::spawn(move || {
            open_when_ready(&node, "127.0.0.1", port, Deadline::secs(60)).map(|mut stream| {
                let mut said = [0; 11];
                stream.read_exact(&mut said).unwrap();
                said
            })
        });
        let pause = Duration::from_millis(400);
        std::thread::sleep(pause);
        assert!(!waits.is_finished());
        net::listen(&socket, 0).unwrap();
        let listener = TcpListener::from(socket);
        // Whoever comes is heard, one after the other: only the first to be taken is the relay's.
        std::thread::sleep(pause);
        let serve = std::thread::spawn(move || {
            for peer in listener.incoming() {
                drop(peer.unwrap().write_all(b"SSH-2.0-x\r\n"));
            }
        });
        assert_eq!(&waits.join().unwrap().unwrap(), b"SSH-2.0-x\r\n");
        drop(serve);
    }

    #[test]
    fn a_port_that_never_opens_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let node = Local::new("/nowhere", dir.path());
        let error = open_when_ready(&node, "127.0.0.1", port, Deadline::secs(1)).map(drop).unwrap_err();
        assert!(matches!(error.kind(), Kind::Unreachable | Kind::DeadlinePassed), "{error}");
    }

    #[test]
    fn a_login_that_runs_something_else_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let node =
            Local::new("/nowhere", dir.path()).replacing("perl ", "echo This account is for backups; exit; ");
        let error = open(&node, "127.0.0.1", 9, Deadline::secs(60)).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.message().ends_with("it said 'This account is for backups'"), "{error}");
    }
}
