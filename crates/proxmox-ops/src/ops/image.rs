//! What a file is that shall become a VM's disk, told by its own bytes: Proxmox takes anything for a raw disk.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use fleet_core::{Error, Result, child::quote};

/// The formats that are sent as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's own (docs/interop/qcow2 of QEMU).
    Qcow2,
    /// The disk's bytes.
    Raw,
}

impl Format {
    /// What tells Proxmox the format: the end of the file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        }
    }
}

/// A disk image, to be read from its first byte.
#[derive(Debug)]
pub struct Image {
    /// The open file.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    /// What it is.
    pub format: Format,
}

/// How much of a file's beginning is looked at: an ISO 9660 image says what it is at byte 32769.
const HEAD: u64 = 33 * 1024;
/// A disk's sector, in bytes.
const SECTOR: usize = 512;

/// Opens a disk image: qcow2, or raw with a boot signature in its first sector, as each partition table has it that
/// UEFI reads. Anything else is a usage error that says what it looks like and what makes a disk image of it.
pub fn open(path: &Path) -> Result<Image> {
    let unread = |e| Error::io("read", path, e).now("nothing was sent to the node");
    let no_image = |why: &str| {
        Error::usage(format!("{} is no disk image{why}", path.display())).now("nothing was sent to the node")
    };
    // Opening a pipe would wait for somebody who writes.
    let about = std::fs::metadata(path).map_err(unread)?;
    if !about.is_file() {
        return Err(
            no_image("").hint("a device, a pipe or a directory does not say how much there is: give a file")
        );
    }
    let mut file = File::open(path).map_err(unread)?;
    let size = about.len();
    let mut head = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut head).map_err(unread)?;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(size.saturating_sub(SECTOR as u64))).map_err(unread)?;
    file.by_ref().take(SECTOR as u64).read_to_end(&mut tail).map_err(unread)?;
    file.rewind().map_err(unread)?;
    match judge(&head, &tail, size) {
        Ok(format) => Ok(Image { file, size, format }),
        Err((why, way)) => Err(no_image(&format!(": {why}")).hint(way.hint(path))),
    }
}

/// What makes a disk image of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A program that writes what it unpacks to its standard output, and the end of a name that is so packed.
    Unpack(&'static str, &'static str),
    /// A program that unpacks files beside it.
    Extract(&'static str),
    /// `qemu-img`, which calls the format so.
    Convert(&'static str),
    /// Another file.
    Another,
}

impl Way {
    fn hint(self, path: &Path) -> String {
        let name = path.display().to_string();
        let file = quote(&name);
        let tar = [".tar.", ".tgz", ".txz", ".tbz"].iter().any(|end| name.contains(end));
        match self {
            Way::Unpack(..) if tar => format!("unpack it, and give the image that is in it: tar -xf {file}"),
            Way::Unpack(program, end) => {
                let to = name.strip_suffix(end).map_or_else(|| format!("{name}.unpacked"), str::to_owned);
                format!("unpack it, and give what it makes: {program} {file} > {}", quote(&to))
            }
            Way::Extract(program) => {
                format!("unpack it, and give the image that is in it: {program} {file}")
            }
            Way::Convert(format) => {
                let to = quote(&format!("{name}.qcow2"));
                format!(
                    "convert it, and give what it makes: qemu-img convert -f {format} -O qcow2 {file} {to}"
                )
            }
            Way::Another => {
                format!("a cloud image is qcow2 or raw: `qemu-img info {file}` tells what this one is")
            }
        }
    }
}

/// The first bytes of what is no disk image, what it is called, and the way to one.
const OTHERS: &[(usize, &[u8], &str, Way)] = &[
    (0, b"\x1f\x8b", "it looks packed with gzip", Way::Unpack("gzip -dc", ".gz")),
    (0, b"\xfd7zXZ\0", "it looks packed with xz", Way::Unpack("xz -dc", ".xz")),
    (0, b"\x28\xb5\x2f\xfd", "it looks packed with zstd", Way::Unpack("zstd -dc", ".zst")),
    (0, b"\x04\x22\x4d\x18", "it looks packed with lz4", Way::Unpack("lz4 -dc", ".lz4")),
    (0, b"BZh", "it looks packed with bzip2", Way::Unpack("bzip2 -dc", ".bz2")),
    (0, b"PK\x03\x04", "it looks like a zip archive", Way::Extract("unzip")),
    (0, b"7z\xbc\xaf\x27\x1c", "it looks like a 7z archive", Way::Extract("7z x")),
    (257, b"ustar", "it looks like a tar archive", Way::Extract("tar -xf")),
    (0, b"KDMV", "it looks like a VMDK image", Way::Convert("vmdk")),
    (0, b"COWD", "it looks like a VMDK image", Way::Convert("vmdk")),
    (0, b"# Disk DescriptorFile", "it looks like the description of a VMDK image", Way::Convert("vmdk")),
    (0, b"vhdxfile", "it looks like a VHDX image", Way::Convert("vhdx")),
    (0, b"conectix", "it looks like a VHD image", Way::Convert("vpc")),
    (0x40, b"\x7f\x10\xda\xbe", "it looks like a VDI image", Way::Convert("vdi")),
    (0x8001, b"CD001", "it looks like an ISO image, which is a CD", Way::Another),
];

/// The format of a file of so many bytes, by its beginning and its last sector; else what it is and what to do.
fn judge(head: &[u8], tail: &[u8], size: u64) -> std::result::Result<Format, (String, Way)> {
    let says = |at: usize, what: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(what));
    let no = |why: &str, way| Err((why.to_owned(), way));
    if head.is_empty() {
        return no("it is empty", Way::Another);
    }
    if says(0, b"QFI\xfb") {
        return if head.get(8..16).is_some_and(|backing| backing != [0; 8]) {
            no("it holds only what differs from another image, its backing file", Way::Convert("qcow2"))
        } else {
            Ok(Format::Qcow2)
        };
    }
    if let Some((_, _, why, way)) = OTHERS.iter().find(|(at, magic, ..)| says(*at, magic)) {
        return no(why, *way);
    }
    // A VHD of a fixed size has its description at its end.
    if tail.starts_with(b"conectix") {
        return no("it looks like a VHD image", Way::Convert("vpc"));
    }
    let first = &head[..head.len().min(SECTOR)];
    if let Ok(text) = std::str::from_utf8(first)
        && !text.contains(|c: char| c.is_control() && !c.is_whitespace())
    {
        let start = text.trim_start().to_ascii_lowercase();
        let web = ["<!doctype html", "<html", "<?xml"].iter().any(|page| start.starts_with(page));
        let what = if web { "it looks like a web page" } else { "it looks like a text" };
        return no(&format!("{what}, such as a download that failed leaves"), Way::Another);
    }
    if !size.is_multiple_of(SECTOR as u64) {
        let why =
            format!("its {size} bytes are not a whole number of sectors: was it sent or downloaded whole?");
        return no(&why, Way::Another);
    }
    if !says(SECTOR - 2, &[0x55, 0xaa]) {
        return no(
            "its first sector has no boot signature (55 AA), which every disk has that boots",
            Way::Another,
        );
    }
    Ok(Format::Raw)
}

