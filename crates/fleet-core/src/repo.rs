//! The fleet repository: where it is and where everything in it is.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A directory that holds `vms/definitions.nix` and `hosts.nix`. Every path in it comes from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    root: PathBuf,
}

/// Relative to the root.
const DEFINITIONS: &str = "vms/definitions.nix";
/// Relative to the root.
const HOSTS: &str = "hosts.nix";

impl Repo {
    /// The repository at `given`, or else the nearest one from the working directory upward.
    ///
    /// `example` is the command that the user should have run, with `--repo DIR` in it, for the error.
    pub fn find(given: Option<&Path>, example: &str) -> Result<Repo> {
        let cwd = std::env::current_dir()
            .map_err(|e| Error::failed("can not tell the working directory").caused_by(e))?;
        let missing = |place: &Path| {
            let list: Vec<&str> =
                [DEFINITIONS, HOSTS].into_iter().filter(|file| !place.join(file).is_file()).collect();
            list
        };
        if let Some(given) = given {
            let root = cwd.join(given);
            let missing = missing(&root);
            if missing.is_empty() {
                return Ok(Repo { root });
            }
            return Err(Error::not_found(format!("{} is not a fleet repository", given.display()))
                .now(format!("looked for {} in it", missing.join(" and ")))
                .hint(format!("run `{example}` with the directory that holds {DEFINITIONS} and {HOSTS}")));
        }
        cwd.ancestors()
            .find(|place| missing(place).is_empty())
            .map(|root| Repo { root: root.to_owned() })
            .ok_or_else(|| {
                Error::not_found(format!("not inside a fleet repository: {}", cwd.display()))
                    .now(format!("looked for {DEFINITIONS} and {HOSTS} there and in every directory above"))
                    .hint(format!("run `{example}`, or change into the repository first"))
            })
    }

    /// The repository at `root`, which must be one.
    pub fn at(root: &Path) -> Result<Repo> {
        Repo::find(Some(root), "--repo DIR")
    }

    /// The top directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `vms/definitions.nix`.
    pub fn definitions(&self) -> PathBuf {
        self.root.join(DEFINITIONS)
    }

    /// `hosts.nix`.
    pub fn hosts(&self) -> PathBuf {
        self.root.join(HOSTS)
    }

    /// `hosts/NAME/`.
    pub fn host_dir(&self, name: &str) -> PathBuf {
        self.root.join("hosts").join(name)
    }

    /// `secrets/`.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The sops rules: `secrets/.sops.yaml`, else `.sops.yaml` at the root, if either is there.
    pub fn sops_rules(&self) -> Option<PathBuf> {
        [self.secrets().join(".sops.yaml"), self.root.join(".sops.yaml")].into_iter().find(|p| p.is_file())
    }

    /// `docs/machines.md`.
    pub fn inventory(&self) -> PathBuf {
        self.root.join("docs/machines.md")
    }
}
