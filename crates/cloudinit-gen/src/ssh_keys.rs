//! `ssh-keys NAME`: the keys alone, one a line.

use fleet_core::Result;

use crate::Context;

/// Arguments of `ssh-keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A VM of vms/definitions.nix
    pub(crate) name: String,
}

/// Prints the keys: fit for `proxmox-ops cloudinit-config NAME -`.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let subject = context.subject(&args.name)?;
    let keys = context.keys(&subject)?;
    let answer = serde_json::json!({ "name": subject.name, "keys": keys });
    context.ui.answer(&answer, || keys.join("\n"))
}
