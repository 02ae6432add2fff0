//! What cloud-init reads at boot: Proxmox's own documents, or the user's user-data in their place.

use serde::Deserialize;

use crate::{
    conf::{self, VmConf},
    keys,
    node::{Data, Node},
};

/// What cloud-init makes of a document, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct UserData {
    #[serde(default)]
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) ssh_authorized_keys: Vec<String>,
    #[serde(default)]
    ssh_keys: SshKeys,
    #[serde(default)]
    write_files: Vec<Written>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Written {
    path: String,
    #[serde(default)]
    content: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct SshKeys {
    #[serde(default)]
    ed25519_private: Option<String>,
}

impl UserData {
    /// The user-data of a VM: the snippet that `cicustom` names, else what Proxmox makes of the settings.
    pub(super) fn of(node: &Node, data: &Data, conf: &VmConf) -> UserData {
        let custom = conf::property(conf.get("cicustom").unwrap_or_default(), "user", "")
            .and_then(|volume| node.snippet(data, volume))
            .and_then(|path| std::fs::read_to_string(path).ok());
        match custom {
            Some(text) => UserData::read(&text),
            None => UserData::native(conf),
        }
    }

    /// Of what is no cloud-config cloud-init does nothing.
    fn read(text: &str) -> UserData {
        if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
            return UserData::default();
        }
        serde_yaml::from_str(text).unwrap_or_default()
    }

    fn native(conf: &VmConf) -> UserData {
        let text = conf.get("sshkeys").unwrap_or_default();
        let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        UserData {
            hostname: conf.get("name").map(str::to_owned),
            user: conf.get("ciuser").filter(|user| !user.is_empty()).map(str::to_owned),
            ssh_authorized_keys: text
                .lines()
                .map(|l| l.trim().to_owned())
                .filter(|l| !l.is_empty())
                .collect(),
            ssh_keys: SshKeys::default(),
            write_files: Vec::new(),
        }
    }

    /// Whether it has cloud-init keep the host keys that are there, from the next boot on.
    pub(super) fn keeps_host_keys(&self) -> bool {
        let read = |file: &Written| -> Option<bool> {
            let config: serde_yaml::Mapping = serde_yaml::from_str(&file.content).ok()?;
            config.get("ssh_deletekeys")?.as_bool()
        };
        let config =
            |file: &&Written| file.path.starts_with("/etc/cloud/cloud.cfg.d/") && file.path.ends_with(".cfg");
        self.write_files.iter().filter(config).filter_map(read).next_back() == Some(false)
    }

    /// The host key that it gives the machine, if it is one: what is none sshd can not load.
    pub(super) fn host_key(&self) -> Option<&str> {
        self.ssh_keys.ed25519_private.as_deref().filter(|key| keys::parse(key).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_as_cloud_init_reads_it() {
        let key = keys::generate("x").unwrap();
        let indented = key.replace('\n', "\n    ");
        let text = format!(
            "#cloud-config\nhostname: 'web'\nuser: root\nssh_authorized_keys: [ 'ssh-ed25519 A: b' ]\nssh_keys:\n  ed25519_private: |\n    {indented}\n"
        );
        let read = UserData::read(&text);
        assert_eq!((read.hostname.as_deref(), read.user.as_deref()), (Some("web"), Some("root")));
        assert_eq!(read.ssh_authorized_keys, ["ssh-ed25519 A: b"]);
        assert_eq!(read.host_key().unwrap().trim(), key.trim());
        assert_eq!(UserData::read(&text.replace("#cloud-config", "# cloud-config")), UserData::default());
        assert_eq!(UserData::read("#cloud-config\nssh_keys: { ed25519_private: x }\n").host_key(), None);
    }
}
