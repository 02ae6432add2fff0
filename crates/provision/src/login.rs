//! The key that we log in to a VM with: its public half is among the fleet's keys, its private half at hand, in a
//! file or in the agent.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use fleet_core::{
    Error, Result,
    authorized_keys::AuthorizedKey,
    dirs,
    ssh::{self, keys::PublicKey},
    ui,
};
use ssh_key::PrivateKey;
use zeroize::Zeroizing;

use crate::host_key::PrivateDir;

/// A key at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// A private key file, or the file with the public half of a key that the agent has.
    pub file: PathBuf,
    /// What a person calls it.
    pub name: String,
}

/// What is known of a key file.
enum KeyFile {
    /// A private key that can be used as it is.
    Open(PublicKey),
    /// A private key behind a passphrase.
    Locked(PublicKey),
    /// The public half alone.
    Public(PublicKey),
    /// Nothing that SSH knows.
    None,
}

impl KeyFile {
    fn read(path: &Path) -> KeyFile {
        let public = |path: &Path| {
            std::fs::read_to_string(path).ok().and_then(|line| PublicKey::parse(line.trim()).ok())
        };
        let beside = PathBuf::from(format!("{}.pub", path.display()));
        let Ok(text) = std::fs::read_to_string(path).map(Zeroizing::new) else {
            return KeyFile::None;
        };
        match ssh::keys::inspect_private(&text) {
            Some(facts) => match (facts.public.or_else(|| public(&beside)), facts.encrypted) {
                (Some(key), false) => KeyFile::Open(key),
                (Some(key), true) => KeyFile::Locked(key),
                (None, _) => KeyFile::None,
            },
            None => public(path).map_or(KeyFile::None, KeyFile::Public),
        }
    }

    fn key(&self) -> Option<&PublicKey> {
        match self {
            KeyFile::Open(key) | KeyFile::Locked(key) | KeyFile::Public(key) => Some(key),
            KeyFile::None => None,
        }
    }
}

/// Where a key is looked for.
pub struct Places<'a> {
    /// The file that the user named.
    pub given: Option<&'a Path>,
    /// The files that OpenSSH looks at by itself.
    pub usual: Vec<PathBuf>,
    /// The agent's keys.
    pub agent: Vec<PublicKey>,
}

