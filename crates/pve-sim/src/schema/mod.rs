//! The parameters of each simulated endpoint: types, limits and formats (qm.conf(5), `pvesh usage`).

mod formats;
mod hardware;
mod props;
mod words;

pub use self::words::NET_MODELS;
use self::words::{DISKS, LOCKS};
use self::{
    formats::{content, cpu, dns_name, serial, size, storage, tags, urlencoded, volume_id},
    hardware::{
        AUDIO, HOSTPCI, IVSHMEM, MACHINE, NUMA, RNG, SEV, SPICE, TDX, UNUSED, USB, VIRTIOFS, WATCHDOG,
        boot_disk, generation, host_mtu, parallel_port, start_date,
    },
    props::{AGENT as AGENT_PROPS, BOOT, CICUSTOM, DRIVE, EFIDISK, IPCONFIG, MEMORY, NET, SMBIOS, TPM, VGA},
};
use crate::params::{Kind, Kind::*, Spec, many, opt, req};

const ANY: Kind = Text(usize::MAX);
const DIGEST: Spec = opt("digest", Text(40));
const MAX: i64 = i64::MAX;

/// The settings of a VM.
pub const CONFIG: &[Spec] = &[
    opt("acpi", Bool),
    opt("affinity", ANY),
    opt("allow-ksm", Bool),
    opt("amd-sev", Props(SEV)),
    opt("audio0", Props(AUDIO)),
    opt("bootdisk", Pattern(boot_disk)),
    opt("cdrom", Props(DRIVE)),
    opt("intel-tdx", Props(TDX)),
    opt("ivshmem", Props(IVSHMEM)),
    opt("keephugepages", Bool),
    opt("migrate_downtime", Num(0.0, f64::MAX)),
    opt("migrate_speed", Int(0, MAX)),
    many("numa", 7, Props(NUMA)),
    many("parallel", 2, Pattern(parallel_port)),
    opt("smp", Int(1, MAX)),
    opt("spice_enhancements", Props(SPICE)),
    opt("startdate", Pattern(start_date)),
    opt("tdf", Bool),
    many("virtiofs", 9, Props(VIRTIOFS)),
    opt("agent", Props(AGENT_PROPS)),
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
    many("hostpci", 15, Props(HOSTPCI)),
    opt("hotplug", ANY),
    opt("hugepages", Enum(&["any", "2", "1024"])),
    many("ide", 3, Props(DRIVE)),
    many("ipconfig", 31, Props(IPCONFIG)),
    opt(
        "keyboard",
        Enum(&[
            "de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu", "is",
            "it", "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr",
        ]),
    ),
    opt("kvm", Bool),
    opt("localtime", Bool),
    opt("lock", Enum(LOCKS)),
    opt("machine", Props(MACHINE)),
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
    opt("rng0", Props(RNG)),
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
    many("unused", 255, Props(UNUSED)),
    many("usb", 13, Props(USB)),
    opt("vcpus", Int(1, MAX)),
    opt("vga", Props(VGA)),
    many("virtio", 15, Props(DRIVE)),
    opt("vmgenid", Pattern(generation)),
    opt("vmstatestorage", Format(storage)),
    opt("watchdog", Props(WATCHDOG)),
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
pub const START: &[Spec] = &[
    opt("force-cpu", ANY),
    opt("machine", Props(MACHINE)),
    opt("migratedfrom", ANY),
    opt("migration_network", ANY),
    opt("migration_type", Enum(&["secure", "insecure"])),
    opt("nets-host-mtu", Pattern(host_mtu)),
    opt("skiplock", Bool),
    opt("stateuri", Text(128)),
    opt("targetstorage", ANY),
    opt("timeout", Int(0, MAX)),
    opt("with-conntrack-state", Bool),
];
/// `POST status/stop`.
pub const STOP: &[Spec] = &[
    opt("skiplock", Bool),
    opt("timeout", Int(0, MAX)),
    opt("keepActive", Bool),
    opt("migratedfrom", ANY),
    opt("overrule-shutdown", Bool),
];
/// `POST status/shutdown`.
pub const SHUTDOWN: &[Spec] =
    &[opt("skiplock", Bool), opt("timeout", Int(0, MAX)), opt("keepActive", Bool), opt("forceStop", Bool)];
/// `POST status/reboot`.
pub const REBOOT: &[Spec] = &[opt("timeout", Int(0, MAX))];
/// `POST status/reset`.
pub const RESET: &[Spec] = &[opt("skiplock", Bool)];
/// `POST status/suspend`.
pub const SUSPEND: &[Spec] =
    &[opt("skiplock", Bool), opt("statestorage", Format(storage)), opt("todisk", Bool)];
/// `POST status/resume`.
pub const RESUME: &[Spec] = &[opt("nocheck", Bool), opt("skiplock", Bool)];
/// `POST template`.
pub const TEMPLATE: &[Spec] = &[opt("disk", Enum(DISKS))];
/// `POST snapshot`.
pub const SNAPSHOT: &[Spec] = &[req("snapname", ConfigId), opt("description", ANY), opt("vmstate", Bool)];
/// `PUT snapshot/NAME/config`.
pub const SNAPSHOT_CONFIG: &[Spec] = &[opt("description", ANY)];
/// `POST rollback`.
pub const ROLLBACK: &[Spec] = &[opt("start", Bool)];
/// `DELETE snapshot`.
pub const DELETE_SNAPSHOT: &[Spec] = &[opt("force", Bool)];
/// `POST agent`.
pub const AGENT: &[Spec] = &[req(
    "command",
    Enum(&[
        "fsfreeze-freeze",
        "fsfreeze-status",
        "fsfreeze-thaw",
        "fstrim",
        "get-fsinfo",
        "get-host-name",
        "get-memory-block-info",
        "get-memory-blocks",
        "get-osinfo",
        "get-time",
        "get-timezone",
        "get-users",
        "get-vcpus",
        "info",
        "network-get-interfaces",
        "ping",
        "shutdown",
        "suspend-disk",
        "suspend-hybrid",
        "suspend-ram",
    ]),
)];
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
/// `GET /storage`.
pub const DEFINITIONS: &[Spec] = &[opt(
    "type",
    Enum(&[
        "btrfs",
        "cephfs",
        "cifs",
        "dir",
        "esxi",
        "iscsi",
        "iscsidirect",
        "lvm",
        "lvmthin",
        "nfs",
        "pbs",
        "rbd",
        "zfs",
        "zfspool",
    ]),
)];
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
/// `POST vzdump` (its documentation in pve-docs; it is not among the recorded ones).
pub const VZDUMP: &[Spec] = &[
    opt("all", Bool),
    opt("bwlimit", Int(0, MAX)),
    opt("compress", Enum(&["0", "1", "gzip", "lzo", "zstd"])),
    opt("dumpdir", ANY),
    opt("exclude", ANY),
    opt("exclude-path", List),
    opt("fleecing", ANY),
    opt("ionice", Int(0, 8)),
    opt("job-id", ANY),
    opt("lockwait", Int(0, MAX)),
    opt("mailnotification", Enum(&["always", "failure"])),
    opt("mailto", ANY),
    opt("mode", Enum(&["snapshot", "suspend", "stop"])),
    opt("notes-template", Text(1024)),
    opt("notification-mode", Enum(&["auto", "legacy-sendmail", "notification-system"])),
    opt("pbs-change-detection-mode", Enum(&["legacy", "data", "metadata"])),
    opt("performance", ANY),
    opt("pigz", Int(0, MAX)),
    opt("pool", ANY),
    opt("protected", Bool),
    opt("prune-backups", ANY),
    opt("quiet", Bool),
    opt("remove", Bool),
    opt("script", ANY),
    opt("stdexcludes", Bool),
    opt("stdout", Bool),
    opt("stop", Bool),
    opt("stopwait", Int(0, MAX)),
    opt("storage", Format(storage)),
    opt("tmpdir", ANY),
    opt("vmid", ANY),
    opt("zstd", Int(0, MAX)),
];
/// An endpoint without parameters.
pub const NONE: &[Spec] = &[];
/// `POST qemu`.
pub const CREATE: &[Spec] = &[
    req("vmid", Vmid),
    opt("archive", Text(255)),
    opt("bwlimit", Int(0, MAX)),
    opt("force", Bool),
    opt("ha-managed", Bool),
    opt("import-working-storage", Format(storage)),
    opt("live-restore", Bool),
    opt("pool", ANY),
    opt("start", Bool),
    opt("storage", Format(storage)),
    opt("unique", Bool),
];
