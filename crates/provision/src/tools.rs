//! The other programs: found once, before anything else, and called with the same connection settings.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use fleet_core::{
    Error, Kind, Result,
    child::{self, Command},
    deadline::Deadline,
    nix::NixMode,
    protocol::Session,
    repo::Repo,
    types::{VmName, Vmid},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{cli::Cli, install::Knows};

/// How long a sibling tool that only reads files may take, in seconds.
const READ_LIMIT: u64 = 120;
/// How long a program that is asked what it knows may take, in seconds.
const LOOK_LIMIT: u64 = 5;

/// What keeps `post-provision-vm` from changing the inventory alone.
const KEEP_INVENTORY: &str = "--keep-inventory";

/// Where the installer comes from when it is not on PATH.
const INSTALLER_FLAKE: &str = "github:nix-community/nixos-anywhere";

/// The programs that a run needs.
#[derive(Debug, Clone)]
pub struct Tools {
    proxmox_ops: PathBuf,
    cloudinit_gen: PathBuf,
    post_provision: PathBuf,
    installer: Option<Command>,
    knows: OnceLock<Knows>,
    common: Vec<String>,
    connection: Vec<String>,
    /// What is not there, and how to get it.
    missing: Vec<(&'static str, String)>,
}

impl Tools {
    /// Finds them all; every one that is missing is in the one error, with how to get it.
    pub fn find(cli: &Cli, repo: &Repo) -> Result<Tools> {
        let tools = Tools::look(cli, repo);
        if tools.missing.is_empty() {
            return Ok(tools);
        }
        let names: Vec<&str> = tools.missing.iter().map(|(name, _)| *name).collect();
        let error = Error::not_found(format!("programs are missing: {}", names.join(", ")))
            .now("nothing was changed");
        Err(tools.missing.iter().fold(error, |error, (_, hint)| error.hint(hint)))
    }

    /// Finds those that are there.
    pub fn look(cli: &Cli, repo: &Repo) -> Tools {
        let mut missing = Vec::new();
        let mut sibling = |name: &'static str| {
            child::find_tool(name).unwrap_or_else(|_| {
                missing.push((name, format!("install {name} beside provision-vm, or put it on PATH")));
                PathBuf::from(name)
            })
        };
        let (proxmox_ops, cloudinit_gen, post_provision) =
            (sibling("proxmox-ops"), sibling("cloudinit-gen"), sibling("post-provision-vm"));
        let installer = installer(child::find_program("nixos-anywhere"), child::find_program("nix"));
        Tools {
            proxmox_ops,
            cloudinit_gen,
            post_provision,
            installer,
            knows: OnceLock::new(),
            common: common_args(cli, repo),
            connection: connection_args(cli),
            missing,
        }
    }

    /// An error for each program that is missing.
    pub fn missing(&self) -> impl Iterator<Item = Error> {
        let error = |(name, hint): &(&str, String)| {
            Error::not_found(format!("the program {name} is missing")).hint(hint)
        };
        self.missing.iter().map(error)
    }

    /// Whether this program is there.
    pub fn has(&self, name: &str) -> bool {
        self.missing.iter().all(|(missing, _)| *missing != name)
    }

    fn sibling(&self, program: &Path) -> Command {
        Command::new(program).args(&self.common)
    }

    /// `proxmox-ops` with our connection settings.
    pub fn proxmox_ops(&self) -> Command {
        self.sibling(&self.proxmox_ops).args(&self.connection)
    }

    /// Starts `proxmox-ops session`.
    pub fn session(&self) -> Result<Session> {
        Session::start(&self.proxmox_ops().arg("session"))
    }

    /// `proxmox-ops connect VMID 22`: the bytes of an SSH connection to the VM's current address; `last` is where
    /// it was last, for when neither agent nor neighbour table tells.
    pub fn connect(&self, vmid: Vmid, last: Option<IpAddr>) -> Command {
        self.connect_within(vmid, last, 0)
    }

    /// The same, which waits up to `seconds` until somebody listens there.
    pub fn connect_within(&self, vmid: Vmid, last: Option<IpAddr>, seconds: u64) -> Command {
        let command = self.proxmox_ops().args(["--quiet", "connect"]).arg(vmid.to_string()).arg("22");
        let command = if seconds == 0 { command } else { command.arg("--wait").arg(seconds.to_string()) };
        match last {
            Some(last) => command.arg("--last").arg(last.to_string()),
            None => command,
        }
    }

    /// `post-provision-vm …`.
    pub fn post_provision(&self) -> Command {
        // In our own group: git may have to ask for the passphrase of a signing key. Ctrl-C reaches it there, and it
        // knows best where to stop.
        self.sibling(&self.post_provision).foreground().finishes()
    }

    /// `post-provision-vm --yes --host-key FILE -- NAME`; `made` says that the key is ours to replace another with.
    pub fn integrate(&self, name: &VmName, host_key: &Path, made: bool) -> Command {
        self.integration(name, host_key, if made { &["--rotate"] } else { &[] })
    }

    /// The same, which gives an answer for programs as well. `differs` says that the VM is not what its definition says:
    /// the inventory does not say so before.
    pub fn integrate_telling(&self, name: &VmName, host_key: &Path, made: bool, differs: bool) -> Command {
        let mut flags = vec!["--json"];
        flags.extend(made.then_some("--rotate"));
        flags.extend(differs.then_some(KEEP_INVENTORY));
        self.integration(name, host_key, &flags)
    }

