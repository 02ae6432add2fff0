//! The command line.

use clap::{CommandFactory, Parser, Subcommand};
use fleet_core::{
    Result, again,
    cli::{CommonArgs, Completions, ConnectionArgs, Line, Man},
    interrupt,
    ui::Ui,
};

use crate::{context::Context, verbs};

/// Operations on a Proxmox VE host, over SSH
///
/// VMs are named by VMID or by name. Imported VMs are never changed; VMs that no definition has only with
/// --unmanaged. Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 conflict, 5 not found, 6 unreachable,
/// 7 outcome unknown, 8 deadline passed.
#[derive(Debug, Parser)]
#[command(name = "proxmox-ops", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(verbs::list::List),
    Status(verbs::status::Status),
    Config(verbs::config::Config),
    Clone(verbs::clone::Clone),
    Configure(verbs::configure::Configure),
    CreateDisk(verbs::create_disk::CreateDisk),
    Resize(verbs::resize::Resize),
    CloudinitDrive(verbs::cloudinit_drive::CloudinitDrive),
    CloudinitConfig(verbs::cloudinit_config::CloudinitConfig),
    Start(verbs::start::Start),
    Stop(verbs::stop::Stop),
    Shutdown(verbs::shutdown::Shutdown),
    Reboot(verbs::reboot::Reboot),
    Destroy(verbs::destroy::Destroy),
    GetIp(verbs::get_ip::GetIp),
    WaitSsh(verbs::wait_ssh::WaitSsh),
    Storage(verbs::storage::Storage),
    NextVmid(verbs::next_vmid::NextVmid),
    Template(verbs::template::Template),
    CreateTemplate(verbs::create_template::CreateTemplate),
    Backup(verbs::backup::Backup),
    Restore(verbs::restore::Restore),
    Console(verbs::console::Console),
    Snapshot(verbs::snapshot::Snapshot),
    Snapshots(verbs::snapshots::Snapshots),
    Rollback(verbs::snapshot::Rollback),
    DeleteSnapshot(verbs::snapshot::DeleteSnapshot),
    Exec(verbs::exec::Exec),
    Ps(verbs::ps::Ps),
    Top(verbs::ps::Top),
    HostKey(verbs::host_key::HostKey),
    Connect(verbs::connect::Connect),
    Session(verbs::session::Session),
    Completions(Completions),
    Man(Man),
}

impl Line for Cli {}

impl Cli {
    /// Where messages go.
    pub fn ui(&self) -> Ui {
        self.common.ui()
    }

    /// Runs the verb.
    pub fn run(&self) -> Result<()> {
        match &self.verb {
            // These need no repository.
            Verb::Completions(verb) => return verb.run(self.ui(), Cli::command()),
            Verb::Man(verb) => return verb.run(self.ui(), Cli::command()),
            _ => {}
        }
        again::remember(&self.common, &self.connection);
        let context = Context::load(&self.common, &self.connection);
        if let Verb::Session(verb) = &self.verb {
            // Its asker reads answers, not messages: failures are told there.
            return verb.run(context);
        }
        // What waits stops at a safe point. A carrier of bytes just ends.
        if !matches!(self.verb, Verb::Connect(_)) {
            interrupt::install()?;
        }
        let cx = &context?;
        self.run_on(cx).map_err(|error| cx.settings.named(error))
    }

    fn run_on(&self, cx: &Context) -> Result<()> {
        match &self.verb {
            Verb::List(verb) => verb.run(cx),
            Verb::Status(verb) => verb.run(cx),
            Verb::Config(verb) => verb.run(cx),
            Verb::Clone(verb) => verb.run(cx),
            Verb::Configure(verb) => verb.run(cx),
            Verb::CreateDisk(verb) => verb.run(cx),
            Verb::Resize(verb) => verb.run(cx),
            Verb::CloudinitDrive(verb) => verb.run(cx),
            Verb::CloudinitConfig(verb) => verb.run(cx),
            Verb::Start(verb) => verb.run(cx),
            Verb::Stop(verb) => verb.run(cx),
            Verb::Shutdown(verb) => verb.run(cx),
            Verb::Reboot(verb) => verb.run(cx),
            Verb::Destroy(verb) => verb.run(cx),
            Verb::GetIp(verb) => verb.run(cx),
            Verb::WaitSsh(verb) => verb.run(cx),
            Verb::Storage(verb) => verb.run(cx),
            Verb::NextVmid(verb) => verb.run(cx),
            Verb::Template(verb) => verb.run(cx),
            Verb::CreateTemplate(verb) => verb.run(cx),
            Verb::Backup(verb) => verb.run(cx),
            Verb::Restore(verb) => verb.run(cx),
            Verb::Console(verb) => verb.run(cx),
            Verb::Snapshot(verb) => verb.run(cx),
            Verb::Snapshots(verb) => verb.run(cx),
            Verb::Rollback(verb) => verb.run(cx),
            Verb::DeleteSnapshot(verb) => verb.run(cx),
            Verb::Exec(verb) => verb.run(cx),
            Verb::Ps(verb) => verb.run(cx),
            Verb::Top(verb) => verb.run(cx),
            Verb::HostKey(verb) => verb.run(cx),
            Verb::Connect(verb) => verb.run(cx),
            Verb::Session(_) | Verb::Completions(_) | Verb::Man(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_verb_has_an_argument_that_is_called_like_a_global_one() {
        // clap would mix the two up, and only when they are used.
        let command = Cli::command();
        command.clone().debug_assert();
        let global: Vec<&str> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        assert!(global.contains(&"user"));
        for verb in command.get_subcommands() {
            for arg in verb.get_arguments() {
                let id = arg.get_id().as_str();
                assert!(!global.contains(&id), "{} {id}", verb.get_name());
            }
        }
    }
}
