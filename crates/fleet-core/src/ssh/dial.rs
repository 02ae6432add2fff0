//! The bytes underneath: a TCP connection, or a program that carries them.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc,
    time::Duration,
};

use super::{
    Stream,
    address::{HostPort, show},
    settings::{Environment, Family, Settings},
};
use crate::{
    Error, Kind, Result,
    child::{self, Command, Running},
    deadline::Deadline,
};

/// How long one address may take to answer if nothing else is said.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long the first address has before the next is tried beside it (RFC 8305).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// A way to the host that is open.
pub(super) struct Way {
    pub(super) socket: OwnedFd,
    /// The program that carries the bytes, if one does.
    pub(super) carrier: Option<Running>,
}

/// Opens the way that the settings (or `proxy`) name.
pub(super) fn dial(
    settings: &Settings,
    proxy: Option<&Command>,
    env: &Environment,
    deadline: Deadline,
) -> Result<Way> {
    if let Some(command) = proxy {
        return carried(command);
    }
    // Whichever ssh_config names first is the only one that `ssh -G` prints.
    if let Some(command) = &settings.proxy_command {
        let line = settings.tokens(command, env, &shell_safe)?;
        let command = Command::new("sh").arg("-c").arg(format!("exec {line}"));
        return carried(&if crate::ui::can_ask() { command.foreground() } else { command });
    }
    if let Some(jumps) = &settings.proxy_jump {
        // ssh has them in the command that it makes of it, so its tokens hold here as well.
        let jumps = settings.tokens(jumps, env, &|value| Ok(value.to_owned()))?;
        return carried(&jump(&jumps, settings)?);
    }
    let limit = settings.connect_timeout.unwrap_or(CONNECT_LIMIT);
    let stream = connect(&settings.hostname, settings.port, settings.family, deadline.at_most(limit))
        .map_err(|e| e.hint(format!("see where it stops: {}", settings.ssh_command("-v"))))?;
    keep_alive(&stream).map_err(|e| Error::failed("can not set up the connection's socket").caused_by(e))?;
    Ok(Way { socket: OwnedFd::from(stream), carrier: None })
}

/// A program on one end of a socket pair.
fn carried(command: &Command) -> Result<Way> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|e| Error::failed("can not make a socket pair").caused_by(e))?;
    let carrier = command.start_on_socket(theirs)?;
    Ok(Way { socket: OwnedFd::from(ours), carrier: Some(carrier) })
}

/// A stream on one end of a socket pair, carried by a thread that ends with either.
pub(super) fn bridged(mut stream: Box<dyn Stream>) -> Result<Way> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|e| Error::failed("can not make a socket pair").caused_by(e))?;
    std::thread::spawn(move || {
        // Whoever reads the other end sees it close, and why does not matter there.
        drop(super::pump(&mut *stream, &theirs, &theirs));
    });
    Ok(Way { socket: OwnedFd::from(ours), carrier: None })
}

/// `ssh -W` through the last of the jump hosts, which gets the others as its own `-J`.
pub(super) fn jump(jumps: &str, settings: &Settings) -> Result<Command> {
    let (others, last) = match jumps.rsplit_once(',') {
        Some((others, last)) => (Some(others), last),
        None => (None, jumps),
    };
    let last = last.strip_prefix("ssh://").unwrap_or(last).trim_end_matches('/');
    let (user, host) = match last.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, last),
    };
    let host = HostPort::parse(host).map_err(|e| e.context("ProxyJump in the ssh configuration"))?;
    // The connection is ssh's own: it is who has to notice a peer that is dead (and cut, which ends ours).
    let alive = ["-oServerAliveInterval=10", "-oServerAliveCountMax=3"];
    let mut command = Command::new("ssh").args(alive);
    if let Some(config) = &settings.ssh_config {
        command = command.arg("-F").arg(config);
    }
    // In its own process group it could not ask on the terminal, only stop there.
    command = if crate::ui::can_ask() { command.foreground() } else { command.arg("-oBatchMode=yes") };
    if let Some(others) = others {
        command = command.arg("-J").arg(others);
    }
    if let Some(user) = user {
        command = command.arg("-l").arg(user);
    }
    if let Some(port) = host.port {
        command = command.arg("-p").arg(port.to_string());
    }
    let target = format!("[{}]:{}", settings.hostname, settings.port);
    Ok(command.arg("-W").arg(target).arg("--").arg(host.host))
}

/// Values that go into a ProxyCommand's shell line as they are, so they must mean nothing to a shell.
fn shell_safe(value: &str) -> Result<String> {
    let safe = |c: char| c.is_alphanumeric() || "._-:%@+,=/[]".contains(c);
    if value.chars().all(safe) && !value.starts_with('-') {
        return Ok(value.to_owned());
    }
    Err(Error::usage(format!("'{}' can not be put into a ProxyCommand", value.escape_debug()))
        .hint("a host or user there may only have letters, digits and . _ - : @ + in it"))
}

