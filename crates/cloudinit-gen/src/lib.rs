//! cloud-init documents from a fleet definition: user-data, network-config, meta-data, vendor-data and SSH keys.
//!
//! Every document is a typed model written by serde_yaml; nothing is pasted together from text. The keys are
//! those of cloud-init's own schema, none of them deprecated, and mean the same from cloud-init 22.4 (Debian 12) on.

mod all;
mod check;
pub mod keys;
pub mod meta_data;
pub mod network_config;
mod seed;
mod ssh_keys;
pub mod subject;
pub mod user_data;
pub mod vendor_data;
pub mod yaml;

use clap::{CommandFactory, Parser, Subcommand};
use fleet_core::{
    Result,
    cli::{CommonArgs, Completions, Line, Man},
    definitions::Definitions,
    hosts::Hosts,
    ui::Ui,
};
use serde::Serialize;

use crate::subject::Subject;

/// cloud-init documents for the VMs of a fleet repository
///
/// NAME is a VM of vms/definitions.nix, managed or imported: documents are only printed, nothing is changed.
#[derive(Debug, Parser)]
#[command(name = "cloudinit-gen", version, max_term_width = 100)]
pub struct Cli {
    /// Options of every tool.
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the user-data: host name, the fleet's keys, no passwords, no upgrades
    UserData(user_data::Args),
    /// Print the network-config (version 2), matched by MAC address
    NetworkConfig(network_config::Args),
    /// Print the meta-data: instance id and host name
    MetaData(meta_data::Args),
    /// Print the vendor-data, which is empty
    VendorData(vendor_data::Args),
    /// Print the keys that may log in, one a line, as Proxmox takes them
    SshKeys(ssh_keys::Args),
    /// Write all four documents and the keys into a directory; several VMs', or every managed one's, each in its own
    All(all::Args),
    /// Write all four documents as an image that cloud-init's NoCloud datasource finds (FAT, label CIDATA)
    Seed(seed::Args),
    /// Check documents: size, first line, our own rules, and cloud-init's schema where cloud-init is installed
    Check(check::Args),
    Completions(Completions),
    Man(Man),
}

impl Line for Cli {}

/// Runs the verb that the command line names.
pub fn run(cli: &Cli) -> Result<()> {
    let context = || Context::new(cli);
    match &cli.verb {
        Verb::UserData(args) => user_data::run(&context()?, args),
        Verb::NetworkConfig(args) => network_config::run(&context()?, args),
        Verb::MetaData(args) => meta_data::run(&context()?, args),
        Verb::VendorData(args) => vendor_data::run(&context()?, args),
        Verb::SshKeys(args) => ssh_keys::run(&context()?, args),
        Verb::All(args) => all::run(&context()?, args),
        Verb::Seed(args) => seed::run(&context()?, args),
        Verb::Check(args) => check::run(cli.common.ui(), args),
        Verb::Completions(args) => args.run(cli.common.ui(), Cli::command()),
        Verb::Man(args) => args.run(cli.common.ui(), Cli::command()),
    }
}

/// What every verb works on.
struct Context {
    ui: Ui,
    definitions: Definitions,
    hosts: Hosts,
}

impl Context {
    fn new(cli: &Cli) -> Result<Context> {
        let repo = cli.common.repo(&format!("cloudinit-gen --repo DIR {}", cli.verb.example()))?;
        Ok(Context {
            ui: cli.common.ui(),
            definitions: Definitions::load(&repo, cli.common.nix)?,
            hosts: Hosts::load(&repo, cli.common.nix)?,
        })
    }

    fn subject(&self, name: &str) -> Result<Subject<'_>> {
        Subject::find(&self.definitions, name)
    }

    /// The keys that may log in, one line each. A certificate is passed on, and said to be of no use.
    fn keys(&self, subject: &Subject<'_>) -> Result<Vec<String>> {
        let keys = keys::for_subject(&self.hosts, subject)?;
        for key in keys.iter().filter(|key| key.certificate) {
            self.ui.warn(format!(
                "'{}' lists a certificate, for which sshd lets nobody in (its authority's key, with `cert-authority`, does): {}",
                subject.name, key.line
            ));
        }
        Ok(keys.into_iter().map(|key| key.line).collect())
    }

    /// Prints `document`: as YAML under `header`, or as JSON with `--json`.
    fn print(&self, header: Option<&str>, document: &impl Serialize) -> Result<()> {
        if self.ui.json() {
            self.ui.json_line(document)
        } else {
            self.ui.data(yaml::write(header, document)?)
        }
    }
}

impl Verb {
    /// The verb as it was typed, for an error's advice.
    fn example(&self) -> String {
        match self {
            Verb::UserData(args) => format!("user-data {}", args.name),
            Verb::NetworkConfig(args) => format!("network-config {}", args.name),
            Verb::MetaData(args) => format!("meta-data {}", args.name),
            Verb::VendorData(args) => format!("vendor-data {}", args.name),
            Verb::SshKeys(args) => format!("ssh-keys {}", args.name),
            Verb::All(args) => {
                format!("all {} --output-dir {}", args.names.join(" "), args.output_dir.display())
            }
            Verb::Seed(args) => format!("seed {} --output {}", args.name, args.output.display()),
            Verb::Check(_) => "check FILE".to_owned(),
            // These need no repository.
            Verb::Completions(_) => "completions SHELL".to_owned(),
            Verb::Man(_) => "man".to_owned(),
        }
    }
}
