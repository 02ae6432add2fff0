//! Logging in: with chosen keys, else the agent's, then the configured key files. Never more than a few tries,
//! so that an agent with twenty keys does not meet "Too many authentication failures".

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    agent::{AgentLogin, Step},
    keys::{self, PublicKey},
    link::{Link, Outcome, Trouble, code, code_of},
    refusal::Refusal,
    settings::{Agent, Settings},
};
use crate::{
    Error, Result,
    deadline::Deadline,
    ui::{self, Ui},
};

/// sshd's MaxAuthTries is 6, and it counts every key offered.
const MAX_TRIES: usize = 5;

/// What happened to one key.
pub(super) enum Tried {
    Accepted,
    Refused,
    Unusable(String),
}

struct Login<'a> {
    link: &'a Arc<Link>,
    settings: &'a Settings,
    ui: Ui,
    deadline: Deadline,
    /// Those that lie beside the identities, and those that the configuration names.
    certificates: Vec<Certificate>,
    /// Told in the error when nothing worked.
    story: Vec<String>,
    tries: usize,
    /// One of them was an RSA key.
    rsa: bool,
}

/// A key file as it lies there.
struct KeyFile {
    path: PathBuf,
    text: Zeroizing<String>,
    encrypted: bool,
    public: Option<PublicKey>,
}

/// A certificate as it lies there.
struct Certificate {
    path: PathBuf,
    line: String,
    blob: Vec<u8>,
}

impl Certificate {
    fn at(path: &Path) -> Option<Certificate> {
        let line = fs::read_to_string(path).ok()?.trim().to_owned();
        let blob = keys::certificate_blob(&line)?;
        Some(Certificate { path: path.to_owned(), line, blob })
    }
}

/// Logs in.
pub(super) fn log_in(link: &Arc<Link>, settings: &Settings, ui: Ui, deadline: Deadline) -> Result<()> {
    let beside =
        settings.identity_files.iter().chain(&settings.chosen_identities).map(|path| with(path, "-cert.pub"));
    let certificates =
        beside.chain(settings.certificate_files.iter().cloned()).filter_map(|path| Certificate::at(&path));
    let certificates = certificates.collect();
    let mut login =
        Login { link, settings, ui, deadline, certificates, story: Vec::new(), tries: 0, rsa: false };
    match login.run() {
        Ok(true) => Ok(()),
        Ok(false) => Err(login.refused(None)),
        Err(Failure::Trouble(Trouble::Deadline)) => Err(deadline
            .error(format_args!("{} to let {} log in", settings.alias, settings.user))
            .with_kind(crate::Kind::Unreachable)),
        Err(Failure::Trouble(trouble)) => Err(login.refused(Some(&trouble))),
        Err(Failure::Told(error)) => Err(*error),
    }
}

enum Failure {
    Trouble(Trouble),
    Told(Box<Error>),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Trouble(trouble)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Told(Box::new(error))
    }
}

