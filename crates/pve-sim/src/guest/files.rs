//! What can be read on a machine.

use serde_json::{Value, json};

use super::{Os, with};
use crate::{
    keys,
    node::{Node, since_1970},
};

/// `/etc/os-release` of the running system.
pub fn os_release(os: Os) -> &'static str {
    match os {
        Os::CloudImage => {
            "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n"
        }
        Os::Installer => {
            "ANSI_COLOR=\"0;38;2;126;186;228\"\nID=nixos\nNAME=NixOS\nPRETTY_NAME=\"NixOS 25.11 (Xantusia)\"\n\
             VARIANT=\"Installer\"\nVARIANT_ID=installer\nVERSION_ID=\"25.11\"\n"
        }
        Os::Nixos => {
            "ANSI_COLOR=\"0;38;2;126;186;228\"\nID=nixos\nNAME=NixOS\nPRETTY_NAME=\"NixOS 25.11 (Xantusia)\"\n\
             VERSION_ID=\"25.11\"\n"
        }
    }
}

/// `guest-get-osinfo`.
pub fn os_info(node: &Node, vmid: u32) -> Value {
    let os = with(node, vmid, |r| r.os).unwrap_or(Os::CloudImage);
    if os == Os::CloudImage {
        json!({ "id": "ubuntu", "name": "Ubuntu", "pretty-name": "Ubuntu 24.04.3 LTS", "version": "24.04.3 LTS (Noble Numbat)", "version-id": "24.04", "machine": "x86_64", "kernel-release": "6.8.0-79-generic", "kernel-version": "#79-Ubuntu SMP PREEMPT_DYNAMIC" })
    } else {
        json!({ "id": "nixos", "name": "NixOS", "pretty-name": "NixOS 25.11 (Xantusia)", "version": "25.11 (Xantusia)", "version-id": "25.11", "machine": "x86_64", "kernel-release": "6.12.48", "kernel-version": "#1-NixOS SMP PREEMPT_DYNAMIC" })
    }
}

/// A file on the running machine, read as root.
pub fn read_file(node: &Node, vmid: u32, path: &str) -> Option<Vec<u8>> {
    let run = with(node, vmid, Clone::clone)?;
    if let Some(content) = run.files.get(path) {
        return Some(content.clone());
    }
    let text = match path {
        "/etc/hostname" => format!("{}\n", run.system.hostname),
        "/etc/os-release" | "/usr/lib/os-release" => os_release(run.os).to_owned(),
        "/etc/ssh/ssh_host_ed25519_key.pub" => {
            format!("{} root@{}\n", keys::public_line(&run.system.host_key).ok()?, run.system.hostname)
        }
        "/etc/ssh/ssh_host_ed25519_key" => run.system.host_key,
        "/proc/sys/kernel/random/boot_id" => format!("00000000-0000-4000-8000-{:012}\n", run.boot),
        "/proc/uptime" => format!("{}.00 0.00\n", run.uptime(since_1970())),
        "/proc/meminfo" => "MemTotal:        4014080 kB\nMemAvailable:    3600000 kB\n".to_owned(),
        "/etc/ssh/sshd_config" => "Include /etc/ssh/sshd_config.d/*.conf\n".to_owned(),
        "/etc/machine-id" => format!("{vmid:032x}\n"),
        // It has done its part when the machine can be asked.
        "/run/cloud-init/result.json" if run.os == Os::CloudImage => {
            json!({ "v1": { "datasource": "DataSourceNoCloud [seed=/dev/sr0]", "errors": [] } }).to_string()
        }
        "/root/.ssh/authorized_keys" => run.system.users.get("root")?.join("\n") + "\n",
        _ => return None,
    };
    Some(text.into_bytes())
}
