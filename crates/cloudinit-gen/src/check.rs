//! `check FILE…`: whether cloud-init and Proxmox will take documents, whoever wrote them.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use fleet_core::{
    Error, Kind, Result,
    child::{self, Command},
    cli::silent_exit,
    deadline::Deadline,
    memory::{self, Place},
    ui::Ui,
};
use serde::Serialize;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{keys, user_data::HEADER, yaml};

/// Proxmox reads no more than this of a snippet (PVE::QemuServer::Cloudinit).
const MOST_BYTES: usize = 1024 * 1024;

/// Seconds that `cloud-init schema` may take; it takes about half of one.
const SCHEMA_LIMIT: u64 = 60;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Documents: user-data, vendor-data, network-config or meta-data, told apart by what is in them; - for standard
    /// input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What a document turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Document {
    CloudConfig,
    NetworkConfig,
    MetaData,
    Unknown,
}

/// What was found out about one file.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    document: Document,
    faults: Vec<String>,
    /// Whether `cloud-init schema` was asked.
    schema: bool,
}

/// Checks every file and tells all faults at once.
pub(crate) fn run(ui: Ui, args: &Args) -> Result<()> {
    let cloud_init = CloudInit::find()?;
    let mut reports = Vec::new();
    for file in &args.files {
        let bytes = read(file)?;
        let (document, mut faults) = examine(&bytes);
        let schema = match &cloud_init {
            Some(cloud_init) if cloud_init.has_schema_of(document) && faults.is_empty() => {
                let copy = if is_stdin(file) { Some(in_memory(ui, &bytes)?) } else { None };
                faults.extend(cloud_init.faults(document, copy.as_ref().map_or(file, |copy| copy.path()))?);
                true
            }
            _ => false,
        };
        reports.push(Report { file: file.clone(), document, faults, schema });
    }
    for report in &reports {
        let file = report.file.display();
        for fault in &report.faults {
            ui.fail(format!("{file}: {fault}"));
        }
        if report.faults.is_empty() {
            ui.done(format!("{file}: {}", describe(report)));
        }
    }
    if ui.json() {
        ui.json_line(&reports)?;
    }
    if reports.iter().any(|report| !report.faults.is_empty()) {
        Err(silent_exit(Kind::Failed))
    } else {
        Ok(())
    }
}

/// Whether standard input is meant.
fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// What is in the file, or on standard input for `-`.
fn read(file: &Path) -> Result<Vec<u8>> {
    if !is_stdin(file) {
        return std::fs::read(file).map_err(|e| Error::io("read", file, e));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|e| Error::failed("can not read standard input").caused_by(e))?;
    Ok(bytes)
}

/// What came on standard input, as a file for cloud-init: a document may have a host key in it, which must not reach a
/// disk. Mode 0600; gone when dropped.
fn in_memory(ui: Ui, bytes: &[u8]) -> Result<NamedTempFile> {
    let made = |place: Place| NamedTempFile::new_in(&place.dir).ok().map(|copy| (copy, place));
    let (copy, place) = memory::places().into_iter().find_map(made).ok_or_else(|| {
        Error::failed("no place in memory for what came on standard input, which cloud-init is to look at")
            .now("neither XDG_RUNTIME_DIR nor /dev/shm is a directory that can be written")
            .hint("set XDG_RUNTIME_DIR to a directory on a tmpfs, or give the document as a file")
    })?;
    place.warning("what came on standard input").into_iter().for_each(|warning| ui.warn(warning));
    let written = copy.as_file().write_all(bytes);
    written.map_err(|e| Error::io("write", copy.path(), e))?;
    Ok(copy)
}

fn describe(report: &Report) -> &'static str {
    match (report.document, report.schema) {
        (Document::CloudConfig, true) => "a cloud-config, valid by cloud-init's schema",
        (Document::CloudConfig, false) => {
            "a cloud-config; its schema was not checked, cloud-init is not installed"
        }
        (Document::NetworkConfig, true) => "a network-config, valid by cloud-init's schema",
        (Document::NetworkConfig, false) => {
            "a network-config; its schema was not checked, no cloud-init that has one (24.1 or newer) is installed"
        }
        (Document::MetaData, _) => "meta-data",
        (Document::Unknown, _) => "unknown",
    }
}

