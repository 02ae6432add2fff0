//! A session: connecting, and what is done over the connection.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use ssh2::MethodType;

use super::{
    ExecOutput, HostKeyPolicy, Stream, Target, Transport, address, auth,
    dial::{bridged, dial, seconds},
    exec,
    host_key::Expected,
    keys::PublicKey,
    link::{Link, Opening, Outcome, Trouble, code, code_of},
    settings::{Environment, Settings},
    stream::ChannelStream,
};
use crate::{Error, Kind, Result, deadline::Deadline, ui::Ui};

/// How long key exchange and login may take, apart from questions to the user.
const LOGIN_LIMIT: Duration = Duration::from_secs(60);

/// An authenticated connection to a host whose key was checked.
///
/// Where libssh2 can not go on (the connection is gone, or a channel that was given up still waits for its
/// answer), the next command or stream gets a new connection to the same host with the same key. Nothing that
/// was begun is ever repeated.
pub struct Session {
    target: Target,
    env: Environment,
    settings: Settings,
    ui: Ui,
    key: PublicKey,
    key_line: String,
    /// What carries the bytes in place of a connection of its own, if something does.
    tunnel: Option<Tunnel>,
    link: Mutex<Arc<Link>>,
}

/// Opens a stream to the host's SSH server.
pub(super) type Tunnel = Arc<dyn Fn(Deadline) -> Result<Box<dyn Stream>> + Send + Sync>;

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}@{})", self.settings.user, self.settings.alias)
    }
}

impl Session {
    /// Connects, checks the host's key, and logs in.
    pub fn connect(target: &Target, ui: Ui, deadline: Deadline) -> Result<Session> {
        Session::connect_in(target, &Environment::from_process(), ui, deadline)
    }

    /// As [`Session::connect`], with another environment than the process's.
    pub fn connect_in(target: &Target, env: &Environment, ui: Ui, deadline: Deadline) -> Result<Session> {
        let settings = Settings::resolve(target, env, deadline)?;
        Session::with(settings, target.clone(), env.clone(), None, ui, deadline)
    }

    /// Connects as [`Session::connect`] does and checks the host's key, but does not log in. Gives the key, one
    /// OpenSSH public key line.
    pub fn check_host_key(target: &Target, ui: Ui, deadline: Deadline) -> Result<String> {
        let env = Environment::from_process();
        let settings = Settings::resolve(target, &env, deadline)?;
        let expected = Expected::prepare(&target.host_key, &settings, ui)?;
        let (_, key, _) = greet((&settings, None), &expected, target, &env, ui, deadline)?;
        Ok(key.line())
    }

    fn with(
        settings: Settings,
        target: Target,
        env: Environment,
        tunnel: Option<Tunnel>,
        ui: Ui,
        deadline: Deadline,
    ) -> Result<Session> {
        let expected = Expected::prepare(&target.host_key, &settings, ui)?;
        let (link, key) = establish((&settings, tunnel.as_ref()), &expected, &target, &env, ui, deadline)?;
        let key_line = key.line();
        Ok(Session { target, env, settings, ui, key, key_line, tunnel, link: Mutex::new(link) })
    }

    /// The settings it was made with.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A session to another host, with the environment of this one; over `tunnel` where one is given.
    pub(super) fn sibling(
        &self,
        settings: Settings,
        host_key: HostKeyPolicy,
        tunnel: Option<Tunnel>,
        deadline: Deadline,
    ) -> Result<Session> {
        let target = Target { host: settings.hostname.clone(), host_key, proxy: None, ..self.target.clone() };
        Session::with(settings, target, self.env.clone(), tunnel, self.ui, deadline)
    }

    /// Whether a program that was given, not the settings, carries the bytes.
    pub(super) fn is_carried(&self) -> bool {
        self.target.proxy.is_some()
    }

    /// The host's key, one OpenSSH public key line without a comment.
    pub fn host_key(&self) -> &str {
        &self.key_line
    }

    /// The login on the host.
    pub fn user(&self) -> &str {
        &self.settings.user
    }

