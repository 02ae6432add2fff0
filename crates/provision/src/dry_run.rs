//! `--dry-run`: the requests, commands and file changes of a run, made by what would carry them out, and not sent.

mod found;

use std::{collections::BTreeMap, path::PathBuf};

use fleet_core::{
    Error, Result,
    child::Command,
    deadline::Deadline,
    definitions::{Install, ManagedVm},
    protocol::{CreateRequest, Document, Op, Session},
    repo::Repo,
    ui::Ui,
};
use serde::Serialize;
use zeroize::Zeroizing;

use self::found::Found;
use crate::{
    build::{self, BuildOn, Source, StorePaths, What},
    cli::{Cli, Integrate},
    execute::INSTALLER_KEY,
    host_key::{HostKey, PrivateDir},
    install::{self, Installer, Phase},
    login::Login,
    plan::{Origin, Plan},
    settings,
    steps::{self, Step},
    tools::Tools,
    world::World,
};

/// What one step would do.
#[derive(Debug, Serialize)]
struct Shown {
    step: &'static str,
    /// Whether an earlier run did it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    already: bool,
    /// Requests to the node's API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    requests: Vec<String>,
    /// Commands that would be run here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
    /// Changes of files, as a diff.
    #[serde(skip_serializing_if = "String::is_empty")]
    changes: String,
    /// What else there is to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

/// What a dry run needs.
pub struct Dry<'a> {
    /// The command line.
    pub cli: &'a Cli,
    /// Where messages go.
    pub ui: Ui,
    /// The other programs.
    pub tools: &'a Tools,
    /// The definition.
    pub vm: &'a ManagedVm,
    /// The fleet.
    pub repo: &'a Repo,
    /// `DIR#CONFIG`.
    pub flake: &'a str,
    /// What `--kexec` names.
    pub kexec: Option<&'a str>,
    /// Where an example of a host key is made.
    pub private: &'a PrivateDir,
    /// Whether NixOS would be installed.
    pub install: bool,
    /// The fleet user.
    pub user: &'a str,
    /// The key to log in with.
    pub login: &'a Login,
    /// What is there.
    pub world: &'a World,
    /// The host key that hosts.nix has for the VM.
    pub recorded: Option<&'a str>,
}

/// Stands for the private directory of the run, whose name is made anew each time.
const PRIVATE: &str = "PRIVATE";

