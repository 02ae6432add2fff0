//! A machine's SSH server. It is reachable through the node only.

use std::{collections::HashMap, sync::Arc};

use russh::{
    Channel, ChannelId,
    keys::PublicKey,
    server::{Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Running, shell};
use crate::{faults::Fault, keys, log::What, node::Node, server};

struct Guest {
    node: Arc<Node>,
    vmid: u32,
    /// The one that the connection was made in.
    boot: u64,
    user: String,
    commands: HashMap<ChannelId, (String, Vec<u8>)>,
}

/// Serves one connection until it ends or the machine's system does.
pub async fn serve<S>(node: Arc<Node>, vmid: u32, boot: u64, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handler =
        Guest { node: Arc::clone(&node), vmid, boot, user: String::new(), commands: HashMap::new() };
    let Ok(mut key) = handler.look(|run| run.system.host_key.clone()) else { return };
    if node.has_fault(|f| matches!(f, Fault::HostKeyChanged { vmid: v } if *v == vmid)) {
        key = keys::generate("somebody-else").unwrap_or(key);
    }
    let Ok(config) = server::config(&key, "SSH-2.0-OpenSSH_10.0") else { return };
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
        let accepted = self.login(user, key.public_key)?;
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
        self.look(|_| ())?;
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
        self.look(|_| ())?;
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
    /// Looks at the system that the connection was made to. What still lay in a connection when that system ended
    /// reaches nobody: not the one that has booted since.
    fn look<T>(&self, look: impl FnOnce(&Running) -> T) -> Result<T, russh::Error> {
        let here = |run: &Running| (run.boot == self.boot).then(|| look(run));
        super::with(&self.node, self.vmid, here).flatten().ok_or(russh::Error::Disconnect)
    }

    fn login(&mut self, user: &str, key: &PublicKey) -> Result<bool, russh::Error> {
        let accepted = self.look(|run| {
            let lines = run.system.users.get(user).map(Vec::as_slice).unwrap_or_default();
            let accepted = keys::is_authorized(lines, key);
            self.node.log.add(What::GuestLogin { vmid: self.vmid, user: user.to_owned(), accepted });
            accepted
        })?;
        user.clone_into(&mut self.user);
        Ok(accepted)
    }

    fn run(&self, channel: ChannelId, command: String, input: Vec<u8>, session: &Session) {
        let handle = session.handle();
        let (node, vmid, user) = (Arc::clone(&self.node), self.vmid, self.user.clone());
        tokio::spawn(async move {
            let outcome = shell::run(&node, vmid, &user, &command, input).await;
            server::finish(&handle, channel, outcome.stdout, outcome.stderr, outcome.status).await;
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn what_comes_after_a_reboot_of_the_machine_reaches_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let node = Arc::new(Node::in_memory(dir.path(), World::default()).unwrap());
        let vmid = 104;
        let boot = super::super::with(&node, vmid, |run| run.boot).unwrap();
        let mut guest =
            Guest { node: Arc::clone(&node), vmid, boot, user: String::new(), commands: HashMap::new() };
        let stranger = keys::parse(&keys::generate("stranger").unwrap()).unwrap();
        let logins = || {
            let records = node.log.records();
            records.iter().filter(|r| matches!(r.what, What::GuestLogin { .. })).count()
        };
        assert!(matches!(guest.login("root", stranger.public_key()), Ok(false)));
        assert_eq!(logins(), 1);
        node.change(|d| d.guests.get_mut(&vmid).unwrap().running.as_mut().unwrap().boot += 1);
        assert!(guest.login("root", stranger.public_key()).is_err());
        assert_eq!(logins(), 1);
    }
}
