//! `vendor-data NAME`: nothing, said in a way that cloud-init accepts.

use fleet_core::Result;
use serde::Serialize;

use crate::{Context, user_data::HEADER};

/// Arguments of `vendor-data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A VM of vms/definitions.nix
    pub name: String,
}

/// A cloud-config that asks for nothing: everything that we say stands in the user-data.
#[derive(Debug, Default, Serialize)]
pub struct VendorData {}

/// Prints the document.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    context.subject(&args.name)?;
    context.print(Some(HEADER), &VendorData::default())
}
