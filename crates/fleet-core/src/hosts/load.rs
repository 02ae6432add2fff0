//! From the evaluated file to the typed model.

use std::path::{Path, PathBuf};

use super::{Host, Hosts};
use crate::{
    authorized_keys::is_private,
    faults::Fault,
    nix::{
        Reading,
        edit::ORDER,
        eval::{Data, Value},
        reader::{Fields, Reader},
    },
};

/// Reads everything: what is right, and all faults. Fields that these tools do not know are somebody else's.
pub(super) fn read(reading: &Reading, file: &Path, base: &Path) -> (Hosts, Vec<Fault>) {
    let mut reader = Reader::new(&reading.evaluated, file, base);
    reader.faults.clone_from(&reading.faults);
    let shown = file.strip_prefix(base).unwrap_or(file).display().to_string();
    let mut hosts = Vec::new();
    if let Some(top) = reader.top() {
        // No machine's name begins with an underscore: `_proxmox = { … };` among the hosts is somebody's own.
        for attr in Reader::in_order(&top).into_iter().filter(|attr| !attr.name.starts_with('_')) {
            let help = match attr.value.data {
                Data::Function => {
                    "a host is a set: write what the function gives; a name of your own begins with `_`"
                }
                _ => "a host is a set: write { … }; a name of your own begins with `_`",
            };
            let Some(fields) = reader.fields_or(&attr.value, top.join(&attr.name), attr.key, help) else {
                continue;
            };
            if holds_hosts(&attr.value) {
                let message = "is no host: it has none of a host's fields, only sets";
                let help =
                    "hosts stand at the top: { NAME = { user = …; }; }; a name of your own begins with `_`";
                reader.add(attr.key, &fields.path, message, Some(help.to_owned()));
                continue;
            }
            hosts.push(host(&mut reader, &fields, &attr.name, &shown));
        }
    }
    (Hosts { path: file.to_owned(), hosts }, reader.faults)
}

/// Whether this is a set of sets (`hosts = { web = { … }; };`) and not a host.
fn holds_hosts(value: &Value) -> bool {
    let attrs = value.attrs().unwrap_or_default();
    let is_set = |value: &Value| matches!(value.data, Data::Attrs(_));
    attrs.iter().any(|attr| is_set(&attr.value))
        && attrs.iter().all(|attr| {
            (is_set(&attr.value) || matches!(attr.value.data, Data::Failed))
                && !ORDER.contains(&attr.name.as_ref())
        })
}

fn host<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>, name: &str, shown: &str) -> Host {
    let is_null = |field: &str| fields.get(field).is_some_and(|attr| matches!(attr.value.data, Data::Null));
    let mut text = |field: &str| {
        if is_null(field) { None } else { reader.text(fields, field, "\"…\"").map(str::to_owned) }
    };
    let mut host = Host {
        name: name.to_owned(),
        user: text("user"),
        home_directory: text("homeDirectory"),
        hostname: text("hostname"),
        ssh_alias: text("sshAlias"),
        ssh_key_name: text("sshKeyName"),
        public_key: text("publicKey"),
        ..Host::default()
    };
    host.public_key_place = host.public_key.is_some().then(|| reader.place(fields.value_at("publicKey")));
    host.configuration_file = path(reader, fields, "configurationFile");
    host.home_file = path(reader, fields, "homeFile");
    let keys = reader.texts(fields, "authorizedKeys", "[ \"ssh-ed25519 AAAA… somebody\" ]");
    for (key, at) in keys {
        let key = key.trim();
        if key.is_empty() || key.contains(['\n', '\r']) {
            let path = fields.join("authorizedKeys");
            if is_private(key) {
                reader.private_key(at, &path);
            } else {
                let help = "the line of a .pub file".to_owned();
                reader.add(at, &path, "a key must be one line of text", Some(help));
            }
        } else {
            host.authorized_keys.push(key.to_owned());
            host.key_places.push(if at.is_some() { reader.place(at) } else { shown.to_owned() });
        }
    }
    host
}

/// A path, or a string that is an absolute one.
fn path<'a>(reader: &mut Reader<'a>, fields: &Fields<'a>, name: &str) -> Option<PathBuf> {
    let attr = fields.get(name)?;
    match &attr.value.data {
        Data::Null => None,
        Data::Path(path) => Some(path.to_path_buf()),
        Data::Str(text) if text.starts_with('/') => Some(PathBuf::from(text.as_ref())),
        _ => {
            let help =
                Some(format!("for example: {name} = ./hosts/NAME/configuration.nix; (without quotes)"));
            reader.not(&attr.value, attr.key, &fields.join(name), "must be a path", help);
            None
        }
    }
}
