//! Values that are checked once, where they come in, and can not be wrong after.
//!
//! Each type parses with [`FromStr`], prints with [`Display`](std::fmt::Display) and travels as JSON in the
//! form it prints (numbers stay numbers). None of them can hold a character that means anything to a shell.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// Why a value was refused: what it is called, what was given, what would be right.
fn bad(what: &str, given: &str, right: &str) -> Error {
    Error::usage(format!("'{}' is not a valid {what}: {right}", given.escape_debug()))
}

/// A VM or container number, 100 to 999999999 (`pve-vmid` in the Proxmox API).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vmid(u32);

impl Vmid {
    /// Checks the range that Proxmox allows.
    pub fn new(number: u32) -> crate::Result<Vmid> {
        if (100..=999_999_999).contains(&number) {
            Ok(Vmid(number))
        } else {
            Err(bad("VMID", &number.to_string(), "a number from 100 to 999999999"))
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Vmid {
    type Err = Error;
    fn from_str(text: &str) -> crate::Result<Vmid> {
        let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && !text.starts_with('0') => Vmid::new(number),
            _ => Err(bad("VMID", text, "a number from 100 to 999999999")),
        }
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Vmid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Vmid, D::Error> {
        // The API gives VMIDs as numbers in most places and as strings in some.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u32),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Number(number) => Vmid::new(number),
            Form::Text(text) => text.parse(),
        }
        .map_err(serde::de::Error::custom)
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $right:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> crate::Result<$name> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok($name(text.to_owned())) } else { Err(bad($what, text, $right)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_identifier(text: &str) -> bool {
    text.len() >= 2
        && text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

text_type!(
    /// A VM's name: one or more DNS labels (Proxmox's `dns-name`, RFC 1123), 63 characters a label, 253 in all.
    VmName, "VM name", "1 to 63 letters, digits and hyphens, no hyphen at the ends (a DNS name)",
    |text| text.len() <= 253 && text.split('.').all(is_dns_label)
);
text_type!(
    /// A node's name: one DNS label (Proxmox's `pve-node`).
    NodeName, "node name", "letters, digits and hyphens, not at the ends", is_dns_label
);
text_type!(
    /// A storage's name (Proxmox's `pve-storage-id`).
    StorageId, "storage name", "a letter, then letters, digits, '-', '_' or '.'", is_identifier
);
text_type!(
    /// A disk slot of a VM: `scsi0`, `virtio3`, `sata1`, `ide2` (qm.conf(5)).
    DiskSlot, "disk", "scsi0-30, virtio0-15, sata0-5 or ide0-3",
    |text| {
        [("scsi", 30), ("virtio", 15), ("sata", 5), ("ide", 3)].iter().any(|(bus, last)| {
            text.strip_prefix(bus).is_some_and(|n| {
                n.len() <= 2 && n.bytes().all(|b| b.is_ascii_digit()) && (n == "0" || !n.starts_with('0'))
                    && n.parse::<u32>().is_ok_and(|n| n <= *last)
            })
        })
    }
);
text_type!(
    /// A network bridge: an interface name of Linux, 15 characters at most.
    BridgeName, "bridge", "a network interface name such as vmbr0",
    |text| !text.is_empty() && text.len() <= 15
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
);
text_type!(
    /// A login name on Linux (useradd(8)), 32 characters at most.
    UserName, "user name", "lower-case letters, digits, '_' or '-', starting with a letter or '_'",
    |text| !text.is_empty() && text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
);
text_type!(
    /// A tag on a VM (Proxmox's `pve-tag`).
    Tag, "tag", "lower-case letters, digits, '_', '-', '+' or '.', starting with a letter, digit or '_'",
    |text| !text.is_empty() && text.len() <= 124
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'+' | b'.'))
);

/// A disk's size in bytes, a whole number of KiB. Parses `512M`, `20G`, `1T`, `23.5G`; binary units, as Proxmox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskSize(u64);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

impl DiskSize {
    /// A size of this many bytes.
    pub fn from_bytes(bytes: u64) -> DiskSize {
        DiskSize(bytes)
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The size in GiB, rounded up: what `STORAGE:SIZE` takes for a new volume.
    pub fn gib_ceil(self) -> u64 {
        self.0.div_ceil(GIB)
    }
}

impl FromStr for DiskSize {
    type Err = Error;
    fn from_str(text: &str) -> crate::Result<DiskSize> {
        let wrong = || bad("disk size", text, "a number and a unit, such as 512M, 20G or 1T");
        let (unit_at, unit) = text.char_indices().last().ok_or_else(wrong)?;
        let unit = match unit {
            'K' => KIB,
            'M' => MIB,
            'G' => GIB,
            'T' => TIB,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = match text[..unit_at].split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return Err(wrong()),
            None => (&text[..unit_at], "0"),
        };
        let digits = |t: &str| !t.is_empty() && t.len() <= 12 && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        let number = |t: &str| t.parse::<u128>().map_err(|_| wrong());
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let bytes = number(whole)? * u128::from(unit) + number(fraction)? * u128::from(unit) / scale;
        let bytes = u64::try_from(bytes).map_err(|_| wrong())?;
        if bytes == 0 || bytes > 1 << 60 {
            return Err(wrong());
        }
        Ok(DiskSize(bytes / KIB * KIB))
    }
}

impl fmt::Display for DiskSize {
    /// The largest unit that gives a whole number, as Proxmox writes `size=`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, letter) = [(TIB, "T"), (GIB, "G"), (MIB, "M")]
            .into_iter()
            .find(|(unit, _)| self.0.is_multiple_of(*unit))
            .unwrap_or((KIB, "K"));
        f.pad(&format!("{}{letter}", self.0 / unit))
    }
}

impl Serialize for DiskSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DiskSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<DiskSize, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An Ethernet address. Prints in upper case with colons, as Proxmox writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The address with these bytes; it must be unicast (even first byte), as Proxmox asks.
    pub fn new(bytes: [u8; 6]) -> crate::Result<MacAddr> {
        if bytes[0] & 1 == 0 && bytes != [0; 6] {
            Ok(MacAddr(bytes))
        } else {
            Err(bad(
                "MAC address",
                &MacAddr(bytes).to_string(),
                "a unicast address such as BC:24:11:00:00:01",
            ))
        }
    }

    /// In lower case, as Linux and netplan write it.
    pub fn lower(self) -> String {
        self.to_string().to_ascii_lowercase()
    }
}

impl FromStr for MacAddr {
    type Err = Error;
    fn from_str(text: &str) -> crate::Result<MacAddr> {
        let wrong = || bad("MAC address", text, "six bytes such as BC:24:11:00:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        MacAddr::new(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<MacAddr, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An address with its prefix length, `192.0.2.10/24` or `2001:db8::10/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address itself, not the network's.
    pub address: std::net::IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `other` lies in the same network.
    pub fn contains(&self, other: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, other) {
            (V4(a), V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(a) & mask == u32::from(b) & mask
            }
            (V6(a), V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(a) & mask == u128::from(b) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = Error;
    fn from_str(text: &str) -> crate::Result<Cidr> {
        let wrong = || bad("address", text, "an address with its prefix, such as 192.0.2.10/24");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > most {
            return Err(wrong());
        }
        Ok(Cidr { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Cidr, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A VM as people name it on a command line: by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmRef {
    /// By VMID.
    Id(Vmid),
    /// By name, in the definitions or in the cluster.
    Name(VmName),
}

impl FromStr for VmRef {
    type Err = Error;
    fn from_str(text: &str) -> crate::Result<VmRef> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(VmRef::Id);
        }
        text.parse()
            .map(VmRef::Name)
            .map_err(|_| bad("VM", text, "a VMID (100 to 999999999) or a name (letters, digits, hyphens)"))
    }
}

impl fmt::Display for VmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmRef::Id(id) => id.fmt(f),
            VmRef::Name(name) => name.fmt(f),
        }
    }
}
