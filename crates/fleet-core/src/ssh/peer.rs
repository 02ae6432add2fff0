//! From a host to another one of its cluster: with the first one's user, keys and jump hosts, straight or through it.

use std::{sync::Arc, time::Duration};

use super::{
    HostKeyPolicy, Peer, PeerWay, Session, Stream, Transport, forwarding_forbidden, session::Tunnel,
};
use crate::{Error, Kind, Result, deadline::Deadline};

/// How long a straight connection may take, login included, where the way through the first host is left.
const STRAIGHT: Duration = Duration::from_secs(5);
/// How long its address may take to answer then: where nobody answers at all, as outside of the cluster's network, each
/// command would wait. Who answers later is reached through the first host.
const ANSWERED: Duration = Duration::from_millis(500);
/// The port of sshd where nothing else is known.
const PORT: u16 = 22;

/// Opens a connection from a host to an address and port otherwise than by forwarding.
pub type Relay = fn(&dyn Transport, &str, u16, Deadline) -> Result<Box<dyn Stream>>;

impl Session {
    /// Connects to another host of this one's cluster, by the first of `ways` that leads there. Its key is proven
    /// whatever the way. `relay` opens a connection from this session's host where its sshd forbids forwarding.
    ///
    /// Its sshd is looked for at the port of this session's host, and at port 22 behind it.
    pub fn peer(
        self: &Arc<Session>,
        peer: &Peer,
        ways: &[PeerWay],
        relay: Relay,
        deadline: Deadline,
    ) -> Result<Session> {
        let mut failed: Option<Error> = None;
        for (n, way) in ways.iter().enumerate() {
            let last = n + 1 == ways.len();
            let limit = if last { deadline } else { deadline.at_most(STRAIGHT) };
            let outcome = match way {
                PeerWay::Straight => self.straight(peer, limit, !last),
                PeerWay::Through => self.through(peer, relay, limit),
            };
            match outcome {
                Ok(session) => return Ok(session),
                Err(error) => {
                    failed = Some(match failed.take() {
                        None => error,
                        // What a server said of itself tells more than that nothing answered.
                        Some(first) if is_closed(&error) && !is_closed(&first) => {
                            first.now(format!("then tried through the first host: {}", error.chain()))
                        }
                        Some(first) => error.now(format!("tried straight first: {}", first.chain())),
                    });
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::unreachable(format!("no way to {} may be taken", peer.name))))
    }

    fn straight(&self, peer: &Peer, deadline: Deadline, is_way_left: bool) -> Result<Session> {
        let settings = self.settings();
        let fixed = settings.proxy_command.as_ref().is_some_and(|command| !command.contains("%h"));
        if fixed || self.is_carried() {
            return Err(Error::unreachable("the program that carries the bytes leads to one host only"));
        }
        let policy = HostKeyPolicy::Vouched(peer.vouched.clone());
        let mut settings = settings.for_peer(peer, settings.port, None);
        // How long a program may take to get there is another matter.
        if is_way_left && settings.proxy_command.is_none() && settings.proxy_jump.is_none() {
            let asked = settings.connect_timeout.unwrap_or(ANSWERED);
            settings.connect_timeout = Some(asked.min(ANSWERED));
        }
        self.sibling(settings, policy, None, deadline)
    }

    fn through(self: &Arc<Session>, peer: &Peer, relay: Relay, deadline: Deadline) -> Result<Session> {
        let via = self.settings().written();
        let attempt = |port: u16| {
            let tunnel = tunnel(Arc::clone(self), peer.address.to_string(), port, relay);
            let settings = self.settings().for_peer(peer, port, Some(via.clone()));
            let policy = HostKeyPolicy::Vouched(peer.vouched.clone());
            self.sibling(settings, policy, Some(tunnel), deadline)
        };
        let other = self.settings().port;
        match attempt(PORT) {
            Err(e) if other != PORT && is_closed(&e) => {
                attempt(other).map_err(|second| if is_closed(&second) { e } else { second })
            }
            outcome => outcome,
        }
        .map_err(|e| match e.kind() {
            Kind::Unreachable => e.context(format_args!("can not log in to {} through {via}", peer.name)),
            _ => e,
        })
    }
}

/// Whether nothing answered at all, so that another port may be tried.
fn is_closed(error: &Error) -> bool {
    error.kind() == Kind::Unreachable && error.report().details.is_none()
}

fn tunnel(first: Arc<Session>, host: String, port: u16, relay: Relay) -> Tunnel {
    Arc::new(move |deadline: Deadline| -> Result<Box<dyn Stream>> {
        match first.open_tcp(&host, port, deadline) {
            Err(e) if forwarding_forbidden(&e) => relay(&*first, &host, port, deadline),
            outcome => outcome,
        }
    })
}
