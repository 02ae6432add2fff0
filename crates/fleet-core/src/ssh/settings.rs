//! Where a host is and how to log in there: from `ssh -G`, so that the user's ssh_config is read by the program
//! that it is written for, or OpenSSH's defaults where there is no `ssh`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Target, address::HostPort};
use crate::{Error, Result, child::Command, deadline::Deadline};

/// What the environment says about SSH. Tests make their own; everything else takes the process's.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `FLEET_SSH_CONFIG`: given to `ssh -F`; `none` reads no file.
    pub ssh_config: Option<OsString>,
    /// `FLEET_KNOWN_HOSTS`: used instead of the configured known-hosts files.
    pub known_hosts: Option<PathBuf>,
    /// `FLEET_IDENTITY`: the private key file to log in with.
    pub identity: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `USER` or `LOGNAME`.
    pub user: Option<String>,
    /// `SSH_AUTH_SOCK`.
    pub agent: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    pub fn from_process() -> Environment {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        Environment {
            ssh_config: var("FLEET_SSH_CONFIG"),
            known_hosts: var("FLEET_KNOWN_HOSTS").map(PathBuf::from),
            identity: var("FLEET_IDENTITY").map(PathBuf::from),
            home: crate::dirs::home(),
            user: var("USER").or_else(|| var("LOGNAME")).and_then(|u| u.into_string().ok()),
            agent: var("SSH_AUTH_SOCK").map(PathBuf::from),
        }
    }
}

/// Which agent is asked for keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Agent {
    None,
    At(PathBuf),
}

/// Address families that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// Everything that decides how a host is reached.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// As the user named it; what errors and hints call it.
    pub(super) alias: String,
    /// Another name that known-hosts lines may have for it.
    pub(super) also_known_as: Option<String>,
    /// The host in between, where a session to it carries the bytes.
    pub(super) via: Option<String>,
    /// The port if the user wrote one.
    pub(super) written_port: Option<u16>,
    pub(super) hostname: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) identity_files: Vec<PathBuf>,
    /// Given by the caller, or else by FLEET_IDENTITY: tried first, must exist, and of the agent's keys only one whose
    /// public half is given so is asked for.
    pub(super) chosen_identities: Vec<PathBuf>,
    pub(super) identities_only: bool,
    /// Certificates for identities, besides those that lie beside them.
    pub(super) certificate_files: Vec<PathBuf>,
    pub(super) agent: Agent,
    pub(super) user_known_hosts: Vec<PathBuf>,
    pub(super) global_known_hosts: Vec<PathBuf>,
    /// Files of keys that are believed of no host.
    pub(super) revoked_host_keys: Vec<PathBuf>,
    /// FLEET_KNOWN_HOSTS, which stands for all of these.
    pub(super) chosen_known_hosts: Option<PathBuf>,
    /// The program that carries the bytes, where the caller named one: as a shell takes it.
    pub(super) carried_by: Option<String>,
    pub(super) host_key_alias: Option<String>,
    pub(super) hash_known_hosts: bool,
    pub(super) proxy_jump: Option<String>,
    pub(super) proxy_command: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) family: Family,
    pub(super) ssh_config: Option<OsString>,
}

