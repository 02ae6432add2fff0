//! The operator's age identities: where they may be, in which order they are tried. None is ever printed.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use age::secrecy::{ExposeSecret, SecretString};
use fleet_core::{Error, Result, child::Command, deadline::Deadline};
use zeroize::Zeroizing;

use crate::recipient::{Recipient, identity_of_ssh_key};

/// Longest wait for `SOPS_AGE_KEY_CMD`, in seconds: it may want a finger on a token.
const KEY_COMMAND_LIMIT: u64 = 60;

/// A private age key, and where it came from. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Identity {
    age: age::x25519::Identity,
    recipient: Recipient,
    source: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} from {})", self.recipient, self.source)
    }
}

impl Identity {
    /// From `AGE-SECRET-KEY-1…`; `source` is named in messages.
    pub fn from_age(text: &str, source: &str) -> Result<Identity> {
        let age: age::x25519::Identity =
            text.trim().parse().map_err(|e| Error::failed(format!("{source}: not an age identity: {e}")))?;
        let recipient = age.to_public().to_string().parse()?;
        Ok(Identity { age, recipient, source: source.to_owned() })
    }

    /// From an unencrypted OpenSSH ed25519 private key.
    pub fn from_ssh(openssh_pem: &str, source: &str) -> Result<Identity> {
        let text = identity_of_ssh_key(openssh_pem).map_err(|e| e.context(source))?;
        Identity::from_age(&text, source)
    }

    /// From a file with either: an OpenSSH private key, or age identities of which the first is taken.
    pub fn from_file(path: &Path) -> Result<Identity> {
        let source = path.display().to_string();
        let text = read(path)?;
        identities_in(&text, &source)?
            .into_iter()
            .next()
            .ok_or_else(|| Error::not_found(format!("{source} holds no age identity")))
    }

    /// What it opens.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Where it came from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The private key itself, for the one place that hands it on.
    pub(crate) fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.age.to_string().expose_secret().to_owned())
    }

    pub(crate) fn age(&self) -> &age::x25519::Identity {
        &self.age
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| Error::io("read", path, e))
}

fn identities_in(text: &str, source: &str) -> Result<Vec<Identity>> {
    if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        // A test fixture's first line says that it is one.
        let pem = text.find("-----BEGIN").map_or(text, |at| &text[at..]);
        return Ok(vec![Identity::from_ssh(pem, source)?]);
    }
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("AGE-SECRET-KEY-1"))
        .map(|line| Identity::from_age(line, source))
        .collect()
}

/// The surroundings that identities are looked for in; tests make their own.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `SOPS_AGE_KEY`.
    pub key: Option<SecretString>,
    /// `SOPS_AGE_KEY_FILE`.
    pub key_file: Option<PathBuf>,
    /// `SOPS_AGE_SSH_PRIVATE_KEY_FILE`.
    pub ssh_file: Option<PathBuf>,
    /// `SOPS_AGE_KEY_CMD`.
    pub key_command: Option<String>,
    /// `$XDG_CONFIG_HOME/sops/age/keys.txt`.
    pub xdg_file: Option<PathBuf>,
    /// Where sops has that file on macOS: `~/Library/Application Support/sops/age/keys.txt`.
    pub library_file: Option<PathBuf>,
    /// `FLEET_IDENTITY`: the key that one logs in with here instead of the usual one.
    pub fleet_identity: Option<PathBuf>,
    /// `~/.ssh/id_ed25519`.
    pub home_ssh: Option<PathBuf>,
    /// The machine's own host key.
    pub host_key: Option<PathBuf>,
}

