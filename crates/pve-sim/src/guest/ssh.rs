//! A machine's SSH server. It is reachable through the node only.

use std::{collections::HashMap, sync::Arc};

use russh::{
    Channel, ChannelId,
    server::{Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::shell;
use crate::{faults::Fault, keys, log::What, node::Node, server};

struct Guest {
    node: Arc<Node>,
    vmid: u32,
    user: String,
    commands: HashMap<ChannelId, (String, Vec<u8>)>,
}

/// Serves one connection until it ends or the machine's system does.
pub async fn serve<S>(node: Arc<Node>, vmid: u32, boot: u64, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(mut key) = super::with(&node, vmid, |r| r.system.host_key.clone()) else { return };
    if node.has_fault(|f| matches!(f, Fault::HostKeyChanged { vmid: v } if *v == vmid)) {
        key = keys::generate("somebody-else").unwrap_or(key);
    }
    let Ok(config) = server::config(&key, "SSH-2.0-OpenSSH_10.0") else { return };
    let handler = Guest { node: Arc::clone(&node), vmid, user: String::new(), commands: HashMap::new() };
    let mut boots = node.boots.subscribe();
    let ended = async {
        loop {
            if super::with(&node, vmid, |r| r.boot) != Some(boot) || boots.changed().await.is_err() {
                return;
            }
        }
    };
    server::serve_until(config, stream, handler, ended).await;
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let lines = super::with(&self.node, self.vmid, |r| r.system.users.get(user).cloned())
            .flatten()
            .unwrap_or_default();
        let accepted = keys::is_authorized(&lines, key.public_key);
        self.node.log.add(What::GuestLogin { vmid: self.vmid, user: user.to_owned(), accepted });
        user.clone_into(&mut self.user);
        Ok(if accepted { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(data).into_owned();
        session.channel_success(channel)?;
        if wants_input(&command) {
            self.commands.insert(channel, (command, Vec::new()));
        } else {
            self.run(channel, command, Vec::new(), session);
        }
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some((_, input)) = self.commands.get_mut(&channel) {
            input.extend_from_slice(data);
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        if let Some((command, input)) = self.commands.remove(&channel) {
            self.run(channel, command, input, session);
        }
        Ok(())
    }
}

/// Whether a command reads its standard input to the end before it does anything.
fn wants_input(command: &str) -> bool {
    let command = command.trim();
    ["cat >", "cat > ", "tar ", "tee "].iter().any(|c| command.contains(c))
        || matches!(command, "sh" | "bash" | "cat" | "sh -s" | "bash -s" | "sh --" | "sh -")
        || command.ends_with(" sh --")
        || command.ends_with(" sh")
}

impl Guest {
    fn run(&self, channel: ChannelId, command: String, input: Vec<u8>, session: &Session) {
        let handle = session.handle();
        let (node, vmid, user) = (Arc::clone(&self.node), self.vmid, self.user.clone());
        tokio::spawn(async move {
            let outcome = shell::run(&node, vmid, &user, &command, input).await;
            server::finish(&handle, channel, outcome.stdout, outcome.stderr, outcome.status).await;
        });
    }
}
