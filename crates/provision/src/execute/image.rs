//! `install = "image"`: a disk image that disko makes, sent to the node, and a VM that boots it. No template, no
//! kexec, no address change.
//!
//! Of disko's two ways it is `config.system.build.diskoImagesScript`: the script builds the image outside of nix's
//! sandbox, and takes files for it (`--post-format-files`). So the VM's host key is in the image, and never in the
//! nix store, as it would be with `diskoImages`.

use std::{
    collections::VecDeque,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Instant,
};

use fleet_core::{
    Error, Result,
    child::{Command, Output},
    deadline::Deadline,
    protocol::{CreateRequest, Marker, Op, Session, UploadedImage, image_path},
};

use super::{Job, Outcome, image_dir::ImageDir, limit};
use crate::{
    build::Source,
    cli::Integrate,
    disk_image,
    host_key::HostKey,
    plan::{Origin, Plan},
    state::{Sent, State},
    steps::Step,
};

/// What an image may be: which it is shows when it is sent.
const FORMATS: [&str; 2] = ["raw", "qcow2"];

impl Job<'_> {
    /// The whole way by an image.
    pub(super) fn by_image(&self, session: &mut Session, plan: Plan, began: Instant) -> Result<Outcome> {
        let marker = plan.marker().clone();
        let mut state = State::load(&marker);
        self.remove_images(session, &mut state, &marker);
        let (mut integrated, differs) = (false, plan.differs);
        if let Origin::Create(request) = &plan.origin {
            let clear = plan.clear.clone();
            let host_key = HostKey::generate(&self.vm.name, self.private)?;
            self.journal.hide_files(host_key.extra_files());
            // A configuration that does not build leaves the fleet's files as they are.
            self.built()?;
            if self.cli.integrate() == Integrate::Before {
                self.integrate(host_key.public_file(), true, false, "nothing was made on the node yet")?;
                integrated = true;
            }
            let dir = ImageDir::new(self.vm.disk)?;
            let image = self.image(&host_key, dir.path(), integrated)?;
            state.remember(&marker, host_key.public())?;
            self.create(session, request.clone(), clear, &image, &mut state)?;
        } else {
            [Step::Build, Step::Upload, Step::Create].into_iter().for_each(|step| self.already(step));
        }
        self.prepare(session, plan, &mut state)?;
        let address = self.find_address(session)?;
        let guest = self.guest(Some(address));
        let known = match state.host_keys.first() {
            Some(key) => key.clone(),
            None => self.host_keys(session, &guest, &state, None)?.remove(0),
        };
        let address = self.verify(session, &guest, &known, None)?;
        self.detach_cloudinit(session)?;
        if !integrated && self.cli.integrate() != Integrate::Never {
            let file = self.private.write("known.pub", format!("{known}\n").as_bytes(), 0o644)?;
            self.integrate(&file, state.knows(&known), differs, &format!("NixOS answers at {address}"))?;
            integrated = true;
        }
        self.farewell(address, began.elapsed());
        Ok(Outcome { address, installed: true, integrated })
    }

    /// The image, in `dir`: the script that makes it is built, again when the fleet's files have changed, and run.
    fn image(&self, host_key: &HostKey, dir: &Path, changed: bool) -> Result<PathBuf> {
        self.step(Step::Build, "Building the disk image", || {
            if changed {
                self.build_again();
            }
            let (source, _) = self.wait_for_build()?;
            let Source::Script(script) = source else {
                return Err(Error::failed("this machine can not build a disk image for the VM's system")
                    .now("nothing was made on the node")
                    .hint("run provision-vm on a machine of the VM's own kind, or use install = \"nixos-anywhere\""));
            };
            let command = script_command(&script, host_key, dir, self.private.path())?;
            self.journal.command(&command);
            let mut console = Console::default();
            let said = command.run(Deadline::secs(limit::IMAGE), |line| {
                self.heard(line);
                console.heard(&super::printable(line));
            });
            said.and_then(Output::checked).map_err(|error| {
                console
                    .told(error)
                    .context("disko can not build the image")
                    .now("nothing was made on the node")
                    .hint(format!("all that it said: {}", self.journal.output_file().display()))
            })?;
            let image = only_image(dir)?;
            let fits = disk_image::virtual_size(&image).and_then(|size| disk_image::fits(self.vm, size));
            fits.map_err(|error| error.now("nothing was made on the node"))?;
            let said = format!("Image built: {}", image.file_name().unwrap_or_default().to_string_lossy());
            Ok((image, said))
        })
    }

    /// Sends the image and makes the VM of it; the copy on the node is removed again, unless the node may still need it.
    fn create(
        &self,
        session: &mut Session,
        mut request: CreateRequest,
        clear: Option<String>,
        image: &Path,
        state: &mut State,
    ) -> Result<()> {
        let (node, marker) = (request.node.clone(), request.marker.clone());
        // Written down before it is there: whoever is killed meanwhile leaves a trace of it.
        let places =
            FORMATS.map(|format| Sent { node: node.clone(), path: image_path(&marker.nonce, format) });
        state.set_images(&marker, places.into())?;
        let sent: UploadedImage = self.step(Step::Upload, "Sending the image to the node", || {
            let op =
                Op::Upload { file: image.to_owned(), nonce: Some(marker.nonce.clone()), node: node.clone() };
            // What can not be read is told by whoever sends it.
            let size = std::fs::metadata(image).map_or(0, |about| about.len());
            let sent: UploadedImage = self.ask(session, op, Deadline::secs(limit::sending(size)))?;
            Ok((sent, "Image sent; its checksum is right".to_owned()))
        })?;
        state.set_images(&marker, vec![Sent { node, path: sent.path.clone() }])?;
        request.image.clone_from(&sent.path);
        let made = self.step(Step::Create, format!("Creating VM {} from the image", self.vm.vmid), || {
            self.clear(session, clear)?;
            self.change(session, Op::Create(request), limit::CLONE)?;
            Ok(((), "VM created".to_owned()))
        });
        if let Err(error) = &made
            && error.may_go_on()
        {
            // The node may still be reading it.
            self.ui.warn(format!("the image stays on the node until the next run: {}", sent.path));
            return made;
        }
        self.remove_images(session, state, &marker);
        made
    }

    /// Takes away what this run or an earlier one sent to the node. The host key is in it.
    fn remove_images(&self, session: &mut Session, state: &mut State, marker: &Marker) {
        if state.images.is_empty() {
            return;
        }
        let mut left = Vec::new();
        for sent in std::mem::take(&mut state.images) {
            let remove = Op::RemoveUpload { path: sent.path.clone(), node: sent.node.clone() };
            if let Err(error) = self.change(session, remove, limit::CHANGE) {
                let node =
                    sent.node.as_ref().map_or_else(|| "the node".to_owned(), |node| format!("node {node}"));
                self.ui.warn(format!("the image {} may still be on {node}: {}", sent.path, error.chain()));
                left.push(sent);
            }
        }
        if let Err(error) = state.set_images(marker, left) {
            self.ui.warn(error.chain());
        }
    }
}

