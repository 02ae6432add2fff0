//! Property strings of a machine's hardware beside disks and network cards.

use super::{ANY, MAX};
use crate::params::{
    Kind,
    Kind::{Bool, Enum, Int, Num, Pattern, Text},
    Prop,
};

const fn prop(name: &'static str, kind: Kind) -> Prop {
    Prop { name, kind, default: false, required: false, requires: None }
}

const fn first(name: &'static str, kind: Kind, required: bool) -> Prop {
    Prop { name, kind, default: true, required, requires: None }
}

const fn needed(name: &'static str, kind: Kind) -> Prop {
    Prop { name, kind, default: false, required: true, requires: None }
}

fn all(text: &str, ok: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(ok)
}

/// Base64, which smbios1's texts may be written in; plain words are some, too.
pub(super) fn base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len() - body.len() <= 2 && all(body, |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn mdev(text: &str) -> bool {
    all(text, |b| !matches!(b, b'/' | b'.' | b':') && !b.is_ascii_control())
}

fn rom_file(text: &str) -> bool {
    all(text, |b| !matches!(b, b',' | b';') && !b.is_ascii_control())
}

/// `q35`, `pc-q35-9.2+pve1`, `pc-i440fx-10.2`, `virt`, …
fn machine_type(text: &str) -> bool {
    let version = |t: &str| {
        let t = t.strip_suffix(".pxe").unwrap_or(t);
        let (number, build) = t.split_once("+pve").unwrap_or((t, "0"));
        number.contains('.')
            && number.split('.').all(|part| all(part, |b| b.is_ascii_digit()))
            && all(build, |b| b.is_ascii_digit())
    };
    text.len() <= 40
        && (matches!(text, "pc" | "q35" | "virt")
            || ["pc-i440fx-", "pc-q35-", "pc-", "virt-"]
                .iter()
                .any(|stem| text.strip_prefix(stem).is_some_and(version)))
}

/// A UUID, or 0 or 1: none, or a new one.
pub(super) fn generation(text: &str) -> bool {
    matches!(text, "0" | "1") || super::formats::uuid(text)
}

pub(super) fn parallel_port(text: &str) -> bool {
    ["/dev/parport", "/dev/usb/lp"]
        .iter()
        .any(|stem| text.strip_prefix(stem).is_some_and(|n| all(n, |b| b.is_ascii_digit())))
}

pub(super) fn boot_disk(text: &str) -> bool {
    crate::conf::is_drive(text) && !text.starts_with("efidisk") && !text.starts_with("tpmstate")
}

/// `net0=1500,net1=9000`
pub(super) fn host_mtu(text: &str) -> bool {
    text.split(',').all(|part| {
        part.split_once('=').is_some_and(|(card, mtu)| {
            super::formats::numbered(card, "net") && all(mtu, |b| b.is_ascii_digit())
        })
    })
}

pub(super) fn start_date(text: &str) -> bool {
    text == "now" || all(text, |b| b.is_ascii_digit() || matches!(b, b'-' | b'T' | b':'))
}

pub(super) const MACHINE: &[Prop] = &[
    first("type", Pattern(machine_type), false),
    prop("aw-bits", Num(32.0, 64.0)),
    prop("enable-s3", Bool),
    prop("enable-s4", Bool),
    prop("viommu", Enum(&["intel", "virtio"])),
];

pub(super) const HOSTPCI: &[Prop] = &[
    first("host", ANY, false),
    prop("device-id", ANY),
    prop("driver", Enum(&["vfio", "keep"])),
    prop("legacy-igd", Bool),
    prop("mapping", Kind::ConfigId),
    prop("mdev", Pattern(mdev)),
    prop("pcie", Bool),
    prop("rombar", Bool),
    prop("romfile", Pattern(rom_file)),
    prop("sub-device-id", ANY),
    prop("sub-vendor-id", ANY),
    prop("vendor-id", ANY),
    prop("x-vga", Bool),
];

pub(super) const USB: &[Prop] =
    &[first("host", ANY, false), prop("mapping", Kind::ConfigId), prop("usb3", Bool)];

pub(super) const RNG: &[Prop] = &[
    first("source", Enum(&["/dev/urandom", "/dev/random", "/dev/hwrng"]), true),
    prop("max_bytes", Int(i64::MIN, MAX)),
    prop("period", Int(i64::MIN, MAX)),
];

pub(super) const WATCHDOG: &[Prop] = &[
    first("model", Enum(&["i6300esb", "ib700"]), false),
    prop("action", Enum(&["reset", "shutdown", "poweroff", "pause", "debug", "none"])),
];

pub(super) const UNUSED: &[Prop] = &[first("file", ANY, true)];

pub(super) const AUDIO: &[Prop] = &[
    needed("device", Enum(&["ich9-intel-hda", "intel-hda", "AC97"])),
    prop("driver", Enum(&["spice", "none"])),
];

pub(super) const SPICE: &[Prop] =
    &[prop("foldersharing", Bool), prop("videostreaming", Enum(&["off", "all", "filter"]))];

pub(super) const IVSHMEM: &[Prop] = &[prop("name", ANY), needed("size", Int(1, MAX))];

pub(super) const NUMA: &[Prop] = &[
    needed("cpus", ANY),
    prop("hostnodes", ANY),
    prop("memory", Num(f64::MIN, f64::MAX)),
    prop("policy", Enum(&["preferred", "bind", "interleave"])),
];

pub(super) const SEV: &[Prop] = &[
    first("type", Enum(&["std", "es", "snp"]), true),
    prop("allow-smt", Bool),
    prop("kernel-hashes", Bool),
    prop("no-debug", Bool),
    prop("no-key-sharing", Bool),
];

pub(super) const TDX: &[Prop] = &[
    first("type", Enum(&["tdx"]), true),
    needed("attestation", Bool),
    prop("vsock-cid", Int(2, MAX)),
    prop("vsock-port", Int(0, MAX)),
];

pub(super) const VIRTIOFS: &[Prop] = &[
    first("dirid", Text(usize::MAX), true),
    prop("cache", Enum(&["auto", "always", "metadata", "never"])),
    prop("direct-io", Bool),
    prop("expose-acl", Bool),
    prop("expose-xattr", Bool),
];
