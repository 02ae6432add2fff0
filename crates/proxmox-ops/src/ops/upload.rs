//! Bringing a disk image to the node, through the SSH session.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use fleet_core::{
    Error, Kind, Result,
    child::quote,
    deadline::Deadline,
    protocol::{IMAGES, image_path},
    ssh::Transport,
};

use sha2::{Digest, Sha256};

use super::Progress;

/// How much is read and sent at once.
const CHUNK: usize = 256 * 1024;
/// The first bytes of a qcow2 image (QEMU's docs/interop/qcow2).
const QCOW2: [u8; 4] = *b"QFI\xfb";

/// An image on the node, removed by [`Uploaded::remove`].
#[derive(Debug)]
pub struct Uploaded {
    /// Where it is.
    pub path: String,
}

impl Uploaded {
    /// One that was sent before, by its place; anything else is none of ours.
    pub fn named(path: &str) -> Result<Uploaded> {
        let name = path.strip_prefix(&format!("{IMAGES}/fleet-image-")).unwrap_or_default();
        let ours = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        if ours && !name.contains("..") {
            return Ok(Uploaded { path: path.to_owned() });
        }
        Err(Error::refused(format!("'{}' is no image that was sent by these tools", path.escape_debug()))
            .now("nothing was sent to the node"))
    }

    /// Removes it; a failure is told, and leaves it there.
    pub fn remove(&self, transport: &dyn Transport) -> Result<()> {
        let command = format!("rm -f -- {}", quote(&self.path));
        transport
            .exec(&command, b"", Deadline::secs(30))?
            .checked(&command, "the node")
            .map(drop)
            .map_err(|e| e.now(format!("the image is still on the node: {}", self.path)))
    }
}

/// How many bytes are free where images are sent to; nothing where `df` does not tell.
pub fn room(transport: &dyn Transport) -> Result<Option<u64>> {
    let command = format!("df -P -k {IMAGES}");
    let output = transport.exec(&command, b"", Deadline::secs(30))?;
    Ok(free(&String::from_utf8_lossy(&output.stdout)))
}

