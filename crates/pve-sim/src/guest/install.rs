//! What the installer's commands do to a machine.

use std::{collections::BTreeMap, sync::Arc};

use super::{Os, System, install, shell::Shell};
use crate::{faults::Fault, ledger::Party};

impl Shell {
    /// The machine goes on a moment after the command has ended, so that its answer still arrives.
    pub(super) fn later(&mut self, off: bool) {
        let (node, vmid) = (Arc::clone(&self.node), self.vmid);
        let pause = node.latency().install;
        node.ledger.takes(Party::Guest, format!("{vmid} goes down"), pause);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if off { super::power_off(&node, vmid) } else { super::reboot(&node, vmid) }
        });
    }

    pub(super) fn fails(&self, wanted: &str) -> bool {
        self.node.has_fault(
            |f| matches!(f, Fault::InstallFails { vmid, phase } if *vmid == self.vmid && phase == wanted),
        )
    }

    pub(super) fn kexec(&mut self) {
        if self.fails("kexec") {
            return self.complain(kexec_refused(), 1);
        }
        self.say("machine will boot into nixos in 6s...\n");
        let (node, vmid) = (Arc::clone(&self.node), self.vmid);
        let pause = node.latency().install;
        node.ledger.takes(Party::Guest, format!("{vmid} goes down"), pause);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            super::kexec(&node, vmid);
        });
    }

    pub(super) async fn disko(&mut self) {
        if self.os() != Os::Installer {
            return self.complain("disko: /dev/sda is mounted", 1);
        }
        tokio::time::sleep(self.node.latency().install).await;
        if self.fails("disko") {
            return self.complain("disko: can not partition /dev/sda", 1);
        }
        self.node.change(|d| {
            if let Some(guest) = d.guests.get_mut(&self.vmid) {
                guest.disk = super::Disk::Blank;
                if let Some(run) = guest.running.as_mut() {
                    run.formatted = true;
                    run.files.retain(|path, _| !path.starts_with("/mnt/"));
                }
            }
        });
        self.say("+ mount /dev/disk/by-partlabel/disk-main-root /mnt\n");
    }

    /// `tar -C DIR -xf-`, reading standard input.
    pub(super) fn untar(&mut self, args: &[&str]) {
        let dir =
            args.iter().position(|a| *a == "-C").and_then(|i| args.get(i + 1)).copied().unwrap_or("/root");
        let archive = std::mem::take(&mut self.stdin);
        let Some(files) = crate::tar::read(&archive) else {
            return self.complain("tar: This does not look like a tar archive", 2);
        };
        for (path, content) in files {
            let path = format!("{}/{}", dir.trim_end_matches('/'), path.trim_start_matches("./"));
            self.write(&path, content, false);
        }
    }

    pub(super) async fn nixos_install(&mut self, args: &[String]) {
        let Some(run) = super::with(&self.node, self.vmid, Clone::clone) else { return };
        if run.os != Os::Installer || !run.formatted {
            return self.complain("nixos-install: /mnt is not a mount point", 1);
        }
        tokio::time::sleep(self.node.latency().install).await;
        if self.fails("install") {
            return self.complain("error: executing 'switch-to-configuration': No space left on device", 1);
        }
        let system = args.iter().position(|a| a == "--system").and_then(|i| args.get(i + 1));
        let Some(system) = system else {
            return self.complain("nixos-install: --system is required here", 1);
        };
        let about = run.files.get(&format!("/mnt{system}/simulated.json"));
        let Some(about) = about.and_then(|text| serde_json::from_slice::<Closure>(text).ok()) else {
            return self.complain(format!("error: path '{system}' is not valid"), 1);
        };
        // The host key of the new system: what --extra-files or --copy-host-keys put there, else a fresh one.
        let host_key = run
            .files
            .get("/mnt/etc/ssh/ssh_host_ed25519_key")
            .and_then(|k| String::from_utf8(k.clone()).ok())
            .filter(|k| crate::keys::parse(k).is_ok());
        let host_key = match host_key.map_or_else(|| crate::keys::generate("root@nixos"), Ok) {
            Ok(key) => key,
            Err(e) => return self.complain(format!("{e:#}"), 1),
        };
        install(
            &self.node,
            self.vmid,
            System {
                hostname: about.hostname,
                host_key,
                users: about.users,
                instance: String::new(),
                keeps_host_keys: false,
            },
        );
        self.say("installation finished!\n");
    }
}

/// What the installer's script says, which traces what it does, and then shows the end of the kernel's log.
fn kexec_refused() -> String {
    let kernel = (1..=100).map(|second| format!("[{second:5}.000000] a line of the kernel\n"));
    format!(
        "+ sh -c '/root/kexec/kexec/kexec' --load '/root/kexec/kexec/bzImage'\n\
         kexec_load failed: Cannot allocate memory\n+ echo kexec failed, dumping dmesg\nkexec failed, dumping dmesg\n\
         {}+ exit 1",
        kernel.collect::<String>()
    )
}

/// What a simulated system closure is: who the system will be.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Closure {
    /// `networking.hostName`.
    pub hostname: String,
    /// Keys by user.
    pub users: BTreeMap<String, Vec<String>>,
}