impl<'a> Places<'a> {
    /// The user's own.
    pub fn of_user(given: Option<&'a Path>) -> Places<'a> {
        let names = ["id_ed25519", "id_ecdsa", "id_rsa"];
        let usual = dirs::home().map(|home| names.map(|name| home.join(".ssh").join(name)).into());
        Places { given, usual: usual.unwrap_or_default(), agent: ssh::agent_keys() }
    }
}

/// Keys that were opened with their passphrases, or why they were not. Each is asked for once a run.
#[derive(Default)]
pub struct Unlocked(Mutex<BTreeMap<PathBuf, Opened>>);

/// A key without its passphrase, or why it stays behind it.
type Opened = std::result::Result<Zeroizing<String>, String>;

/// The first key at hand that is among `keys`: the named one; else an unlocked file of the usual ones, the agent's,
/// a locked file. A locked one is unlocked once, into `private`, if there is a terminal to ask on.
pub fn at_hand(
    places: &Places<'_>,
    keys: &[String],
    private: &PrivateDir,
    unlocked: &Unlocked,
) -> Result<Login> {
    // A line may have options before its key.
    let key = |line: &String| PublicKey::parse(&line.parse::<AuthorizedKey>().ok()?.key).ok();
    let allowed: Vec<PublicKey> = keys.iter().filter_map(key).collect();
    let fits = |file: &KeyFile| file.key().is_some_and(|key| allowed.contains(key));
    let from_agent = |key: &PublicKey| -> Result<Login> {
        let name =
            format!("fleet-key-{}.pub", key.fingerprint().replace(|c: char| !c.is_ascii_alphanumeric(), ""));
        let file = private.path().join(&name);
        if !file.exists() {
            private.write(&name, format!("{key}\n").as_bytes(), 0o600)?;
        }
        Ok(Login { file, name: format!("{} from the agent", key.fingerprint()) })
    };
    if let Some(path) = places.given {
        let file = KeyFile::read(path);
        if !fits(&file) {
            let why = match file {
                KeyFile::None => "can not be read as an SSH key",
                _ => "is not among the fleet's keys",
            };
            return Err(Error::failed(format!(
                "the key {} {why}: the VM could not be reached with it",
                path.display()
            ))
            .hint("give a private key whose public half is in hosts.nix with --identity FILE"));
        }
        return match file {
            KeyFile::Locked(key) | KeyFile::Public(key) if places.agent.contains(&key) => from_agent(&key),
            KeyFile::Locked(_) => unlock(path, private, unlocked),
            KeyFile::Public(_) => Err(Error::failed(format!(
                "{} is a public key, and the agent has no private half of it",
                path.display()
            ))
            .hint("put it into the agent with ssh-add, or give the private key's file")),
            _ => Ok(Login { file: path.to_owned(), name: path.display().to_string() }),
        };
    }
    let usual: Vec<(&PathBuf, KeyFile)> =
        places.usual.iter().map(|path| (path, KeyFile::read(path))).collect();
    let open = usual.iter().find(|(_, file)| matches!(file, KeyFile::Open(_)) && fits(file));
    if let Some((path, _)) = open {
        return Ok(Login { file: (*path).clone(), name: path.display().to_string() });
    }
    if let Some(key) = places.agent.iter().find(|key| allowed.contains(key)) {
        return from_agent(key);
    }
    if let Some((path, _)) = usual.iter().find(|(_, file)| matches!(file, KeyFile::Locked(_)) && fits(file)) {
        return unlock(path, private, unlocked);
    }
    let looked: Vec<String> = places.usual.iter().map(|path| path.display().to_string()).collect();
    let agent = match places.agent.len() {
        0 => "an agent without keys".to_owned(),
        1 => "1 key of the agent".to_owned(),
        n => format!("{n} keys of the agent"),
    };
    Err(Error::not_found(
        "none of the usual private keys belongs to the fleet's keys: the VM could not be reached",
    )
    .now(format!("looked at {}, and {agent}", looked.join(", ")))
    .hint("give a private key whose public half is in hosts.nix with --identity FILE, or put it into the agent: ssh-add"))
}

/// Puts a key without its passphrase, which is asked for, where only memory is.
fn unlock(path: &Path, private: &PrivateDir, unlocked: &Unlocked) -> Result<Login> {
    // Who comes second waits for the answer.
    let mut unlocked = unlocked.0.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = match unlocked.get(path) {
        Some(opened) => opened.clone(),
        None => {
            let opened = open(path)?;
            unlocked.insert(path.to_owned(), opened.clone());
            opened
        }
    };
    let text = opened.map_err(|why| locked(path, &why))?;
    let file = private.write("fleet-key", text.as_bytes(), 0o600)?;
    Ok(Login { file, name: path.display().to_string() })
}

fn locked(path: &Path, why: &str) -> Error {
    let shown = path.display();
    Error::failed(format!("the key {shown} is protected by a passphrase, {why}"))
        .hint(format!("put it into the agent first: ssh-add {shown}"))
}

/// Asks for the passphrase of a key; gives the key without it, or why it was not opened.
fn open(path: &Path) -> Result<Opened> {
    if !ui::can_ask() {
        return Ok(Err("and there is no terminal to ask for it".to_owned()));
    }
    let key = match PrivateKey::read_openssh_file(path) {
        Ok(key) => key,
        Err(error) => return Ok(Err(format!("and its format is not OpenSSH's: {error}"))),
    };
    for _ in 0..3 {
        let passphrase = ui::ask_secret(&format!("Passphrase for {}: ", path.display()))?;
        if passphrase.is_empty() {
            break;
        }
        if let Ok(open) = key.decrypt(passphrase.as_bytes()) {
            let text = open.to_openssh(ssh_key::LineEnding::LF);
            return text.map(Ok).map_err(|e| Error::failed("can not write a key").caused_by(e));
        }
    }
    Ok(Err("and it was not opened".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::{LineEnding, private::Ed25519Keypair};

    struct Bench {
        dir: tempfile::TempDir,
        private: PrivateDir,
    }

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "me").unwrap()
    }

    fn public(seed: u8) -> String {
        key(seed).public_key().to_openssh().unwrap()
    }

    fn parsed(seed: u8) -> PublicKey {
        PublicKey::parse(&public(seed)).unwrap()
    }

    impl Bench {
        fn new() -> Bench {
            Bench { dir: tempfile::tempdir().unwrap(), private: PrivateDir::new().unwrap() }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn open(&self, seed: u8) -> PathBuf {
            self.file(&format!("open-{seed}"), &key(seed).to_openssh(LineEnding::LF).unwrap())
        }

        fn locked(&self, seed: u8) -> PathBuf {
            let locked = key(seed).encrypt(&mut rand(), "secret").unwrap();
            self.file(&format!("locked-{seed}"), &locked.to_openssh(LineEnding::LF).unwrap())
        }

        fn at_hand(&self, given: Option<&Path>, usual: Vec<PathBuf>, agent: Vec<PublicKey>) -> Result<Login> {
            let unlocked = Unlocked::default();
            at_hand(&Places { given, usual, agent }, &[public(1)], &self.private, &unlocked)
        }
    }

    /// Not random: a test's own key.
    fn rand() -> impl ssh_key::rand_core::CryptoRngCore {
        struct Zero;
        impl ssh_key::rand_core::RngCore for Zero {
            fn next_u32(&mut self) -> u32 {
                7
            }
            fn next_u64(&mut self) -> u64 {
                7
            }
            fn fill_bytes(&mut self, dest: &mut [u8]) {
                dest.fill(7);
            }
            fn try_fill_bytes(
                &mut self,
                dest: &mut [u8],
            ) -> std::result::Result<(), ssh_key::rand_core::Error> {
                dest.fill(7);
                Ok(())
            }
        }
        impl ssh_key::rand_core::CryptoRng for Zero {}
        Zero
    }

    #[test]
    fn an_open_file_goes_before_the_agent_and_the_agent_before_a_locked_file() {
        let bench = Bench::new();
        let (open, locked, strange) = (bench.open(1), bench.locked(1), bench.open(2));
        let all = vec![strange.clone(), locked.clone(), open.clone()];
        assert_eq!(bench.at_hand(None, all, vec![parsed(1)]).unwrap().file, open);
        let login = bench.at_hand(None, vec![locked.clone()], vec![parsed(3), parsed(1)]).unwrap();
        assert_eq!(std::fs::read_to_string(&login.file).unwrap().trim(), parsed(1).line());
        // Without a terminal a passphrase can not be asked for.
        let error = bench.at_hand(None, vec![locked], vec![parsed(3)]).unwrap_err();
        assert!(error.message().contains("is protected by a passphrase"), "{error:?}");
        assert!(error.hints()[0].contains("ssh-add"), "{error:?}");
        let error = bench.at_hand(None, vec![strange], vec![parsed(3)]).unwrap_err();
        assert!(error.facts()[0].ends_with("and 1 key of the agent"), "{error:?}");
    }

    #[test]
    fn the_named_key_is_the_one_or_none() {
        let bench = Bench::new();
        let (open, locked, strange) = (bench.open(1), bench.locked(1), bench.open(2));
        assert_eq!(bench.at_hand(Some(&open), vec![], vec![]).unwrap().file, open);
        let error = bench.at_hand(Some(&strange), vec![open], vec![parsed(1)]).unwrap_err();
        assert!(error.message().contains("is not among the fleet's keys"), "{error:?}");
        let halves = [locked, bench.file("key.pub", &public(1))];
        for named in &halves {
            let login = bench.at_hand(Some(named), vec![], vec![parsed(1)]).unwrap();
            assert!(login.name.ends_with("from the agent"), "{login:?}");
            assert!(bench.at_hand(Some(named), vec![], vec![]).is_err());
        }
    }
}
