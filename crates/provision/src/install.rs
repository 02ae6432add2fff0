//! nixos-anywhere, phase by phase: each with a deadline and in a process group of its own.

use std::path::{Path, PathBuf};

use fleet_core::{Error, Kind, Result, child::Command, types::VmName};

use crate::{
    build::{BuildOn, Source},
    host_key,
    settings::BOOTSTRAP_USER,
};

/// One call of nixos-anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Boot the installer in the place of the running system.
    Kexec,
    /// Partition, copy the system, install.
    Install,
    /// Boot what was installed.
    Reboot,
}

impl Phase {
    fn phases(self) -> &'static str {
        match self {
            Phase::Kexec => "kexec",
            Phase::Install => "disko,install",
            Phase::Reboot => "reboot",
        }
    }

    /// How long it may take, in seconds. kexec downloads an installer of some 400 MB; the installation builds
    /// and copies a whole system.
    pub fn limit(self) -> u64 {
        match self {
            Phase::Kexec => 30 * 60,
            Phase::Install => 3 * 60 * 60,
            Phase::Reboot => 5 * 60,
        }
    }

    /// What a person reads.
    pub fn title(self) -> &'static str {
        match self {
            Phase::Kexec => "Starting the NixOS installer (kexec)",
            Phase::Install => "Partitioning the disk and installing NixOS",
            Phase::Reboot => "Rebooting into NixOS",
        }
    }
}

/// Which options a nixos-anywhere understands that not all of its releases do. A word that it does not know it takes for
/// the machine's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knows {
    /// `--phases`.
    pub phases: bool,
    /// `--build-on`, since early 2025.
    pub build_on: bool,
    /// `--build-on-remote`, what there was before.
    pub build_on_remote: bool,
    /// `--kexec-extract-path`, which was proposed and is in no release of mid-2026: one that has it looks for what it
    /// unpacks on the VM below the home directory of this machine, unless told otherwise.
    pub extract_path: bool,
}

impl Knows {
    /// What the newest release understands. Where that is not sure, a word too few does less harm than one too many,
    /// which it takes for the machine's name.
    pub const NEWEST: Knows =
        Knows { phases: true, build_on: true, build_on_remote: true, extract_path: false };

    /// By the text of its `--help`; one that tells of no options at all says nothing about what it knows.
    pub fn by_help(help: &str) -> Knows {
        let words: Vec<&str> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        let has = |option: &str| words.contains(&option);
        if !has("--flake") {
            return Knows::NEWEST;
        }
        Knows {
            phases: has("--phases"),
            build_on: has("--build-on"),
            build_on_remote: has("--build-on-remote"),
            extract_path: has("--kexec-extract-path"),
        }
    }

    /// Whether it can do what a run asks of it.
    pub fn suffices(self, build_on: BuildOn) -> Result<()> {
        let lacks = if !self.phases {
            "--phases"
        } else if build_on == BuildOn::Remote && !self.build_on && !self.build_on_remote {
            "--build-on"
        } else {
            return Ok(());
        };
        Err(Error::failed(format!("nixos-anywhere on PATH is too old: it does not know {lacks}"))
            .now("nothing was changed")
            .hint("install a newer nixos-anywhere, or take it off PATH and let nix fetch the newest"))
    }

    /// The words that tell it where to build; none where it has none for it, and builds on this machine anyway.
    fn build_on(self, on: BuildOn) -> &'static [&'static str] {
        match on {
            BuildOn::Auto => &[],
            BuildOn::Local if self.build_on => &["--build-on", "local"],
            BuildOn::Local => &[],
            BuildOn::Remote if self.build_on => &["--build-on", "remote"],
            BuildOn::Remote => &["--build-on-remote"],
        }
    }
}

/// Options of each of its connections. None is shared; and one whose other end has gone away without a word, with a node
/// or a switch, ends after five minutes, where `ssh` would wait for hours and a copy with it.
const SSH_OPTIONS: [&str; 4] =
    ["ControlMaster=no", "ControlPath=none", "ServerAliveInterval=30", "ServerAliveCountMax=10"];