impl Login<'_> {
    fn run(&mut self) -> Result<bool, Failure> {
        let chosen = self.settings.chosen_identities.clone();
        for path in &chosen {
            if self.try_chosen(path)? {
                return Ok(true);
            }
        }
        let mut files = Vec::new();
        for path in self.settings.identity_files.iter().filter(|p| !chosen.contains(p)) {
            match read_key(path) {
                Ok(Some(file)) => files.push(file),
                // `IdentityFile key.pub` picks a key of the agent's.
                Ok(None) if public_at(path).is_some() => {}
                Ok(None) => {
                    self.story.push(format!("{}: not a private key that SSH can use", path.display()));
                }
                // Most of the default files do not exist, and that is nobody's news.
                Err(e) if e.kind() == crate::Kind::NotFound => {}
                Err(e) => self.story.push(e.chain()),
            }
        }
        let mut offered = Vec::new();
        if chosen.is_empty()
            && let Agent::At(socket) = &self.settings.agent
        {
            let configured: Vec<PublicKey> = self.configured_keys(&files);
            let spare = files.iter().filter(|f| !f.encrypted).count().min(2);
            if self.try_agent(&socket.clone(), &configured, MAX_TRIES - spare, &mut offered)? {
                return Ok(true);
            }
        }
        for file in &files {
            let known_to_agent = file.public.as_ref().is_some_and(|public| offered.contains(public));
            if !known_to_agent && self.tries < MAX_TRIES && self.try_file(file)? {
                return Ok(true);
            }
        }
        self.try_none()
    }

    /// A key that was named: a private key file, or the public half of one that the agent has.
    fn try_chosen(&mut self, path: &Path) -> Result<bool, Failure> {
        if let Some(file) = read_key(path)? {
            return self.try_file(&file);
        }
        if let (Some(public), Agent::At(socket)) = (public_at(path), &self.settings.agent) {
            let socket = socket.clone();
            // The key, and a certificate for it.
            return self.try_agent(&socket, &[public], 2, &mut Vec::new());
        }
        Err(Error::usage(format!("{} is not a private key that SSH can use", path.display()))
            .hint(
                "give the private key file in OpenSSH or PEM format, or the .pub of a key that the agent has",
            )
            .into())
    }

    /// Public halves of the configured identities, by which the agent's keys are picked.
    fn configured_keys(&self, files: &[KeyFile]) -> Vec<PublicKey> {
        let mut keys = Vec::new();
        for path in &self.settings.identity_files {
            let from_pub = public_at(&with(path, ".pub"));
            let itself = || public_at(path);
            let from_private = || files.iter().find(|f| f.path == *path).and_then(|f| f.public.clone());
            keys.extend(from_pub.or_else(from_private).or_else(itself));
        }
        keys
    }

    fn try_file(&mut self, file: &KeyFile) -> Result<bool, Failure> {
        let name = file.path.display().to_string();
        if file.public.as_ref().is_some_and(|public| public.key_type().starts_with("sk-")) {
            let why = "it is on a security token, which only an agent can ask: ssh-add";
            self.story.push(format!("{name}: {why} {name}"));
            return Ok(false);
        }
        if !file.encrypted {
            return self.record(&name, None, file);
        }
        if !ui::can_ask() {
            // A program that another one started has the terminal no more than one that a timer started.
            let quoted = crate::child::quote(&name);
            self.story.push(format!(
                "{name}: it needs a passphrase, and there is no terminal to ask on here: `ssh-add {quoted}` puts it into the agent"
            ));
            return Ok(false);
        }
        for _ in 0..3 {
            let left = self.deadline.left();
            let passphrase = ui::ask_secret(&format!("Passphrase for {name}: "))?;
            // How long a person takes is not counted.
            self.deadline = Deadline::after(left);
            if passphrase.is_empty() {
                self.story.push(format!("{name}: no passphrase was given"));
                return Ok(false);
            }
            let before = self.story.len();
            if self.record(&name, Some(&passphrase), file)? {
                return Ok(true);
            }
            if !self.story[before..].iter().any(|line| line.contains(WRONG_PASSPHRASE)) {
                return Ok(false);
            }
            self.ui.warn(format!("{name}: {WRONG_PASSPHRASE}"));
        }
        Ok(false)
    }

    /// Offers a key, and before it a certificate for it.
    fn record(&mut self, name: &str, passphrase: Option<&str>, file: &KeyFile) -> Result<bool, Failure> {
        let public = file.public.clone().or_else(|| public_at(&with(&file.path, ".pub")));
        let certifies = |c: &&Certificate| public.as_ref().is_some_and(|key| key.is_certified_by(&c.blob));
        let certificate = self.certificates.iter().find(certifies);
        if let Some(Certificate { path, line, .. }) = certificate {
            let (shown, line) = (path.display().to_string(), line.clone());
            if self.offer(&shown, passphrase, file, Some(&line))? {
                return Ok(true);
            }
        }
        let shown = match &file.public {
            Some(public) => format!("{name} ({})", public.fingerprint()),
            None => name.to_owned(),
        };
        self.offer(&shown, passphrase, file, None)
    }

    fn offer(
        &mut self,
        shown: &str,
        passphrase: Option<&str>,
        file: &KeyFile,
        public: Option<&str>,
    ) -> Result<bool, Failure> {
        let user = &self.settings.user;
        let outcome = self.link.drive(self.deadline, |state| {
            state.session.userauth_pubkey_memory(user, public, &file.text, passphrase)
        });
        match judge(outcome, passphrase.is_some())? {
            Tried::Accepted => {
                self.ui.detail(format!("logged in to {} as {user} with {shown}", self.settings.alias));
                Ok(true)
            }
            Tried::Refused => {
                self.tries += 1;
                self.rsa |= file.public.as_ref().is_some_and(|public| public.key_type() == "ssh-rsa");
                self.story.push(format!("{shown}: refused"));
                Ok(false)
            }
            Tried::Unusable(why) => {
                self.story.push(format!("{shown}: {why}"));
                Ok(false)
            }
        }
    }

    /// The agent's keys: those that are configured; else, unless IdentitiesOnly, the first few.
    fn try_agent(
        &mut self,
        socket: &Path,
        configured: &[PublicKey],
        limit: usize,
        offered: &mut Vec<PublicKey>,
    ) -> Result<bool, Failure> {
        let (tell, told) = mpsc::channel();
        let agent = AgentLogin {
            link: Arc::clone(self.link),
            user: self.settings.user.clone(),
            socket: socket.to_owned(),
            configured: configured.to_vec(),
            only_configured: self.settings.identities_only,
            limit,
            deadline: self.deadline,
        };
        // An agent may wait for a finger on a token, or for ever; libssh2 waits with it.
        std::thread::spawn(move || agent.run(&tell));
        loop {
            match told.recv_timeout(self.deadline.left().max(Duration::from_millis(1))) {
                Ok(Step::Asking(key)) => offered.push(key),
                Ok(Step::Told(line)) => self.story.push(line),
                Ok(Step::Refused(name)) => {
                    self.tries += 1;
                    self.rsa |= name.starts_with("RSA ");
                    self.story.push(format!("{name} from the agent: refused"));
                }
                Ok(Step::Accepted(name)) => {
                    let Settings { alias, user, .. } = self.settings;
                    self.ui.detail(format!("logged in to {alias} as {user} with {name} from the agent"));
                    return Ok(true);
                }
                Ok(Step::Trouble(trouble)) => return Err(trouble.into()),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(false),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(self
                        .deadline
                        .error(format_args!("the SSH agent at {} to answer", socket.display()))
                        .with_kind(crate::Kind::Unreachable)
                        .hint("see whether it answers: ssh-add -l")
                        .into());
                }
            }
        }
    }

    /// Some servers know who we are without a key (Tailscale SSH). Also asks what would be accepted.
    fn try_none(&mut self) -> Result<bool, Failure> {
        let user = &self.settings.user;
        let methods =
            self.link.drive(self.deadline, |state| state.session.auth_methods(user).map(str::to_owned));
        match methods {
            Ok(methods) if !methods.is_empty() => {
                self.story.push(format!("the server takes: {}", methods.replace(',', ", ")));
            }
            Ok(_) | Err(Trouble::Said(_)) => {}
            // It counts this question, too (MaxAuthTries), and has had enough.
            Err(Trouble::Lost(_)) if self.tries > 0 => return Ok(false),
            Err(other) => return Err(other.into()),
        }
        Ok(self.link.lock().session.authenticated())
    }

    fn refused(&self, trouble: Option<&Trouble>) -> Error {
        let (state, story) = (self.link.lock(), &self.story);
        let refusal = Refusal { settings: self.settings, story, tries: self.tries, rsa: self.rsa };
        refusal.error(trouble, state.session.banner())
    }
}

