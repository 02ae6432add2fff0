//! How far a VM is that an earlier run made: found out as a run does, with reads alone.

use std::path::PathBuf;

use fleet_core::{
    Result,
    deadline::Deadline,
    definitions::Install,
    protocol::{Op, Session},
};

use super::Dry;
use crate::{
    differences,
    execute::limit,
    guest::{self, Guest, System},
    host_key::PrivateDir,
    plan::{self, Origin, Plan},
    settings::{self, BOOTSTRAP_USER, Settings},
    state::State,
    steps::Step,
};

/// What runs on the VM.
#[derive(Debug)]
pub(super) enum Found {
    /// No NixOS: it is not there, or its bootstrap system runs.
    Bootstrap,
    /// The installer.
    Installer,
    /// NixOS, with this host key.
    Nixos(String),
    /// It was made of an image with NixOS, with this host key, and is off or does not answer.
    Silent(String),
    /// It is there and does not answer: NixOS may be on it.
    Unknown,
}

impl Found {
    /// The host key of the NixOS that is on it.
    pub(super) fn host_key(&self) -> Option<&str> {
        match self {
            Found::Nixos(key) | Found::Silent(key) => Some(key),
            Found::Bootstrap | Found::Installer | Found::Unknown => None,
        }
    }

    /// Whether this step is done, as far as what runs there tells.
    pub(super) fn did(&self, step: Step) -> bool {
        match self {
            Found::Nixos(_) => matches!(
                step,
                Step::Address
                    | Step::HostKey
                    | Step::Ssh
                    | Step::Build
                    | Step::Kexec
                    | Step::Install
                    | Step::Reboot
            ),
            Found::Installer => step == Step::Kexec,
            Found::Bootstrap | Found::Silent(_) | Found::Unknown => false,
        }
    }

    /// A file with that host key.
    pub(super) fn host_key_file(&self, private: &PrivateDir) -> Result<Option<PathBuf>> {
        let Some(key) = self.host_key() else { return Ok(None) };
        private.write("found.pub", format!("{key}\n").as_bytes(), 0o644).map(Some)
    }
}

impl Dry<'_> {
    /// The VM's settings as they will be when it was powered off and on.
    pub(super) fn current(&self, plan: &Plan) -> Settings {
        let own = self.world.configs.iter().find(|config| config.vmid == self.vm.vmid);
        match (own, &self.world.existing) {
            (Some(own), _) => differences::settled(&own.settings, &own.pending),
            (None, Some((config, _))) => config.settings.clone(),
            (None, None) => {
                let mut made = match &plan.origin {
                    Origin::Create(request) => request.settings.clone(),
                    Origin::Clone(_) | Origin::Continue(_) => plan.settings.clone(),
                };
                if let Some(description) = made.get_mut("description") {
                    settings::say_cloudinit_is_done(description);
                }
                made
            }
        }
    }

    pub(super) fn found(&self, session: &mut Session, plan: &Plan) -> Found {
        let Some((config, status)) = self.world.existing.as_ref().filter(|_| !plan.makes()) else {
            return Found::Bootstrap;
        };
        let done = settings::cloudinit_is_done(&config.settings);
        let state = State::load(plan.marker());
        let silent = || {
            // Which one a run takes first.
            let key = state.host_keys.first().map(String::as_str).or(self.recorded);
            let key = key.filter(|_| self.vm.install == Install::Image);
            key.map_or(Found::Unknown, |key| Found::Silent(key.to_owned()))
        };
        if status.status != "running" {
            return if done { silent() } else { Found::Bootstrap };
        }
        let mut keys = state.keys_with(self.recorded.filter(|_| done));
        let guest = Guest {
            tools: self.tools,
            vmid: self.vm.vmid,
            last: plan::fixed_address(self.vm),
            name: self.vm.name.as_str(),
            identity: &self.login.file,
            ui: self.ui,
        };
        let users = [self.user, BOOTSTRAP_USER];
        let login = guest.log_in_at_once(users, &keys, limit::AS_BEFORE).or_else(|| {
            let op = Op::HostKey { vmid: self.vm.vmid, timeout: limit::AGENT_AGAIN };
            let key: String = session.ask(op, Deadline::secs(limit::AGENT_AGAIN + 30), |_| {}).ok()?;
            keys = vec![key.trim().to_owned()];
            guest.log_in_at_once(users, &keys, limit::AS_BEFORE)
        });
        match login.map(|login| (guest::system(&login), login.host_key().to_owned())) {
            Some((Ok(System::Nixos), key)) => Found::Nixos(key),
            Some((Ok(System::Installer), _)) => Found::Installer,
            Some((Ok(System::Other(_)), _)) => Found::Bootstrap,
            Some((Err(_), _)) | None => silent(),
        }
    }
}
