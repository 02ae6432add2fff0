//! What the repository must hold for the installation.

use std::path::{Path, PathBuf};

use fleet_core::{
    Error, Result,
    child::{self, Command},
    deadline::Deadline,
    definitions::ManagedVm,
    disk_layout,
    repo::Repo,
};

use super::Faults;
use crate::{
    again, disk_image,
    host_key::{self, PrivateDir},
    plan::Boots,
    tools::Tools,
};

/// Everything under `hosts/NAME/` that the installation reads must be there, and known to git.
pub(super) fn check(repo: &Repo, vm: &ManagedVm, commits: bool, faults: &mut Faults) {
    let dir = repo.host_dir(&vm.nixos_config);
    let shared = !dir.join("disko.nix").is_file() && layout(repo, &dir).is_some();
    let missing: Vec<String> = ["configuration.nix", "disko.nix"]
        .iter()
        .map(|file| dir.join(file))
        .filter(|path| !path.is_file() && (!shared || !path.ends_with("disko.nix")))
        .map(|path| path.strip_prefix(repo.root()).unwrap_or(&path).display().to_string())
        .collect();
    if !missing.is_empty() {
        let (verb, them) = if missing.len() == 1 { ("is", "it") } else { ("are", "them") };
        let missing = missing.join(" and ");
        faults.add(
            Error::not_found(format!("'{}' has no NixOS configuration: {missing} {verb} missing", vm.name))
                .hint(format!("`{}` writes {them} for you", again::provision_vm(&["new", vm.name.as_str()])))
                .hint(format!("or write {them} yourself, or name another directory with nixosConfig")),
        );
        return;
    }
    if !shared && !imports_disko(repo, &dir) {
        faults.add(
            Error::failed(format!(
                "nothing imports hosts/{0}/disko.nix: the installer would find no disk layout",
                vm.nixos_config
            ))
            .hint(format!("add ./disko.nix to the imports of hosts/{}/configuration.nix", vm.nixos_config)),
        );
    }
    if repo.root().join(".git").exists() {
        if child::find_program("git").is_none() {
            if commits {
                faults.add(
                    Error::not_found("programs are missing: git")
                        .hint("install git: the change is committed"),
                );
            }
        } else {
            faults.keep(tracked(repo, &dir));
        }
    }
}

/// Whether some file of the host, or of what builds all hosts, speaks of the disk layout. A flake that reads
/// directories imports it without a word: it is believed.
fn imports_disko(repo: &Repo, dir: &Path) -> bool {
    let mut files = Vec::new();
    nix_files(repo.root(), dir, 0, &mut files);
    files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).any(|text| {
        fleet_core::nix::code_words(&text).iter().any(|word| {
            word.ends_with("disko.nix")
                || ["readDir", "listFilesRecursive", "import-tree", "haumea", "umport"]
                    .contains(&word.as_str())
        })
    })
}

/// Nix files below `dir`, but for disk layouts themselves and for other hosts' directories.
fn nix_files(dir: &Path, host: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    const DEEPEST: usize = 8;
    let of_a_host = ["configuration.nix", "disko.nix"].iter().all(|file| dir.join(file).is_file());
    let of_another = of_a_host && !host.starts_with(dir);
    if depth > DEEPEST || of_another {
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        // Not followed: `result` leads into the store.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !name.as_encoded_bytes().starts_with(b".") {
            nix_files(&path, host, depth + 1, found);
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "nix") && name != "disko.nix" {
            found.push(path);
        }
    }
}

/// The texts of the host's disk layout: its own file's, or those of one that its configuration imports instead.
fn layout(repo: &Repo, dir: &Path) -> Option<String> {
    disk_layout::of_host(repo.root(), dir)
}

/// How the host's disk layout boots: by the partitions that firmware looks for, as disko takes their types. `EF00` is
/// an EFI system partition, `EF02` one for a boot loader that the BIOS starts, both sgdisk's codes; their GUIDs say
/// the same, and so does parted's flag in layouts of disko's older kind.
pub(super) fn boots(repo: &Repo, vm: &ManagedVm) -> Boots {
    boots_by(&layout(repo, &repo.host_dir(&vm.nixos_config)).unwrap_or_default())
}