impl Dry<'_> {
    /// Shows it all on standard output.
    pub fn show(&self, session: &mut Session, plan: &Plan) -> Result<()> {
        let vm = self.vm;
        let host_key = HostKey::generate(&vm.name, self.private)?;
        let found = self.found(session, plan);
        let mut shown = Vec::new();
        // One that was made of an image is in the fleet already, or taken in at the end.
        let integrate = match self.cli.integrate() {
            Integrate::Before if self.vm.install == Install::Image && !plan.makes() => Integrate::After,
            integrate => integrate,
        };
        for step in steps::of(self.vm, self.install, integrate) {
            shown.push(self.step(session, plan, (&host_key, &found), step)?);
        }
        shown.extend(self.clean_up(session, plan, (&host_key, &found))?);
        let mut value =
            serde_json::json!({ "name": vm.name, "vmid": vm.vmid, "dry_run": true, "steps": &shown });
        if let Some(placed) = &plan.placed {
            value["placed"] = serde_json::json!(placed);
        }
        self.ui.say("");
        self.ui.step("Dry run: nothing is changed. These steps would be taken:");
        let hidden = self.private.path().to_string_lossy().into_owned();
        let text = |text: String| text.replace(&hidden, PRIVATE);
        self.ui.answer(&value, || text(shown.iter().map(Shown::lines).collect()))?;
        if self.install {
            self.ui.say(format!(
                "{PRIVATE} is a directory in memory. Host key and installer's key are made by the run: the ones shown are examples."
            ));
        }
        Ok(())
    }

    fn step(
        &self,
        session: &mut Session,
        plan: &Plan,
        (host_key, found): (&HostKey, &Found),
        step: Step,
    ) -> Result<Shown> {
        let vmid = self.vm.vmid;
        let mut shown = Shown::nothing(step.name());
        let made = match step {
            Step::Clone | Step::Upload | Step::Create => true,
            // An image is built to make a VM of it, and for nothing else.
            Step::Build => self.vm.install == Install::Image,
            _ => false,
        };
        if found.did(step) || (!plan.makes() && made) {
            "done already".clone_into(&mut shown.note);
            return Ok(Shown { already: true, ..shown });
        }
        let change = match step {
            Step::Clone => match &plan.origin {
                Origin::Clone(request) => Some(Op::Clone(request.clone())),
                Origin::Create(_) | Origin::Continue(_) => None,
            },
            Step::Create => match &plan.origin {
                Origin::Create(request) => Some(Op::Create(CreateRequest {
                    image: "/var/tmp/fleet-image-….raw".to_owned(),
                    ..request.clone()
                })),
                Origin::Clone(_) | Origin::Continue(_) => None,
            },
            Step::Configure if plan.configure => Some(self.with_host_key(host_key, plan)?),
            Step::Grow => plan.grow.clone().map(|(disk, size)| Op::Resize { vmid, disk, size }),
            Step::Start => plan.start.then_some(Op::Start { vmid }),
            Step::Detach => settings::finish(self.vm, plan.cloudinit.as_deref(), &self.current(plan)),
            _ => None,
        };
        // From there on it may be NixOS that is on the disk, or a person's.
        let last = if self.install { Step::Install } else { Step::Ssh };
        if step == last && self.vm.install != Install::Image {
            shown.requests = self.cloudinit_done(session, plan)?;
        }
        match (step, change) {
            (_, Some(change)) => {
                let clear = plan.clear.clone().filter(|_| matches!(step, Step::Clone | Step::Create));
                let clear = clear.map(|task| Op::RemoveRemainder { vmid, task });
                for change in clear.into_iter().chain([change]) {
                    shown.requests.extend(calls(session, plan, change)?);
                }
                if step == Step::Configure && plan.configure {
                    shown.note = match shown.requests.len() {
                        1 => "no storage takes snippets: the host key will be read through the guest agent",
                        _ => "with another host key",
                    }
                    .to_owned();
                }
            }
            (Step::Upload, None) => "send the image into /var/tmp on the node".clone_into(&mut shown.note),
            // The last three are no part of such a run.
            (
                Step::Create
                | Step::Clone
                | Step::Configure
                | Step::Grow
                | Step::Start
                | Step::Detach
                | Step::Backup
                | Step::Destroy
                | Step::TakeOut,
                None,
            ) => {
                shown.note = "nothing to do".to_owned();
            }
            (Step::Address, None) => {
                shown.note =
                    "ask the guest agent and the node's neighbour table, by the MAC address".to_owned();
            }
            (Step::HostKey, None) => {
                shown.note =
                    "the one that cloud-init gives it, or the guest agent's where no storage takes snippets"
                        .to_owned();
            }
            (Step::Ssh, None) => {
                shown.commands = vec![self.tools.connect(vmid, None).to_string()];
                shown.note = "log in over it as root; the host key is pinned".to_owned();
                if matches!(found, Found::Unknown) {
                    shown.note.push_str(
                        "; where NixOS runs on it already, nothing of what follows up to the verification is done",
                    );
                }
            }
            (Step::Verify, None) => {
                let key =
                    if found.host_key().is_some() { "its host key" } else { "the host key that was made" };
                shown.note = format!(
                    "log in as {}, with {key}; the host name must be {}",
                    self.user, self.vm.hostname
                );
            }
            (Step::Build, None) => match self.build() {
                Some(command) => {
                    shown.commands = vec![command.to_string()];
                    shown.note = "begun before all the rest, and done again after the integration".to_owned();
                }
                None => shown.note = "nixos-anywhere builds it".to_owned(),
            },
            (Step::Kexec, None) => shown.commands = vec![self.phase(host_key, Phase::Kexec)?],
            (Step::Install, None) => shown.commands = vec![self.phase(host_key, Phase::Install)?],
            (Step::Reboot, None) => shown.commands = vec![self.phase(host_key, Phase::Reboot)?],
            (Step::Integrate, None) => {
                let own = found.host_key_file(self.private)?;
                let file = own.as_deref().unwrap_or(host_key.public_file());
                shown.changes = self.tools.integration_shown(&self.vm.name, file, plan.differs)?;
                shown.already = own.is_some() && shown.changes.trim().is_empty();
                if shown.already {
                    "done already".clone_into(&mut shown.note);
                } else {
                    shown.commands = vec![self.tools.integrate(&self.vm.name, file, true).to_string()];
                }
            }
        }
        Ok(shown)
    }

    /// The change that gives the bootstrap system its host key, as the run makes it, without the private key.
    fn with_host_key(&self, host_key: &HostKey, plan: &Plan) -> Result<Op> {
        let file = host_key.private_file();
        let secret = Zeroizing::new(std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e))?);
        let user_data = self.tools.user_data(self.vm.name.as_str(), &file)?;
        let documents = BTreeMap::from([(Document::User, without(&user_data, &secret))]);
        Ok(Op::GiveDocuments { vmid: self.vm.vmid, documents, settings: plan.settings.clone() })
    }

    /// What takes the document with the host key off the node again, and whatever an earlier run left of it: nothing where
    /// no storage takes any.
    fn clean_up(
        &self,
        session: &mut Session,
        plan: &Plan,
        (host_key, found): (&HostKey, &Found),
    ) -> Result<Option<Shown>> {
        if self.vm.install == Install::Image {
            return Ok(None);
        }
        let gives = plan.configure && !found.did(Step::Configure);
        let given = if gives { Some(Box::new(self.with_host_key(host_key, plan)?)) } else { None };
        let remove = Op::RemoveDocuments { vmid: self.vm.vmid };
        let requests = shown_after(session, plan, remove, given)?;
        let note = "at the end, also of a run that fails".to_owned();
        Ok((!requests.is_empty()).then(|| Shown { requests, note, ..Shown::nothing("clean-up") }))
    }

    /// What writes down on the node that cloud-init has done its part.
    fn cloudinit_done(&self, session: &mut Session, plan: &Plan) -> Result<Vec<String>> {
        let there =
            self.world.existing.as_ref().filter(|_| !plan.makes()).map(|(config, _)| &config.settings);
        let description = plan.settings.get("description").or_else(|| there?.get("description"));
        let mut text = description.cloned().unwrap_or_default();
        if !settings::say_cloudinit_is_done(&mut text) {
            return Ok(Vec::new());
        }
        let settings = [("description".to_owned(), text)].into();
        calls(session, plan, settings::configure(self.vm.vmid, settings))
    }

    fn build(&self) -> Option<Command> {
        build::planned(What::of(self.vm), self.cli.build_on, self.repo.root(), &self.vm.nixos_config)
    }

    fn phase(&self, host_key: &HostKey, phase: Phase) -> Result<String> {
        let installer = Installer {
            program: self.tools.installer()?,
            knows: self.tools.installer_knows(),
            flake: self.flake.to_owned(),
            source: match self.build() {
                Some(_) => Source::Built(StorePaths { disko: "DISKO".into(), system: "SYSTEM".into() }),
                None => Source::Installer((self.cli.build_on != BuildOn::Auto).then_some(self.cli.build_on)),
            },
            kexec: self.kexec.map(str::to_owned),
            target: install::target_of(&self.vm.name),
            identity: self.private.path().join(INSTALLER_KEY),
            proxy: PathBuf::from(PRIVATE).join("connect"),
            extra_files: host_key.extra_files().to_owned(),
        };
        Ok(installer.command(phase).to_string())
    }
}

