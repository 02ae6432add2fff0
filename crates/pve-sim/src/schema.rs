//! The parameters of each simulated endpoint: types, limits and formats (qm.conf(5), `pvesh usage`).

use crate::params::{Kind, Kind::*, Prop, Spec, many, opt, req};

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

const fn prop(name: &'static str, kind: Kind) -> Prop {
    Prop { name, kind, default: false, required: false, requires: None }
}

const fn default(name: &'static str, kind: Kind) -> Prop {
    Prop { name, kind, default: true, required: true, requires: None }
}

/// `dns-name`.
pub fn dns_name(text: &str) -> Result<(), String> {
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if text.split('.').all(label) {
        Ok(())
    } else {
        Err("value does not look like a valid DNS name".to_owned())
    }
}

fn urlencoded(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    let mut ok = true;
    while let Some(byte) = bytes.next() {
        ok &= match byte {
            b'%' => [bytes.next(), bytes.next()].iter().all(|b| b.is_some_and(|b| b.is_ascii_hexdigit())),
            b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')' | b'/' => true,
            other => other.is_ascii_alphanumeric(),
        };
    }
    if ok { Ok(()) } else { Err(format!("invalid urlencoded string: {text}")) }
}

fn tags(text: &str) -> Result<(), String> {
    let tag = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.'))
    };
    let all = text.split([',', ';', ' ']).filter(|t| !t.is_empty()).all(tag);
    if all { Ok(()) } else { Err("invalid characters in tag".to_owned()) }
}

fn cpu(text: &str) -> Result<(), String> {
    const TYPES: &[&str] = &[
        "host",
        "max",
        "kvm64",
        "kvm32",
        "qemu64",
        "qemu32",
        "x86-64-v2",
        "x86-64-v2-AES",
        "x86-64-v3",
        "x86-64-v4",
        "Nehalem",
        "Westmere",
        "SandyBridge",
        "IvyBridge",
        "Haswell",
        "Broadwell",
        "EPYC",
        "Skylake-Client",
        "Skylake-Server",
        "Icelake-Server",
    ];
    let name = crate::conf::property(text, "cputype", "cputype").unwrap_or_default();
    if name.starts_with("custom-") || TYPES.contains(&name) {
        Ok(())
    } else {
        Err(format!("Built-in cputype '{name}' is not defined (missing 'custom-' prefix?)"))
    }
}

fn ipv4_config(text: &str) -> Result<(), String> {
    let cidr = |t: &str| {
        t.split_once('/').is_some_and(|(a, p)| {
            a.parse::<std::net::Ipv4Addr>().is_ok() && p.parse::<u8>().is_ok_and(|p| (8..=32).contains(&p))
        })
    };
    if text == "dhcp" || text == "manual" || cidr(text) {
        Ok(())
    } else {
        Err("value does not look like a valid ipv4 network configuration".to_owned())
    }
}

fn ipv6_config(text: &str) -> Result<(), String> {
    let cidr = |t: &str| {
        t.split_once('/').is_some_and(|(a, p)| {
            a.parse::<std::net::Ipv6Addr>().is_ok() && p.parse::<u8>().is_ok_and(|p| p <= 128)
        })
    };
    if matches!(text, "auto" | "dhcp" | "manual") || cidr(text) {
        Ok(())
    } else {
        Err("value does not look like a valid ipv6 network configuration".to_owned())
    }
}

fn ipv4(text: &str) -> Result<(), String> {
    text.parse::<std::net::Ipv4Addr>()
        .map(drop)
        .map_err(|_| "value does not look like a valid IPv4 address".to_owned())
}

fn ipv6(text: &str) -> Result<(), String> {
    text.parse::<std::net::Ipv6Addr>()
        .map(drop)
        .map_err(|_| "value does not look like a valid IPv6 address".to_owned())
}

fn mac(text: &str) -> Result<(), String> {
    text.parse::<fleet_core::types::MacAddr>()
        .map(drop)
        .map_err(|_| "value does not look like a valid unicast MAC address".to_owned())
}

fn volume_id(text: &str) -> Result<(), String> {
    let ok = text.split_once(':').is_some_and(|(s, v)| storage_id(s) && !v.is_empty());
    if ok { Ok(()) } else { Err(format!("unable to parse volume ID '{text}'")) }
}

fn storage_id(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn storage(text: &str) -> Result<(), String> {
    if storage_id(text) { Ok(()) } else { Err(format!("storage ID '{text}' contains illegal characters")) }
}

fn content(text: &str) -> Result<(), String> {
    const TYPES: &[&str] = &["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"];
    match text.split(',').find(|t| !TYPES.contains(t)) {
        None => Ok(()),
        Some(bad) => Err(format!("invalid content type '{bad}'")),
    }
}

fn boot_order(text: &str) -> Result<(), String> {
    let ok = |d: &str| {
        crate::conf::is_drive(d) || numbered(d, "net") || numbered(d, "usb") || numbered(d, "hostpci")
    };
    match text.split(';').find(|d| !d.is_empty() && !ok(d)) {
        None => Ok(()),
        Some(bad) => Err(format!("invalid boot device '{bad}'")),
    }
}

fn numbered(text: &str, stem: &str) -> bool {
    text.strip_prefix(stem).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn legacy_boot(text: &str) -> bool {
    text.len() <= 4 && text.bytes().all(|b| matches!(b, b'a' | b'c' | b'd' | b'n'))
}

fn size(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let number = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(text);
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    }
}

fn serial(text: &str) -> bool {
    text == "socket" || text.strip_prefix("/dev/").is_some_and(|d| !d.is_empty() && !d.contains(','))
}

fn uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))
}

