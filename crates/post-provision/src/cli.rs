//! The command line.

use clap::{CommandFactory, Parser, Subcommand};
use fleet_core::{
    again,
    cli::{CommonArgs, Completions, ConnectionArgs, Line, Man},
};

use crate::{
    add::Add,
    check::{Inventory, Secrets},
    remove::Remove,
};

/// Takes a VM into the fleet: host key, hosts.nix, sops recipients, secrets, inventory, commit. All files change or
/// none does; a second run finishes what a first one could not.
#[derive(Debug, Parser)]
#[command(name = "post-provision-vm", version, subcommand_negates_reqs = true, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every tool.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Another verb than adding.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Adding.
    #[command(flatten)]
    pub add: Add,
}

/// What can be done besides adding.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Take a VM out of the fleet again
    Remove(Remove),
    /// Bring every secret to exactly the recipients that its rule in .sops.yaml names
    Secrets(Secrets),
    /// Bring the inventory in docs/machines.md up to date
    Inventory(Inventory),
    /// Print the completions of a shell for this program
    Completions(Completions),
    /// Print the manual page of this program or of one of its verbs, in roff, or write them all
    Man(Man),
}

impl Line for Cli {
    const BEFORE_A_VERB: &'static [&'static str] = &["dry_run", "yes", "no_commit", "allow_dirty"];

    fn joined(mut self) -> Cli {
        let (change, commit) = match &mut self.verb {
            Some(Verb::Remove(args)) => (&mut args.change, &mut args.commit),
            Some(Verb::Secrets(args)) => (&mut args.change, &mut args.commit),
            Some(Verb::Inventory(args)) => (&mut args.change, &mut args.commit),
            _ => return self,
        };
        change.join(&std::mem::take(&mut self.add.change));
        commit.join(&std::mem::take(&mut self.add.commit));
        self
    }
}

/// Runs what the command line says.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    again::remember(&cli.common, &ConnectionArgs::default());
    match &cli.verb {
        Some(Verb::Remove(remove)) => remove.run(&cli.common)?,
        Some(Verb::Secrets(secrets)) => secrets.run(&cli.common)?,
        Some(Verb::Inventory(inventory)) => inventory.run(&cli.common)?,
        Some(Verb::Completions(completions)) => completions.run(cli.common.ui(), Cli::command())?,
        Some(Verb::Man(man)) => man.run(cli.common.ui(), Cli::command())?,
        None => cli.add.run(&cli.common)?,
    }
    Ok(())
}
