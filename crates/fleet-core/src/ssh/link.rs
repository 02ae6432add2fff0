//! One libssh2 session, driven without blocking, shared by its streams.
//!
//! libssh2 keeps half-sent packets and half-opened channels in the session, so two rules hold here:
//! what is half sent is finished by the same call before anything else happens (under the lock), and one channel
//! is opened at a time. It also takes the answer to one channel's request for a failure of another one that waits for
//! its own, so one command is begun at a time. Waiting for bytes from the other side happens outside the lock.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode};

use crate::{child::Running, deadline::Deadline};

/// libssh2's error codes that matter here (libssh2.h).
pub(super) mod code {
    pub(in crate::ssh) const EAGAIN: i32 = -37;
    pub(in crate::ssh) const AUTHENTICATION_FAILED: i32 = -18;
    pub(in crate::ssh) const PUBLICKEY_UNVERIFIED: i32 = -19;
    pub(in crate::ssh) const CHANNEL_FAILURE: i32 = -21;
    /// Nothing was agreed on: the two sides may have no algorithm in common.
    pub(in crate::ssh) const KEY_EXCHANGE: [i32; 2] = [-5, -8];
    /// libssh2 itself waits no longer than 60 s for one answer.
    pub(in crate::ssh) const TIMEOUT: i32 = -9;
    /// Nothing more can come or go: banner, MAC, socket, decryption, protocol.
    pub(in crate::ssh) const LOST: [i32; 10] = [-1, -2, -3, -4, -7, -12, -13, -43, -44, -45];
}

/// Why something on the link did not come to its end.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The deadline passed.
    Deadline,
    /// The connection is gone.
    Lost(String),
    /// An earlier opening of a channel, or beginning of a command, was given up and has not been answered yet.
    Busy,
    /// The other side, or libssh2, said no.
    Said(ssh2::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Deadline => f.write_str("the deadline passed"),
            Trouble::Lost(why) => f.write_str(why),
            Trouble::Busy => f.write_str("an earlier channel or command still waits for its answer"),
            Trouble::Said(e) => f.write_str(e.message()),
        }
    }
}

pub(super) type Outcome<T> = Result<T, Trouble>;

/// The code of libssh2's error.
pub(super) fn code_of(error: &ssh2::Error) -> i32 {
    match error.code() {
        ErrorCode::Session(code) | ErrorCode::SFTP(code) => code,
    }
}

/// How old an opening that was given up may be for the next one of the same place to take it over. An address
/// where no machine is fails after three seconds (ARP); what takes longer meets ever rarer retries of TCP, and a
/// fresh try finds an open port sooner.
const ADOPTED: Duration = Duration::from_millis(3500);

/// How long the socket may take nothing at all. sshd always reads; what it can not pass on it answers for by not
/// opening the window.
const STUCK: Duration = Duration::from_secs(60);

/// How long the far end may take to show that it is there.
const PROBE: Duration = Duration::from_secs(3);

/// How long others may take to make room where sshd takes no more sessions (MaxSessions); a connection to the daemon
/// that a relay carries ends after 5 s of idleness.
const ROOM: Duration = Duration::from_secs(20);
/// How often it is asked for room meanwhile: at first, and at most.
const ASKS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// What a channel is opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    Session,
    Tcp { host: String, port: u16 },
}

/// What the lock guards.
pub(super) struct State {
    pub(super) session: ssh2::Session,
    /// Closed by us, not yet by the other side.
    closing: Vec<ssh2::Channel>,
    /// An opening that was given up, and when it was begun.
    abandoned: Option<(Opening, Instant)>,
    broken: Option<String>,
    // After the session: it is ended once the socket is shut.
    carrier: Option<Running>,
}

/// See the module.
pub(super) struct Link {
    /// What errors call the host.
    pub(super) host: String,
    socket: OwnedFd,
    state: Mutex<State>,
    opening: Mutex<()>,
    /// Whether a command that was begun was given up before sshd had said whether it runs it.
    beginning: Mutex<bool>,
    /// Whether sshd has ever taken a session: where it takes none at all nobody makes room.
    takes_sessions: AtomicBool,
    waiting: AtomicUsize,
    suspect: AtomicBool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.host)
    }
}