    /// The connection, a new one if the old one is known to be gone.
    fn link(&self, deadline: Deadline) -> Result<Arc<Link>> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.probe(deadline);
        if link.is_broken() {
            *link = self.reconnect(deadline)?;
        }
        Ok(Arc::clone(&link))
    }

    fn reconnect(&self, deadline: Deadline) -> Result<Arc<Link>> {
        self.ui.detail(format!("connecting to {} again", self.settings.alias));
        let expected =
            Expected::prepare(&HostKeyPolicy::Pinned(self.key_line.clone()), &self.settings, self.ui)?;
        let way = (&self.settings, self.tunnel.as_ref());
        let (link, key) = establish(way, &expected, &self.target, &self.env, self.ui, deadline)?;
        debug_assert_eq!(key, self.key);
        Ok(link)
    }

    /// Does `work` on the connection; on a new one if libssh2 can not do it on this one. `work` says so only
    /// when it has done nothing yet.
    fn on_link<T>(&self, deadline: Deadline, work: impl Fn(&Arc<Link>) -> Outcome<Result<T>>) -> Result<T> {
        let link = self.link(deadline)?;
        match work(&link) {
            Ok(done) => return done,
            Err(trouble) => self.ui.detail(format!("the connection can not be used further: {trouble}")),
        }
        let fresh = self.reconnect(deadline)?;
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        work(&fresh).unwrap_or_else(|trouble| {
            Err(Error::unreachable(format!("the connection to {} is lost: {trouble}", self.settings.alias)))
        })
    }
}

/// Way, key exchange, host key, login.
fn establish(
    way: (&Settings, Option<&Tunnel>),
    expected: &Expected,
    target: &Target,
    env: &Environment,
    ui: Ui,
    deadline: Deadline,
) -> Result<(Arc<Link>, PublicKey)> {
    let (link, key, left) = greet(way, expected, target, env, ui, deadline)?;
    auth::log_in(&link, way.0, ui, Deadline::after(left.min(LOGIN_LIMIT)))?;
    Ok((link, key))
}

/// Way, key exchange, host key. Also gives how much time was left before somebody may have been asked about the key:
/// how long a person thinks is not counted.
fn greet(
    (settings, tunnel): (&Settings, Option<&Tunnel>),
    expected: &Expected,
    target: &Target,
    env: &Environment,
    ui: Ui,
    deadline: Deadline,
) -> Result<(Arc<Link>, PublicKey, Duration)> {
    let failed = |e: ssh2::Error| Error::failed(format!("can not set up SSH: {}", e.message()));
    let session = ssh2::Session::new().map_err(failed)?;
    session
        .method_pref(MethodType::HostKey, &expected.preference(&settings.known_names()))
        .map_err(failed)?;
    let place = address::show(&settings.hostname, settings.port);
    ui.detail(format!("connecting to {} ({}@{place})", settings.alias, settings.user));
    let way = match tunnel {
        Some(open) => bridged(open(deadline)?)?,
        None => dial(settings, target.proxy.as_ref(), env, deadline)?,
    };
    let carried = way.carrier.is_some() && target.proxy.is_none();
    let link = Link::new(settings.alias.clone(), session, way.socket, way.carrier)
        .map_err(|e| Error::failed("can not set up the connection's socket").caused_by(e))?;
    // A connection of our own has had its time already; of one that a program makes nothing is seen before this.
    let asked = settings.connect_timeout.filter(|_| carried);
    let shaking = deadline.at_most(asked.unwrap_or(LOGIN_LIMIT));
    link.drive(shaking, |state| state.session.handshake()).map_err(|trouble| {
        let error = no_handshake(settings, target, &trouble, shaking);
        match trouble {
            Trouble::Said(e) if code::KEY_EXCHANGE.contains(&code_of(&e)) => {
                error.hint(spoken(&link.lock().session))
            }
            _ => error,
        }
    })?;
    let blob = link.lock().session.host_key().map(|(blob, _)| blob.to_vec());
    let key = blob.and_then(PublicKey::from_blob).ok_or_else(|| {
        Error::unreachable(format!("{} showed a host key that can not be read", settings.alias))
    })?;
    let left = deadline.left();
    expected.check(&key, settings, ui)?;
    Ok((link, key, left))
}

