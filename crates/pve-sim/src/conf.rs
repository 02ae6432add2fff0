//! A VM's configuration file as Proxmox writes it: `/etc/pve/nodes/NODE/qemu-server/VMID.conf`.

use std::{collections::BTreeMap, fmt};

use sha1::{Digest, Sha1};

/// One section of the file. The description is kept decoded under the key `description`.
pub type Section = BTreeMap<String, String>;

/// A whole configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmConf {
    /// What holds now.
    pub main: Section,
    /// What will hold after the next stop; `delete` lists settings that will go.
    pub pending: Section,
    /// What the cloud-init drive still says although `main` has changed.
    pub cloudinit: Section,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Section>,
}

impl VmConf {
    /// The configuration whose main section has these settings.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> VmConf {
        VmConf {
            main: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..VmConf::default()
        }
    }

    /// Reads the text of a configuration file.
    pub fn parse(text: &str) -> VmConf {
        let mut conf = VmConf::default();
        let mut name = String::new();
        let mut description: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                conf.put_description(&name, &mut description);
                section.clone_into(&mut name);
            } else if let Some(comment) = line.strip_prefix('#') {
                description.push(decode_line(comment));
            } else if let Some((key, value)) = line.split_once(':') {
                let value = value.strip_prefix(' ').unwrap_or(value);
                conf.section_mut(&name).insert(key.trim().to_owned(), value.to_owned());
            }
        }
        conf.put_description(&name, &mut description);
        conf
    }

    fn section_mut(&mut self, name: &str) -> &mut Section {
        match name {
            "" => &mut self.main,
            "PENDING" => &mut self.pending,
            "special:cloudinit" => &mut self.cloudinit,
            other => self.snapshots.entry(other.to_owned()).or_default(),
        }
    }

    fn put_description(&mut self, name: &str, lines: &mut Vec<String>) {
        if !lines.is_empty() {
            let text = std::mem::take(lines).join("\n");
            self.section_mut(name).insert("description".to_owned(), text);
        }
    }

    /// SHA1 of the file's text, in hexadecimal: what the API calls `digest`.
    pub fn digest(&self) -> String {
        let hash = Sha1::digest(self.to_string().as_bytes());
        hash.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A setting of the main section.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.main.get(key).map(String::as_str)
    }

    /// What the VM is locked by.
    pub fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        self.get("template") == Some("1")
    }

    /// The main section with pending changes applied.
    pub fn with_pending(&self) -> Section {
        let mut section = self.main.clone();
        for (key, value) in &self.pending {
            if key == "delete" {
                for gone in value.split(',') {
                    section.remove(gone.trim_start_matches('!'));
                }
            } else {
                section.insert(key.clone(), value.clone());
            }
        }
        section
    }

    /// Makes pending changes real, as a stop and start do.
    pub fn apply_pending(&mut self) {
        self.main = self.with_pending();
        self.pending.clear();
    }
}

impl fmt::Display for VmConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_section(f, &self.main)?;
        if !self.pending.is_empty() {
            f.write_str("\n[PENDING]\n")?;
            write_section(f, &self.pending)?;
        }
        if !self.cloudinit.is_empty() {
            f.write_str("\n[special:cloudinit]\n")?;
            write_section(f, &self.cloudinit)?;
        }
        for (name, section) in &self.snapshots {
            write!(f, "\n[{name}]\n")?;
            write_section(f, section)?;
        }
        Ok(())
    }
}

fn write_section(f: &mut fmt::Formatter<'_>, section: &Section) -> fmt::Result {
    if let Some(description) = section.get("description") {
        for line in description.trim_end_matches('\n').split('\n') {
            writeln!(f, "#{}", encode_line(line))?;
        }
    }
    for (key, value) in section.iter().filter(|(key, _)| *key != "description") {
        writeln!(f, "{key}: {value}")?;
    }
    Ok(())
}

/// Colons, per cent signs, control characters and all above ASCII are written as `%XX`.
fn encode_line(line: &str) -> String {
    let mut out = String::new();
    for byte in line.bytes() {
        if !(b' '..0x7f).contains(&byte) || byte == b':' || byte == b'%' {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(byte));
        }
    }
    out
}

fn decode_line(line: &str) -> String {
    percent_encoding::percent_decode_str(line).decode_utf8_lossy().into_owned()
}

/// The value of `key` in a property string such as `virtio=AA:…,bridge=vmbr0`; `first` names the key that a
/// value without one has.
pub fn property<'a>(text: &'a str, key: &str, first: &str) -> Option<&'a str> {
    text.split(',').find_map(|part| match part.split_once('=') {
        Some((k, v)) => (k == key).then_some(v),
        None => (key == first).then_some(part),
    })
}

/// The MAC address in a `netN` setting, in upper case.
pub fn mac_of(net: &str) -> Option<String> {
    net.split(',').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        let is_mac = value.len() == 17 && value.matches(':').count() == 5;
        (is_mac && key != "bridge").then(|| value.to_ascii_uppercase())
    })
}

/// A size such as `2G`, `512M`, `4096K` or plain bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1u64 << 10),
        'M' => (&text[..text.len() - 1], 1 << 20),
        'G' => (&text[..text.len() - 1], 1 << 30),
        'T' => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (whole, fraction) = number.split_once('.')?;
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(unit)? / scale;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part)
}

/// A size as Proxmox writes it: the largest unit that gives a whole number.
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0T".to_owned();
    }
    for (unit, letter) in [(1u64 << 40, 'T'), (1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')] {
        if bytes > 0 && bytes.is_multiple_of(unit) {
            return format!("{}{letter}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// Whether a setting is a disk or CD slot.
pub fn is_drive(key: &str) -> bool {
    ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"].iter().any(|bus| {
        key.strip_prefix(bus).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let text =
            "#two: lines\n#ü\nboot: order=scsi0\nname: a\n\n[PENDING]\ncores: 2\n\n[before]\nsnaptime: 1\n";
        let conf = VmConf::parse(text);
        assert_eq!(conf.get("description"), Some("two: lines\nü"));
        assert_eq!(conf.with_pending().get("cores").map(String::as_str), Some("2"));
        assert_eq!(
            conf.to_string(),
            "#two%3A lines\n#%C3%BC\nboot: order=scsi0\nname: a\n\n[PENDING]\ncores: 2\n\n[before]\nsnaptime: 1\n"
        );
        assert_eq!(VmConf::parse(&conf.to_string()), conf);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("23.5G").map(format_size).as_deref(), Some("24064M"));
        assert_eq!(parse_size("20G").map(format_size).as_deref(), Some("20G"));
        assert_eq!(parse_size("x"), None);
    }

    #[test]
    fn mac_address_of_a_network_device() {
        assert_eq!(mac_of("virtio=bc:24:11:00:00:0a,bridge=vmbr0").as_deref(), Some("BC:24:11:00:00:0A"));
        assert_eq!(mac_of("virtio,bridge=vmbr0"), None);
    }
}
