//! The parameters of each simulated endpoint: types, limits and formats (qm.conf(5), `pvesh usage`).

mod formats;
mod props;

use self::{
    formats::{content, cpu, dns_name, serial, size, storage, tags, urlencoded, volume_id},
    props::{AGENT, BOOT, CICUSTOM, DRIVE, EFIDISK, IPCONFIG, MEMORY, NET, SMBIOS, TPM, VGA},
};
use crate::params::{Kind, Kind::*, Spec, many, opt, req};

const ANY: Kind = Text(usize::MAX);
const DIGEST: Spec = opt("digest", Text(40));
const MAX: i64 = i64::MAX;

/// The network card models.
pub const NET_MODELS: &[&str] = &[
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

const LOCKS: &[&str] = &[
    "backup",
    "clone",
    "create",
    "migrate",
    "rollback",
    "snapshot",
    "snapshot-delete",
    "suspending",
    "suspended",
];

/// The settings of a VM.
pub const CONFIG: &[Spec] = &[
    opt("acpi", Bool),
    opt("affinity", ANY),
    opt("agent", Props(AGENT)),
    opt("arch", Enum(&["x86_64", "aarch64"])),
    opt("args", ANY),
    opt("autostart", Bool),
    opt("balloon", Int(0, MAX)),
    opt("bios", Enum(&["seabios", "ovmf"])),
    opt("boot", Props(BOOT)),
    opt("cicustom", Props(CICUSTOM)),
    opt("cipassword", ANY),
    opt("citype", Enum(&["configdrive2", "nocloud", "opennebula"])),
    opt("ciupgrade", Bool),
    opt("ciuser", ANY),
    opt("cores", Int(1, MAX)),
    opt("cpu", Format(cpu)),
    opt("cpulimit", Num(0.0, 128.0)),
    opt("cpuunits", Int(1, 262_144)),
    opt("description", Text(8192)),
    opt("efidisk0", Props(EFIDISK)),
    opt("freeze", Bool),
    opt("hookscript", Format(volume_id)),
    many("hostpci", 15, ANY),
    opt("hotplug", ANY),
    opt("hugepages", Enum(&["any", "2", "1024"])),
    many("ide", 3, Props(DRIVE)),
    many("ipconfig", 31, Props(IPCONFIG)),
    opt(
        "keyboard",
        Enum(&["de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "it", "nl", "pl", "pt", "sv"]),
    ),
    opt("kvm", Bool),
    opt("localtime", Bool),
    opt("lock", Enum(LOCKS)),
    opt("machine", ANY),
    opt("memory", Props(MEMORY)),
    opt("name", Format(dns_name)),
    opt("nameserver", ANY),
    many("net", 31, Props(NET)),
    opt("numa", Bool),
    opt("onboot", Bool),
    opt(
        "ostype",
        Enum(&[
            "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26",
            "solaris",
        ]),
    ),
    opt("protection", Bool),
    opt("reboot", Bool),
    opt("rng0", ANY),
    many("sata", 5, Props(DRIVE)),
    many("scsi", 30, Props(DRIVE)),
    opt("scsihw", Enum(&["lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"])),
    opt("searchdomain", ANY),
    many("serial", 3, Pattern(serial)),
    opt("shares", Int(0, 50_000)),
    opt("smbios1", Props(SMBIOS)),
    opt("sockets", Int(1, MAX)),
    opt("sshkeys", Format(urlencoded)),
    opt("startup", ANY),
    opt("tablet", Bool),
    opt("tags", Format(tags)),
    opt("template", Bool),
    opt("tpmstate0", Props(TPM)),
    many("unused", 255, ANY),
    many("usb", 13, ANY),
    opt("vcpus", Int(1, MAX)),
    opt("vga", Props(VGA)),
    many("virtio", 15, Props(DRIVE)),
    opt("vmgenid", ANY),
    opt("vmstatestorage", Format(storage)),
    opt("watchdog", ANY),
];

/// What a change of settings takes beside them.
pub const CHANGE: &[Spec] =
    &[opt("delete", ANY), DIGEST, opt("force", Bool), opt("revert", ANY), opt("skiplock", Bool)];
/// What a change of settings in a task takes beside.
pub const CHANGE_TASK: &[Spec] = &[opt("background_delay", Int(1, 30))];
/// `GET config`.
pub const GET_CONFIG: &[Spec] = &[opt("current", Bool), opt("snapshot", ConfigId)];
/// `POST clone`.
pub const CLONE: &[Spec] = &[
    req("newid", Vmid),
    opt("name", Format(dns_name)),
    opt("description", ANY),
    opt("full", Bool),
    opt("storage", Format(storage)),
    opt("format", Enum(&["raw", "qcow2", "vmdk"])),
    opt("target", ANY),
    opt("pool", ANY),
    opt("snapname", ConfigId),
    opt("bwlimit", Int(0, MAX)),
];
/// `PUT resize`.
pub const RESIZE: &[Spec] =
    &[req("disk", Enum(DISKS)), req("size", Pattern(size)), DIGEST, opt("skiplock", Bool)];
/// `DELETE` of a VM.
pub const DESTROY: &[Spec] =
    &[opt("purge", Bool), opt("destroy-unreferenced-disks", Bool), opt("skiplock", Bool)];
/// `POST status/start`.
pub const START: &[Spec] =
    &[opt("skiplock", Bool), opt("timeout", Int(0, MAX)), opt("machine", ANY), opt("force-cpu", ANY)];
/// `POST status/stop`.
pub const STOP: &[Spec] = &[
    opt("skiplock", Bool),
    opt("timeout", Int(0, MAX)),
    opt("keepActive", Bool),
    opt("overrule-shutdown", Bool),
];
/// `POST status/shutdown`.
pub const SHUTDOWN: &[Spec] =
    &[opt("skiplock", Bool), opt("timeout", Int(0, MAX)), opt("keepActive", Bool), opt("forceStop", Bool)];
/// `POST status/reboot`.
pub const REBOOT: &[Spec] = &[opt("timeout", Int(0, MAX))];
/// `POST status/reset`, `suspend`, `resume`.
pub const SKIPLOCK: &[Spec] = &[opt("skiplock", Bool)];
/// `POST template`.
pub const TEMPLATE: &[Spec] = &[opt("disk", Enum(DISKS))];
/// `POST snapshot`.
pub const SNAPSHOT: &[Spec] = &[req("snapname", ConfigId), opt("description", ANY), opt("vmstate", Bool)];
/// `POST rollback`.
pub const ROLLBACK: &[Spec] = &[opt("start", Bool)];
/// `DELETE snapshot`.
pub const DELETE_SNAPSHOT: &[Spec] = &[opt("force", Bool)];
/// `POST agent/exec`.
pub const AGENT_EXEC: &[Spec] = &[req("command", List), opt("input-data", Text(65_536))];
/// `GET agent/exec-status`.
pub const AGENT_EXEC_STATUS: &[Spec] = &[req("pid", Int(0, MAX))];
/// `GET agent/file-read`.
pub const AGENT_FILE_READ: &[Spec] =
    &[req("file", ANY), opt("count", Int(1, 16_777_216)), opt("decode", Bool), opt("offset", Int(0, MAX))];
/// `POST agent/file-write`.
pub const AGENT_FILE_WRITE: &[Spec] = &[req("file", ANY), req("content", Text(61_440)), opt("encode", Bool)];
/// `POST agent/set-user-password`.
pub const AGENT_PASSWORD: &[Spec] =
    &[req("username", ANY), req("password", Text(1024)), opt("crypted", Bool)];
/// `GET cluster/resources`.
pub const RESOURCES: &[Spec] = &[opt("type", Enum(&["vm", "storage", "node", "sdn"]))];
/// `GET cluster/nextid`.
pub const NEXTID: &[Spec] = &[opt("vmid", Vmid)];
/// `GET storage`.
pub const STORAGES: &[Spec] = &[
    opt("content", Format(content)),
    opt("enabled", Bool),
    opt("format", Bool),
    opt("storage", Format(storage)),
    opt("target", ANY),
];
/// `GET content`.
pub const CONTENT: &[Spec] = &[opt("content", Format(content)), opt("vmid", Vmid)];
/// `GET network`.
pub const NETWORK: &[Spec] = &[opt(
    "type",
    Enum(&[
        "bridge",
        "bond",
        "eth",
        "alias",
        "vlan",
        "fabric",
        "OVSBridge",
        "OVSBond",
        "OVSPort",
        "OVSIntPort",
        "vnet",
        "any_bridge",
        "any_local_bridge",
        "include_sdn",
    ]),
)];
/// `GET tasks`.
pub const TASKS: &[Spec] = &[
    opt("errors", Bool),
    opt("limit", Int(0, MAX)),
    opt("since", Int(0, MAX)),
    opt("source", Enum(&["archive", "active", "all"])),
    opt("start", Int(0, MAX)),
    opt("statusfilter", ANY),
    opt("typefilter", ANY),
    opt("until", Int(0, MAX)),
    opt("userfilter", ANY),
    opt("vmid", Vmid),
];
/// `GET tasks/UPID/log`.
pub const TASK_LOG: &[Spec] = &[opt("download", Bool), opt("limit", Int(0, MAX)), opt("start", Int(0, MAX))];
/// `GET qemu`.
pub const LIST: &[Spec] = &[opt("full", Bool)];
/// `POST access/ticket`.
pub const TICKET: &[Spec] =
    &[req("username", Text(64)), req("password", ANY), opt("realm", Text(32)), opt("new-format", Bool)];
/// `GET feature`.
pub const FEATURE: &[Spec] =
    &[req("feature", Enum(&["snapshot", "clone", "copy"])), opt("snapname", ConfigId)];
/// `GET cloudinit/dump`.
pub const DUMP: &[Spec] = &[req("type", Enum(&["user", "network", "meta"]))];
/// `PUT unlink`.
pub const UNLINK: &[Spec] = &[req("idlist", ANY), opt("force", Bool)];
/// An endpoint without parameters.
pub const NONE: &[Spec] = &[];
/// `POST qemu`.
pub const CREATE: &[Spec] = &[
    req("vmid", Vmid),
    opt("archive", ANY),
    opt("bwlimit", Int(0, MAX)),
    opt("force", Bool),
    opt("live-restore", Bool),
    opt("pool", ANY),
    opt("start", Bool),
    opt("storage", Format(storage)),
    opt("unique", Bool),
];

const DISKS: &[&str] = &[
    "ide0",
    "ide1",
    "ide2",
    "ide3",
    "scsi0",
    "scsi1",
    "scsi2",
    "scsi3",
    "scsi4",
    "scsi5",
    "scsi6",
    "scsi7",
    "scsi8",
    "scsi9",
    "scsi10",
    "scsi11",
    "scsi12",
    "scsi13",
    "scsi14",
    "scsi15",
    "scsi16",
    "scsi17",
    "scsi18",
    "scsi19",
    "scsi20",
    "scsi21",
    "scsi22",
    "scsi23",
    "scsi24",
    "scsi25",
    "scsi26",
    "scsi27",
    "scsi28",
    "scsi29",
    "scsi30",
    "virtio0",
    "virtio1",
    "virtio2",
    "virtio3",
    "virtio4",
    "virtio5",
    "virtio6",
    "virtio7",
    "virtio8",
    "virtio9",
    "virtio10",
    "virtio11",
    "virtio12",
    "virtio13",
    "virtio14",
    "virtio15",
    "sata0",
    "sata1",
    "sata2",
    "sata3",
    "sata4",
    "sata5",
    "efidisk0",
    "tpmstate0",
];