impl Link {
    /// A session over `socket` that has not begun to speak yet.
    pub(super) fn new(
        host: String,
        mut session: ssh2::Session,
        socket: OwnedFd,
        carrier: Option<Running>,
    ) -> std::io::Result<Arc<Link>> {
        session.set_tcp_stream(socket.try_clone()?);
        session.set_blocking(false);
        Ok(Arc::new(Link {
            host,
            socket,
            state: Mutex::new(State { session, closing: Vec::new(), abandoned: None, broken: None, carrier }),
            opening: Mutex::new(()),
            beginning: Mutex::new(false),
            takes_sessions: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            suspect: AtomicBool::new(false),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor that becomes readable when something comes.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Remembers that a deadline passed: whether the far end was slow or is gone can not be told from that.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::SeqCst);
    }

    /// Finds out whether a suspect connection still answers, by opening a channel. sshd does that at once,
    /// whatever else it is busy with.
    pub(super) fn probe(self: &Arc<Link>, deadline: Deadline) {
        let waits = self.lock().abandoned.is_some();
        if waits || !self.suspect.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Err(Trouble::Deadline) = self.open_once(&Opening::Session, deadline.at_most(PROBE)) {
            self.cut(&mut self.lock(), "it no longer answers");
        }
    }

    /// Begins a command on a channel. [`Trouble::Busy`] means that it was not sent.
    pub(super) fn begin(&self, chan: &Chan, command: &str, deadline: Deadline) -> Outcome<()> {
        let mut unanswered = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if *unanswered {
            return Err(Trouble::Busy);
        }
        let mut channel = chan.handle()?;
        let begun = self.drive(deadline, |_| channel.exec(command));
        // Handles are let go under the session's lock.
        let _state = self.lock();
        drop(channel);
        *unanswered = matches!(begun, Err(Trouble::Deadline));
        begun
    }

    /// Whether the connection is known to be gone.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().broken.is_some()
    }

    /// Ends the connection at once; everything that waits on it comes back.
    pub(super) fn cut(&self, state: &mut State, why: &str) {
        state.broken.get_or_insert_with(|| why.to_owned());
        // Already gone is as good.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Tries `op` until it neither blocks nor leaves anything half sent.
    pub(super) fn drive<T>(
        &self,
        deadline: Deadline,
        mut op: impl FnMut(&mut State) -> Result<T, ssh2::Error>,
    ) -> Outcome<T> {
        loop {
            let mut state = self.lock();
            if let Some(value) = self.attempt(&mut state, deadline, None, &mut op)? {
                return Ok(value);
            }
            drop(state);
            self.wait(deadline)?;
        }
    }

    /// Tries `op` once; `None` when it waits for the other side. What it leaves half sent is finished here: a
    /// peer that sends before it reads would never take it, so meanwhile its bytes are taken in through `drain`.
    pub(super) fn attempt<T>(
        &self,
        state: &mut State,
        deadline: Deadline,
        drain: Option<&ssh2::Channel>,
        mut op: impl FnMut(&mut State) -> Result<T, ssh2::Error>,
    ) -> Outcome<Option<T>> {
        if let Some(why) = &state.broken {
            return Err(Trouble::Lost(why.clone()));
        }
        loop {
            let error = match op(state) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => error,
            };
            let code = code_of(&error);
            if code == code::EAGAIN {
                match state.session.block_directions() {
                    BlockDirections::Outbound | BlockDirections::Both => {
                        self.finish_sending(state, deadline, drain)?;
                    }
                    BlockDirections::Inbound | BlockDirections::None => return Ok(None),
                }
            } else if code::LOST.contains(&code) {
                self.cut(state, error.message());
                return Err(Trouble::Lost(error.message().to_owned()));
            } else {
                return Err(Trouble::Said(error));
            }
        }
    }

    /// Waits until the socket takes more.
    fn finish_sending(
        &self,
        state: &mut State,
        deadline: Deadline,
        drain: Option<&ssh2::Channel>,
    ) -> Outcome<()> {
        // Others wait for the lock meanwhile.
        let limit = deadline.at_most(STUCK);
        loop {
            // At its end of file a channel's wait no longer reads anything.
            let mut drain = drain.cloned().filter(|channel| !channel.eof());
            let events = if drain.is_some() { PollFlags::IN | PollFlags::OUT } else { PollFlags::OUT };
            let ready = poll_one(self.socket(), events, limit.left());
            if ready.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
            if ready.contains(PollFlags::IN) {
                if let Some(Err(error)) = drain.as_mut().map(ssh2::Channel::wait_eof)
                    && code::LOST.contains(&code_of(&error))
                {
                    self.cut(state, error.message());
                    return Err(Trouble::Lost(error.message().to_owned()));
                }
            } else if limit.passed() {
                // A packet that is half sent can neither be taken back nor followed by another.
                let why = "the other side takes nothing more";
                self.cut(state, why);
                return Err(if deadline.passed() {
                    Trouble::Deadline
                } else {
                    Trouble::Lost(why.to_owned())
                });
            }
        }
    }

    /// Waits outside the lock until something comes, or a moment: another thread may have taken in what this one
    /// waits for.
    pub(super) fn wait(&self, deadline: Deadline) -> Outcome<()> {
        if deadline.passed() {
            return Err(Trouble::Deadline);
        }
        let others = self.waiting.fetch_add(1, Ordering::SeqCst);
        let slice = Duration::from_millis(if others > 0 { 3 } else { 25 });
        poll_one(self.socket(), PollFlags::IN, deadline.left().min(slice));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    /// Opens a channel, a session when sshd has room for it. [`Trouble::Busy`] and [`Trouble::Lost`] mean that nothing
    /// happened on the other side.
    pub(super) fn open(self: &Arc<Link>, what: &Opening, deadline: Deadline) -> Outcome<Chan> {
        let patience = deadline.at_most(ROOM);
        let [mut pause, most] = ASKS;
        loop {
            let outcome = self.open_once(what, deadline);
            let is_full = matches!(&outcome, Err(Trouble::Said(e)) if code_of(e) == code::CHANNEL_FAILURE)
                && *what == Opening::Session
                && self.takes_sessions.load(Ordering::SeqCst);
            if !is_full || patience.passed() {
                if outcome.is_ok() && *what == Opening::Session {
                    self.takes_sessions.store(true, Ordering::SeqCst);
                }
                return outcome;
            }
            patience.sleep(pause);
            pause = (pause * 2).min(most);
        }
    }

    fn open_once(self: &Arc<Link>, what: &Opening, deadline: Deadline) -> Outcome<Chan> {
        let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let adopted = self.settle(what, deadline)?;
        // sshd answers these at once: it had its time before.
        let overdue = adopted.is_some() && *what == Opening::Session;
        let limit = if overdue { deadline.at_most(PROBE) } else { deadline };
        let gone = || {
            let why = "it no longer answers";
            self.cut(&mut self.lock(), why);
            Err(Trouble::Lost(why.to_owned()))
        };
        match self.drive(limit, |state| start_opening(state, what)) {
            Ok(channel) => Ok(Chan { link: Arc::clone(self), inner: Some(channel) }),
            Err(Trouble::Deadline) if overdue => gone(),
            Err(Trouble::Deadline) => {
                self.lock().abandoned = Some((what.clone(), adopted.unwrap_or_else(Instant::now)));
                Err(Trouble::Deadline)
            }
            Err(Trouble::Said(e)) if *what == Opening::Session && code_of(&e) == code::TIMEOUT => gone(),
            Err(other) => Err(other),
        }
    }

    /// Brings an opening that was given up to its end, if its answer has come; libssh2 would give that channel
    /// to whoever opens the next one. Who wants the same again soon after takes it over: gives when it was begun.
    fn settle(&self, what: &Opening, deadline: Deadline) -> Outcome<Option<Instant>> {
        let mut state = self.lock();
        self.reap(&mut state, deadline);
        let Some((abandoned, begun)) = state.abandoned.take() else { return Ok(None) };
        if abandoned == *what && (abandoned == Opening::Session || begun.elapsed() < ADOPTED) {
            return Ok(Some(begun));
        }
        match self.attempt(&mut state, deadline, None, |state| start_opening(state, &abandoned)) {
            Ok(Some(channel)) => self.retire(&mut state, channel),
            Ok(None) => {
                state.abandoned = Some((abandoned, begun));
                return Err(Trouble::Busy);
            }
            Err(Trouble::Said(_)) => {}
            Err(other) => return Err(other),
        }
        Ok(None)
    }

    /// Says that we close a channel; it is kept until the other side has closed it too.
    fn retire(&self, state: &mut State, mut channel: ssh2::Channel) {
        let closed = self.attempt(state, Deadline::secs(2), None, |_| channel.close());
        if let Ok(None) = closed {
            state.closing.push(channel);
        }
        // Else it is dropped here, under the lock: libssh2 frees it in the session.
    }

    fn reap(&self, state: &mut State, deadline: Deadline) {
        for mut channel in std::mem::take(&mut state.closing) {
            if let Ok(None) = self.attempt(state, deadline, None, |_| channel.close()) {
                state.closing.push(channel);
            }
        }
    }
}

fn start_opening(state: &mut State, what: &Opening) -> Result<ssh2::Channel, ssh2::Error> {
    match what {
        Opening::Session => state.session.channel_session(),
        Opening::Tcp { host, port } => state.session.channel_direct_tcpip(host, *port, None),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.broken.is_none() {
            // A courtesy to the server's log; whether it is sent matters to nobody.
            let _ = state.session.disconnect(None, "done", None);
        }
        // With the socket shut libssh2 frees channels and session without waiting for the other side.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        for mut channel in std::mem::take(&mut state.closing) {
            let _ = channel.wait_eof();
            let _ = channel.close();
        }
        drop(state.carrier.take());
    }
}

/// A channel that is closed, under the link's lock, when it is dropped.
pub(super) struct Chan {
    link: Arc<Link>,
    inner: Option<ssh2::Channel>,
}

impl Chan {
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The channel. The handle that is given out must not outlive the lock that its user holds.
    pub(super) fn handle(&self) -> Outcome<ssh2::Channel> {
        self.inner.clone().ok_or_else(|| Trouble::Lost("the channel is closed".to_owned()))
    }
}

impl Drop for Chan {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        if let Some(channel) = self.inner.take() {
            self.link.retire(&mut state, channel);
        }
    }
}

/// Waits for `events` on one descriptor; what became ready, nothing at the end of `limit`.
pub(super) fn poll_one(fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    poll_all(&mut fds, limit);
    fds[0].revents()
}

/// Waits until one of the descriptors is ready or `limit` is over.
pub(super) fn poll_all(fds: &mut [PollFd<'_>], limit: Duration) {
    // Rounded up a little, so that a deadline is over when its poll is.
    let limit = if limit.is_zero() { limit } else { limit + Duration::from_micros(100) };
    let timeout = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    // An interrupted wait is a short one: callers look again.
    let _ = poll(fds, Some(&timeout));
}
