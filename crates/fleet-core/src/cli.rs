//! What every tool's command line has in common, and the way from an error to an exit code.

mod pages;
mod usage;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    Error, Kind, Result,
    error::Kind::Failed,
    nix::NixMode,
    repo::Repo,
    ui::{ColorChoice, Ui},
};

pub use pages::{Completions, Man};
pub use usage::{Line, parse, read};

/// Options of every tool.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// The fleet repository (default: the nearest directory upward with vms/definitions.nix and hosts.nix)
    #[arg(long, global = true, env = "FLEET_REPO", value_name = "DIR", help_heading = "Global options")]
    pub repo: Option<PathBuf>,
    /// Print data and errors as JSON on standard output
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print no progress, only warnings and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Print what happens underneath
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// When to colour messages
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub color: ColorChoice,
    /// How Nix files are read: by the built-in evaluator, by the nix program, or by whichever can
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "HOW",
        help_heading = "Global options"
    )]
    pub nix: NixMode,
}

impl CommonArgs {
    /// Where the tool's words go.
    pub fn ui(&self) -> Ui {
        Ui::new(self.color, self.quiet, self.verbose, self.json)
    }

    /// The fleet repository that the options, or else the working directory, name.
    pub fn repo(&self, example: &str) -> Result<Repo> {
        Repo::find(self.repo.as_deref(), example)
    }
}

/// How to reach the Proxmox host; each falls back to `proxmox = { … }` in the definitions.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectionArgs {
    /// Proxmox host: an ssh_config alias, a DNS name or an address [env: PROXMOX_HOST]
    #[arg(long, global = true, value_name = "HOST", help_heading = "Connection")]
    pub host: Option<String>,
    /// User on the Proxmox host [env: PROXMOX_USER]
    #[arg(long, global = true, value_name = "USER", help_heading = "Connection")]
    pub user: Option<String>,
    /// Node where new VMs belong; one that exists is found wherever it is [env: PROXMOX_NODE]
    #[arg(long, global = true, value_name = "NODE", help_heading = "Connection")]
    pub node: Option<String>,
}

/// Options of every command that changes something.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ChangeArgs {
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub yes: bool,
}

impl ChangeArgs {
    /// Takes over what was said before the verb: `--dry-run VERB` is `VERB --dry-run`.
    pub fn join(&mut self, before: &ChangeArgs) {
        self.dry_run |= before.dry_run;
        self.yes |= before.yes;
    }
}

/// Turns the outcome of a tool into its exit code, after telling the user about a failure.
pub fn finish(ui: Ui, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = match error.downcast::<Error>() {
                Ok(error) => error,
                Err(other) => Error::new(Failed, format!("{other:#}")),
            };
            // The plan's "there are differences" is an answer, not a failure with something to say.
            if !error.message().is_empty() {
                ui.error(&error);
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// An outcome that is told by the exit code alone: everything was already said.
pub fn silent_exit(kind: Kind) -> Error {
    Error::new(kind, "")
}