    /// The name stands behind `--`: a VM may be called like one of `post-provision-vm`'s verbs.
    fn integration(&self, name: &VmName, host_key: &Path, flags: &[&str]) -> Command {
        let command = self.post_provision().args(["--yes", "--host-key"]).arg(host_key);
        command.args(flags).args(["--", name.as_str()])
    }

    /// Asks `post-provision-vm --json …` something that only reads. Exit code 2 is an answer too: "it differs".
    pub fn ask_post_provision<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        ask_json(&self.sibling(&self.post_provision).args(["--json", "--quiet"]).args(args))
    }

    /// The installer; who installs no VM with it needs none.
    pub fn installer(&self) -> Result<Command> {
        self.installer.clone().ok_or_else(|| {
            Error::not_found("the program nixos-anywhere is missing").hint(format!(
                "install nixos-anywhere, or nix to run {INSTALLER_FLAKE}; or stop before it with --no-install"
            ))
        })
    }

    /// What that nixos-anywhere understands, by its own `--help`: it is asked once. Where nix fetches it, it is the
    /// newest.
    pub fn installer_knows(&self) -> Knows {
        *self.knows.get_or_init(|| {
            let Some(path) = child::find_program("nixos-anywhere") else { return Knows::NEWEST };
            let output = Command::new(path).arg("--help").output(Deadline::secs(LOOK_LIMIT));
            // Some of its releases end with 1 for it.
            output.map_or(Knows::NEWEST, |output| Knows::by_help(&output.stdout_text()))
        })
    }

    /// The user-data for `name` with this private host key, as `cloudinit-gen user-data` gives it.
    pub fn user_data(&self, name: &str, host_key: &Path) -> Result<Zeroizing<String>> {
        let command = self.sibling(&self.cloudinit_gen).args(["user-data", name, "--host-key"]).arg(host_key);
        Ok(Zeroizing::new(command.output(Deadline::secs(READ_LIMIT))?.checked()?.stdout_text()))
    }

    /// What `post-provision-vm NAME --dry-run` shows of the files that it would change, with a host key of this kind.
    pub fn integration_shown(&self, name: &VmName, host_key: &Path, differs: bool) -> Result<String> {
        let mut flags = vec!["--rotate", "--dry-run"];
        flags.extend(differs.then_some(KEEP_INVENTORY));
        let command = self.integration(name, host_key, &flags);
        let output = command.output(Deadline::secs(READ_LIMIT))?.checked()?;
        Ok(output.stdout_text())
    }

    /// The keys that may log in on `name`, as `cloudinit-gen ssh-keys` gives them.
    pub fn ssh_keys(&self, name: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Answer {
            keys: Vec<String>,
        }
        let command = self.sibling(&self.cloudinit_gen).args(["--json", "ssh-keys", name]);
        let answer: Answer = ask_json(&command)?;
        Ok(answer.keys)
    }
}

/// Runs a sibling with `--json` and reads its answer, or the error that it gives in the same form.
fn ask_json<T: serde::de::DeserializeOwned>(command: &Command) -> Result<T> {
    let output = command.output(Deadline::secs(READ_LIMIT))?;
    let text = output.stdout_text();
    let differs = output.status.code() == Some(i32::from(Kind::Usage.exit_code()));
    if differs && let Ok(answer) = serde_json::from_str(&text) {
        return Ok(answer);
    }
    if !output.success() {
        #[derive(Deserialize)]
        struct Failure {
            error: fleet_core::error::Report,
        }
        if let Ok(failure) = serde_json::from_str::<Failure>(&text) {
            return Err(failure.error.into());
        }
        let kind = output.status.code().map_or(Kind::Failed, Kind::from_exit_code);
        return Err(output
            .checked()
            .err()
            .map_or_else(|| Error::new(kind, format!("`{command}` failed")), |error| error.with_kind(kind)));
    }
    serde_json::from_str(&text).map_err(|e| {
        Error::failed(format!("`{command}` gave something else than expected: {text}")).caused_by(e)
    })
}

fn installer(nixos_anywhere: Option<PathBuf>, nix: Option<PathBuf>) -> Option<Command> {
    nixos_anywhere.map(Command::new).or_else(|| {
        nix.map(|nix| {
            Command::new(nix).args([
                "--extra-experimental-features",
                "nix-command flakes",
                "run",
                INSTALLER_FLAKE,
                "--",
            ])
        })
    })
}

fn common_args(cli: &Cli, repo: &Repo) -> Vec<String> {
    let mut args = vec!["--repo".to_owned(), repo.root().to_string_lossy().into_owned()];
    match cli.common.nix {
        NixMode::Auto => {}
        NixMode::Embedded => args.push("--nix=embedded".to_owned()),
        NixMode::Nix => args.push("--nix=nix".to_owned()),
    }
    let color = if cli.common.ui().color() { "--color=always" } else { "--color=never" };
    args.push(color.to_owned());
    args
}

fn connection_args(cli: &Cli) -> Vec<String> {
    let c = &cli.connection;
    [("--host", &c.host), ("--user", &c.user), ("--node", &c.node)]
        .into_iter()
        .filter_map(|(flag, value)| value.as_ref().map(|value| [flag.to_owned(), value.clone()]))
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installer_on_path_wins_over_the_flake() {
        let both = installer(Some("/bin/nixos-anywhere".into()), Some("/bin/nix".into())).unwrap();
        assert_eq!(both.to_string(), "/bin/nixos-anywhere");
        let nix = installer(None, Some("/bin/nix".into())).unwrap();
        assert_eq!(
            nix.to_string(),
            "/bin/nix --extra-experimental-features 'nix-command flakes' run github:nix-community/nixos-anywhere --"
        );
        assert!(installer(None, None).is_none());
    }
}
