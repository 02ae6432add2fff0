//! `proxmox-ops console`

use std::ffi::OsString;

use clap::Args;
use fleet_core::{
    Error, Kind, Result, again,
    child::{Command, find_program, quote},
    guard::Operation,
    types::{NodeName, VmRef},
    ui::can_ask,
};

use crate::{
    api::call::Call,
    context::{Context, LeaveOptions, read_deadline},
    ops::{config, power},
    settings::Settings,
};

/// Open a VM's serial console on this terminal; Ctrl-O leaves it
#[derive(Debug, Args)]
pub struct Console {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    #[command(flatten)]
    options: LeaveOptions,
}

impl Console {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        // What is typed there can change anything in the VM.
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "open the console of")?;
        let vmid = permit.vmid();
        let (env, terminal) = (|name: &str| std::env::var_os(name), format!("qm terminal {vmid}"));
        let settings = cx.settings.decided()?;
        let command = command(&settings, &env, &terminal);
        if self.options.change.dry_run {
            cx.ui.step("Dry run: nothing is sent. This command would be run:");
            return cx.ui.answer(&command.to_string(), || command.to_string());
        }
        if !can_ask() {
            return Err(Error::usage("a console needs a terminal").now("nothing was sent to the node").hint(
                format!(
                    "to run a command in it without one: {}",
                    again::change(format_args!("exec {vmid} -- COMMAND"))
                ),
            ));
        }
        if find_program("ssh").is_none() {
            return Err(Error::not_found("the program ssh is not on PATH")
                .hint("a console is the one thing that needs OpenSSH's client; install openssh-client"));
        }
        let cluster = cx.connect()?;
        let (node, found) = cluster.there(vmid, |node| {
            let deadline = read_deadline();
            // Somebody else's VM may have the VMID by now, and an open shell on its serial line.
            node.api.prove_ours(&permit, &Call::console(&permit, node.name(deadline)?), deadline)?;
            config::read(node, vmid, deadline)
        })?;
        if found.settings.get("serial0").is_none_or(|serial| serial != "socket") {
            return Err(Error::failed(format!("VM {vmid} has no serial console"))
                .hint(format!("`qm set {vmid} --serial0 socket` on the node, then stop and start the VM")));
        }
        let state = power::status(&node, vmid, read_deadline())?.status;
        if state != "running" {
            return Err(Error::failed(format!("VM {vmid} has no console: it is {state}"))
                .hint(again::change(format_args!("start {vmid}"))));
        }
        let command = if found.node == *cluster.first().name(read_deadline())? {
            command
        } else {
            // Nodes log in to each other with keys of their own.
            let address = cluster.address(&found.node)?;
            self::command(&settings, &env, &hop(&found.node, &address, &terminal))
        };
        drop((node, cluster));
        let status = command.foreground().interactive()?;
        if status.success() {
            return Ok(());
        }
        Err(Error::new(Kind::Failed, format!("`{command_text}` failed", command_text = "qm terminal"))
            .now(fleet_core::child::describe(status)))
    }
}

/// From a node on to another one, as Proxmox itself does for its web console.
fn hop(node: &NodeName, address: &str, remote: &str) -> String {
    format!(
        "ssh -t -o BatchMode=yes -o HostKeyAlias={node} \
         -o 'UserKnownHostsFile=/etc/pve/nodes/{node}/ssh_known_hosts /etc/pve/priv/known_hosts' root@{} {}",
        quote(address),
        quote(remote)
    )
}

/// `ssh` to the node as these tools reach it, with a terminal, for one command.
fn command(settings: &Settings, env: &dyn Fn(&str) -> Option<OsString>, remote: &str) -> Command {
    let mut command = Command::new("ssh").arg("-t");
    if let Some(file) = env("FLEET_SSH_CONFIG").filter(|f| !f.is_empty()) {
        command = command.arg("-F").arg(file);
    }
    if let Some(file) = env("FLEET_IDENTITY").filter(|f| !f.is_empty()) {
        command = command.arg("-i").arg(file).args(["-o", "IdentitiesOnly=yes"]);
    }
    if let Some(file) = env("FLEET_KNOWN_HOSTS").filter(|f| !f.is_empty()) {
        let mut option = OsString::from("UserKnownHostsFile=");
        option.push(file);
        command = command.arg("-o").arg(option);
    }
    let (host, port) = match settings.host.rsplit_once(':') {
        // A bare IPv6 address has more colons and no brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (settings.host.as_str(), None),
    };
    if let Some(port) = port {
        command = command.args(["-p", port]);
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    command.args(["-l", settings.login(), "--", host, remote])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_told_what_these_tools_know() {
        let mut settings = crate::testing::settings();
        let line = |settings: &Settings, env: &[(&str, &str)]| {
            let look = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(*v));
            command(settings, &look, "qm terminal 110").to_string()
        };
        assert_eq!(line(&settings, &[]), "ssh -t -l root -- prom 'qm terminal 110'");
        settings.host = "[2001:db8::1]:2222".into();
        assert_eq!(line(&settings, &[]), "ssh -t -p 2222 -l root -- 2001:db8::1 'qm terminal 110'");
        settings.host = "2001:db8::1".into();
        assert_eq!(line(&settings, &[]), "ssh -t -l root -- 2001:db8::1 'qm terminal 110'");
        settings.host = "127.0.0.1:2022".into();
        let env = [("FLEET_SSH_CONFIG", "none"), ("FLEET_IDENTITY", "/k"), ("FLEET_KNOWN_HOSTS", "/h")];
        assert_eq!(
            line(&settings, &env),
            "ssh -t -F none -i /k -o 'IdentitiesOnly=yes' -o 'UserKnownHostsFile=/h' -p 2022 -l root -- 127.0.0.1 'qm terminal 110'"
        );
    }
}
