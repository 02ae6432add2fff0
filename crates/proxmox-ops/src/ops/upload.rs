//! Bringing a disk image to the node, through the SSH session.

use std::{
    io::{Read, Write},
    path::Path,
};

use fleet_core::{
    Error, Kind, Result,
    child::quote,
    deadline::Deadline,
    interrupt,
    protocol::{IMAGES, image_path},
    ssh::{Stream, Transport},
    types::Vmid,
};

use sha2::{Digest, Sha256};

use super::{
    Progress,
    image::{self, Image},
    unless_stopped::UnlessStopped,
};

/// How much is read and sent at once.
const CHUNK: usize = 256 * 1024;

/// What takes an image in on the node.
const RECEIVE: &str = include_str!("receive.pl");
/// What its one line begins with.
const SAYS: &str = "fleet-image ";
/// How much the login shell's start-up files may print before it.
const MOST: usize = 64 * 1024;

/// How long an image is to stay on the node, unless [`Uploaded::remove`] comes before.
#[derive(Debug, Clone, Copy)]
pub enum Stay<'a> {
    /// Until it is removed; its name holds this, or else random digits.
    Named(Option<&'a str>),
    /// For as long as this program is there and connected, and then until this VM is made of it.
    For(Vmid),
}

/// An image on the node, removed by [`Uploaded::remove`].
pub struct Uploaded {
    /// Where it is.
    pub path: String,
    /// What removes it there when it closes.
    held: Option<Box<dyn Stream>>,
}

impl std::fmt::Debug for Uploaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uploaded({})", self.path)
    }
}

impl Uploaded {
    /// One that was sent before, by its place; anything else is none of ours.
    pub fn named(path: &str) -> Result<Uploaded> {
        let name = path.strip_prefix(&format!("{IMAGES}/fleet-image-")).unwrap_or_default();
        let ours = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        if ours && !name.contains("..") {
            return Ok(Uploaded { path: path.to_owned(), held: None });
        }
        Err(Error::refused(format!("'{}' is no image that was sent by these tools", path.escape_debug()))
            .now("nothing was sent to the node"))
    }

    /// Removes it; a failure is told, and leaves it there.
    pub fn remove(&mut self, transport: &dyn Transport) -> Result<()> {
        let goes = |mut stream: Box<dyn Stream>| {
            stream.set_deadline(Deadline::secs(10));
            stream.write_all(b".").is_ok() && said(&mut *stream).is_ok_and(|said| said == "removed")
        };
        if self.held.take().is_some_and(goes) {
            return Ok(());
        }
        self.unlink(transport, Deadline::secs(30))
    }