/// The requests that a change sends to the node.
fn calls(session: &mut Session, plan: &Plan, change: Op) -> Result<Vec<String>> {
    shown_after(session, plan, change, None)
}

/// The same of one that comes after another.
fn shown_after(
    session: &mut Session,
    plan: &Plan,
    change: Op,
    after: Option<Box<Op>>,
) -> Result<Vec<String>> {
    let node = plan.placed.as_ref().map(|placed| placed.node.clone());
    session.ask(Op::Show { request: Box::new(change), after, node }, Deadline::secs(60), |_| {})
}

/// `text` with the lines of a private key left out, but for the first and the last, which say what it is.
fn without(text: &str, secret: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let bare = line.trim_start();
        let is_secret =
            !bare.is_empty() && !bare.starts_with("-----") && secret.lines().any(|l| l.trim() == bare);
        let instead = format!("{}(left out)", &line[..line.len() - bare.len()]);
        match is_secret {
            false => lines.push(line.to_owned()),
            true if lines.last() == Some(&instead) => {}
            true => lines.push(instead),
        }
    }
    lines.join("\n")
}

impl Shown {
    fn nothing(step: &'static str) -> Shown {
        Shown {
            step,
            already: false,
            requests: Vec::new(),
            commands: Vec::new(),
            changes: String::new(),
            note: String::new(),
        }
    }

    fn lines(&self) -> String {
        let mut text = format!("{}\n", self.step);
        for request in &self.requests {
            for (number, line) in request.lines().enumerate() {
                let indent = if number == 0 { "  " } else { "    " };
                text.push_str(format!("{indent}{line}").trim_end());
                text.push('\n');
            }
        }
        self.commands.iter().for_each(|command| text.push_str(&format!("  $ {command}\n")));
        if !self.note.is_empty() {
            text.push_str(&format!("  ({})\n", self.note));
        }
        for line in self.changes.lines() {
            text.push_str(format!("  {line}").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_private_key_is_shown() {
        let secret =
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\naC1rZXk=\n-----END OPENSSH PRIVATE KEY-----\n";
        let text = format!(
            "ssh_keys:\n  ed25519_private: |\n    {}  ed25519_public: x\n",
            secret.replace('\n', "\n    ")
        );
        assert_eq!(
            without(&text, secret).lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                "ssh_keys:",
                "  ed25519_private: |",
                "    -----BEGIN OPENSSH PRIVATE KEY-----",
                "    (left out)",
                "    -----END OPENSSH PRIVATE KEY-----",
                "      ed25519_public: x",
            ]
        );
    }
}