/// What the machine said in which the script makes the image: its console is on standard output, and tells why.
#[derive(Debug, Default)]
struct Console {
    last: VecDeque<String>,
    hint: Option<&'static str>,
}

impl Console {
    /// So many of its last lines are told.
    const TOLD: usize = 5;

    fn heard(&mut self, line: &str) {
        let of = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if of(&["No space left on device"]) {
            self.hint =
                Some("give disko.devices.disk.NAME a larger imageSize in disko.nix (it is 2G by default)");
        } else if of(&["Out of memory", "Kernel panic", "Cannot allocate memory"]) {
            self.hint = Some(
                "set disko.memSize (MiB, 1024 by default) to more: the machine that makes the image ran out of memory",
            );
        }
        if !line.trim().is_empty() {
            self.last.push_back(line.trim().to_owned());
        }
        if self.last.len() > Console::TOLD {
            self.last.pop_front();
        }
    }

    fn told(&self, error: Error) -> Error {
        let error = self.last.iter().fold(error, |error, line| error.now(format!("it said last: {line}")));
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The script writes its images into the directory it is run in, and copies the files that it is given into its
/// temporary directory: that is in memory, too.
fn script_command(script: &Path, host_key: &HostKey, dir: &Path, private: &Path) -> Result<Command> {
    let scratch = private.join("image");
    DirBuilder::new().mode(0o700).create(&scratch).map_err(|e| Error::io("create", &scratch, e))?;
    let file = |command: Command, name: &str| {
        let place = format!("etc/ssh/{name}");
        command.arg("--post-format-files").arg(host_key.extra_files().join(&place)).arg(&place)
    };
    let command = Command::new(script).tethered().dir(dir).env("TMPDIR", &scratch);
    Ok(["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"].into_iter().fold(command, file))
}

fn only_image(dir: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    let is_image = |path: &PathBuf| path.extension().is_some_and(|end| end == "raw" || end == "qcow2");
    let mut images: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_image).collect();
    match (images.pop(), images.len()) {
        (Some(image), 0) => Ok(image),
        (found, more) => Err(Error::failed(format!(
            "disko made {} images: one is needed, that of the disk that the VM boots from",
            more + usize::from(found.is_some())
        ))
        .now("nothing was made on the node")
        .hint("describe one disk in disko.nix; further ones are made empty (`disks` in the definition)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_an_image_was_not_made_is_told_by_its_machines_console() {
        let mut console = Console::default();
        for line in
            ["booting", "cp: error writing '/mnt/nix': No space left on device", "", "a", "b", "c", "d"]
        {
            console.heard(line);
        }
        let error = console.told(Error::failed("it exited with 1"));
        assert!(error.hints()[0].contains("imageSize"), "{error:?}");
        assert_eq!(error.facts().len(), 5);
        assert!(error.facts()[0].contains("No space left"), "{error:?}");
        console.heard("[  3.0] Kernel panic - not syncing: System is deadlocked on memory");
        assert!(console.told(Error::failed("x")).hints()[0].contains("disko.memSize"));
    }

    #[test]
    fn one_image_is_taken_and_more_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(only_image(dir.path()).is_err());
        std::fs::write(dir.path().join("main.qcow2"), "").unwrap();
        std::fs::write(dir.path().join("efivars.fd"), "").unwrap();
        assert_eq!(only_image(dir.path()).unwrap(), dir.path().join("main.qcow2"));
        std::fs::write(dir.path().join("second.raw"), "").unwrap();
        assert!(only_image(dir.path()).unwrap_err().message().starts_with("disko made 2 images"));
    }
}
