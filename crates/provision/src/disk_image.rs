//! How large the disk of an image is, and whether the VM's disk holds it. Proxmox imports an image as it is, and a disk
//! is never shrunk: one that is too large would give a VM with another disk than its definition says.

use std::{fs::File, io::Read, path::Path};

use fleet_core::{Error, Result, definitions::ManagedVm, types::DiskSize};

/// The first bytes of a qcow2 image (QEMU's docs/interop/qcow2): with its version, its backing file and its cluster
/// size they make 24 bytes, and then comes the size of its disk, big-endian.
const QCOW2: [u8; 4] = *b"QFI\xfb";

/// The size of the disk that an image holds, in bytes: of a raw one its own.
pub fn virtual_size(image: &Path) -> Result<u64> {
    let failed = |e| Error::io("read", image, e);
    let mut file = File::open(image).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut header = Vec::new();
    file.by_ref().take(32).read_to_end(&mut header).map_err(failed)?;
    match header.strip_prefix(&QCOW2).and_then(|rest| rest.get(20..28)?.try_into().ok()) {
        Some(size) => Ok(u64::from_be_bytes(size)),
        None => Ok(length),
    }
}

/// The size that a disk layout asks disko for, in bytes: `imageSize = "30G"` written out, once. Whatever else is there,
/// such as a default that another module may replace, shows only when the image is built.
pub fn asked_for(layout: &str) -> Option<u64> {
    let words = fleet_core::nix::code_words(layout);
    let mut sizes = words.iter().zip(words.iter().skip(1)).filter(|(name, _)| *name == "imageSize");
    let (size, more) = (sizes.next()?.1, sizes.next());
    if more.is_some() {
        return None;
    }
    // As disko takes it: digits, and a binary unit or bytes.
    let (digits, unit) = match size.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => size.split_at(at),
        None => (size.as_str(), ""),
    };
    let power = ["", "K", "M", "G", "T", "P"].iter().position(|known| *known == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
}

/// Whether an image of so many bytes fits on the VM's disk.
pub fn fits(vm: &ManagedVm, bytes: u64) -> Result<()> {
    if bytes <= vm.disk.bytes() {
        return Ok(());
    }
    let size = DiskSize::from_bytes(bytes.next_multiple_of(1 << 10));
    let (disk, name, host) = (vm.disk, &vm.name, &vm.nixos_config);
    Err(Error::failed(format!("the disk image has {size}, the disk of '{name}' {disk}: it does not fit"))
        .hint(format!("give managed.{name} disk = \"{size}\" or more"))
        .hint(format!(
            "or set disko.devices.disk.NAME.imageSize in hosts/{host}/disko.nix to {disk} or less"
        )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_in_an_image_is_not_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("main.raw");
        let size = |content: &[u8]| {
            std::fs::write(&image, content).unwrap();
            virtual_size(&image).unwrap()
        };
        assert_eq!(size(&[0; 4096]), 4096);
        assert_eq!(size(b""), 0);
        // Version 3, no backing file, clusters of 64 KiB, 2 GiB; the rest does not matter.
        let header =
            [QCOW2.as_slice(), &[0, 0, 0, 3], &[0; 12], &[0, 0, 0, 16], &[0, 0, 0, 0, 0x80, 0, 0, 0]];
        assert_eq!(size(&[header.concat(), vec![0; 100]].concat()), 2 << 30);
    }

    #[test]
    fn what_a_layout_asks_for_is_known_where_it_is_written_out() {
        for (text, size) in [
            ("{ disk.main = { imageSize = \"30G\"; device = \"/dev/sda\"; }; }", Some(30 << 30)),
            ("{ disko.devices.disk.main.imageSize = \"1048576\"; }", Some(1 << 20)),
            ("{ disk.main.device = \"/dev/sda\"; # imageSize = \"30G\"\n }", None),
            ("{ disk.main.imageSize = lib.mkDefault \"30G\"; }", None),
            ("{ disk.main.imageSize = size; }", None),
            ("{ disk = { a.imageSize = \"3G\"; b.imageSize = \"4G\"; }; }", None),
        ] {
            assert_eq!(asked_for(text), size, "{text}");
        }
    }
}
