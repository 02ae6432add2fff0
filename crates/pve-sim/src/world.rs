//! What a simulated node starts with, and how it behaves.

use serde::{Deserialize, Serialize};

use crate::auth::Token;
pub use crate::latency::Latency;

/// A VM that exists from the start.
#[derive(Debug, Clone)]
pub struct InitialVm {
    /// Its number.
    pub vmid: u32,
    /// Settings as in its configuration file.
    pub config: Vec<(String, String)>,
    /// Whether it runs.
    pub running: bool,
    /// Whether its disk holds a cloud image (a template) or an installed NixOS.
    pub cloud_image: bool,
}

/// A container on the simulated node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// Its number.
    pub vmid: u32,
    /// Its host name.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// The node it is on.
    pub node: String,
}

impl Container {
    fn common(&self) -> serde_json::Value {
        serde_json::json!({
            "vmid": self.vmid, "name": self.name, "status": if self.running { "running" } else { "stopped" },
            "type": "lxc", "cpu": 0, "mem": 0, "maxmem": 536_870_912u64, "disk": 0, "maxdisk": 1u64 << 30,
            "diskread": 0, "diskwrite": 0, "netin": 0, "netout": 0, "uptime": 0,
        })
    }

    /// As in `GET /cluster/resources`.
    pub fn resource(&self) -> serde_json::Value {
        let mut value = self.common();
        value["memhost"] = serde_json::json!(0);
        value["id"] = serde_json::json!(format!("lxc/{}", self.vmid));
        value["node"] = serde_json::json!(self.node);
        value["maxcpu"] = serde_json::json!(2);
        value["template"] = serde_json::json!(0);
        value
    }

    /// As in `GET /nodes/NODE/lxc`.
    pub fn list_entry(&self) -> serde_json::Value {
        let mut value = self.common();
        value["cpus"] = serde_json::json!(2);
        value["swap"] = serde_json::json!(0);
        value["maxswap"] = serde_json::json!(0);
        value
    }
}

/// A VM on another node of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Foreign {
    /// Its number.
    pub vmid: u32,
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Whether it runs.
    pub running: bool,
}

impl Foreign {
    /// As in `GET /cluster/resources`.
    pub fn resource(&self) -> serde_json::Value {
        serde_json::json!({
            "id": format!("qemu/{}", self.vmid), "type": "qemu", "vmid": self.vmid, "name": self.name,
            "node": self.node, "status": if self.running { "running" } else { "stopped" }, "template": 0,
            "cpu": 0, "maxcpu": 2, "mem": 0, "memhost": 0, "maxmem": 2u64 << 30, "disk": 0, "maxdisk": 20u64 << 30,
            "diskread": 0, "diskwrite": 0, "netin": 0, "netout": 0, "uptime": 0,
        })
    }
}

/// A storage of the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StorageDef {
    /// Its name.
    pub name: String,
    /// `dir`; other kinds are listed but allocate in the same way.
    pub kind: String,
    /// Where it is mounted.
    pub path: String,
    /// What it takes.
    pub content: Vec<String>,
    /// Bytes in all.
    pub total: u64,
    /// Bytes taken by things that are not simulated.
    pub used: u64,
    /// Whether every node sees the same one.
    pub shared: bool,
}

/// What a node starts with, and how it behaves.
#[derive(Debug, Clone)]
pub struct World {
    /// The node's name.
    pub node: String,
    /// The node's own address.
    pub address: String,
    /// Names of the cluster's other nodes.
    pub other_nodes: Vec<String>,
    /// Cores of the node.
    pub cpus: u64,
    /// Memory of the node in bytes.
    pub memory: u64,
    /// Its bridges.
    pub bridges: Vec<String>,
    /// Those that its network configuration lists, where that is not all of them.
    pub listed_bridges: Option<Vec<String>>,
    /// Disk images that lie on the node, paths or volume ids; nothing means: any that is asked for.
    pub images: Option<Vec<String>>,
    /// Whether the node has KVM; without it, a VM needs `kvm: 0` to start.
    pub kvm: bool,
    /// Whether the node has EFI firmware.
    pub firmware: bool,
    /// Its storages.
    pub storages: Vec<StorageDef>,
    /// Its VMs.
    pub vms: Vec<InitialVm>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// VMs of other nodes.
    pub foreign: Vec<Foreign>,
    /// Who may log in as root on the node: `authorized_keys` lines.
    pub authorized_keys: Vec<String>,
    /// Accounts other than root whose logins are let in with the same keys.
    pub accounts: Vec<String>,
    /// The API tokens that the node knows.
    pub tokens: Vec<Token>,
    /// `AllowTcpForwarding`.
    pub allow_forwarding: bool,
    /// How long things take.
    pub latency: Latency,
    /// Whether a machine gets another address when another system boots on it (DHCP client id changes).
    pub addresses_move: bool,
}

const GIB: u64 = 1 << 30;

fn storage(name: &str, path: &str, content: &[&str]) -> StorageDef {
    StorageDef {
        name: name.to_owned(),
        kind: "dir".to_owned(),
        path: path.to_owned(),
        content: content.iter().map(|c| (*c).to_owned()).collect(),
        total: 1000 * GIB,
        used: 100 * GIB,
        shared: false,
    }
}