/// What `bytes` are and what is wrong with them, by our own rules.
fn examine(bytes: &[u8]) -> (Document, Vec<String>) {
    let mut faults = Vec::new();
    if bytes.len() > MOST_BYTES {
        faults.push(format!("{} bytes: Proxmox reads no more than {MOST_BYTES} of a snippet", bytes.len()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        faults.push("it is not UTF-8 text".to_owned());
        return (Document::Unknown, faults);
    };
    let value = match yaml::read(text) {
        Ok(value) => value,
        Err(fault) => {
            faults.push(fault);
            return (Document::Unknown, faults);
        }
    };
    let headed = text.lines().next().is_some_and(|line| line.trim_end() == HEADER);
    let document = if headed {
        check_cloud_config(&value, &mut faults);
        Document::CloudConfig
    } else if value.get("ethernets").is_some() || value.get("network").is_some() {
        check_network_config(value.get("network").unwrap_or(&value), &mut faults);
        Document::NetworkConfig
    } else if value.get("instance-id").is_some() {
        Document::MetaData
    } else {
        faults.push(format!(
            "its first line is not {HEADER}, and it has neither `ethernets` nor `instance-id`: cloud-init ignores it"
        ));
        Document::Unknown
    };
    (document, faults)
}

fn check_cloud_config(value: &Value, faults: &mut Vec<String>) {
    if !value.is_object() {
        faults.push("it is not a mapping".to_owned());
    }
    let names_default = |users: &Value| {
        users.as_array().is_some_and(|users| users.iter().any(|user| user.as_str() == Some("default")))
    };
    // Keys at the top are the default user's.
    if value.get("users").is_some_and(|users| !names_default(users))
        && value.get("ssh_authorized_keys").is_some()
    {
        faults
            .push("`ssh_authorized_keys` are for the user `default`, whom `users` does not name".to_owned());
    }
    let lists = [value.get("ssh_authorized_keys")].into_iter().flatten().chain(
        value
            .get("users")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|u| u.get("ssh_authorized_keys")),
    );
    for list in lists {
        let listed: Vec<String> =
            list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        match keys::check(&listed) {
            Ok(0) => faults.push("`ssh_authorized_keys` is empty: nobody could log in".to_owned()),
            Ok(_) => {}
            Err(fault) => faults.push(format!("`ssh_authorized_keys`: {fault}")),
        }
    }
}

fn check_network_config(value: &Value, faults: &mut Vec<String>) {
    if value.get("version") != Some(&Value::from(2)) {
        faults.push("`version` is not 2".to_owned());
    }
    for (name, ethernet) in value.get("ethernets").and_then(Value::as_object).into_iter().flatten() {
        if ethernet.pointer("/match/macaddress").and_then(Value::as_str).is_none() {
            faults.push(format!(
                "`ethernets.{name}` is not matched by its MAC address: its name in the guest is a guess"
            ));
        }
        for old in ["gateway4", "gateway6"] {
            if ethernet.get(old).is_some() {
                faults.push(format!("`ethernets.{name}.{old}` is deprecated: write it under `routes`"));
            }
        }
    }
}

/// The installed cloud-init, as `cloud-init schema` of it can be asked.
struct CloudInit {
    program: PathBuf,
    /// Whether it has a schema of network-configs too: `--schema-type`, not in Debian 12's 22.4.
    knows_networks: bool,
}

impl CloudInit {
    /// The one on PATH, if any.
    fn find() -> Result<Option<CloudInit>> {
        let Some(program) = child::find_program("cloud-init") else { return Ok(None) };
        let help = Command::new(&program).args(["schema", "--help"]).output(Deadline::secs(SCHEMA_LIMIT))?;
        let knows_networks = help.stdout_text().contains("--schema-type");
        Ok(Some(CloudInit { program, knows_networks }))
    }

    fn has_schema_of(&self, document: Document) -> bool {
        match document {
            Document::CloudConfig => true,
            Document::NetworkConfig => self.knows_networks,
            Document::MetaData | Document::Unknown => false,
        }
    }

    /// What it has against the file, deprecations included.
    fn faults(&self, document: Document, file: &Path) -> Result<Vec<String>> {
        let kind: &[&str] = match document {
            Document::NetworkConfig => &["--schema-type", "network-config"],
            Document::CloudConfig | Document::MetaData | Document::Unknown => &[],
        };
        let command = Command::new(&self.program).arg("schema").args(kind).arg("--config-file").arg(file);
        let output = command.output(Deadline::secs(SCHEMA_LIMIT))?;
        let said = format!("{}\n{}", output.stdout_text(), output.stderr_text());
        if output.success() && !said.to_lowercase().contains("deprecat") {
            return Ok(Vec::new());
        }
        Ok(said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| format!("schema: {line}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let (document, faults) = examine(text.as_bytes());
        format!("{document:?}\n{}", faults.join("\n"))
    }

    #[test]
    fn faults_by_our_own_rules() {
        insta::assert_snapshot!(faults("hostname: x\n"), @r"
        Unknown
        its first line is not #cloud-config, and it has neither `ethernets` nor `instance-id`: cloud-init ignores it
        ");
        insta::assert_snapshot!(faults("#cloud-config\nusers: [ { name: me, ssh_authorized_keys: [ nonsense ] } ]\nssh_authorized_keys: []\n"), @r"
        CloudConfig
        `ssh_authorized_keys` are for the user `default`, whom `users` does not name
        `ssh_authorized_keys` is empty: nobody could log in
        `ssh_authorized_keys`: nonsense: it does not begin with a type that sshd knows, such as ssh-ed25519
        ");
        insta::assert_snapshot!(faults("version: 1\nethernets: { ens18: { gateway4: 192.0.2.1 } }\n"), @r"
        NetworkConfig
        `version` is not 2
        `ethernets.ens18` is not matched by its MAC address: its name in the guest is a guess
        `ethernets.ens18.gateway4` is deprecated: write it under `routes`
        ");
        insta::assert_snapshot!(faults("#cloud-config\na: [\n"), @r"
        Unknown
        did not find expected node content at line 3 column 1, while parsing a flow node
        ");
    }

    #[test]
    fn a_document_that_proxmox_would_cut_off_is_a_fault() {
        let text = format!("#cloud-config\nhostname: x\n# {}\n", "x".repeat(MOST_BYTES));
        assert!(faults(&text).contains("Proxmox reads no more than 1048576"));
        let (_, found) = examine(&[0xff]);
        assert_eq!(found, ["it is not UTF-8 text"]);
    }
}