const WRONG_PASSPHRASE: &str = "the passphrase is wrong";

pub(super) fn judge(outcome: Outcome<()>, with_passphrase: bool) -> Result<Tried, Trouble> {
    match outcome {
        Ok(()) => Ok(Tried::Accepted),
        Err(Trouble::Said(e)) => match code_of(&e) {
            code::AUTHENTICATION_FAILED | code::PUBLICKEY_UNVERIFIED => Ok(Tried::Refused),
            // libssh2 can not tell a wrong passphrase from a format that it does not know.
            _ if with_passphrase => Ok(Tried::Unusable(WRONG_PASSPHRASE.to_owned())),
            _ => Ok(Tried::Unusable(format!("can not be used: {}", e.message()))),
        },
        Err(other) => Err(other),
    }
}

/// The file beside this one whose name goes on so.
fn with(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}

fn public_at(path: &Path) -> Option<PublicKey> {
    fs::read_to_string(path).ok().and_then(|line| PublicKey::parse(&line).ok())
}

/// Reads a private key file; `None` if it is none.
fn read_key(path: &Path) -> Result<Option<KeyFile>> {
    let bytes = Zeroizing::new(fs::read(path).map_err(|e| {
        let error = Error::io("read the private key", path, e);
        error.hint("check the path that FLEET_IDENTITY or IdentityFile gives")
    })?);
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(None) };
    Ok(keys::inspect_private(text).map(|facts| KeyFile {
        path: path.to_owned(),
        text: Zeroizing::new(text.to_owned()),
        encrypted: facts.encrypted,
        public: facts.public,
    }))
}
