//! The node's SSH server, and what all simulated SSH servers share.

use std::{
    borrow::Cow,
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Pty, SshId,
    server::{Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, Session, VerifiedPublicKey},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    cut::Cut,
    exec,
    faults::{Fault, Stream},
    guest, http, keys,
    ledger::{Party, Work},
    log::What,
    node::Node,
};

/// The settings of a server with this host key.
pub fn config(host_key: &str, id: &'static str) -> Result<Arc<Config>> {
    Ok(Arc::new(Config {
        server_id: SshId::Standard(Cow::Borrowed(id)),
        keys: vec![keys::parse(host_key)?],
        auth_rejection_time: Duration::from_millis(5),
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: None,
        nodelay: true,
        ..Config::default()
    }))
}

/// Serves SSH on a stream until it ends or `ended` does.
pub async fn serve_until<S, H>(config: Arc<Config>, stream: S, handler: H, ended: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler + Send + 'static,
{
    // The session owns one end of a pipe: dropping the other cuts it at once, whatever it is doing.
    let (mut outer, inner) = tokio::io::duplex(256 * 1024);
    let mut stream = stream;
    let session = async {
        // How a session ended is the client's business.
        if let Ok(session) = russh::server::run_stream(config, inner, handler).await {
            drop(session.await);
        }
    };
    let session = tokio::spawn(session);
    tokio::select! {
        // Either side may just go away.
        _ = tokio::io::copy_bidirectional(&mut stream, &mut outer) => {}
        () = ended => {}
    }
    drop(outer);
    session.abort();
}

/// Sends what a command left, and closes its channel.
pub async fn finish(handle: &Handle, channel: ChannelId, stdout: Vec<u8>, stderr: Vec<u8>, status: u32) {
    // A client that has gone away misses it; nothing else can be done.
    if !stdout.is_empty() {
        let _ = handle.data(channel, stdout).await;
    }
    if !stderr.is_empty() {
        let _ = handle.extended_data(channel, 1, stderr).await;
    }
    let _ = handle.exit_status_request(channel, status).await;
    let _ = handle.eof(channel).await;
    let _ = handle.close(channel).await;
}

/// Reads what is typed until somebody leaves the console, or is gone.
async fn until_ctrl_o(mut stream: impl AsyncRead + Unpin) {
    const CTRL_O: u8 = 0x0f;
    while stream.read_u8().await.is_ok_and(|typed| typed != CTRL_O) {}
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Accepts connections for ever.
pub async fn listen(node: Arc<Node>, listener: TcpListener) -> Result<()> {
    let config = node_config(&node)?;
    loop {
        let (stream, _) = listener.accept().await.context("can not accept a connection")?;
        // Without it each small packet would wait for the last one's acknowledgement.
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(Arc::clone(&node), Arc::clone(&config), stream));
    }
}

fn node_config(node: &Node) -> Result<Arc<Config>> {
    config(node.host_key(), "SSH-2.0-OpenSSH_10.0p2 Debian-7")
}

async fn serve<S>(node: Arc<Node>, config: Arc<Config>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    node.log.add(What::Connect { connection });
    let mut cut = node.cut.subscribe();
    cut.mark_unchanged();
    let handler = NodeHandler { node: Arc::clone(&node), connection, root: false, channels: HashMap::new() };
    let ended = async move {
        // An error says that the node itself is gone.
        let _ = cut.changed().await;
    };
    let stream = Cut::new(node, stream, Stream::SshDown, Some(Stream::SshUp));
    serve_until(config, stream, handler, ended).await;
}

/// What listens at an address and port, as the node sees it.
enum Place {
    Api,
    Node(Arc<Node>),
    Guest(u32, u64),
}

impl Place {
    fn at(node: &Arc<Node>, host: &str, port: u32) -> Option<Place> {
        if matches!(host, "127.0.0.1" | "localhost") && port == 85 {
            return (!node.has_fault(|f| *f == Fault::ApiDown)).then_some(Place::Api);
        }
        if port != 22 {
            return None;
        }
        let peer = crate::cluster::at_address(node, host).map(Place::Node);
        peer.or_else(|| guest::at_address(node, host).map(|(vmid, boot)| Place::Guest(vmid, boot)))
    }

    /// Until either side ends it.
    async fn serve(self, node: Arc<Node>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        match self {
            Place::Api => http::serve(node, stream).await,
            Place::Node(peer) => {
                if let Ok(config) = node_config(&peer) {
                    // A session of its own, whose end the other does not wait for.
                    Box::pin(serve(peer, config, stream)).await;
                }
            }
            Place::Guest(vmid, boot) => {
                let stream = Cut::new(Arc::clone(&node), stream, Stream::GuestDown, None);
                guest::ssh::serve(node, vmid, boot, stream).await;
            }
        }
    }
}

struct NodeHandler {
    node: Arc<Node>,
    connection: u64,
    /// Whether it is root that was let in.
    root: bool,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for NodeHandler {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let refused = self.node.has_fault(|f| *f == Fault::LoginRefused);
        let accepted = !refused
            && (user == "root" || self.node.world().accounts.iter().any(|account| account == user))
            && keys::is_authorized(&self.node.world().authorized_keys, key.public_key);
        if accepted {
            self.root = user == "root";
            let _at_work = self.node.ledger.begin(Party::Node, "login");
            self.node.ledger.spend(Work::Login, self.node.latency().login).await;
        }
        self.node.log.add(What::Login { connection: self.connection, user: user.to_owned(), accepted });
        Ok(if accepted { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let node = Arc::clone(&self.node);
        let forbidden =
            !node.world().allow_forwarding || node.has_fault(|f| *f == Fault::ForwardingForbidden);
        let place = Place::at(&node, host, port);
        let accepted = !forbidden && place.is_some();
        node.log.add(What::Open { connection: self.connection, host: host.to_owned(), port, accepted });
        match place {
            _ if forbidden => reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
            Some(place) => {
                reply.accept().await;
                tokio::spawn(place.serve(node, channel.into_stream()));
            }
            None => reply.reject(ChannelOpenFailure::ConnectFailed).await,
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _width: u32,
        _height: u32,
        _pixel_width: u32,
        _pixel_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(data).into_owned();
        self.node.log.add(What::Exec { connection: self.connection, command: command.clone() });
        session.channel_success(channel)?;
        let taken = self.channels.remove(&channel);
        if let Some((host, port)) = exec::relay_to(&command) {
            let (node, handle) = (Arc::clone(&self.node), session.handle());
            let place = Place::at(&node, host, port.into());
            let stream = taken.map(Channel::into_stream);
            tokio::spawn(async move {
                let (Some(place), Some(mut stream)) = (place, stream) else {
                    let refused = b"connect: Connection refused\n".to_vec();
                    return finish(&handle, channel, Vec::new(), refused, 111).await;
                };
                // A client that has gone away misses it.
                let _ = stream.write_all(exec::RELAY_READY).await;
                place.serve(node, stream).await;
                finish(&handle, channel, Vec::new(), Vec::new(), 0).await;
            });
            return Ok(());
        }
        let node = Arc::clone(&self.node);
        let handle = session.handle();
        if !self.root && command.starts_with("grep -asH '' /etc/pve/nodes/") {
            // Those files are root's and the daemons'; `-s` says nothing of it.
            tokio::spawn(async move { finish(&handle, channel, Vec::new(), Vec::new(), 2).await });
            return Ok(());
        }
        if !self.root && command.starts_with("cat /etc/pve/") {
            // The file system of the cluster is for root and the daemons' group alone.
            let refused = format!("cat: {}: Permission denied\n", &command[4..]).into_bytes();
            tokio::spawn(async move { finish(&handle, channel, Vec::new(), refused, 1).await });
            return Ok(());
        }
        if let Some((node, vmid)) = exec::terminal_of(&node, &command) {
            tokio::spawn(async move {
                let left = match exec::terminal(&node, vmid) {
                    Ok(words) => {
                        // A client that has gone away misses it.
                        let _ = handle.data(channel, words).await;
                        if let Some(stream) = taken {
                            until_ctrl_o(stream.into_stream()).await;
                        }
                        guest::Outcome::default()
                    }
                    Err(outcome) => outcome,
                };
                finish(&handle, channel, left.stdout, left.stderr, left.status).await;
            });
            return Ok(());
        }
        tokio::spawn(async move {
            if exec::is_live(&command)
                && let Some(stream) = taken
            {
                let outcome = exec::live(&node, &command, stream.into_stream()).await.unwrap_or_default();
                return finish(&handle, channel, outcome.stdout, outcome.stderr, outcome.status).await;
            }
            let mut input = Vec::new();
            let mut taken = taken.filter(|_| exec::wants_input(&command)).map(Channel::into_stream);
            if let Some(stream) = &mut taken {
                // A client that goes away in between has sent what it has sent.
                let _ = stream.read_to_end(&mut input).await;
            }
            let outcome = exec::run(&node, &command, &input).await;
            finish(&handle, channel, outcome.stdout, outcome.stderr, outcome.status).await;
            drop(taken);
        });
        Ok(())
    }
}