/// The fourth column of the last line of `df -P -k` (POSIX), in bytes.
fn free(said: &str) -> Option<u64> {
    let line = said.lines().skip(1).last()?;
    line.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Sends an image into a file of its own under `/var/tmp` on the node, and checks by size and SHA-256 that all of it is
/// there. Its name holds `nonce`, or else random digits.
pub fn image(
    transport: &dyn Transport,
    file: &Path,
    nonce: Option<&str>,
    progress: Progress<'_>,
) -> Result<Uploaded> {
    let mut source = File::open(file).map_err(|e| Error::io("read", file, e))?;
    let size = source.metadata().map_err(|e| Error::io("read", file, e))?.len();
    let mut magic = [0; 4];
    source.read_exact(&mut magic).map_err(|e| {
        Error::usage(format!("{} is no disk image", file.display()))
            .now("nothing was sent to the node")
            .caused_by(e)
    })?;
    // The name tells Proxmox the format; many qcow2 images are called .img.
    let extension = if magic == QCOW2 { "qcow2" } else { "raw" };
    let nonce = match nonce {
        Some(nonce) => nonce.to_owned(),
        None => {
            let mut bytes = [0u8; 8];
            getrandom::fill(&mut bytes)
                .map_err(|e| Error::failed("the system gives no random bytes").caused_by(e))?;
            bytes.iter().map(|b| format!("{b:02x}")).collect()
        }
    };
    let path = image_path(&nonce, extension);
    let uploaded = Uploaded::named(&path)?;
    if let Some(free) = room(transport)?.filter(|free| *free < size) {
        return Err(Error::failed(format!(
            "the image has {size} bytes, and {IMAGES} on the node has room for {free}"
        ))
        .now("nothing was sent to the node")
        .hint(format!(
            "make room there: `df -h {IMAGES}` and `ls -l {IMAGES}/fleet-image-*` on the node tell"
        )));
    }
    let outcome = send(transport, &path, &magic, &mut source, size, progress);
    outcome.inspect_err(|_| drop(uploaded.remove(transport)))?;
    Ok(uploaded)
}

fn send(
    transport: &dyn Transport,
    path: &str,
    first: &[u8],
    source: &mut File,
    size: u64,
    progress: Progress<'_>,
) -> Result<()> {
    let word = quote(path);
    let command = format!("umask 077; cat > {word} && stat -c %s {word} && sha256sum < {word}");
    let lost = |e: std::io::Error| {
        Error::new(Kind::Unreachable, "the image could not be sent to the node whole").caused_by(e)
    };
    let mut stream = transport.open_exec_stream(&command, Deadline::secs(30))?;
    let mut chunk = first.to_vec();
    let mut sent = 0u64;
    let mut hash = Sha256::new();
    loop {
        stream.set_deadline(Deadline::secs(120));
        stream.write_all(&chunk).map_err(lost)?;
        hash.update(&chunk);
        sent += chunk.len() as u64;
        #[allow(clippy::cast_precision_loss, reason = "a percentage")]
        let percent = sent as f64 / size.max(1) as f64 * 100.0;
        progress(&format!("sent {sent} of {size} bytes ({percent:.2}%)"));
        chunk.resize(CHUNK, 0);
        let amount =
            source.read(&mut chunk).map_err(|e| Error::failed("can not read the image").caused_by(e))?;
        if amount == 0 {
            break;
        }
        chunk.truncate(amount);
    }
    stream.finish_writing().map_err(lost)?;
    stream.set_deadline(Deadline::after(Duration::from_secs(300)));
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(lost)?;
    // Its size, its checksum, a hyphen; what a login shell's start-up files print stands before it.
    let words: Vec<&str> = said.split_whitespace().collect();
    if let [.., there, sum_there, "-"] = words.as_slice()
        && there.parse() == Ok(size)
    {
        let sum: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if *sum_there == sum {
            return Ok(());
        }
        return Err(Error::failed(format!(
            "the image on the node has another SHA-256 checksum than the one that was sent: {}, not {sum}",
            sum_there.escape_debug()
        ))
        .hint("send it once more; if it comes again, look at the node's disk and memory"));
    }
    Err(Error::failed(format!("of {size} bytes of the image, the node has {}", said.trim().escape_debug()))
        .hint("is there room under /var/tmp on the node? `df /var/tmp` tells"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Local;

    #[test]
    fn an_image_arrives_whole_and_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("debian.img");
        let bytes = [b"QFI\xfb".as_slice(), &vec![7; 700_000]].concat();
        std::fs::write(&file, &bytes).unwrap();
        let there = dir.path().join("node");
        // Its login shell greets.
        let node = Local::new("/var/tmp", &there).replacing("umask 077", "echo Welcome to prom; umask 077");
        std::fs::create_dir(&there).unwrap();
        let mut lines = 0;
        let uploaded = image(&node, &file, Some("0a1b"), &mut |_| lines += 1).unwrap();
        assert!(uploaded.path == "/var/tmp/fleet-image-0a1b.qcow2");
        let files: Vec<_> = std::fs::read_dir(&there).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        assert!(std::fs::read(&files[0]).unwrap() == bytes);
        assert!(lines >= 3);
        uploaded.remove(&node).unwrap();
        assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0);
    }

    #[test]
    fn df_tells_what_is_free() {
        let said = "Filesystem     1024-blocks      Used Available Capacity Mounted on\n\
                    /dev/mapper/pve-root    98497780  22 71234567      24% /\n";
        assert_eq!(free(said), Some(71_234_567 * 1024));
        assert_eq!(free("df: /var/tmp: No such file or directory"), None);
        assert_eq!(free(""), None);
    }

    #[test]
    fn an_image_that_does_not_arrive_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.raw");
        std::fs::write(&file, vec![1; 1000]).unwrap();
        // Its /var/tmp does not exist.
        let node = Local::new("/var/tmp", &dir.path().join("missing"));
        assert!(image(&node, &file, None, &mut |_| {}).is_err());
        assert!(node.commands().last().unwrap().starts_with("rm -f -- /var/tmp/fleet-image-"));
        std::fs::write(&file, "").unwrap();
        assert!(image(&node, &file, Some("a; b"), &mut |_| {}).is_err());
        assert_eq!(image(&node, &file, None, &mut |_| {}).unwrap_err().kind(), Kind::Usage);
    }
}