    fn unlink(&self, transport: &dyn Transport, deadline: Deadline) -> Result<()> {
        let command = format!("rm -f -- {}", quote(&self.path));
        let removed = transport.exec(&command, b"", deadline)?.checked(&command, "the node");
        removed.map(drop).map_err(|e| e.now(format!("the image is still on the node: {}", self.path)))
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

/// Sends an image into a file of its own under `/var/tmp` on the node, and checks by its SHA-256 that all of it is
/// there. Each piece has two minutes to get away: how long all of it takes is up to its size and the line.
pub fn image(
    transport: &dyn Transport,
    file: &Path,
    stay: Stay<'_>,
    progress: Progress<'_>,
) -> Result<Uploaded> {
    let Image { file: source, size, format } = image::open(file)?;
    let nonce = match stay {
        Stay::Named(Some(nonce)) => nonce.to_owned(),
        Stay::Named(None) | Stay::For(_) => {
            let mut bytes = [0u8; 8];
            getrandom::fill(&mut bytes)
                .map_err(|e| Error::failed("the system gives no random bytes").caused_by(e))?;
            bytes.iter().map(|b| format!("{b:02x}")).collect()
        }
    };
    // The name tells Proxmox the format; many qcow2 images are called .img.
    let path = image_path(&nonce, format.extension());
    let mut uploaded = Uploaded::named(&path)?;
    if let Some(free) = room(transport)?.filter(|free| *free < size) {
        return Err(no_room(Error::failed(format!(
            "the image has {size} bytes, and {IMAGES} on the node has room for {free}"
        )))
        .now("nothing was sent to the node"));
    }
    let mut command = format!("perl -e {} {} {size}", quote(RECEIVE), quote(&path));
    if let Stay::For(vmid) = stay {
        command.push_str(&format!(" /etc/pve/qemu-server/{vmid}.conf"));
    }
    match send(transport, &command, source.take(size), size, progress) {
        Ok(stream) => {
            uploaded.held = matches!(stay, Stay::For(_)).then_some(stream);
            Ok(uploaded)
        }
        Err(error) => {
            // What takes it in removes it, too, when it hears that nobody is there any more: who stops is not kept
            // waiting for a node that takes nothing.
            let limit = if error.kind() == Kind::Interrupted { 5 } else { 30 };
            Err(match uploaded.unlink(transport, Deadline::secs(limit)) {
                Ok(()) => error,
                Err(_) => error.now(format!("what came of it may still be on the node: {path}")),
            })
        }
    }
}

fn no_room(error: Error) -> Error {
    error.hint(format!(
        "make room there: `df -h {IMAGES}` and `ls -l {IMAGES}/fleet-image-*` on the node tell"
    ))
}

fn send(
    transport: &dyn Transport,
    command: &str,
    mut source: impl Read,
    size: u64,
    progress: Progress<'_>,
) -> Result<Box<dyn Stream>> {
    // Who stops has no use for the rest of it.
    let lost = |e: std::io::Error| match interrupt::check() {
        Err(stopped) => stopped.now("the image was not sent whole"),
        Ok(()) => Error::new(Kind::Unreachable, "the image could not be sent to the node whole").caused_by(e),
    };
    let mut stream = transport.open_exec_stream(command, Deadline::secs(30))?;
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut sent = 0u64;
    let mut hash = Sha256::new();
    loop {
        // Whole pieces.
        chunk.clear();
        let piece = source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let amount = piece.map_err(|e| Error::failed("can not read the image").caused_by(e))?;
        if amount == 0 {
            break;
        }
        if let Err(e) = UnlessStopped::new(&mut *stream, Deadline::secs(120)).write_all(&chunk) {
            // Whoever takes no more may have said why.
            let said = said(&mut UnlessStopped::new(&mut *stream, Deadline::secs(5)));
            return Err(said.ok().and_then(|said| refused(&said)).unwrap_or_else(|| lost(e)));
        }
        hash.update(&chunk);
        sent += amount as u64;
        let percent = mib(sent) / mib(size.max(1)) * 100.0;
        progress(&format!("sent {:.1} of {:.1} MiB ({percent:.2}%)", mib(sent), mib(size)));
    }
    if sent < size {
        return Err(Error::failed(format!("the image had {size} bytes, and has only {sent} now"))
            .hint("is something still writing it? run the same command again when it is whole"));
    }
    // Its sum is made as it comes: what is left to wait for is the last piece.
    let there = said(&mut UnlessStopped::new(&mut *stream, Deadline::secs(120))).map_err(lost)?;
    let sum: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if there == sum {
        return Ok(stream);
    }
    Err(refused(&there).unwrap_or_else(|| {
        Error::failed(format!(
            "the image on the node has another SHA-256 checksum than the one that was sent: {}, not {sum}",
            there.escape_debug()
        ))
        .hint("send it once more; if it comes again, look at the node's memory")
    }))
}

/// In MiB, for people.
#[allow(clippy::cast_precision_loss, reason = "for people, and a percentage")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 20)
}

/// The next line of what the program on the node says, past whatever is not its own.
fn said(stream: &mut (impl Read + ?Sized)) -> std::io::Result<String> {
    let mut line = Vec::new();
    for _ in 0..MOST {
        // A byte at a time: there are few, and none of the next line may be taken.
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            break;
        }
        if byte != *b"\n" {
            line.extend(byte);
        } else if let Some(said) = String::from_utf8_lossy(&line).strip_prefix(SAYS) {
            return Ok(said.trim_end().to_owned());
        } else {
            line.clear();
        }
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "the program on the node that takes it in said nothing",
    ))
}