/// A raw disk of so many bytes with nothing on it but a boot signature, for tests.
#[cfg(test)]
pub(crate) fn raw(fill: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![fill; size.next_multiple_of(SECTOR)];
    bytes[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::Kind;

    fn opened(name: &str, bytes: &[u8]) -> Result<Format> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let image = open(&path)?;
        let mut read = Vec::new();
        (&image.file).read_to_end(&mut read).unwrap();
        assert!(read == bytes && image.size == bytes.len() as u64);
        Ok(image.format)
    }

    fn at(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = raw(0, 64 * 1024);
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn disks_are_taken() {
        assert_eq!(opened("x.img", b"QFI\xfb\0\0\0\x03").unwrap(), Format::Qcow2);
        assert_eq!(opened("x.qcow2", &raw(7, 1 << 20)).unwrap(), Format::Raw);
        assert_eq!(opened("x.raw", &raw(0, 512)).unwrap(), Format::Raw);
    }

    #[test]
    fn whatever_else_people_have_is_refused_and_said() {
        let cut = &raw(0, 4096)[..4000];
        for (name, bytes, says, way) in [
            ("e.raw", b"".to_vec(), "it is empty", "qemu-img info"),
            ("a.raw.xz", at(0, b"\xfd7zXZ\0"), "xz", "xz -dc DIR/a.raw.xz > DIR/a.raw"),
            ("a.img.gz", at(0, b"\x1f\x8b\x08"), "gzip", "gzip -dc DIR/a.img.gz > DIR/a.img"),
            ("a.raw", at(0, b"\x28\xb5\x2f\xfd"), "zstd", "zstd -dc DIR/a.raw > DIR/a.raw.unpacked"),
            ("a b.bz2", at(0, b"BZh91AY"), "bzip2", "bzip2 -dc 'DIR/a b.bz2' > 'DIR/a b'"),
            ("a.tar.xz", at(0, b"\xfd7zXZ\0"), "xz", "tar -xf DIR/a.tar.xz"),
            ("a.zip", at(0, b"PK\x03\x04"), "zip", "unzip DIR/a.zip"),
            ("a.tar", at(257, b"ustar\0"), "tar", "tar -xf DIR/a.tar"),
            ("a.vmdk", at(0, b"KDMV\x01"), "VMDK", "-f vmdk -O qcow2 DIR/a.vmdk DIR/a.vmdk.qcow2"),
            ("a.vhdx", at(0, b"vhdxfile"), "VHDX", "qemu-img convert -f vhdx -O qcow2"),
            ("a.vhd", at(64 * 1024 - 512, b"conectix"), "VHD", "qemu-img convert -f vpc -O qcow2"),
            ("a.vdi", at(0x40, b"\x7f\x10\xda\xbe"), "VDI", "qemu-img convert -f vdi -O qcow2"),
            ("a.iso", at(0x8001, b"CD001"), "ISO", "qemu-img info"),
            ("a.img", b"<!DOCTYPE html>\n<title>404".to_vec(), "a web page", "qemu-img info"),
            ("a.img", b"hello".to_vec(), "a text", "qemu-img info"),
            ("a.img", vec![0; 4096], "no boot signature", "qemu-img info"),
            ("a.img", cut.to_vec(), "4000 bytes are not a whole number of sectors", "qemu-img info"),
            ("a.img", [&b"QFI\xfb\0\0\0\x03"[..], &[1; 8]].concat(), "its backing file", "-f qcow2 -O qcow2"),
        ] {
            let error = opened(name, &bytes).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{name}");
            assert!(error.message().contains(says), "{name}: {}", error.message());
            let hint = &error.hints()[0];
            let dir = error.message().split_once(name).unwrap().0.to_owned();
            assert!(hint.replace(&dir, "DIR/").contains(way), "{name}: {hint}");
            assert_eq!(error.facts(), ["nothing was sent to the node"]);
        }
    }
}
