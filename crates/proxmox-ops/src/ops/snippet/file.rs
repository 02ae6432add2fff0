//! A document as a file on the node: read, written so that only root has it and it is whole, and removed.

use std::fmt::Write;

use fleet_core::{Error, Kind, Result, child::quote, deadline::Deadline, ssh::Transport};
use sha2::{Digest, Sha256};

/// How long the node may take to write a document, in seconds.
const WRITE: u64 = 60;

/// What [`kept`] has printed before the mode and the text, past whatever the login shell's start-up files print.
const KEPT: &str = "fleet-document ";

/// A file that is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// What is in it.
    pub(super) text: String,
    /// Whether only root can read it.
    pub(super) secret: bool,
}

/// A file with its text; none where there is no such file.
pub(super) fn kept(transport: &dyn Transport, path: &str) -> Result<Option<Kept>> {
    let path = quote(path);
    let command = format!("if [ -e {path} ]; then echo {KEPT}$(stat -c %a -- {path}) && cat -- {path}; fi");
    let output = transport.exec(&command, b"", Deadline::secs(WRITE))?;
    let said = output.checked(&command, "the node").map_err(|e| e.now("nothing was changed"))?.stdout_text();
    let there = said.split_once(KEPT).and_then(|(_, there)| there.split_once('\n'));
    Ok(there.map(|(mode, text)| Kept { text: text.to_owned(), secret: mode == "600" }))
}

/// Whether there is a file.
pub(super) fn is_there(transport: &dyn Transport, path: &str) -> Result<bool> {
    let command = format!("if [ -e {} ]; then echo {KEPT}; fi", quote(path));
    let output = transport.exec(&command, b"", Deadline::secs(WRITE))?;
    Ok(output.checked(&command, "the node")?.stdout_text().contains(KEPT.trim_end()))
}

/// Writes a file beside its place, syncs it, and puts it there, with mode 0600, once its checksum is right: when the
/// connection is lost in the middle, what was there stays.
pub(super) fn write(transport: &dyn Transport, path: &str, text: &str) -> Result<()> {
    let sum = Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (directory, file, target) = (quote(directory), quote(name), quote(path));
    let command = format!(
        "set -eu; umask 077; mkdir -p -- {directory}; new=$(mktemp -- {directory}/.{file}.XXXXXX); \
         trap 'rm -f -- \"$new\"' EXIT; cat >\"$new\"; chmod 600 -- \"$new\"; sync -- \"$new\"; \
         is=$(sha256sum <\"$new\"; stat -c %a -- \"$new\"); \
         case $is in {sum}*600) mv -f -- \"$new\" {target}; sync -- {directory}; \
         is=$(sha256sum <{target}; stat -c %a -- {target});; esac; echo \"$is\""
    );
    let output = transport.exec(&command, text.as_bytes(), Deadline::secs(WRITE)).map_err(|e| {
        if e.kind() == Kind::OutcomeUnknown {
            e.now(format!("{path} may or may not be on the node"))
        } else {
            e
        }
    })?;
    let said = output.checked(&format!("writing {path}"), "the node")?.stdout_text();
    let words: Vec<&str> = said.split_whitespace().collect();
    // What a login shell's start-up files print stands before it.
    match words.as_slice() {
        [.., there, "-", "600"] if *there == sum => Ok(()),
        [.., there, "-", mode] if *there == sum => {
            Err(Error::failed(format!("the node keeps {path} with mode {mode}: others than root could read it"))
                .hint("a storage on a file system without owners and modes can not keep secrets: let another one take snippets"))
        }
        _ => Err(Error::failed(format!("the node did not keep {path} as it was sent"))
            .now(format!("sent {sum}, kept {}", said.trim().escape_debug()))),
    }
}

/// The command that removes files.
pub(super) fn deleting(paths: &[String]) -> String {
    let quoted: Vec<String> = paths.iter().map(|path| quote(path)).collect();
    format!("rm -f -- {}", quoted.join(" "))
}

/// Removes files, those that are there.
pub(super) fn delete(transport: &dyn Transport, paths: &[String]) -> Result<()> {
    let command = deleting(paths);
    let output = transport.exec(&command, b"", Deadline::secs(WRITE))?;
    output.checked(&command, "the node").map(drop).map_err(|e| e.now("a document may still be on the node"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Local;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_document_is_written_for_root_alone_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let node = Local::new("/var/lib/vz", dir.path());
        let node = node.replacing("set -eu", "echo Welcome to prom; set -eu");
        let text = "#cloud-config\nssh_keys: { a: 'b $(x) \"' }\n".repeat(500);
        for _ in 0..2 {
            write(&node, "/var/lib/vz/snip pets/fleet-110-user.yaml", &text).unwrap();
        }
        let place = dir.path().join("snip pets");
        let names: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["fleet-110-user.yaml"]);
        let file = place.join("fleet-110-user.yaml");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_document_that_changes_on_its_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let node = |from: &str, to: &str| Local::new("/var/lib/vz", dir.path()).replacing(from, to);
        let path = "/var/lib/vz/x.yaml";
        // What the end of a connection in the middle comes to.
        let part = ("cat >\"$new\"", "head -c 5 >\"$new\"");
        let error = write(&node(part.0, part.1), path, "#cloud-config\n").unwrap_err();
        assert_eq!(error.message(), "the node did not keep /var/lib/vz/x.yaml as it was sent");
        let error = write(&node("stat -c %a", "echo 755 ;: "), path, "#cloud-config\n").unwrap_err();
        assert!(error.message().contains("with mode 755"), "{}", error.message());
        assert!(write(&node("sync -- \"$new\"", "false"), path, "#cloud-config\n").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing half written stays");
        // What was there before stays as it was.
        let whole = node("set -eu", "echo Welcome to prom; set -eu");
        assert_eq!(kept(&whole, path).unwrap(), None);
        write(&whole, path, "#cloud-config\n# One.\n").unwrap();
        write(&node(part.0, part.1), path, "#cloud-config\n# Two.\n").unwrap_err();
        let greeted = node("if [", "echo Welcome to prom; if [");
        let text = "#cloud-config\n# One.\n".to_owned();
        assert_eq!(kept(&greeted, path).unwrap(), Some(Kept { text: text.clone(), secret: true }));
        std::fs::set_permissions(dir.path().join("x.yaml"), PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(kept(&greeted, path).unwrap(), Some(Kept { text, secret: false }));
    }
}