impl Places {
    /// From this process's environment.
    pub fn from_env() -> Places {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let home = var("HOME").map(PathBuf::from);
        let config =
            var("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.as_ref().map(|h| h.join(".config")));
        Places {
            key: var("SOPS_AGE_KEY").and_then(|v| v.into_string().ok()).map(SecretString::from),
            key_file: var("SOPS_AGE_KEY_FILE").map(PathBuf::from),
            ssh_file: var("SOPS_AGE_SSH_PRIVATE_KEY_FILE").map(PathBuf::from),
            key_command: var("SOPS_AGE_KEY_CMD").and_then(|v| v.into_string().ok()),
            library_file: home
                .as_ref()
                .filter(|_| cfg!(target_os = "macos"))
                .map(|home| home.join("Library/Application Support/sops/age/keys.txt")),
            xdg_file: config.map(|c| c.join("sops/age/keys.txt")),
            fleet_identity: var("FLEET_IDENTITY").map(PathBuf::from),
            home_ssh: home.map(|h| h.join(".ssh/id_ed25519")),
            host_key: Some(PathBuf::from("/etc/ssh/ssh_host_ed25519_key")),
        }
    }

    /// Every identity that can be had, in the order in which they are tried, and notes about those that can not.
    ///
    /// A place that the user named and that does not work is an error; a usual place that does not, a note.
    pub fn identities(&self) -> Result<(Vec<Identity>, Vec<String>)> {
        let (mut found, mut notes) = (Vec::new(), Vec::new());
        if let Some(text) = &self.key {
            found.extend(identities_in(text.expose_secret(), "SOPS_AGE_KEY")?);
        }
        for (variable, file) in
            [("SOPS_AGE_KEY_FILE", &self.key_file), ("SOPS_AGE_SSH_PRIVATE_KEY_FILE", &self.ssh_file)]
        {
            if let Some(path) = file {
                let text = read(path).map_err(|e| e.context(variable))?;
                found.extend(identities_in(&text, &format!("{variable} {}", path.display()))?);
            }
        }
        if let Some(command) = &self.key_command {
            found.extend(identities_in(&run(command)?, "SOPS_AGE_KEY_CMD")?);
        }
        for path in [&self.xdg_file, &self.library_file, &self.fleet_identity, &self.home_ssh, &self.host_key]
            .into_iter()
            .flatten()
        {
            let Ok(text) = read(path) else { continue };
            match identities_in(&text, &path.display().to_string()) {
                Ok(several) => found.extend(several),
                Err(e) => notes.push(e.chain()),
            }
        }
        Ok((found, notes))
    }
}

fn run(command: &str) -> Result<Zeroizing<String>> {
    let words = shlex::split(command).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| Error::usage("SOPS_AGE_KEY_CMD is not a command"))?;
    // Neither the command nor what it printed is repeated: either may hold the key.
    let output = Command::new(&words[0])
        .args(&words[1..])
        .output(Deadline::secs(KEY_COMMAND_LIMIT))
        .map_err(|e| Error::failed("SOPS_AGE_KEY_CMD can not be run").with_kind(e.kind()))?;
    if !output.success() {
        let how = fleet_core::child::describe(output.status);
        return Err(Error::failed(format!("SOPS_AGE_KEY_CMD: the command {how}"))
            .now("what it said is not shown: it may hold the key")
            .hint("run it by hand to see why"));
    }
    let text =
        String::from_utf8(output.stdout).map_err(|_| Error::failed("SOPS_AGE_KEY_CMD did not print text"))?;
    Ok(Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place has an identity of its own; they come in the order that is promised, each with its place's name.
    #[test]
    fn every_place_in_its_order() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let fresh = || {
            let identity = age::x25519::Identity::generate();
            (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
        };
        let mut expected = Vec::new();
        let mut file = |name: &str| {
            let (secret, public) = fresh();
            let path = dir.path().join(name);
            std::fs::write(&path, format!("# created: today\n# public key: {public}\n{secret}\n")).unwrap();
            (path, public)
        };
        let (two_secret, two) = fresh();
        let (one_secret, one) = fresh();
        expected.extend([one, two]);
        let (key_file, public) = file("key-file");
        expected.push(public);
        let (ssh_file, public) = file("ssh-file");
        expected.push(public);
        let (printed, public) = file("printed");
        expected.push(public);
        let script = dir.path().join("print it");
        std::fs::write(&script, format!("#!/bin/sh\ncat '{}'\n", printed.display())).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut rest = ["xdg", "library", "fleet", "home-ssh", "host-key"].map(&mut file).into_iter();
        let mut next = || {
            let (path, public) = rest.next().unwrap();
            expected.push(public);
            Some(path)
        };
        let places = Places {
            key: Some(SecretString::from(format!("# mine\n{one_secret}\n\n  {two_secret}"))),
            key_file: Some(key_file),
            ssh_file: Some(ssh_file),
            key_command: Some(format!("'{}'", script.display())),
            xdg_file: next(),
            library_file: next(),
            fleet_identity: next(),
            home_ssh: next(),
            host_key: next(),
        };
        let (found, notes) = places.identities().unwrap();
        assert_eq!(notes, [] as [&str; 0]);
        let recipients: Vec<&str> = found.iter().map(|identity| identity.recipient().as_str()).collect();
        assert_eq!(recipients, expected);
        // Nothing of them is in what a person may see of them.
        let shown = format!("{found:?}");
        assert!(shown.contains("SOPS_AGE_KEY_CMD") && !shown.contains("AGE-SECRET-KEY"), "{shown}");
    }
}
