//! `user-data NAME`: what the machine is told about itself and about who may log in.

use std::path::{Path, PathBuf};

use fleet_core::{Error, Result};
use serde::Serialize;
use ssh_key::{Algorithm, PrivateKey};

use crate::{Context, subject::Subject};

/// First line of user-data and vendor-data, by which cloud-init tells what they are.
pub const HEADER: &str = "#cloud-config";

/// Arguments of `user-data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A VM of vms/definitions.nix
    pub name: String,
    /// Install and start the QEMU guest agent
    #[arg(long)]
    pub guest_agent: bool,
    /// Give the machine this ed25519 host key (an OpenSSH private key without passphrase, or - for standard input)
    #[arg(long, value_name = "FILE")]
    pub host_key: Option<PathBuf>,
}

/// A cloud-config, in the order in which it is written.
#[derive(Debug, Serialize)]
pub struct UserData<'a> {
    hostname: &'a str,
    fqdn: &'a str,
    manage_etc_hosts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    // The bootstrap system's only login, as with Proxmox's own `ciuser`: the image's default user gets this name.
    user: &'static str,
    users: [&'static str; 1],
    disable_root: bool,
    ssh_pwauth: bool,
    ssh_authorized_keys: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_keys: Option<HostKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_files: Option<[File; 1]>,
    growpart: Growpart,
    package_update: bool,
    package_upgrade: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    packages: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    runcmd: Vec<[&'static str; 4]>,
}

/// The disk was grown before the first boot: its last partition follows.
#[derive(Debug, Serialize)]
struct Growpart {
    mode: &'static str,
    devices: [&'static str; 1],
}

/// A file that is written before the host keys are.
#[derive(Debug, Serialize)]
struct File {
    path: &'static str,
    content: &'static str,
}

/// The machine keeps its host keys when cloud-init takes it for a new instance: user-data with a private key in it is
/// taken away again, and Proxmox makes the instance's id of the user-data. Read from the next boot on.
const KEEP_HOST_KEYS: File =
    File { path: "/etc/cloud/cloud.cfg.d/99-fleet-host-keys.cfg", content: "ssh_deletekeys: false\n" };

/// A host key that the machine is given instead of making its own.
#[derive(Debug, Serialize)]
pub struct HostKey {
    ed25519_private: String,
    ed25519_public: String,
}

impl HostKey {
    /// The key in this file, or on standard input for `-`.
    fn read(path: &Path) -> Result<HostKey> {
        let text = if path.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        }
        .map_err(|e| Error::io("read the host key", path, e))?;
        HostKey::parse(&text).map_err(|why| Error::usage(format!("{}: {why}", path.display())))
    }

    fn parse(text: &str) -> Result<HostKey, String> {
        let key = PrivateKey::from_openssh(text).map_err(|e| format!("not an OpenSSH private key: {e}"))?;
        if key.is_encrypted() {
            return Err("the host key has a passphrase, which sshd could not give".to_owned());
        }
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(format!("the host key is of type {}, not ssh-ed25519", key.algorithm()));
        }
        let public = key.public_key().to_openssh().map_err(|e| e.to_string())?;
        Ok(HostKey { ed25519_private: text.to_owned(), ed25519_public: public })
    }
}

impl<'a> UserData<'a> {
    /// The user-data of `subject`, with these keys for its bootstrap user.
    pub fn new(subject: &Subject<'a>, keys: &'a [String]) -> UserData<'a> {
        UserData {
            hostname: subject.hostname(),
            fqdn: subject.fqdn,
            manage_etc_hosts: true,
            timezone: subject.timezone,
            user: "root",
            users: ["default"],
            disable_root: false,
            ssh_pwauth: false,
            ssh_authorized_keys: keys,
            ssh_keys: None,
            write_files: None,
            growpart: Growpart { mode: "auto", devices: ["/"] },
            // Cloud images come without package lists.
            package_update: !subject.packages.is_empty(),
            package_upgrade: false,
            packages: subject.packages.iter().map(String::as_str).collect(),
            runcmd: Vec::new(),
        }
    }

    /// With the QEMU guest agent installed and started.
    #[must_use]
    pub fn with_guest_agent(mut self) -> UserData<'a> {
        const AGENT: &str = "qemu-guest-agent";
        if !self.packages.contains(&AGENT) {
            self.packages.push(AGENT);
        }
        self.package_update = true;
        // Debian's and Ubuntu's package starts it only when its device appears, which was before.
        self.runcmd.push(["systemctl", "start", "--no-block", AGENT]);
        self
    }

    /// With this host key instead of one that the machine makes, for good.
    #[must_use]
    pub fn with_host_key(mut self, key: HostKey) -> UserData<'a> {
        self.ssh_keys = Some(key);
        self.write_files = Some([KEEP_HOST_KEYS]);
        self
    }
}

/// Prints the document.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let subject = context.subject(&args.name)?;
    let keys = context.keys(&subject)?;
    let mut document = UserData::new(&subject, &keys);
    if args.guest_agent {
        document = document.with_guest_agent();
    }
    if let Some(path) = &args.host_key {
        document = document.with_host_key(HostKey::read(path)?);
    }
    context.print(Some(HEADER), &document)
}
