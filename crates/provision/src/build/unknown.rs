//! A flake that takes its systems from hosts.nix has none for a VM that hosts.nix does not know yet.

use std::path::Path;

use fleet_core::{
    child::{Command, Output},
    deadline::Deadline,
    nix,
};

/// How long it may take to ask for the names in a flake, in seconds: it may have to be fetched.
const PROBE: u64 = 5 * 60;

/// A VM that hosts.nix does not know yet. A flake that takes its systems from hosts.nix has none for it before.
#[derive(Debug, Clone)]
pub struct Unknown {
    /// What hosts.nix will call it.
    pub name: String,
    /// The configuration that is built for it.
    pub config: String,
    /// Whether the system is built once more after the VM was taken into the fleet.
    pub later: bool,
    /// Asks nix whether the flake has the configuration all the same; it prints `true` then.
    pub probe: Command,
}

/// Asks whether the flake in `root` has configuration `config`.
pub fn probe(root: &Path, config: &str) -> Command {
    Command::new("nix")
        .tethered()
        .args(["--extra-experimental-features", "nix-command flakes"])
        .args(["eval", "--json", "--no-write-lock-file"])
        .arg(format!("{}#nixosConfigurations", root.display()))
        .args(["--apply", &format!("all: all ? \"{config}\"")])
}

/// What is missing, as nix says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacks {
    /// The VM's own entry in hosts.nix.
    Host,
    /// Its configuration, or something in it.
    System,
}

impl Unknown {
    /// Whether the flake has the configuration all the same: then it lacks something else. None where nix does not say.
    pub(super) fn is_in_flake(&self) -> Option<bool> {
        let said = self.probe.output(Deadline::secs(PROBE)).and_then(Output::checked).ok()?;
        said.stdout_text().trim().parse().ok()
    }

    /// What the flake lacks for the VM by what nix says; none where that is about something else.
    pub(super) fn lacks(&self, said: &str) -> Option<Lacks> {
        let missing = |name: &str| {
            said.contains(&format!("attribute '{name}' missing"))
                || said.contains(&format!("attribute '\"{name}\"' missing"))
        };
        let system = format!("nixosConfigurations.\"{}\".", self.config);
        let not_provided = |line: &str| line.contains("does not provide attribute") && line.contains(&system);
        if missing(&self.name) {
            return Some(Lacks::Host);
        }
        (missing(&self.config) || said.lines().any(not_provided)).then_some(Lacks::System)
    }
}

/// How many files are looked at for a word of hosts.nix, and how deep below the repository's root.
const FILES: usize = 2000;
const DEPTH: usize = 6;

/// Whether any Nix file of the repository speaks of hosts.nix: else no entry in it makes a system.
pub(super) fn reads_hosts(root: &Path) -> bool {
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    walkdir::WalkDir::new(root)
        .max_depth(DEPTH)
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !hidden(entry.file_name()))
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "nix"))
        .take(FILES)
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| nix::code_words(&text).iter().any(|word| word.ends_with("hosts.nix")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_that_reads_hosts_nix_may_take_its_systems_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("hosts.nix", "{ }");
        write("flake.nix", "{ outputs = _: { }; } # ./hosts.nix");
        write(".direnv/x.nix", "import ../hosts.nix");
        assert!(!reads_hosts(dir.path()));
        write("parts/nixos/all.nix", "import ../../hosts.nix");
        assert!(reads_hosts(dir.path()));
    }
}
