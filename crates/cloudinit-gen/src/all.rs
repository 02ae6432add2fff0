//! `all NAME --output-dir DIR`: every document as a file, named as the NoCloud datasource names them.

use std::path::{Path, PathBuf};

use fleet_core::{Error, Result, types::MacAddr};
use serde_json::{Value, json};

use crate::{
    Context,
    meta_data::MetaData,
    network_config::{NetworkConfig, mac_of},
    subject::Subject,
    user_data::{HEADER, UserData},
    vendor_data::VendorData,
    yaml,
};

/// How many faults of several machines are told.
const MOST_FAULTS: usize = 10;

/// Arguments of `all`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// VMs of vms/definitions.nix; of several, and without a name of every managed one, each gets a directory DIR/NAME
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) choices: Choices,
    /// Where to write; made if it is not there, files of the same names are replaced
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output_dir: PathBuf,
}

/// What the definition leaves open in the documents.
#[derive(Debug, clap::Args)]
pub(crate) struct Choices {
    /// MAC address of its first interface, where the definition does not fix it
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,
    /// Let the machine tag its packets for the definition's VLAN itself; on Proxmox the network card does (`tag=`)
    #[arg(long)]
    tagged: bool,
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
        subject: &Subject<'_>,
        keys: &[String],
    ) -> Result<[(&'static str, String); 4]> {
        let mut user_data = UserData::new(subject, keys);
        if self.guest_agent {
            user_data = user_data.with_guest_agent();
        }
        let network_config = NetworkConfig::new(subject, mac_of(subject, self.mac)?, self.tagged)?;
        let meta_data = MetaData::new(subject, self.instance_id.as_deref())?;
        Ok([
            ("user-data", yaml::write(Some(HEADER), &user_data)?),
            ("network-config", yaml::write(None, &network_config)?),
            ("meta-data", yaml::write(None, &meta_data)?),
            ("vendor-data", yaml::write(Some(HEADER), &VendorData::default())?),
        ])
    }
}

/// One machine's files, not written yet.
struct Written<'a> {
    name: &'a str,
    directory: PathBuf,
    files: Vec<(&'static str, String)>,
}

/// Writes the files.
pub(crate) fn run(context: &Context, args: &Args) -> Result<()> {
    let names: Vec<&str> = if args.names.is_empty() {
        context.definitions.managed.iter().map(|vm| vm.name.as_str()).collect()
    } else {
        args.names.iter().map(String::as_str).collect()
    };
    if names.is_empty() {
        return Err(Error::not_found(format!("no managed VM in {}", context.definitions.path.display()))
            .hint("name an imported one, or add one under `managed`"));
    }
    if names.len() > 1 && (args.choices.mac.is_some() || args.choices.instance_id.is_some()) {
        return Err(Error::usage("--mac and --instance-id are one machine's, and several are to be written")
            .hint("set `mac` in the definitions, or name one VM"));
    }
    let several = args.names.len() != 1;
    // Everything that can be wrong is found before the first file is written.
    let (mut machines, mut faults) = (Vec::new(), Vec::new());
    for name in &names {
        match prepare(context, args, name, several) {
            Ok(machine) => machines.push(machine),
            Err(error) => faults.push(error),
        }
    }
    several_faults(faults, names.len())?;
    let mut answers = Vec::new();
    for machine in &machines {
        answers.push(json!({ "name": machine.name, "files": machine.write()? }));
    }
    let paths = |answer: &Value| -> Vec<String> {
        let files = answer["files"].as_array().into_iter().flatten();
        files.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let lines = answers.iter().flat_map(paths).collect::<Vec<_>>().join("\n");
    match answers.as_slice() {
        [answer] if !several => context.ui.answer(answer, || lines),
        answers => context.ui.answer(&answers, || lines),
    }
}

fn prepare<'a>(context: &'a Context, args: &Args, name: &'a str, several: bool) -> Result<Written<'a>> {
    let subject = context.subject(name)?;
    let keys = context.keys(&subject)?;
    let documents = args.choices.documents(&subject, &keys)?;
    let mut files = Vec::from(documents);
    files.push(("authorized_keys", keys.join("\n") + "\n"));
    let directory = if several { args.output_dir.join(subject.name) } else { args.output_dir.clone() };
    Ok(Written { name: subject.name, directory, files })
}

/// One error for all: the only one there is, or one that tells the first few.
fn several_faults(faults: Vec<Error>, machines: usize) -> Result<()> {
    let count = faults.len();
    if count == 1 {
        return faults.into_iter().try_for_each(Err);
    }
    let Some(first) = faults.first() else { return Ok(()) };
    let what = format!("{count} of {machines} VMs have no documents; nothing was written");
    let error = faults
        .iter()
        .take(MOST_FAULTS)
        .fold(Error::new(first.kind(), what), |error, fault| error.now(format!("- {}", fault.chain())));
    let error = match count.saturating_sub(MOST_FAULTS) {
        0 => error,
        more => error.now(format!("- and {more} more")),
    };
    Err(first.hints().iter().fold(error, |error, hint| error.hint(hint)))
}

impl Written<'_> {
    /// Writes the files and tells their paths.
    fn write(&self) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(&self.directory).map_err(|e| Error::io("create", &self.directory, e))?;
        let write = |(file, text): &(&str, String)| {
            let path = self.directory.join(file);
            write_whole(&path, text.as_bytes()).map(|()| path)
        };
        self.files.iter().map(write).collect()
    }
}

/// The whole file or nothing of it, readable for its owner only: who may log in is nobody else's business.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    if is_written(path, bytes) {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(directory).map_err(|e| Error::io("write in", directory, e))?;
    file.write_all(bytes).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
    Ok(())
}

/// Whether the file says this already, for its owner only.
fn is_written(path: &Path, bytes: &[u8]) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ours = |file: std::fs::Metadata| {
        file.is_file() && file.mode() & 0o777 == 0o600 && file.len() == bytes.len() as u64
    };
    std::fs::symlink_metadata(path).is_ok_and(ours) && std::fs::read(path).is_ok_and(|there| there == bytes)
}
