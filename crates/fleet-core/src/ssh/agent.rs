//! Logging in with the keys of an SSH agent.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use super::{
    auth::{Tried, judge},
    keys::{self, PublicKey},
    link::{Link, Trouble},
};
use crate::deadline::Deadline;

/// What the agent's thread tells.
pub(super) enum Step {
    Asking(PublicKey),
    Refused(String),
    Accepted(String),
    Told(String),
    Trouble(Trouble),
}

/// How long an agent may take to tell its keys.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// The public keys that the user's agent (`SSH_AUTH_SOCK`) has; none where there is no agent, or it does not answer.
pub fn keys() -> Vec<PublicKey> {
    let Some(socket) = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) else {
        return Vec::new();
    };
    let (tell, told) = mpsc::channel();
    // An agent may not answer for ever.
    std::thread::spawn(move || tell.send(list(&PathBuf::from(socket)).unwrap_or_default()));
    told.recv_timeout(LIST_LIMIT).unwrap_or_default()
}

fn list(socket: &Path) -> Result<Vec<PublicKey>, ssh2::Error> {
    let session = ssh2::Session::new()?;
    let mut agent = session.agent()?;
    agent.set_identity_path(socket)?;
    agent.connect()?;
    agent.list_identities()?;
    let keys = agent.identities()?;
    Ok(keys.iter().filter_map(|key| PublicKey::from_blob(key.blob().to_vec())).collect())
}

/// Offers an agent's keys, in a thread of its own.
pub(super) struct AgentLogin {
    pub(super) link: Arc<Link>,
    pub(super) user: String,
    pub(super) socket: PathBuf,
    pub(super) configured: Vec<PublicKey>,
    pub(super) only_configured: bool,
    pub(super) limit: usize,
    pub(super) deadline: Deadline,
}

impl AgentLogin {
    pub(super) fn run(&self, tell: &mpsc::Sender<Step>) {
        // Nobody listens any more once the deadline has passed.
        let say = |step| drop(tell.send(step));
        if let Some(last) = self.offer(&say) {
            say(last);
        }
    }

    /// Offers the keys one by one; the last step is told by the caller, when the agent is let go.
    fn offer(&self, say: &dyn Fn(Step)) -> Option<Step> {
        let agent = match self.connect() {
            Ok(agent) => agent,
            Err(e) => {
                let at = self.socket.display();
                return Some(Step::Told(format!("the SSH agent at {at}: {}", e.message())));
            }
        };
        let mut held = HeldAgent { agent: Some(agent), link: &self.link };
        let agent = held.agent.as_mut()?;
        let all = match agent.list_identities().and_then(|()| agent.identities()) {
            Ok(all) => all,
            Err(e) => return Some(Step::Told(format!("the SSH agent's keys: {}", e.message()))),
        };
        let is = |key: &ssh2::PublicKey, wanted: &PublicKey| key.blob() == wanted.blob();
        let of = |wanted: &PublicKey| {
            // Its certificate is more likely to be what counts: a key that is known by itself needs none.
            let certified = all.iter().find(|key| wanted.is_certified_by(key.blob()));
            certified.into_iter().chain(all.iter().find(|key| is(key, wanted)))
        };
        let mut picked: Vec<&ssh2::PublicKey> = self.configured.iter().flat_map(of).collect();
        if picked.is_empty() && !self.only_configured {
            picked = all.iter().collect();
        }
        // libssh2 would sign with SHA-1 for them, which no sshd of today takes; they take no other key's turn.
        let is_rsa_certificate = |key: &&ssh2::PublicKey| {
            keys::take_string(key.blob()).is_some_and(|(kind, _)| kind == b"ssh-rsa-cert-v01@openssh.com")
        };
        for certificate in picked.iter().filter(|key| is_rsa_certificate(key)) {
            say(Step::Told(format!(
                "the agent's RSA certificate '{}' can not be used: give the files of key and certificate",
                certificate.comment()
            )));
        }
        picked.retain(|key| !is_rsa_certificate(key));
        if picked.len() > self.limit {
            let (of, limit) = (picked.len(), self.limit);
            picked.truncate(limit);
            say(Step::Told(format!("the agent has {of} keys: only the first {limit} were tried")));
        }
        for key in picked {
            let name = match PublicKey::from_blob(key.blob().to_vec()) {
                Some(public) => {
                    let name =
                        format!("{} {} ({})", public.short_type(), public.fingerprint(), key.comment());
                    say(Step::Asking(public));
                    name
                }
                None => key.comment().to_owned(),
            };
            match judge(self.link.drive(self.deadline, |_| agent.userauth(&self.user, key)), false) {
                Ok(Tried::Accepted) => return Some(Step::Accepted(name)),
                Ok(Tried::Refused) => say(Step::Refused(name)),
                Ok(Tried::Unusable(why)) => say(Step::Told(format!("{name} from the agent: {why}"))),
                Err(trouble) => return Some(Step::Trouble(trouble)),
            }
        }
        None
    }

    fn connect(&self) -> Result<ssh2::Agent, ssh2::Error> {
        let state = self.link.lock();
        let mut agent = state.session.agent()?;
        agent.set_identity_path(&self.socket)?;
        agent.connect()?;
        Ok(agent)
    }
}

/// libssh2 frees an agent through its session, so that is done under the session's lock.
struct HeldAgent<'a> {
    agent: Option<ssh2::Agent>,
    link: &'a Link,
}

impl Drop for HeldAgent<'_> {
    fn drop(&mut self) {
        let _state = self.link.lock();
        self.agent = None;
    }
}
