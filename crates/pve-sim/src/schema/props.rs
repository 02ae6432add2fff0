//! Property strings: settings that are lists of `key=value`.

use super::{
    ANY, MAX, NET_MODELS,
    formats::{boot_order, ipv4, ipv4_config, ipv6, ipv6_config, legacy_boot, mac, size, uuid, volume_id},
    hardware::base64,
};
use crate::params::{
    Kind,
    Kind::{Bool, Enum, Format, Int, Num, Pattern, Text},
    Prop,
};

const fn prop(name: &'static str, kind: Kind) -> Prop {
    Prop { name, kind, default: false, required: false, requires: None }
}

const fn default(name: &'static str, kind: Kind) -> Prop {
    Prop { name, kind, default: true, required: true, requires: None }
}

pub(super) const NET: &[Prop] = &[
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

pub(super) const IPCONFIG: &[Prop] = &[
    prop("ip", Format(ipv4_config)),
    Prop { name: "gw", kind: Format(ipv4), default: false, required: false, requires: Some("ip") },
    prop("ip6", Format(ipv6_config)),
    Prop { name: "gw6", kind: Format(ipv6), default: false, required: false, requires: Some("ip6") },
];

pub(super) const AGENT: &[Prop] = &[
    default("enabled", Bool),
    prop("fstrim_cloned_disks", Bool),
    prop("freeze-fs-on-backup", Bool),
    prop("freeze-fs", Bool),
    prop("type", Enum(&["virtio", "isa"])),
];

pub(super) const VGA: &[Prop] = &[
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

pub(super) const CICUSTOM: &[Prop] = &[
    prop("meta", Format(volume_id)),
    prop("network", Format(volume_id)),
    prop("user", Format(volume_id)),
    prop("vendor", Format(volume_id)),
];

pub(super) const MEMORY: &[Prop] = &[default("current", Int(16, MAX))];

pub(super) const BOOT: &[Prop] = &[
    Prop { name: "legacy", kind: Pattern(legacy_boot), default: true, required: false, requires: None },
    prop("order", Format(boot_order)),
];

pub(super) const SMBIOS: &[Prop] = &[
    prop("uuid", Pattern(uuid)),
    prop("version", Pattern(base64)),
    prop("serial", Pattern(base64)),
    prop("manufacturer", Pattern(base64)),
    prop("product", Pattern(base64)),
    prop("sku", Pattern(base64)),
    prop("family", Pattern(base64)),
    prop("base64", Bool),
];

const fn drive_file() -> Prop {
    Prop { name: "file", kind: ANY, default: true, required: true, requires: None }
}

pub(super) const DRIVE: &[Prop] = &[
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
    prop("iops_rd", Int(0, MAX)),
    prop("iops_wr", Int(0, MAX)),
    prop("iops_max", Int(0, MAX)),
    prop("iops_rd_max", Int(0, MAX)),
    prop("iops_wr_max", Int(0, MAX)),
    prop("mbps_max", Num(0.0, f64::MAX)),
    prop("mbps_rd_max", Num(0.0, f64::MAX)),
    prop("mbps_wr_max", Num(0.0, f64::MAX)),
    prop("bps", Int(0, MAX)),
    prop("bps_rd", Int(0, MAX)),
    prop("bps_wr", Int(0, MAX)),
    prop("rerror", Enum(&["ignore", "report", "stop"])),
    prop("werror", Enum(&["enospc", "ignore", "report", "stop"])),
    prop("scsiblock", Bool),
];

pub(super) const EFIDISK: &[Prop] = &[
    drive_file(),
    prop("size", Pattern(size)),
    prop("format", Enum(&["raw", "qcow2", "vmdk"])),
    prop("efitype", Enum(&["2m", "4m"])),
    prop("pre-enrolled-keys", Bool),
    prop("ms-cert", Enum(&["2011", "2023", "2023k", "2023w"])),
    prop("import-from", ANY),
];

pub(super) const TPM: &[Prop] =
    &[drive_file(), prop("size", Pattern(size)), prop("version", Enum(&["v1.2", "v2.0"]))];