/// Everything that stays the same over the phases.
#[derive(Debug, Clone)]
pub struct Installer {
    /// nixos-anywhere, or nix running it.
    pub program: Command,
    /// What it understands.
    pub knows: Knows,
    /// `DIR#CONFIG`.
    pub flake: String,
    /// Where the system comes from.
    pub source: Source,
    /// The installer's own archive: a file of this machine, or where the VM gets it; else nixos-anywhere's.
    pub kexec: Option<String>,
    /// A name for the VM that no entry in anybody's ssh_config speaks of; the bytes go through `proxy`.
    pub target: String,
    /// Private key to log in with.
    pub identity: PathBuf,
    /// An executable that carries the bytes to the VM's current address.
    pub proxy: PathBuf,
    /// Files for the new system.
    pub extra_files: PathBuf,
}

impl Installer {
    /// The command of one phase.
    ///
    /// The values of `--ssh-option` end up joined by blanks in `NIX_SSHOPTS`: none may hold a blank. A shared
    /// connection (`ControlMaster`) would outlive kexec and the reboot, and with them the machine at its end.
    pub fn command(&self, phase: Phase) -> Command {
        let command = self.program.clone().args(["--phases", phase.phases()]);
        // What is built is neither evaluated nor built again. nixos-anywhere's own choice of the machine to build on
        // asks nix for what Nix 2.8 can not tell.
        let command = match &self.source {
            Source::Built(paths) => command
                .arg("--store-paths")
                .arg(&paths.disko)
                .arg(&paths.system)
                .args(self.knows.build_on(BuildOn::Local)),
            Source::Script(_) => command,
            // These look at no system: with a flake they would evaluate it all the same, before hosts.nix has the VM.
            // What they are given needs to exist, no more.
            Source::Installer(_) if phase != Phase::Install => command
                .arg("--store-paths")
                .arg(&self.proxy)
                .arg(self.proxy.parent().unwrap_or(&self.proxy))
                .args(self.knows.build_on(BuildOn::Local)),
            Source::Installer(build_on) => command
                .args(["--flake", &self.flake])
                .args(self.knows.build_on(build_on.unwrap_or(BuildOn::Auto))),
        };
        let command = command
            .arg("-i")
            .arg(&self.identity)
            .arg("--ssh-option")
            .arg(format!("ProxyCommand={}", self.proxy.display()))
            .args(SSH_OPTIONS.iter().flat_map(|option| ["--ssh-option", option]));
        let command = match phase {
            Phase::Install => command.arg("--extra-files").arg(&self.extra_files),
            Phase::Kexec => match &self.kexec {
                Some(archive) => command.args(["--kexec", archive]),
                None => command,
            },
            Phase::Reboot => command,
        };
        command.args(["--target-host", &self.target])
    }
}

/// The program for OpenSSH's `ProxyCommand`: `connect`, wrapped so that its name holds no blank.
pub fn proxy_script(connect: &Command, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("connect");
    host_key::write_new(&path, format!("#!/bin/sh\nexec {connect}\n").as_bytes(), 0o700)?;
    Ok(path)
}

/// Whom nixos-anywhere is told to log in to: a name that no entry in anybody's ssh_config speaks of.
pub fn target_of(name: &VmName) -> String {
    format!("{BOOTSTRAP_USER}@{name}.fleet.invalid")
}

/// What the user's way to do by hand what `--no-install` left out depends on.
pub struct ByHand<'a> {
    /// nixos-anywhere, or nix running it.
    pub program: &'a Command,
    /// `DIR#CONFIG`.
    pub flake: &'a str,
    /// The private key's file; none where the agent has it, or where it is locked: `ssh-copy-id` finds it then.
    pub identity: Option<&'a Path>,
    /// What `--kexec` names.
    pub kexec: Option<&'a str>,
    /// What `--build-on` says.
    pub build_on: BuildOn,
    /// The release of the nix on this machine, as in `2.8`; none without nix.
    pub nix: Option<(u32, u32)>,
    /// What that nixos-anywhere understands.
    pub knows: Knows,
}

