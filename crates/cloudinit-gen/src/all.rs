//! `all NAME --output-dir DIR`: every document as a file, named as the NoCloud datasource names them.

use std::path::{Path, PathBuf};

use fleet_core::{Error, Result, types::MacAddr};
use serde_json::json;

use crate::{
    Context,
    meta_data::MetaData,
    network_config::{NetworkConfig, mac_of},
    user_data::{HEADER, UserData},
    vendor_data::VendorData,
    yaml,
};

/// Arguments of `all`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A VM of vms/definitions.nix
    pub(crate) name: String,
    /// Where to write; made if it is not there, files of the same names are replaced
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output_dir: PathBuf,
    /// MAC address of its first interface, where the definition does not fix it
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,
    /// Install and start the QEMU guest agent
    #[arg(long)]
    guest_agent: bool,
    /// Instance id; another one makes cloud-init run again as on a new machine [default: NAME-VMID]
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,
}

/// Writes the files.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let subject = context.subject(&args.name)?;
    let keys = context.keys(subject.name)?;
    let mut user_data = UserData::new(&subject, &keys);
    if args.guest_agent {
        user_data = user_data.with_guest_agent();
    }
    // Everything that can be wrong is found before the first file is written.
    let files = [
        ("user-data", yaml::write(Some(HEADER), &user_data)?),
        ("network-config", yaml::write(None, &NetworkConfig::new(&subject, mac_of(&subject, args.mac)?)?)?),
        ("meta-data", yaml::write(None, &MetaData::new(&subject, args.instance_id.as_deref())?)?),
        ("vendor-data", yaml::write(Some(HEADER), &VendorData::default())?),
        ("authorized_keys", keys.join("\n") + "\n"),
    ];
    std::fs::create_dir_all(&args.output_dir).map_err(|e| Error::io("create", &args.output_dir, e))?;
    let mut written = Vec::new();
    for (name, text) in &files {
        let path = args.output_dir.join(name);
        write_whole(&path, text)?;
        written.push(path);
    }
    let answer = json!({ "name": subject.name, "files": written });
    context.ui.answer(&answer, || {
        written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n")
    })
}

/// The whole file or nothing of it, readable for its owner only: who may log in is nobody else's business.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(directory).map_err(|e| Error::io("write in", directory, e))?;
    file.write_all(text.as_bytes()).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
    Ok(())
}
