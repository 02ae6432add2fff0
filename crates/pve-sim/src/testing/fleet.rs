//! A scratch copy of this project's fleet.

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{REMOVED, Sim};

/// A copy of the fleet in a git repository of its own, with one commit.
pub struct ScratchFleet {
    dir: TempDir,
    env: Vec<(String, OsString)>,
}

const FLEET_FILES: &[&str] =
    &["vms", "hosts", "hosts.nix", "secrets", "docs/machines.md", "flake.nix", ".sops.yaml"];

impl ScratchFleet {
    /// Copies the fleet and commits it.
    pub fn new(sim: &Sim) -> Result<ScratchFleet> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let dir = tempfile::Builder::new()
            .prefix("fleet-")
            .tempdir_in(sim.dir())
            .context("can not make a directory")?;
        for name in FLEET_FILES {
            copy(&source.join(name), &dir.path().join(name))?;
        }
        let fleet = ScratchFleet { dir, env: sim.env() };
        fleet.git(&["init", "--quiet", "--initial-branch=main"])?;
        fleet.git(&["add", "--all"])?;
        fleet.git(&["commit", "--quiet", "--message", "the fleet as it is"])?;
        Ok(fleet)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs git in it; gives its standard output.
    pub fn git(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.args(args).current_dir(self.path());
        for name in REMOVED {
            command.env_remove(name);
        }
        let output = command.envs(self.env.clone()).output().context("can not run git")?;
        if !output.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A file's text.
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Replaces a file's text.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a directory");
        }
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Replaces text in a file, which must be there, and commits.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} does not contain {from:?}");
        self.write(path, &text.replacen(from, to, 1));
        self.commit("an edit");
    }

    /// Commits everything.
    pub fn commit(&self, message: &str) {
        let done = self
            .git(&["add", "--all"])
            .and_then(|_| self.git(&["commit", "--quiet", "--allow-empty", "--message", message]));
        done.unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// What git says has changed since the last commit.
    pub fn status(&self) -> String {
        self.git(&["status", "--porcelain"]).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Leaves it on disk when this is dropped.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to).with_context(|| format!("can not create {}", to.display()))?;
        let entries = std::fs::read_dir(from).with_context(|| format!("can not read {}", from.display()))?;
        for entry in entries {
            let entry = entry.context("can not read a directory")?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if from.exists() {
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("can not create {}", parent.display()))?;
        }
        std::fs::copy(from, to).with_context(|| format!("can not copy {}", from.display()))?;
    }
    Ok(())
}