const NET: &[Prop] = &[
    Prop { name: "model", kind: Enum(NET_MODELS), default: true, required: true, requires: None },
    prop("macaddr", Format(mac)),
    prop("bridge", ANY),
    prop("queues", Int(0, 64)),
    prop("rate", Num(0.0, f64::MAX)),
    prop("tag", Int(1, 4094)),
    prop("trunks", ANY),
    prop("firewall", Bool),
    prop("link_down", Bool),
    prop("mtu", Int(1, 65520)),
];

const IPCONFIG: &[Prop] = &[
    prop("ip", Format(ipv4_config)),
    Prop { name: "gw", kind: Format(ipv4), default: false, required: false, requires: Some("ip") },
    prop("ip6", Format(ipv6_config)),
    Prop { name: "gw6", kind: Format(ipv6), default: false, required: false, requires: Some("ip6") },
];

const AGENT: &[Prop] = &[
    default("enabled", Bool),
    prop("fstrim_cloned_disks", Bool),
    prop("freeze-fs-on-backup", Bool),
    prop("freeze-fs", Bool),
    prop("type", Enum(&["virtio", "isa"])),
];

const VGA: &[Prop] = &[
    Prop {
        name: "type",
        kind: Enum(&[
            "cirrus",
            "qxl",
            "qxl2",
            "qxl3",
            "qxl4",
            "none",
            "serial0",
            "serial1",
            "serial2",
            "serial3",
            "std",
            "virtio",
            "virtio-gl",
            "vmware",
        ]),
        default: true,
        required: false,
        requires: None,
    },
    prop("memory", Int(4, 512)),
    prop("clipboard", Enum(&["vnc"])),
];

const CICUSTOM: &[Prop] = &[
    prop("meta", Format(volume_id)),
    prop("network", Format(volume_id)),
    prop("user", Format(volume_id)),
    prop("vendor", Format(volume_id)),
];

const MEMORY: &[Prop] = &[default("current", Int(16, MAX))];

const BOOT: &[Prop] = &[
    Prop { name: "legacy", kind: Pattern(legacy_boot), default: true, required: false, requires: None },
    prop("order", Format(boot_order)),
];

const SMBIOS: &[Prop] = &[
    prop("uuid", Pattern(uuid)),
    prop("version", ANY),
    prop("serial", ANY),
    prop("manufacturer", ANY),
    prop("product", ANY),
    prop("sku", ANY),
    prop("family", ANY),
    prop("base64", Bool),
];

const fn drive_file() -> Prop {
    Prop { name: "file", kind: ANY, default: true, required: true, requires: None }
}

const DRIVE: &[Prop] = &[
    drive_file(),
    prop("media", Enum(&["cdrom", "disk"])),
    prop("size", Pattern(size)),
    prop("format", Enum(&["raw", "qcow2", "vmdk", "qed", "cow", "cloop"])),
    prop("import-from", ANY),
    prop("cache", Enum(&["none", "writethrough", "writeback", "unsafe", "directsync"])),
    prop("discard", Enum(&["ignore", "on"])),
    prop("ssd", Bool),
    prop("iothread", Bool),
    prop("backup", Bool),
    prop("replicate", Bool),
    prop("ro", Bool),
    prop("shared", Bool),
    prop("snapshot", Bool),
    prop("detect_zeroes", Bool),
    prop("aio", Enum(&["native", "threads", "io_uring"])),
    prop("serial", Text(60)),
    prop("wwn", ANY),
    prop("queues", Int(2, MAX)),
    prop("mbps", Num(0.0, f64::MAX)),
    prop("mbps_rd", Num(0.0, f64::MAX)),
    prop("mbps_wr", Num(0.0, f64::MAX)),
    prop("iops", Int(0, MAX)),
];

const EFIDISK: &[Prop] = &[
    drive_file(),
    prop("size", Pattern(size)),
    prop("format", Enum(&["raw", "qcow2", "vmdk"])),
    prop("efitype", Enum(&["2m", "4m"])),
    prop("pre-enrolled-keys", Bool),
    prop("ms-cert", Enum(&["2011", "2023", "2023k", "2023w"])),
    prop("import-from", ANY),
];

const TPM: &[Prop] = &[drive_file(), prop("size", Pattern(size)), prop("version", Enum(&["v1.2", "v2.0"]))];

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
pub const CREATE: &[Spec] =
    &[req("vmid", Vmid), opt("storage", Format(storage)), opt("start", Bool), opt("force", Bool)];

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