fn vm(vmid: u32, running: bool, cloud_image: bool, config: &[(&str, &str)]) -> InitialVm {
    InitialVm {
        vmid,
        running,
        cloud_image,
        config: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

impl Default for World {
    fn default() -> World {
        World {
            node: "prom".to_owned(),
            address: "192.0.2.2".to_owned(),
            other_nodes: Vec::new(),
            cpus: 16,
            memory: 64 * GIB,
            bridges: vec!["vmbr0".to_owned()],
            listed_bridges: None,
            images: None,
            kvm: true,
            firmware: true,
            storages: vec![
                storage("local", "/var/lib/vz", &["iso", "vztmpl", "backup", "snippets"]),
                storage("nvmeprom", "/mnt/nvmeprom", &["images", "iso", "snippets", "import"]),
            ],
            vms: vec![
                vm(
                    104,
                    true,
                    false,
                    &[
                        ("agent", "1"),
                        ("boot", "order=scsi0"),
                        ("cores", "8"),
                        ("memory", "32768"),
                        ("name", "doc1"),
                        ("net0", "virtio=BC:24:11:00:01:04,bridge=vmbr0"),
                        ("onboot", "1"),
                        ("ostype", "l26"),
                        ("scsi0", "nvmeprom:104/vm-104-disk-0.qcow2,size=250G"),
                        ("scsihw", "virtio-scsi-pci"),
                    ],
                ),
                vm(
                    109,
                    true,
                    false,
                    &[
                        ("agent", "1"),
                        ("bios", "ovmf"),
                        ("boot", "order=scsi0"),
                        ("cores", "8"),
                        ("machine", "q35"),
                        ("memory", "8096"),
                        ("name", "igp"),
                        ("net0", "virtio=BC:24:11:00:01:09,bridge=vmbr0"),
                        ("ostype", "l26"),
                        ("scsi0", "nvmeprom:109/vm-109-disk-0.qcow2,size=64G"),
                        ("scsihw", "virtio-scsi-pci"),
                    ],
                ),
                vm(
                    9002,
                    false,
                    true,
                    &[
                        ("agent", "1"),
                        ("bios", "ovmf"),
                        ("boot", "order=scsi0"),
                        ("cores", "2"),
                        ("cpu", "host"),
                        (
                            "efidisk0",
                            "nvmeprom:9002/base-9002-disk-0.qcow2,efitype=4m,pre-enrolled-keys=0,size=528K",
                        ),
                        ("machine", "q35"),
                        ("memory", "2048"),
                        ("name", "ubuntu-cloud-template"),
                        ("net0", "virtio=BC:24:11:00:90:02,bridge=vmbr0"),
                        ("ostype", "l26"),
                        ("scsi0", "nvmeprom:9002/base-9002-disk-1.qcow2,size=2G"),
                        ("scsihw", "virtio-scsi-pci"),
                        ("serial0", "socket"),
                        ("template", "1"),
                        ("vga", "serial0"),
                    ],
                ),
            ],
            containers: vec![Container {
                vmid: 200,
                name: "dns".to_owned(),
                running: true,
                node: "prom".to_owned(),
            }],
            foreign: Vec::new(),
            authorized_keys: Vec::new(),
            accounts: Vec::new(),
            tokens: Vec::new(),
            allow_forwarding: true,
            latency: Latency::fast(),
            addresses_move: true,
        }
    }
}

impl World {
    /// Adds a VM with these settings.
    #[must_use]
    pub fn with_vm(mut self, vmid: u32, running: bool, config: &[(&str, &str)]) -> World {
        self.vms.retain(|vm| vm.vmid != vmid);
        self.vms.push(vm(vmid, running, false, config));
        self
    }

    /// Changes settings of a VM that exists from the start; an empty value removes one.
    #[must_use]
    pub fn with_settings(mut self, vmid: u32, settings: &[(&str, &str)]) -> World {
        for vm in self.vms.iter_mut().filter(|vm| vm.vmid == vmid) {
            for (key, value) in settings {
                vm.config.retain(|(k, _)| k != key);
                if !value.is_empty() {
                    vm.config.push(((*key).to_owned(), (*value).to_owned()));
                }
            }
        }
        self
    }

    /// Takes a VM away.
    #[must_use]
    pub fn without_vm(mut self, vmid: u32) -> World {
        self.vms.retain(|vm| vm.vmid != vmid);
        self
    }

    /// Adds a container.
    #[must_use]
    pub fn with_container(mut self, vmid: u32, name: &str) -> World {
        let node = self.node.clone();
        self.containers.push(Container { vmid, name: name.to_owned(), running: true, node });
        self
    }

    /// Adds a VM on another node of the cluster, and the node.
    #[must_use]
    pub fn with_foreign_vm(mut self, vmid: u32, name: &str, node: &str) -> World {
        if !self.other_nodes.iter().any(|n| n == node) {
            self.other_nodes.push(node.to_owned());
        }
        self.foreign.push(Foreign { vmid, name: name.to_owned(), node: node.to_owned(), running: true });
        self
    }

    /// Adds an account, which may log in but is not root.
    #[must_use]
    pub fn with_account(mut self, user: &str) -> World {
        self.accounts.push(user.to_owned());
        self
    }

    /// Adds an API token that has these privileges everywhere.
    #[must_use]
    pub fn with_token(mut self, id: &str, secret: &str, rights: &[&str]) -> World {
        let rights = Some(rights.iter().map(|r| (*r).to_owned()).collect());
        self.tokens.push(Token { id: id.to_owned(), secret: secret.to_owned(), rights });
        self
    }

    /// Lets the holder of this key log in as root on the node.
    #[must_use]
    pub fn authorize(mut self, line: &str) -> World {
        self.authorized_keys.push(line.trim().to_owned());
        self
    }
}