impl ByHand<'_> {
    /// The command, for a shell. The VM keeps its host key: what is known of it stays true.
    ///
    /// nixos-anywhere's own choice of where to build asks `nix config` (Nix 2.20), and its build on this machine
    /// wants `--print-out-paths` (Nix 2.9). Where nix is older, the system is built first.
    pub fn line(&self, address: std::net::IpAddr) -> String {
        let auto = self.build_on == BuildOn::Auto;
        let old = |release| self.nix.is_some_and(|nix| nix < release);
        let built = self.build_on != BuildOn::Remote && old((2, 9));
        let (mut before, mut command) = (String::new(), self.program.clone());
        if built {
            let (root, config) = self.flake.rsplit_once('#').unwrap_or((".", self.flake));
            for (link, what) in [("disko", "diskoScript"), ("system", "toplevel")] {
                let attribute = format!("{root}#nixosConfigurations.\"{config}\".config.system.build.{what}");
                let nix = Command::new("nix")
                    .args([
                        "--extra-experimental-features",
                        "nix-command flakes",
                        "build",
                        "--no-write-lock-file",
                    ])
                    .args(["--out-link", &format!("result-{link}"), &attribute]);
                before.push_str(&format!("{nix} && "));
            }
            command = command.args(["--store-paths", "result-disko", "result-system"]);
        } else {
            command = command.args(["--flake", self.flake]);
        }
        match self.build_on {
            BuildOn::Remote => command = command.args(self.knows.build_on(BuildOn::Remote)),
            _ if !auto || old((2, 20)) => command = command.args(self.knows.build_on(BuildOn::Local)),
            _ => {}
        }
        if let Some(identity) = self.identity {
            command = command.arg("-i").arg(identity);
        }
        if let Some(kexec) = self.kexec {
            command = command.args(["--kexec", kexec]);
        }
        if self.knows.extract_path {
            command = command.args(["--kexec-extract-path", "/root/kexec"]);
        }
        let target = format!("{BOOTSTRAP_USER}@{address}");
        let command = command.args(["--copy-host-keys", "--target-host", &target]);
        format!("{before}{command}")
    }
}

