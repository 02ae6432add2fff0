//! What a simulated node starts with, and how it behaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Before a 401 is given.
    pub auth_failure: Duration,
    /// Between a good key and the login: sshd's own work.
    pub login: Duration,
    /// Minting a ticket with `PVE::AccessControl`.
    pub mint: Duration,
    /// Minting a ticket with nothing but what signs it.
    pub mint_short: Duration,
    /// The start of `qm`, before it does anything.
    pub qm: Duration,
    /// What a read takes.
    pub read: Duration,
    /// A linked clone, from the task's start to its end.
    pub linked_clone: Duration,
    /// A full clone.
    pub full_clone: Duration,
    /// Any other task.
    pub task: Duration,
    /// Starting a VM, from the task's start to its end.
    pub start: Duration,
    /// A call to an agent that does not answer.
    pub agent_timeout: Duration,
    /// From power on to sshd.
    pub boot: Duration,
    /// From sshd to the guest agent.
    pub agent_after: Duration,
    /// The guest agent is up but the address is not there yet.
    pub address_after: Duration,
    /// How long a kexec takes from the machine's silence to sshd of the installer.
    pub kexec: Duration,
    /// Partitioning, then installing, each.
    pub install: Duration,
}

impl Latency {
    /// As fast as can be while every intermediate state can still be seen.
    pub fn fast() -> Latency {
        let ms = Duration::from_millis;
        Latency {
            auth_failure: ms(20),
            login: ms(0),
            mint: ms(0),
            mint_short: ms(0),
            qm: ms(0),
            read: ms(0),
            linked_clone: ms(15),
            full_clone: ms(60),
            task: ms(3),
            start: ms(10),
            agent_timeout: ms(60),
            boot: ms(200),
            agent_after: ms(60),
            address_after: ms(40),
            kexec: ms(400),
            install: ms(100),
        }
    }

    /// As on real machines (pve-manager 9.2 on NVMe, a cloud image of 2 GiB, nixos-anywhere with a small system).
    pub fn genuine() -> Latency {
        let ms = Duration::from_millis;
        Latency {
            auth_failure: ms(3000),
            // Key exchange, login and one channel took 171 ms there, of which the simulated server's part takes 30.
            login: ms(130),
            // Recorded: the whole exec.
            mint: ms(270),
            // Not recorded. Starting perl with IO::Socket and IO::Select took 21 ms there; on a machine where that
            // takes as long, the short way takes 21 ms with its four files on a disk. They are on FUSE on a node.
            mint_short: ms(35),
            qm: ms(550),
            read: ms(3),
            linked_clone: ms(100),
            full_clone: ms(1000),
            task: ms(80),
            start: ms(860),
            agent_timeout: ms(3000),
            boot: ms(15_000),
            agent_after: ms(5000),
            address_after: ms(1000),
            kexec: ms(25_000),
            install: ms(15_000),
        }
    }
}

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

    /// Lets the holder of this key log in as root on the node.
    #[must_use]
    pub fn authorize(mut self, line: &str) -> World {
        self.authorized_keys.push(line.trim().to_owned());
        self
    }
}
