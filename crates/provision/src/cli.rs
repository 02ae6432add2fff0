//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use fleet_core::cli::{ChangeArgs, CommonArgs, Completions, ConnectionArgs, Line, Man};

use crate::{
    apply::ApplyArgs, build::BuildOn, destroy::DestroyArgs, log::LogArgs, new::NewArgs, status::StatusArgs,
};

/// What there is to type: the one thing with names, and all others by their verb.
const USAGE: &str = "provision-vm [OPTIONS] NAME...   (or --all)
       provision-vm plan|apply|status|new|destroy|log|check [OPTIONS] ...";

/// Turn an entry in vms/definitions.nix into a running NixOS VM that is a full member of the fleet
///
/// Clones the template, sets the VM up, starts it, installs NixOS with nixos-anywhere, verifies it, and takes it
/// into the fleet with post-provision-vm. The same command again finishes a run that was cut short: each step
/// first looks whether it is already done. A VM that this tool did not create is never touched.
#[derive(Debug, Parser)]
#[command(name = "provision-vm", version, max_term_width = 100, subcommand_negates_reqs = true, override_usage = USAGE)]
pub struct Cli {
    /// What else to do; without a verb the named VMs are provisioned.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// VMs to provision, as named under `managed` in vms/definitions.nix
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub names: Vec<String>,
    /// Provision every managed VM
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// How many VMs to work on at once; the others wait for their turn
    #[arg(long, value_name = "N", default_value = "4", value_parser = jobs)]
    pub jobs: usize,

    /// Stop when the VM answers over SSH, and print the commands that remain
    #[arg(long)]
    pub no_install: bool,
    /// When to take the VM into the fleet: before the installation, so that what is installed knows the VM and its
    /// secrets open on first boot, or after it
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub integrate: Integrate,
    /// The same as --integrate never: print the command that does it
    #[arg(long, conflicts_with = "integrate")]
    pub no_integrate: bool,
    /// Private key to log in to the VM with, or the .pub of one that the agent has; it must be among the fleet's keys
    /// [default: one of ~/.ssh/id_ed25519, id_ecdsa, id_rsa, or of the agent's, that is]
    #[arg(short, long, value_name = "FILE", env = "FLEET_IDENTITY")]
    pub identity: Option<PathBuf>,

    /// Only go on with what an earlier run began: where there is no VM yet, make none
    #[arg(long)]
    pub resume: bool,
    /// What to do with what this run made when it fails: keep it, so that the same command goes on, or remove it
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub on_failure: OnFailure,
    /// Where the system is built: on this machine, in the VM, or here when nix is here and can
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    pub build_on: BuildOn,
    /// The installer's archive, which the VM else gets from github.com: a file, or an address that the VM can reach
    #[arg(long, value_name = "FILE|URL")]
    pub kexec: Option<String>,
    /// Give the installation up when nothing new is said for so long and the VM does not answer either
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_limit: u64,
    /// Give up when a system that boots has had no address, or has let nobody in, for so long [default: 300 for the
    /// bootstrap system, 600 for the new one]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub boot_limit: Option<u64>,

    /// --yes, --dry-run.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// How to reach Proxmox.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Options of every tool.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// When a VM is taken into the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Integrate {
    /// Between the start of the installer and the installation.
    #[default]
    Before,
    /// When NixOS is verified.
    After,
    /// Not at all.
    Never,
}

/// What becomes of a VM whose run failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnFailure {
    /// The same command goes on with it.
    #[default]
    Keep,
    /// It is removed, if this run made it.
    Destroy,
}

/// The most VMs that are worked on at once: each needs a connection to the node and processes here.
const MOST_JOBS: usize = 64;

fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs) if (1..=MOST_JOBS).contains(&jobs) => Ok(jobs),
        _ => Err(format!("a whole number from 1 to {MOST_JOBS}")),
    }
}

impl Cli {
    /// Whether a person is asked before anything is done.
    pub(crate) fn asks(&self) -> bool {
        !self.change.yes && !self.change.dry_run
    }

    /// When to take VMs into the fleet.
    pub fn integrate(&self) -> Integrate {
        if self.no_integrate { Integrate::Never } else { self.integrate }
    }
}

impl Line for Cli {
    const BEFORE_A_VERB: &'static [&'static str] = &["dry_run", "yes"];

    fn joined(mut self) -> Cli {
        let change = match &mut self.verb {
            Some(Verb::Apply(args)) => &mut args.change,
            Some(Verb::New(args)) => &mut args.change,
            Some(Verb::Destroy(args)) => &mut args.change,
            _ => return self,
        };
        change.join(&std::mem::take(&mut self.change));
        self
    }
}

/// What `provision-vm` can do besides provisioning. A VM may not bear one of these names.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Compare the definitions with the cluster; exit code 0 when they are equal, 2 when not
    Plan(PlanArgs),
    /// Bring an existing VM in line with its definition: cores, memory, CPU type, disk growth, tags, onboot,
    /// protection, description; never shrinks, replaces or destroys
    Apply(ApplyArgs),
    /// Show what is known of each VM in one table: definition, node, power, address, host key, secrets, last run
    Status(StatusArgs),
    /// Write the definition and the host directory of a new VM; asks for what is not given
    New(Box<NewArgs>),
    /// Remove a VM from its node for ever, and take it out of the fleet; its name has to be typed
    Destroy(DestroyArgs),
    /// Show what the last run did: its steps, how long they took, how it ended
    Log(LogArgs),
    /// Check the whole repository without a connection: definitions, hosts, host directories, sops rules and the
    /// secrets they govern, inventory; exit code 0 or 1
    Check,
    /// Print the completions of a shell for this program
    Completions(Completions),
    /// Print the manual page of this program or of one of its verbs, in roff, or write them all
    Man(Man),
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// VMs to compare [default: every managed VM]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Compare every managed VM
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_vm_may_bear_the_name_of_a_verb() {
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands() {
            let name = verb.get_name();
            assert!(
                fleet_core::definitions::VERBS.contains(&name),
                "add '{name}' to VERBS, and to vms/lib.nix"
            );
        }
    }
}
