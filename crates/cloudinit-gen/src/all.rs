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
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// Where to write; made if it is not there, files of the same names are replaced
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output_dir: PathBuf,
}

/// Whose documents, and what the definition leaves open in them.
#[derive(Debug, clap::Args)]
pub(crate) struct Choices {
    /// A VM of vms/definitions.nix
    pub(crate) name: String,
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

impl Choices {
    /// The four documents by the names that the NoCloud datasource knows them by, for a machine that these keys
    /// may log in to.
    pub(crate) fn documents(
        &self,
        context: &Context,
        keys: &[String],
    ) -> Result<[(&'static str, String); 4]> {
        let subject = context.subject(&self.name)?;
        let mut user_data = UserData::new(&subject, keys);
        if self.guest_agent {
            user_data = user_data.with_guest_agent();
        }
        let network_config = NetworkConfig::new(&subject, mac_of(&subject, self.mac)?)?;
        let meta_data = MetaData::new(&subject, self.instance_id.as_deref())?;
        Ok([
            ("user-data", yaml::write(Some(HEADER), &user_data)?),
            ("network-config", yaml::write(None, &network_config)?),
            ("meta-data", yaml::write(None, &meta_data)?),
            ("vendor-data", yaml::write(Some(HEADER), &VendorData::default())?),
        ])
    }
}

/// Writes the files.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let name = context.subject(&args.choices.name)?.name;
    let keys = context.keys(name)?;
    // Everything that can be wrong is found before the first file is written.
    let documents = args.choices.documents(context, &keys)?;
    let keys = [("authorized_keys", keys.join("\n") + "\n")];
    std::fs::create_dir_all(&args.output_dir).map_err(|e| Error::io("create", &args.output_dir, e))?;
    let mut written = Vec::new();
    for (file, text) in documents.iter().chain(&keys) {
        let path = args.output_dir.join(file);
        write_whole(&path, text.as_bytes())?;
        written.push(path);
    }
    let answer = json!({ "name": name, "files": written });
    context.ui.answer(&answer, || {
        written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n")
    })
}

/// The whole file or nothing of it, readable for its owner only: who may log in is nobody else's business.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(directory).map_err(|e| Error::io("write in", directory, e))?;
    file.write_all(bytes).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
    Ok(())
}