/// What `ssh -G` says about a host; nothing where there is no `ssh`.
pub(super) fn printed(
    address: &HostPort,
    user: Option<&str>,
    env: &Environment,
    deadline: Deadline,
) -> Result<Option<String>> {
    let Some(ssh) = crate::child::find_program("ssh") else { return Ok(None) };
    let mut command = Command::new(ssh).arg("-G");
    if let Some(config) = &env.ssh_config {
        command = command.arg("-F").arg(config);
    }
    if let Some(port) = address.port {
        command = command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = user {
        command = command.arg("-l").arg(user);
    }
    let asked = command.arg("--").arg(&address.host);
    // `Match exec` in a configuration may take its time.
    let output = asked.output(deadline.at_most(Duration::from_secs(15)))?;
    if output.success() {
        return Ok(Some(output.stdout_text()));
    }
    let error = output.checked().err().unwrap_or_else(|| Error::failed("ssh -G failed"));
    Err(error.hint(format!("mend the ssh configuration until `{asked}` succeeds, or set FLEET_SSH_CONFIG")))
}

impl Settings {
    /// Asks `ssh -G` about the target.
    pub(super) fn resolve(target: &Target, env: &Environment, deadline: Deadline) -> Result<Settings> {
        let address = HostPort::parse(&target.host)?;
        let mut settings = Settings::plain(&address, target, env);
        if target.proxy.is_none()
            && let Some(printed) = printed(&address, target.user.as_deref(), env, deadline)?
        {
            settings.apply(&printed, env);
        }
        if let Some(file) = &env.known_hosts {
            settings.chosen_known_hosts = Some(file.clone());
            settings.user_known_hosts = vec![file.clone()];
            settings.global_known_hosts = Vec::new();
        }
        Ok(settings)
    }

    /// OpenSSH's defaults.
    pub(super) fn plain(address: &HostPort, target: &Target, env: &Environment) -> Settings {
        let ssh_dir = env.home.as_deref().map(|home| home.join(".ssh"));
        let in_ssh_dir = |names: &[&str]| -> Vec<PathBuf> {
            ssh_dir.iter().flat_map(|dir| names.iter().map(move |name| dir.join(name))).collect()
        };
        Settings {
            alias: address.host.clone(),
            also_known_as: None,
            via: None,
            written_port: address.port,
            hostname: address.host.clone(),
            port: address.port.unwrap_or(22),
            user: target.user.clone().or_else(|| env.user.clone()).unwrap_or_else(|| "root".to_owned()),
            identity_files: in_ssh_dir(&["id_ed25519", "id_ecdsa", "id_rsa"]),
            // What the caller chose goes before what the environment says of every host.
            chosen_identities: if target.identities.is_empty() {
                env.identity.iter().cloned().collect()
            } else {
                target.identities.clone()
            },
            identities_only: false,
            certificate_files: Vec::new(),
            agent: env.agent.clone().map_or(Agent::None, Agent::At),
            user_known_hosts: in_ssh_dir(&["known_hosts", "known_hosts2"]),
            global_known_hosts: ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
                .map(PathBuf::from)
                .to_vec(),
            revoked_host_keys: Vec::new(),
            chosen_known_hosts: None,
            carried_by: target.proxy.as_ref().map(ToString::to_string),
            host_key_alias: None,
            hash_known_hosts: false,
            proxy_jump: None,
            proxy_command: None,
            connect_timeout: None,
            family: Family::Any,
            ssh_config: env.ssh_config.clone(),
        }
    }

    /// Takes over what `ssh -G` printed: one `keyword value…` a line, keywords in lower case.
    fn apply(&mut self, printed: &str, env: &Environment) {
        let (mut identities, mut certificates) = (Vec::new(), Vec::new());
        let mut agent = None;
        for line in printed.lines() {
            let Some((keyword, value)) = line.trim_end().split_once(' ') else { continue };
            let value = value.trim();
            let word =
                || (!value.eq_ignore_ascii_case("none") && !value.is_empty()).then(|| value.to_owned());
            match keyword {
                "hostname" => self.hostname = value.to_owned(),
                "port" => self.port = value.parse().unwrap_or(self.port),
                "user" => self.user = value.to_owned(),
                "identityfile" => identities.extend(word()),
                "certificatefile" => certificates.extend(word()),
                "identitiesonly" => self.identities_only = value == "yes",
                "identityagent" => agent = Some(value.to_owned()),
                "userknownhostsfile" => self.user_known_hosts = self.files(value, env),
                "globalknownhostsfile" => self.global_known_hosts = self.files(value, env),
                "revokedhostkeys" => self.revoked_host_keys = self.files(value, env),
                "hostkeyalias" => self.host_key_alias = word(),
                "hashknownhosts" => self.hash_known_hosts = value == "yes",
                "proxyjump" => self.proxy_jump = word(),
                "proxycommand" => self.proxy_command = word(),
                "connecttimeout" => {
                    self.connect_timeout = value.parse().ok().filter(|s| *s > 0).map(Duration::from_secs);
                }
                "addressfamily" => {
                    self.family = match value {
                        "inet" => Family::V4,
                        "inet6" => Family::V6,
                        _ => Family::Any,
                    }
                }
                _ => {}
            }
        }
        self.identity_files = identities.iter().map(|file| self.expand(file, env)).collect();
        self.certificate_files = certificates.iter().map(|file| self.expand(file, env)).collect();
        match agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => {}
            Some("none") => self.agent = Agent::None,
            Some(path) => {
                // `$NAME` alone names a variable that has the path; `${NAME}` may be a part of one.
                let path = match path.strip_prefix('$').filter(|name| !name.starts_with('{')) {
                    Some(name) => std::env::var_os(name).map(PathBuf::from),
                    None => Some(self.expand(path, env)),
                };
                self.agent = path.map_or(Agent::None, Agent::At);
            }
        }
    }

    /// A list of files as `ssh -G` prints it: with blanks between them, and without the quotes around one that has a
    /// blank in its name. So a word that begins no path goes on with the one before.
    fn files(&self, value: &str, env: &Environment) -> Vec<PathBuf> {
        let begins = |word: &str| word.starts_with(['/', '~', '%', '$']);
        let mut names: Vec<String> = Vec::new();
        for word in value.split(' ') {
            match names.last_mut() {
                Some(name) if begins(name) && !begins(word) => name.extend([" ", word]),
                _ => names.push(word.to_owned()),
            }
        }
        names.iter().filter(|n| !n.is_empty() && *n != "none").map(|n| self.expand(n, env)).collect()
    }

    /// `~`, `~NAME`, `${NAME}` and the tokens that ssh_config(5) allows in file names; `ssh -G` leaves some of them
    /// to us.
    fn expand(&self, path: &str, env: &Environment) -> PathBuf {
        let home = env.home.as_deref().unwrap_or(Path::new("/"));
        let path = match path.strip_prefix('~').and_then(|rest| rest.split_once('/')) {
            Some(("", rest)) => format!("{}/{rest}", home.display()),
            Some((user, rest)) => {
                home_of(user).map_or_else(|| path.to_owned(), |home| format!("{home}/{rest}"))
            }
            None => path.to_owned(),
        };
        let path = variables(&path);
        PathBuf::from(self.tokens(&path, env, &|value| Ok(value.to_owned())).unwrap_or(path))
    }

    /// Replaces `%h` and its like; each value passes through `check` first.
    pub(super) fn tokens(
        &self,
        text: &str,
        env: &Environment,
        check: &dyn Fn(&str) -> Result<String>,
    ) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let value = match chars.next() {
                Some('%') => "%".to_owned(),
                Some('h') => check(&self.hostname)?,
                Some('n') => check(&self.alias)?,
                Some('p') => self.port.to_string(),
                Some('r') => check(&self.user)?,
                Some('u') => check(env.user.as_deref().unwrap_or_default())?,
                Some('d') => env.home.as_deref().unwrap_or(Path::new("/")).display().to_string(),
                Some('k') => check(self.host_key_alias.as_deref().unwrap_or(&self.alias))?,
                Some('j') => check(self.proxy_jump.as_deref().unwrap_or_default())?,
                Some('i') => rustix::process::getuid().as_raw().to_string(),
                other => {
                    return Err(Error::failed(format!(
                        "'{text}' in the ssh configuration has %{}, which this tool does not know",
                        other.map(String::from).unwrap_or_default()
                    )));
                }
            };
            out.push_str(&value);
        }
        Ok(out)
    }

    /// The name under which known-hosts files know it: `host`, `[host]:port`, or the HostKeyAlias.
    pub(super) fn known_as(&self) -> String {
        match &self.host_key_alias {
            Some(alias) => alias.to_ascii_lowercase(),
            None => super::known_hosts::name(&self.hostname, self.port),
        }
    }

    /// Every name that counts, the first one first: as OpenSSH does, a host that is not on record with its port is
    /// looked up without it.
    pub(super) fn known_names(&self) -> Vec<String> {
        let mut names = vec![self.known_as()];
        if self.host_key_alias.is_none() && self.port != 22 {
            names.push(super::known_hosts::name(&self.hostname, 22));
        }
        names.extend(self.also_known_as.iter().map(|name| name.to_ascii_lowercase()));
        names
    }

    /// The file where a key that a person has seen is written down; nothing where all of them keep nothing.
    pub(super) fn record(&self) -> Option<&Path> {
        self.user_known_hosts.iter().map(PathBuf::as_path).find(|file| *file != Path::new("/dev/null"))
    }

    /// These settings for another host of the same cluster. What belongs to the first host's name alone is left out.
    pub(super) fn for_peer(&self, peer: &super::Peer, port: u16, via: Option<String>) -> Settings {
        let keep = via.is_none();
        Settings {
            alias: peer.name.clone(),
            also_known_as: Some(peer.name.clone()),
            via,
            written_port: (port != 22).then_some(port),
            hostname: peer.address.to_string(),
            port,
            host_key_alias: None,
            proxy_jump: self.proxy_jump.clone().filter(|_| keep),
            proxy_command: self.proxy_command.clone().filter(|_| keep),
            carried_by: self.carried_by.clone().filter(|_| keep),
            ..self.clone()
        }
    }

    /// The host as the user wrote it, for `ssh -J` and messages.
    pub(super) fn written(&self) -> String {
        match self.written_port {
            Some(port) => super::address::show(&self.alias, port),
            None => self.alias.clone(),
        }
    }

    /// The `ssh` command for the same destination, for hints: `ssh -p 2222 prom`.
    pub(super) fn ssh_command(&self, option: &str) -> String {
        let mut words = vec!["ssh".to_owned()];
        words.extend((!option.is_empty()).then(|| option.to_owned()));
        if let Some(config) = &self.ssh_config {
            words.extend(["-F".to_owned(), crate::child::quote(&config.to_string_lossy())]);
        }
        if let Some(port) = self.written_port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        for file in &self.chosen_identities {
            words.extend(["-i".to_owned(), crate::child::quote(&file.to_string_lossy())]);
        }
        let mut option = |text: String| words.extend(["-o".to_owned(), crate::child::quote(&text)]);
        if !self.chosen_identities.is_empty() {
            option("IdentitiesOnly=yes".to_owned());
        }
        if let Some(file) = &self.chosen_known_hosts {
            option(format!("UserKnownHostsFile={}", file.display()));
        }
        if let Some(program) = &self.carried_by {
            option(format!("ProxyCommand={}", program.replace('%', "%%")));
        }
        if let Some(via) = &self.via {
            words.extend(["-J".to_owned(), crate::child::quote(via)]);
        }
        let host = if self.also_known_as.is_some() { &self.hostname } else { &self.alias };
        words.push(crate::child::quote(&format!("{}@{host}", self.user)));
        words.join(" ")
    }
}

/// Where a user of this machine is at home, from whatever knows its users; nothing where nothing does.
fn home_of(user: &str) -> Option<String> {
    let entry = Command::new("getent").args(["passwd", user]).output(Deadline::secs(5)).ok()?.stdout_text();
    let home = entry.lines().next()?.split(':').nth(5)?;
    (!home.is_empty()).then(|| home.trim_end_matches('/').to_owned())
}

/// Replaces each `${NAME}` by the environment's value; one that is not set stays, and names no file then.
fn variables(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else { break };
        out.push_str(before);
        match std::env::var(name) {
            Ok(value) => out.push_str(&value),
            Err(_) => out.push_str(&format!("${{{name}}}")),
        }
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
