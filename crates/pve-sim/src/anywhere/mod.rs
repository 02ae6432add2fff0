//! A stand-in for nixos-anywhere that drives simulated machines through the genuine command line, with the
//! genuine steps: upload keys, gather facts, kexec, disko, install, reboot.

mod args;
mod client;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use fleet_core::{
    hosts::Hosts,
    nix::NixMode,
    repo::Repo,
    ui::{ColorChoice, Ui},
};

use self::{
    args::{Args, Stop, USAGE},
    client::{Client, Output},
};
use crate::{guest::Closure, tar};

/// Between two looks at a machine that goes or comes.
const PAUSE: Duration = Duration::from_millis(100);
/// The genuine script tries for ever to copy its key; a stand-in in a test must end.
const LOGIN_TRIES: u32 = 20;
/// A machine that does not come back within so many looks never will.
const LOOKS: u32 = 3000;

/// Runs the stand-in with these arguments.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let ui = Ui::new(ColorChoice::Never, false, false, false);
    let args = match args::parse(arguments) {
        Ok(args) => args,
        Err(stop) => return stopped(ui, stop),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("can not start").and_then(|runtime| runtime.block_on(run(ui, &args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn stopped(ui: Ui, stop: Stop) -> ExitCode {
    // A closed standard output changes nothing about the outcome.
    match stop {
        Stop::Help => {
            let _ = ui.data(USAGE);
            return ExitCode::SUCCESS;
        }
        Stop::Usage => drop(ui.data(USAGE)),
        Stop::Abort(why) => ui.say(format!("aborted: {why}")),
        Stop::Text(text) => ui.say(text),
    }
    ExitCode::FAILURE
}

struct Run<'a> {
    ui: Ui,
    args: &'a Args,
    client: Client,
}

/// A system that was built: its store path, and who it will be.
pub(crate) struct System {
    pub(crate) path: String,
    pub(crate) closure: Closure,
}

async fn run(ui: Ui, args: &Args) -> Result<()> {
    let phase = |name: &str| args.phases.iter().any(|p| p == name);
    let system = build(args)?;
    let Some(identity) = &args.identity else {
        bail!("Permission denied (publickey): without -i the genuine script waits for ever at ssh-copy-id");
    };
    let mut client = Client::new(ui, args, identity)?;
    if !phase("kexec") {
        client.user = "root".to_owned();
    }
    let mut run = Run { ui, args, client };
    run.upload_key().await?;
    let installer = run.facts().await?;
    if phase("kexec") && !installer {
        run.kexec().await?;
    }
    if phase("disko") {
        run.disko(&system).await?;
    }
    if phase("install") {
        run.install(&system).await?;
    }
    if phase("reboot") {
        run.reboot().await?;
    }
    run.step("Done!");
    Ok(())
}

/// What `nix build` does: looks at the flake and gives a system.
fn build(args: &Args) -> Result<System> {
    let Some((uri, attr)) = &args.flake else {
        let (disko, system) = args.store_paths.clone().unwrap_or_default();
        if !disko.exists() || !system.exists() {
            bail!("aborted: {} and {} must be existing store-paths", disko.display(), system.display());
        }
        let name = system.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !args.phases.iter().any(|phase| phase == "disko" || phase == "install") {
            // Nothing but their existence is looked at.
            return Ok(System { path: String::new(), closure: Closure::default() });
        }
        // Whoever built it has left there who it will be.
        let about = std::fs::read(system.join("simulated.json")).with_context(|| format!("error: {name}"))?;
        return Ok(System { path: in_store(&system), closure: serde_json::from_slice(&about)? });
    };
    evaluate(uri, attr)
}

/// The path of something built on the machine: its store is always /nix/store.
fn in_store(path: &Path) -> String {
    format!("/nix/store/{}", path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Looks at the flake in `uri`, and gives the system `attr`.
pub(crate) fn evaluate(uri: &str, attr: &str) -> Result<System> {
    let dir = uri.strip_prefix("path:").or_else(|| uri.strip_prefix("git+file://")).unwrap_or(uri);
    let dir = dir.split('?').next().unwrap_or(dir);
    let dir = if dir.is_empty() { Path::new(".") } else { Path::new(dir) };
    let flake = dir.join("flake.nix");
    let text = std::fs::read_to_string(&flake)
        .with_context(|| format!("error: path '{}' does not contain a 'flake.nix'", dir.display()))?;
    if !text.contains("nixosConfigurations") {
        bail!("error: flake '{uri}' does not provide attribute 'nixosConfigurations.\"{attr}\"'");
    }
    let closure = closure(dir, attr).with_context(|| format!("error: while evaluating '{attr}'"))?;
    Ok(System { path: format!("/nix/store/{}-nixos-system-{attr}-25.11", "s".repeat(32)), closure })
}

/// Who the system will be, as hosts/common.nix says it.
fn closure(dir: &Path, name: &str) -> Result<Closure> {
    let repo = Repo::at(dir)?;
    let hosts = Hosts::load(&repo, NixMode::Embedded)?;
    let host = hosts.get(name);
    let user = host.and_then(|h| h.user.clone()).unwrap_or_else(|| "fleet".to_owned());
    let hostname = host.and_then(|h| h.hostname.clone()).unwrap_or_else(|| name.to_owned());
    let lines = hosts.keys_for(name)?;
    Ok(Closure { hostname, users: [(user, lines)].into() })
}

impl Run<'_> {
    fn step(&self, what: &str) {
        // A closed standard output must not stop an installation.
        let _ = self.ui.data(format!("### {what} ###"));
    }

    /// Runs a command that must succeed.
    async fn must(&self, command: &str, input: &[u8]) -> Result<Output> {
        if self.args.debug {
            self.ui.say(format!("SSH COMMAND: ssh {}@ {command}", self.client.user));
        }
        let output = self.client.run_surely(command, input).await?;
        if output.status != 0 {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output)
    }

    async fn upload_key(&self) -> Result<()> {
        self.step("Uploading install SSH keys");
        let mut tries = 0;
        loop {
            tries += 1;
            match self.client.run("exit 0", b"").await {
                Ok(_) => {
                    self.ui.say("ssh-copy-id: WARNING: All keys were skipped because they already exist on the remote system.");
                    return Ok(());
                }
                Err(error) if tries == LOGIN_TRIES => return Err(error),
                Err(error) => self.ui.say(format!("ssh-copy-id: ERROR: {error:#}")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the installer runs there.
    async fn facts(&self) -> Result<bool> {
        self.step("Gathering machine facts");
        let needed = [
            ("tar", "unpack kexec tarball"),
            ("cpio", "build the new initrd"),
            ("setsid", "run the kexec script"),
        ];
        let asked = needed.map(|(program, _)| format!("command -v {program}")).join("; ");
        let facts =
            self.client.run_surely(&format!("uname; {asked}; cat /etc/os-release"), b"").await?.text();
        if facts.lines().next() != Some("Linux") {
            bail!("aborted: This script requires Linux as the operating system");
        }
        for (program, why) in needed {
            if !facts.lines().any(|l| l.ends_with(&format!("/{program}"))) {
                bail!("aborted: no {program} command found, but required to {why}");
            }
        }
        Ok(facts.lines().any(|l| l == "VARIANT_ID=installer"))
    }

    async fn boot_id(&self) -> Option<String> {
        let output = self.client.run("cat /proc/sys/kernel/random/boot_id", b"").await.ok()?;
        (output.status == 0).then(|| output.text())
    }

    /// Until the machine does not answer, or answers as another boot.
    async fn wait_gone(&self, before: Option<&str>) -> Result<()> {
        for _ in 0..LOOKS {
            match self.boot_id().await {
                Some(now) if Some(now.as_str()) == before => tokio::time::sleep(PAUSE).await,
                _ => return Ok(()),
            }
        }
        bail!("the machine never went away");
    }

    async fn wait_back(&self) -> Result<()> {
        for _ in 0..LOOKS {
            if self.boot_id().await.is_some() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("the machine never came back");
    }

    async fn kexec(&mut self) -> Result<()> {
        self.step("Switching system into kexec");
        let before = self.boot_id().await;
        let (extracted, launched) = &self.args.kexec;
        let home = || format!("{}/kexec", std::env::var("HOME").unwrap_or_default());
        let (dir, path) =
            (extracted.clone().unwrap_or_else(home), launched.as_deref().unwrap_or("kexec/run"));
        let run = format!("sudo setsid --wait \"{dir}/{path}\" --kexec-extra-flags ''");
        let output = self.client.run_surely(&run, b"").await.context("Kexec failed")?;
        let _ = self.ui.data(output.all());
        if output.status != 0 {
            // It is fetched from the machine, and told once more.
            self.ui.say(format!("Remote output log:\n{}", output.all().trim_end()));
            bail!("Kexec failed");
        }
        self.wait_gone(before.as_deref()).await?;
        self.client.user = "root".to_owned();
        self.wait_back().await?;
        if !self.facts().await? {
            bail!("aborted: Failed to kexec into NixOS installer");
        }
        Ok(())
    }

    async fn disko(&self, system: &System) -> Result<()> {
        self.step("Formatting hard drive with disko");
        let disko = match &self.args.store_paths {
            Some((disko, _)) => in_store(disko),
            None => system.path.replace("-nixos-system-", "-disko-"),
        };
        let output = self.must(&disko, b"").await?;
        let _ = self.ui.data(output.text());
        Ok(())
    }

    async fn install(&self, system: &System) -> Result<()> {
        self.step("Uploading the system closure");
        let about = serde_json::to_vec(&system.closure)?;
        self.must(&format!("cat > /mnt{}/simulated.json", system.path), &about).await?;
        if let Some(dir) = &self.args.extra_files {
            self.step("Copying extra files");
            let mut files = Vec::new();
            collect(dir, dir, &mut files)?;
            let archive = tar::write(&files).context("a path in --extra-files is too long")?;
            // tar changes the permissions of /mnt itself.
            self.must("tar -C /mnt -xf- --no-same-owner && chmod 755 /mnt", &archive).await?;
        }
        self.step("Installing NixOS");
        if self.args.copy_host_keys {
            for key in ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"] {
                let copy = format!("test -e /mnt/etc/ssh/{key} || cp -a /etc/ssh/{key} /mnt/etc/ssh/{key}");
                self.must(&copy, b"").await?;
            }
        }
        let script =
            format!("nixos-install --no-root-passwd --no-channel-copy --system \"{}\"\n", system.path);
        let output = self.must("sh", script.as_bytes()).await?;
        let _ = self.ui.data(output.text());
        Ok(())
    }

    async fn reboot(&self) -> Result<()> {
        self.step("Rebooting");
        let before = self.boot_id().await;
        self.must("sh", b"nohup sh -c 'sleep 6 && reboot' >/dev/null 2>&1 &\n").await?;
        self.step("Waiting for the machine to become unreachable due to reboot");
        self.wait_gone(before.as_deref()).await
    }
}

/// The regular files below a directory, with their modes.
fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, u32, Vec<u8>)>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let entries = std::fs::read_dir(dir).with_context(|| format!("tar: {}: can not read", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, files)?;
        } else {
            let content =
                std::fs::read(&path).with_context(|| format!("tar: {}: can not read", path.display()))?;
            let mode = std::fs::metadata(&path)?.permissions().mode();
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            files.push((name, mode, content));
        }
    }
    Ok(())
}