/// The release in what `nix --version` says: `nix (Nix) 2.8.0`, `nix (Determinate Nix 3.1) 2.28.3`.
pub fn nix_release(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().last()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What `--kexec` names, as nixos-anywhere takes it: a file of this machine by its whole path, or an address.
///
/// nixos-anywhere tells by the name how the archive is packed.
pub fn kexec_archive(given: &str) -> Result<String> {
    let wrong = |why: String| {
        Error::new(Kind::Usage, format!("--kexec {given}: {why}")).now("nothing was changed").hint(
            "it is a nixos-kexec-installer archive: https://github.com/nix-community/nixos-images/releases",
        )
    };
    // Of an address it takes all of it for the name, with a query at its end.
    if ![".tar.gz", ".tar.xz", ".tar.zst", ".tar"].iter().any(|end| given.ends_with(end)) {
        return Err(wrong("it does not end in .tar.gz, .tar.xz, .tar.zst or .tar".to_owned()));
    }
    if given.contains("://") {
        return Ok(given.to_owned());
    }
    let path = Path::new(given).canonicalize().map_err(|e| wrong("no such file".to_owned()).caused_by(e))?;
    if !path.is_file() {
        return Err(wrong("it is not a file".to_owned()));
    }
    Ok(path.to_string_lossy().into_owned())
}

/// `DIR#CONFIG` for a repository; a `#` or `?` in its path would change the meaning.
pub fn flake_of(root: &Path, config: &str) -> Result<String> {
    let root = root.to_string_lossy();
    if root.contains(['#', '?']) {
        return Err(Error::failed(format!(
            "the repository's path {root} holds '#' or '?', which a flake reference can not"
        ))
        .now("nothing was changed")
        .hint("move the repository to a path without them"));
    }
    Ok(format!("{root}#{config}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::StorePaths;

    fn installer() -> Installer {
        Installer {
            program: Command::new("nixos-anywhere"),
            knows: Knows::NEWEST,
            flake: "/fleet#web".into(),
            source: Source::Installer(None),
            kexec: None,
            target: "root@web.fleet.invalid".into(),
            identity: "/home/me/.ssh/id_ed25519".into(),
            proxy: "/run/user/1000/fleet-x/connect".into(),
            extra_files: "/run/user/1000/fleet-x/extra".into(),
        }
    }

    #[test]
    fn only_the_installation_gets_the_host_key() {
        assert_eq!(
            installer().command(Phase::Install).to_string(),
            "nixos-anywhere --phases 'disko,install' --flake '/fleet#web' -i /home/me/.ssh/id_ed25519 \
             --ssh-option 'ProxyCommand=/run/user/1000/fleet-x/connect' --ssh-option 'ControlMaster=no' \
             --ssh-option 'ControlPath=none' --ssh-option 'ServerAliveInterval=30' \
             --ssh-option 'ServerAliveCountMax=10' --extra-files /run/user/1000/fleet-x/extra \
             --target-host root@web.fleet.invalid"
        );
        for phase in [Phase::Kexec, Phase::Reboot] {
            assert!(!installer().command(phase).to_string().contains("extra-files"));
        }
    }

    #[test]
    fn what_was_built_is_not_built_again() {
        let paths =
            StorePaths { disko: "/nix/store/a-disko".into(), system: "/nix/store/b-nixos-system-web".into() };
        let mut installer = Installer { source: Source::Built(paths), ..installer() };
        for phase in [Phase::Kexec, Phase::Install, Phase::Reboot] {
            let command = installer.command(phase).to_string();
            let wanted =
                "--store-paths /nix/store/a-disko /nix/store/b-nixos-system-web --build-on local -i ";
            assert!(command.contains(wanted) && !command.contains("--flake"), "{command}");
        }
        installer.source = Source::Installer(Some(BuildOn::Remote));
        let command = installer.command(Phase::Install).to_string();
        assert!(command.contains("--flake '/fleet#web' --build-on remote -i "), "{command}");
        for phase in [Phase::Kexec, Phase::Reboot] {
            let command = installer.command(phase).to_string();
            let wanted =
                "--store-paths /run/user/1000/fleet-x/connect /run/user/1000/fleet-x --build-on local -i ";
            assert!(command.contains(wanted) && !command.contains("--flake"), "{command}");
        }
    }

    #[test]
    fn a_nixos_anywhere_is_asked_for_what_it_knows() {
        let before_2025 = "Usage: nixos-anywhere [options] <ssh-host>\n* -f, --flake <flake_uri>\n* --phases\n\
                           * --build-on-remote\n  build the closure on the remote machine\n";
        let old = Knows::by_help(before_2025);
        let wanted = Knows { phases: true, build_on: false, build_on_remote: true, extract_path: false };
        assert_eq!(old, wanted);
        let paths = StorePaths { disko: "/nix/store/a".into(), system: "/nix/store/b".into() };
        let mut installer = Installer { knows: old, source: Source::Built(paths), ..installer() };
        let command = installer.command(Phase::Kexec).to_string();
        assert!(command.contains(" --store-paths /nix/store/a /nix/store/b -i "), "{command}");
        installer.source = Source::Installer(Some(BuildOn::Remote));
        let command = installer.command(Phase::Install).to_string();
        assert!(command.contains(" --build-on-remote -i "), "{command}");
        assert!(old.suffices(BuildOn::Remote).is_ok());
        let older = Knows::by_help("* -f, --flake <flake_uri>\n* --stop-after-disko\n");
        let error = older.suffices(BuildOn::Auto).unwrap_err();
        assert!(error.message().ends_with("it does not know --phases"), "{}", error.message());
        assert!(Knows { phases: true, ..older }.suffices(BuildOn::Remote).is_err());
        // What is no help text refuses nobody.
        assert_eq!(Knows::by_help("starting"), Knows::NEWEST);
    }

    #[test]
    fn only_the_start_of_the_installer_gets_its_archive() {
        let installer = Installer { kexec: Some("/k.tar.gz".into()), ..installer() };
        assert!(installer.command(Phase::Kexec).to_string().contains(" --kexec /k.tar.gz "));
        assert!(!installer.command(Phase::Install).to_string().contains("--kexec"));
    }

    #[test]
    fn the_way_by_hand_fits_the_nix_that_is_there() {
        let program = Command::new("nixos-anywhere");
        let by_hand = |nix, build_on| ByHand {
            program: &program,
            flake: "/my fleet#web",
            identity: Some("/home/me/.ssh/id_ed25519".as_ref()),
            kexec: None,
            build_on,
            nix,
            knows: Knows::NEWEST,
        };
        let address = [192, 0, 2, 7].into();
        let rest = "-i /home/me/.ssh/id_ed25519 --copy-host-keys --target-host root@192.0.2.7";
        for (nix, build_on, word) in [
            (None, BuildOn::Auto, ""),
            (Some((2, 31)), BuildOn::Auto, ""),
            (Some((2, 18)), BuildOn::Auto, "--build-on local "),
            (Some((2, 8)), BuildOn::Remote, "--build-on remote "),
            (Some((2, 31)), BuildOn::Local, "--build-on local "),
        ] {
            let wanted = format!("nixos-anywhere --flake '/my fleet#web' {word}{rest}");
            assert_eq!(by_hand(nix, build_on).line(address), wanted, "{nix:?}");
        }
        let build =
            "nix --extra-experimental-features 'nix-command flakes' build --no-write-lock-file --out-link";
        let of =
            |what: &str| format!("'/my fleet#nixosConfigurations.\"web\".config.system.build.{what}' && ");
        assert_eq!(
            by_hand(Some((2, 8)), BuildOn::Auto).line(address),
            format!(
                "{build} result-disko {}{build} result-system {}nixos-anywhere --store-paths result-disko \
                 result-system --build-on local {rest}",
                of("diskoScript"),
                of("toplevel")
            )
        );
        let bare = ByHand {
            identity: None,
            kexec: Some("/k.tar.gz"),
            knows: Knows { extract_path: true, ..Knows::NEWEST },
            ..by_hand(None, BuildOn::Auto)
        };
        assert_eq!(
            bare.line(address),
            "nixos-anywhere --flake '/my fleet#web' --kexec /k.tar.gz --kexec-extract-path /root/kexec \
             --copy-host-keys --target-host root@192.0.2.7"
        );
    }

    #[test]
    fn nix_tells_its_release() {
        assert_eq!(nix_release("nix (Nix) 2.8.0\n"), Some((2, 8)));
        assert_eq!(nix_release("nix (Determinate Nix 3.1.0) 2.28.3"), Some((2, 28)));
        assert_eq!(nix_release("nix (Nix) 2.32pre20250919_abc"), None);
        assert_eq!(nix_release(""), None);
    }

    #[test]
    fn an_archive_that_could_not_be_read_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("installer.tar.gz");
        let name = file.to_string_lossy().into_owned();
        assert_eq!(kexec_archive(&name).unwrap_err().kind(), Kind::Usage);
        std::fs::write(&file, "").unwrap();
        assert_eq!(kexec_archive(&name).unwrap(), file.canonicalize().unwrap().to_string_lossy());
        assert!(kexec_archive(&dir.path().to_string_lossy()).is_err());
        assert_eq!(kexec_archive("https://example.org/k.tar.gz").unwrap(), "https://example.org/k.tar.gz");
        for url in ["https://example.org/k.tar.gz?token=x", "https://example.org/k.zip"] {
            assert_eq!(kexec_archive(url).unwrap_err().kind(), Kind::Usage, "{url}");
        }
    }

    #[test]
    fn a_flake_reference_keeps_its_meaning() {
        assert_eq!(flake_of("/fleet".as_ref(), "web").unwrap(), "/fleet#web");
        assert!(flake_of("/a#b".as_ref(), "web").is_err());
    }
}