/// The addresses of a name. The resolver knows no deadline, so it runs beside.
fn resolve(host: &str, port: u16, family: Family, deadline: Deadline) -> Result<Vec<SocketAddr>> {
    let literal = host.parse().map(|ip| vec![SocketAddr::new(ip, port)]);
    let all = match literal {
        Ok(one) => one,
        Err(_) => {
            let (tell, told) = mpsc::channel();
            let name = host.to_owned();
            std::thread::spawn(move || {
                let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                // Nobody listens any more when the deadline has passed.
                let _ = tell.send(found);
            });
            let found = told.recv_timeout(deadline.left()).map_err(|_| {
                deadline.error(format_args!("the name {host} to be resolved")).with_kind(Kind::Unreachable)
            })?;
            found.map_err(|e| {
                Error::unreachable(format!("the name {host} can not be resolved"))
                    .hint(format!("check the name: getent hosts {}", child::quote(host)))
                    .caused_by(e)
            })?
        }
    };
    let fits = |a: &SocketAddr| match family {
        Family::Any => true,
        Family::V4 => a.is_ipv4(),
        Family::V6 => a.is_ipv6(),
    };
    let fitting: Vec<SocketAddr> = interleave(all.into_iter().filter(fits).collect());
    if fitting.is_empty() {
        return Err(Error::unreachable(format!("the name {host} has no address that may be used")));
    }
    Ok(fitting)
}

/// One family after the other in turn, beginning with the resolver's first choice.
fn interleave(all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = all.first().copied() else { return all };
    let (a, b): (Vec<_>, Vec<_>) = all.into_iter().partition(|x| x.is_ipv4() == first.is_ipv4());
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut out = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => return out,
            (x, y) => out.extend(x.into_iter().chain(y)),
        }
    }
}

/// Connects to the first address that answers; each following one is tried beside the earlier ones.
pub(super) fn connect(host: &str, port: u16, family: Family, deadline: Deadline) -> Result<TcpStream> {
    let addresses = resolve(host, port, family, deadline)?;
    let failed = |e: &io::Error| failure(host, port, e, deadline);
    if let [only] = addresses[..] {
        return TcpStream::connect_timeout(&only, deadline.left().max(Duration::from_millis(1)))
            .map_err(|e| failed(&e));
    }
    let (tell, told) = mpsc::channel();
    let mut waiting = addresses.into_iter();
    let mut running = 0usize;
    let mut last_error = io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let more = waiting.next();
        if let Some(address) = more {
            let tell = tell.clone();
            running += 1;
            let limit = deadline.left().max(Duration::from_millis(1));
            std::thread::spawn(move || drop(tell.send(TcpStream::connect_timeout(&address, limit))));
        } else if running == 0 {
            return Err(failed(&last_error));
        }
        let pause = if waiting.len() > 0 { deadline.left().min(NEXT_ADDRESS) } else { deadline.left() };
        match told.recv_timeout(pause) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => {
                running -= 1;
                last_error = e;
            }
            Err(_) if deadline.passed() => return Err(failed(&io::Error::from(io::ErrorKind::TimedOut))),
            Err(_) => {}
        }
    }
}

fn failure(host: &str, port: u16, e: &io::Error, deadline: Deadline) -> Error {
    let place = show(host, port);
    let error = match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            Error::unreachable(format!("{place} refused the connection: nothing listens there"))
        }
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Error::unreachable(format!("{place} did not answer within {}", seconds(deadline.limit())))
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::unreachable(format!("there is no way to {place}: {e}"))
        }
        _ => Error::unreachable(format!("can not connect to {place}: {e}")),
    };
    error.now("nothing was sent")
}

/// `3 s`, `0.25 s`.
pub(super) fn seconds(time: Duration) -> String {
    let text = format!("{:.2}", time.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A dead peer is noticed after about half a minute, whether we wait for it or send to it.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, 35_000)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd};

    use rustix::net::sockopt;

    use super::*;
    use crate::ssh::HostKeyPolicy;

    /// The kernel is asked what it will do: to see it do so takes half a minute and a network that goes silent.
    fn notices(socket: impl AsFd) {
        let seconds = Duration::from_secs;
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), seconds(15));
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), seconds(5));
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 4);
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 35_000);
    }

    #[test]
    fn a_dead_peer_is_noticed_on_each_connection_of_our_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let env = Environment::default();
        let target = crate::ssh::Target {
            host: format!("127.0.0.1:{port}"),
            user: Some("op".into()),
            host_key: HostKeyPolicy::KnownHosts,
            identities: vec![],
            proxy: None,
        };
        let settings = Settings::plain(&HostPort::parse(&target.host).unwrap(), &target, &env);
        notices(dial(&settings, None, &env, Deadline::secs(10)).unwrap().socket);
        let straight = crate::ssh::socket::connect_tcp("127.0.0.1", port, Deadline::secs(10)).unwrap();
        notices(straight.pollable(true, false).unwrap().0);
    }
}
