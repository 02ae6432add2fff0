//! `meta-data NAME`: by which cloud-init knows whether it has seen this machine before.

use fleet_core::{Error, Result};
use serde::Serialize;

use crate::{Context, subject::Subject};

/// Arguments of `meta-data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A VM of vms/definitions.nix
    pub name: String,
    /// Instance id; another one makes cloud-init run again as on a new machine [default: NAME-VMID]
    #[arg(long, value_name = "ID")]
    pub instance_id: Option<String>,
}

/// The meta-data of the NoCloud datasource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MetaData<'a> {
    instance_id: String,
    local_hostname: &'a str,
}

impl<'a> MetaData<'a> {
    /// The meta-data of `subject`. The instance id does not depend on the other documents: editing them does not
    /// make a machine new.
    pub fn new(subject: &Subject<'a>, instance_id: Option<&str>) -> Result<MetaData<'a>> {
        let instance_id = match instance_id {
            None => format!("{}-{}", subject.name, subject.vmid),
            // It becomes the name of a directory in the guest.
            Some(id)
                if id.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) =>
            {
                id.to_owned()
            }
            Some(id) => {
                return Err(Error::usage(format!(
                    "'{}' is not a valid instance id: letters, digits, '-', '_' and '.'",
                    id.escape_debug()
                )));
            }
        };
        Ok(MetaData { instance_id, local_hostname: subject.hostname() })
    }
}

/// Prints the document.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let subject = context.subject(&args.name)?;
    context.print(None, &MetaData::new(&subject, args.instance_id.as_deref())?)
}