/// The failure, where it said one.
fn refused(said: &str) -> Option<Error> {
    let why = said.strip_prefix("failed: ")?;
    let error = Error::failed(format!("the node did not take the image: {}", why.escape_debug()));
    Some(if why.contains("write") || why.contains("create") { no_room(error) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Local;

    #[test]
    fn an_image_arrives_whole_and_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("debian.img");
        let bytes = [b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\0".as_slice(), &vec![7; 700_000]].concat();
        std::fs::write(&file, &bytes).unwrap();
        let there = dir.path().join("node");
        // Its login shell greets.
        let node = Local::new("/var/tmp", &there).replacing("perl -e", "echo Welcome to prom; perl -e");
        std::fs::create_dir(&there).unwrap();
        let mut lines = 0;
        let mut uploaded = image(&node, &file, Stay::Named(Some("0a1b")), &mut |_| lines += 1).unwrap();
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
        std::fs::write(&file, image::raw(1, 2_000_000)).unwrap();
        // Its /var/tmp does not exist.
        let node = Local::new("/var/tmp", &dir.path().join("missing"));
        let error = image(&node, &file, Stay::Named(None), &mut |_| {}).unwrap_err();
        assert_eq!(
            error.message(),
            "the node did not take the image: can not create it: No such file or directory"
        );
        assert!(node.commands().last().unwrap().starts_with("rm -f -- /var/tmp/fleet-image-"));
        // What it takes in is not what was sent.
        let there = dir.path().join("node");
        std::fs::create_dir(&there).unwrap();
        let node = Local::new("/var/tmp", &there).replacing("$sum->add($bytes)", "$sum->add(7)");
        let error = image(&node, &file, Stay::Named(None), &mut |_| {}).unwrap_err();
        assert!(error.message().contains("another SHA-256 checksum"), "{error:?}");
        assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0);
        assert!(image(&node, &file, Stay::Named(Some("a; b")), &mut |_| {}).is_err());
        let usage = |file: &Path| image(&node, file, Stay::Named(None), &mut |_| {}).unwrap_err().kind();
        assert_eq!(usage(Path::new("/dev/null")), Kind::Usage);
        assert_eq!(usage(dir.path()), Kind::Usage);
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(usage(&pipe), Kind::Usage);
        std::fs::write(&file, "").unwrap();
        assert_eq!(usage(&file), Kind::Usage);
    }

    #[test]
    fn an_image_goes_with_whoever_sent_it_once_nothing_is_made_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.raw");
        std::fs::write(&file, image::raw(1, 300_000)).unwrap();
        let there = dir.path().join("node");
        std::fs::create_dir(&there).unwrap();
        let config = there.join("9002.conf");
        let node =
            Local::new("/var/tmp", &there).replacing("/etc/pve/qemu-server", &there.display().to_string());
        let images = || {
            let names = std::fs::read_dir(&there).unwrap().map(|e| e.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("fleet-image-")).count()
        };
        let sent = || image(&node, &file, Stay::For(Vmid::new(9002).unwrap()), &mut |_| {}).unwrap();
        // It is no longer needed.
        sent().remove(&node).unwrap();
        assert_eq!((images(), node.commands().last().unwrap().starts_with("perl")), (0, true));
        // Whoever sent it is gone, and its VM is being made.
        std::fs::write(&config, "lock: create\n").unwrap();
        let mut gone = sent();
        gone.held.as_mut().unwrap().finish_writing().unwrap();
        assert_eq!(images(), 1);
        std::fs::write(&config, "name: tmpl\n").unwrap();
        assert_eq!(said(&mut **gone.held.as_mut().unwrap()).unwrap(), "removed");
        assert_eq!(images(), 0);
    }
}