fn boots_by(layout: &str) -> Boots {
    let literals = fleet_core::nix::string_literals(layout);
    let has =
        |codes: &[&str]| literals.iter().any(|text| codes.iter().any(|code| text.eq_ignore_ascii_case(code)));
    let esp = has(&["EF00", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"]);
    let bios = has(&["EF02", "21686148-6449-6E6F-744E-656564454649", "bios_grub"]);
    // What the older kind calls an ESP has no type there.
    match (esp, bios) {
        (true, false) => Boots::Uefi,
        (false, true) if !has(&["ESP"]) => Boots::Bios,
        _ => Boots::Any,
    }
}

/// Whether the image that the host's disk layout asks for is no larger than the VM's disk, as far as the file tells.
pub(super) fn image_fits(repo: &Repo, vm: &ManagedVm) -> Result<()> {
    let text = layout(repo, &repo.host_dir(&vm.nixos_config)).unwrap_or_default();
    disk_image::asked_for(&text).map_or(Ok(()), |size| disk_image::fits(vm, size))
}

/// What an image is likely to lack: disko makes it 2 GB unless told otherwise, and NixOS grows its root only when told to.
pub(super) fn image_lacks(repo: &Repo, vm: &ManagedVm) -> Vec<String> {
    let dir = repo.host_dir(&vm.nixos_config);
    let mut files = Vec::new();
    nix_files(repo.root(), &dir, 0, &mut files);
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let text = texts.chain(layout(repo, &dir)).collect::<Vec<_>>().join("\n");
    let words = fleet_core::nix::code_words(&text);
    let lacks = |name: &str| words.iter().all(|word| word != name);
    let mut warnings = Vec::new();
    if lacks("imageSize") {
        warnings.push(format!(
            "no file of hosts/{0}/ sets imageSize: disko makes an image of 2 GB, which a system hardly fits in; \
             give disko.devices.disk.NAME one in hosts/{0}/disko.nix, such as imageSize = \"8G\"",
            vm.nixos_config
        ));
    }
    if lacks("growPartition") && lacks("repart") {
        warnings.push(format!(
            "no file of hosts/{}/ sets boot.growPartition: its root stays as large as in the image",
            vm.nixos_config
        ));
    }
    // The boot entry that GRUB makes is in the variables of the machine that disko makes the image in, and stays there.
    if !lacks("efiSupport") && lacks("efiInstallAsRemovable") {
        warnings.push(format!(
            "a file of hosts/{}/ sets efiSupport of GRUB, and none efiInstallAsRemovable: a VM that is made of the image \
             does not find it; set boot.loader.grub.efiInstallAsRemovable = true (and \
             boot.loader.efi.canTouchEfiVariables = false)",
            vm.nixos_config
        ));
    }
    warnings
}

/// A flake in a git repository sees only what git knows: files that were never added are not there for it.
fn tracked(repo: &Repo, dir: &Path) -> Result<()> {
    let git = Command::new("git")
        .dir(repo.root())
        .args(["ls-files", "--others", "--exclude-standard", "--"])
        .arg(dir);
    let output = git.output(Deadline::secs(30))?.checked()?;
    let others = output.stdout_text();
    match others.lines().next() {
        None => Ok(()),
        Some(first) => Err(Error::failed(format!(
            "git does not know {first} yet: the flake could not see it"
        ))
        .hint(again::git(repo, &["add", &dir.strip_prefix(repo.root()).unwrap_or(dir).to_string_lossy()]))),
    }
}

/// Whether the VM could be taken into the fleet later: tried with a host key that is made for the try. Files with
/// uncommitted changes would be refused then, when the VM exists already.
/// Gives why it would not be committed, where that is so.
pub(super) fn can_integrate(
    repo: &Repo,
    tools: &Tools,
    vm: &ManagedVm,
    private: &PrivateDir,
) -> Result<Option<String>> {
    // What a killed integration left is finished or taken back by the one of this run; until then nothing can be tried.
    if fleet_core::files::interrupted(&fleet_core::files::state_dir(repo.root())) {
        return Ok(None);
    }
    let (_, public) = host_key::pair("example")?;
    let file = private.write("example.pub", format!("{public}\n").as_bytes(), 0o600)?;
    let file = file.to_string_lossy();
    let args = ["--dry-run", "--rotate", "--host-key", &file, "--", vm.name.as_str()];
    would_change(repo, tools, &args, "taking the VM into the fleet")
}

/// Whether `post-provision-vm` could do what it shows for these arguments: nothing of what it would change waits to be
/// committed. Gives why that would not be committed, where something stands in the way that passes.
pub(crate) fn would_change(repo: &Repo, tools: &Tools, args: &[&str], doing: &str) -> Result<Option<String>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        changed: Vec<PathBuf>,
        #[serde(default)]
        due: Vec<PathBuf>,
        not_committed: Option<String>,
    }
    let answer: Answer =
        tools.ask_post_provision(args).map_err(|error| error.context(format!("{doing} would fail")))?;
    fleet_core::files::changeable(repo.root(), &answer.changed)
        .map_err(|error| error.context(format!("{doing} would fail")))?;
    if !repo.root().join(".git").exists() || answer.changed.iter().all(|path| answer.due.contains(path)) {
        return Ok(answer.not_committed);
    }
    // A run beside this one may be committing: nothing of git's is locked for a look.
    let git = Command::new("git")
        .dir(repo.root())
        .args(["--no-optional-locks", "status", "--porcelain", "--"])
        .args(answer.changed.iter().filter(|path| !answer.due.contains(path)));
    let dirty = git.output(Deadline::secs(30))?.checked()?.stdout_text();
    let dirty: Vec<&str> = dirty.lines().filter_map(|line| line.get(3..)).collect();
    let have = match dirty.len() {
        0 => return Ok(answer.not_committed),
        1 => "has",
        _ => "have",
    };
    // What git quotes it understands so again.
    let diff = format!("git -C {} diff -- {}", child::quote(&repo.root().to_string_lossy()), dirty.join(" "));
    Err(Error::refused(format!(
        "{} {have} uncommitted changes: {doing} would be refused",
        dirty.join(" and ")
    ))
    .hint(diff)
    .hint("commit or stash them first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_boots_by_its_partitions_however_their_type_is_written() {
        let disk = |partitions: &str| format!("{{ disko.devices.disk.main.content = {{ {partitions} }}; }}");
        for (partitions, boots) in [
            ("partitions.ESP.type = \"ef00\";", Boots::Uefi),
            ("partitions.ESP.type = \"C12A7328-F81F-11D2-BA4B-00A0C93EC93B\";", Boots::Uefi),
            ("partitions.boot.type = \"EF02\";", Boots::Bios),
            ("partitions.boot.type = \"EF02\"; # type = \"EF00\"\n", Boots::Bios),
            ("partitions.b.type = \"21686148-6449-6E6F-744E-656564454649\";", Boots::Bios),
            // Both: either firmware finds its own.
            ("partitions = { a.type = \"EF02\"; b.type = \"EF00\"; };", Boots::Any),
            (
                "partitions = { a.type = \"21686148-6449-6e6f-744e-656564454649\"; b.type = \"EF00\"; };",
                Boots::Any,
            ),
            ("partitions = [ { name = \"boot\"; flags = [ \"bios_grub\" ]; } ];", Boots::Bios),
            (
                "partitions = [ { name = \"boot\"; flags = [ \"bios_grub\" ]; } { name = \"ESP\"; bootable = true; } ];",
                Boots::Any,
            ),
            ("type = \"table\"; format = \"msdos\";", Boots::Any),
        ] {
            assert_eq!(boots_by(&disk(partitions)), boots, "{partitions}");
        }
        assert_eq!(boots_by("import ../common/disk.nix { device = \"/dev/sda\"; }"), Boots::Any);
    }

    #[test]
    fn a_layout_that_is_shared_counts_and_a_file_of_its_own_is_not_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("flake.nix", "{ }");
        write(
            "vms/definitions.nix",
            "{ proxmox.host = \"prom\"; managed.web = { vmid = 110; cores = 1; memory = 2048; disk = \"4G\"; storage = \"local\"; }; }",
        );
        write("hosts.nix", "{ }");
        write(
            "modules/uefi.nix",
            "{ device }: { disko.devices.disk.main.content.partitions.ESP.type = \"EF00\"; }",
        );
        write(
            "hosts/web/configuration.nix",
            "{ imports = [ (import ../../modules/uefi.nix { device = \"/dev/sda\"; }) ]; }",
        );
        let repo = Repo::at(root.path()).unwrap();
        let definitions =
            fleet_core::definitions::Definitions::load(&repo, fleet_core::nix::NixMode::Embedded);
        let definitions = definitions.unwrap();
        let vm = definitions.managed("web").unwrap();
        let found = || {
            let mut faults = Faults::default();
            check(&repo, vm, false, &mut faults);
            (faults.count(), boots(&repo, vm))
        };
        assert_eq!(found(), (0, Boots::Uefi));
        let lacks = image_lacks(&repo, vm);
        assert!(lacks[0].contains("imageSize") && lacks[1].contains("growPartition"), "{lacks:?}");
        write("hosts/web/configuration.nix", "{ boot.growPartition = true; imports = [ ./disko.nix ]; }");
        assert_eq!(found(), (1, Boots::Any));
        write("hosts/web/disko.nix", "import ../../modules/uefi.nix { device = \"/dev/sda\"; }");
        assert_eq!(found(), (0, Boots::Uefi));
        write("modules/uefi.nix", "{ device }: { disko.devices.disk.main = { imageSize = \"8G\"; }; }");
        assert_eq!(image_lacks(&repo, vm), [] as [String; 0]);
        let grub = |more: &str| {
            let text = format!("boot.loader.grub = {{ device = \"nodev\"; efiSupport = true; {more} }};");
            write(
                "hosts/web/configuration.nix",
                &format!("{{ boot.growPartition = true; imports = [ ./disko.nix ]; {text} }}"),
            );
            image_lacks(&repo, vm)
        };
        let lacks = grub("");
        assert!(lacks.len() == 1 && lacks[0].contains("efiInstallAsRemovable = true"), "{lacks:?}");
        assert_eq!(grub("efiInstallAsRemovable = true;"), [] as [String; 0]);
        assert!(image_fits(&repo, vm).is_err());
    }

    #[test]
    fn what_may_import_a_layout_is_every_file_that_is_not_another_hosts() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "flake.nix",
            "modules/nixos/hosts.nix",
            "hosts/web/configuration.nix",
            "hosts/web/disko.nix",
            "hosts/web/hardware/default.nix",
            "hosts/db/configuration.nix",
            "hosts/db/disko.nix",
            "hosts/db/parts/x.nix",
            "modules/disko.nix",
            ".direnv/flake.nix",
            "README.md",
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{ }").unwrap();
        }
        std::os::unix::fs::symlink(root.path().join("hosts/db"), root.path().join("result")).unwrap();
        let mut found = Vec::new();
        nix_files(root.path(), &root.path().join("hosts/web"), 0, &mut found);
        let mut found: Vec<_> =
            found.iter().map(|path| path.strip_prefix(root.path()).unwrap().display().to_string()).collect();
        found.sort();
        let seen = [
            "flake.nix",
            "hosts/web/configuration.nix",
            "hosts/web/hardware/default.nix",
            "modules/nixos/hosts.nix",
        ];
        assert_eq!(found, seen);
    }
}