fn no_handshake(settings: &Settings, target: &Target, trouble: &Trouble, deadline: Deadline) -> Error {
    let place = address::show(&settings.hostname, settings.port);
    let carrier = match (&target.proxy, &settings.proxy_command, &settings.proxy_jump) {
        _ if settings.via.is_some() => settings.via.clone(),
        (Some(proxy), _, _) => Some(format!("`{proxy}`")),
        (None, Some(command), _) => Some(format!("its ProxyCommand `{command}`")),
        (None, None, Some(jump)) => Some(format!("the jump host {jump}")),
        (None, None, None) => None,
    };
    let error = Error::unreachable(match (carrier, trouble) {
        (Some(carrier), Trouble::Deadline) => {
            format!(
                "{} did not answer through {carrier} within {}",
                settings.alias,
                seconds(deadline.limit())
            )
        }
        (Some(carrier), other) => format!("{} did not answer through {carrier}: {other}", settings.alias),
        (None, Trouble::Deadline) => {
            format!("{place} was connected to but spoke no SSH within {}", seconds(deadline.limit()))
        }
        (None, other) => format!("{place} was connected to, but the SSH key exchange failed: {other}"),
    });
    match &target.proxy {
        Some(proxy) => error.hint(format!("see what it does by itself: {proxy}")),
        None => error.hint(format!("see where it stops: {}", settings.ssh_command("-v"))),
    }
}

/// What a server that agrees on nothing has to be held against.
fn spoken(session: &ssh2::Session) -> String {
    let list = |of| session.supported_algs(of).unwrap_or_default().join(",");
    format!(
        "`sshd -T` on the host shows what it takes; this program speaks KexAlgorithms {}; Ciphers {}; MACs {}",
        list(MethodType::Kex),
        list(MethodType::CryptCs),
        list(MethodType::MacCs)
    )
}

impl Transport for Session {
    fn exec(&self, command: &str, stdin: &[u8], deadline: Deadline) -> Result<ExecOutput> {
        self.on_link(deadline, |link| exec::exec(link, command, stdin, deadline))
    }

    fn open_tcp(&self, host: &str, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
        self.on_link(deadline, |link| {
            let what = Opening::Tcp { host: host.to_owned(), port };
            match link.open(&what, deadline) {
                Ok(chan) => Ok(Ok(Box::new(ChannelStream::new(chan, None)) as Box<dyn Stream>)),
                Err(trouble @ (Trouble::Busy | Trouble::Lost(_))) => Err(trouble),
                Err(trouble) => Ok(Err(not_opened(&link.host, host, port, &trouble, deadline))),
            }
        })
    }

    fn open_exec_stream(&self, command: &str, deadline: Deadline) -> Result<Box<dyn Stream>> {
        self.on_link(deadline, |link| {
            let chan = match link.open(&Opening::Session, deadline) {
                Ok(chan) => chan,
                Err(trouble @ (Trouble::Busy | Trouble::Lost(_))) => return Err(trouble),
                Err(trouble) => return Ok(Err(exec::not_started(link, command, &trouble, deadline))),
            };
            Ok(match link.begin(&chan, command, deadline) {
                Err(Trouble::Busy) => return Err(Trouble::Busy),
                Ok(()) => Ok(Box::new(ChannelStream::new(chan, Some(command.to_owned()))) as Box<dyn Stream>),
                Err(Trouble::Deadline) => {
                    link.suspect();
                    Err(deadline.error(format_args!("`{}` on {} to start", exec::shown(command), link.host)))
                }
                Err(trouble) => Err(Error::failed(format!(
                    "{} did not run `{}`: {trouble}",
                    link.host,
                    exec::shown(command)
                ))),
            })
        })
    }
}

fn not_opened(through: &str, host: &str, port: u16, trouble: &Trouble, deadline: Deadline) -> Error {
    let place = address::show(host, port);
    match trouble {
        Trouble::Deadline => {
            deadline.error(format_args!("{through} to connect to {place}")).with_kind(Kind::DeadlinePassed)
        }
        Trouble::Said(e) if e.message().contains("administratively prohibited") => forbidden(through, &place),
        Trouble::Said(e) if e.message().contains("connect failed") => {
            Error::unreachable(format!("{through} can not connect to {place}: refused, or nothing is there"))
        }
        Trouble::Said(e) if code_of(e) == code::TIMEOUT => {
            Error::deadline_passed(format!("{through} got no answer from {place} within 60 s"))
        }
        Trouble::Said(e) => Error::failed(format!("{through} did not open {place}: {}", e.message())),
        other => Error::unreachable(format!("the connection to {through} is lost: {other}")),
    }
}

/// The sshd of `through` does not allow forwarding to `place`.
pub(super) fn forbidden(through: &str, place: &str) -> Error {
    Error::failed(format!("forwarding to {place} is administratively prohibited by the sshd of {through}"))
        .hint(format!("allow it in the sshd_config of {through} (AllowTcpForwarding, PermitOpen)"))
        .details(json!({ "ssh": super::FORWARDING_FORBIDDEN }))
}
