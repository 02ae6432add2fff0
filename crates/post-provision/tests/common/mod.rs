//! What the tests share.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use post_provision::identity::Identity;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join("secrets").join(name)).unwrap()
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity::from_file(&fixtures().join(format!("identity-{name}-TEST-FIXTURE.txt"))).unwrap()
}

/// Public host keys that go with the identities: `b` is host web's, `c` the new host's.
pub(crate) fn host_key(name: &str) -> String {
    let text = std::fs::read_to_string(fixtures().join("ssh-to-age-vectors-TEST-FIXTURE.txt")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("ssh-ed25519 ")).collect();
    lines[["a", "b", "c"].iter().position(|n| *n == name).unwrap()].to_owned()
}

pub(crate) fn recipient(name: &str) -> String {
    identity(name).recipient().to_string()
}

/// A fleet in a git repository of its own, with nothing of the user's around it.
pub(crate) struct Fleet {
    dir: tempfile::TempDir,
    home: tempfile::TempDir,
}

pub(crate) const DEFINITIONS: &str = r#"{
  proxmox = { host = "prom"; defaultStorage = "local-zfs"; };
  imported = {
    web = { vmid = 104; hostname = "web"; readonly = true; purpose = "The site"; };
  };
  managed = {
    nas = { vmid = 110; cores = 2; memory = 2048; disk = "20G"; purpose = "Tests | more"; };
    static = { vmid = 111; cores = 1; memory = 512; disk = "8G"; ip = "192.0.2.11/24"; gateway = "192.0.2.1"; };
  };
}
"#;

impl Fleet {
    /// `web` is in it, `nas` is not; secrets are those of the fixtures, for the operator `a` and `web`.
    pub(crate) fn new() -> Fleet {
        let fleet = Fleet { dir: tempfile::tempdir().unwrap(), home: tempfile::tempdir().unwrap() };
        fleet.write("vms/definitions.nix", DEFINITIONS);
        fleet.write(
            "hosts.nix",
            &format!(
                "# everybody\nlet\n  keys = [ \"{}\" ];\nin\n{{\n  web = {{\n    configurationFile = ./hosts/web/configuration.nix;\n    user = \"fleet\"; # not root\n    publicKey = \"{} root@web\";\n    authorizedKeys = keys;\n  }};\n}}\n",
                host_key("a"),
                host_key("b")
            ),
        );
        fleet.write("hosts/web/configuration.nix", "{ }\n");
        fleet.write("hosts/nas/configuration.nix", "{ }\n");
        fleet.write(
            "secrets/.sops.yaml",
            &format!(
                "keys:\n  - &operator {} # me\n  - &web {}\ncreation_rules:\n  - path_regex: hosts/web/.*\n    key_groups:\n      - age: [*operator, *web]\n  - path_regex: .*\n    key_groups:\n      - age:\n          - *operator\n          - *web\n",
                recipient("a"),
                recipient("b")
            ),
        );
        for (from, to) in [
            ("values.yaml", "secrets/values.yaml"),
            ("values.env", "secrets/plain-name"),
            ("values.ini", "secrets/deep/values.ini"),
            ("values.json", "secrets/values.json"),
            ("indented.yaml", "secrets/hosts/web/own.yaml"),
        ] {
            fleet.write(to, &String::from_utf8(fixture(from)).unwrap());
        }
        fleet.write(
            "docs/machines.md",
            "# Ours\n\n<!-- fleet:machines:begin -->\n<!-- fleet:machines:end -->\n\nBy hand.\n",
        );
        fleet.write("new.pub", &host_key("c"));
        fleet
    }

    /// As [`Fleet::new`], committed.
    pub(crate) fn committed() -> Fleet {
        let fleet = Fleet::new();
        fleet.git(&["init", "-q", "-b", "main"]);
        fleet.git(&["add", "-A"]);
        fleet.git(&["commit", "-q", "-m", "start"]);
        fleet
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The user's home, with nothing in it.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces text in a file, which must be there.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{from} in {name}");
        self.write(name, &text.replace(from, to));
    }

    fn hermetic(&self, command: &mut assert_cmd::Command) {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["GIT_", "SOPS_", "FLEET_", "PROXMOX_", "XDG_"].iter().any(|start| name.starts_with(start)) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.root())
            .env("HOME", self.home())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CEILING_DIRECTORIES", self.root().parent().unwrap())
            .env("GIT_AUTHOR_NAME", "Somebody")
            .env("GIT_AUTHOR_EMAIL", "somebody@example.org")
            .env("GIT_COMMITTER_NAME", "Somebody")
            .env("GIT_COMMITTER_EMAIL", "somebody@example.org")
            .env("NO_COLOR", "1");
    }

    /// Runs git, which must succeed; gives what it says.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let mut command = assert_cmd::Command::new("git");
        self.hermetic(&mut command);
        let output = command.args(args).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The tool, with the operator's identity.
    pub(crate) fn tool(&self, args: &[&str]) -> assert_cmd::Command {
        self.program(Path::new(env!("CARGO_BIN_EXE_post-provision-vm")), args)
    }

    /// A copy of the tool, with the operator's identity.
    pub(crate) fn program(&self, program: &Path, args: &[&str]) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::new(program);
        self.hermetic(&mut command);
        command.env("SOPS_AGE_KEY_FILE", fixtures().join("identity-a-TEST-FIXTURE.txt")).args(args);
        command
    }

    /// The tool, for tests that need more of a process than assert_cmd gives.
    #[expect(clippy::disallowed_methods, reason = "it gets signals, or a terminal")]
    pub(crate) fn process(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_post-provision-vm"));
        command
            .args(args)
            .current_dir(self.root())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.home())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Somebody")
            .env("GIT_AUTHOR_EMAIL", "somebody@example.org")
            .env("GIT_COMMITTER_NAME", "Somebody")
            .env("GIT_COMMITTER_EMAIL", "somebody@example.org")
            .env("SOPS_AGE_KEY_FILE", fixtures().join("identity-a-TEST-FIXTURE.txt"));
        command
    }

    /// Adds `nas`; must succeed. Gives what the tool said.
    pub(crate) fn add(&self, more: &[&str]) -> String {
        let args = [&["nas", "192.0.2.10", "110", "--host-key", "new.pub", "--yes"], more].concat();
        let output = self.tool(&args).assert().success().get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    }

    /// Every file of the work tree with its content, git's own and new.pub left out.
    pub(crate) fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        walkdir::WalkDir::new(self.root())
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| entry.file_name() != ".git" && entry.file_name() != ".fleet")
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| (entry.path().to_owned(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }
}

/// What a run said on standard error, for those that fail with this exit code.
pub(crate) fn fails(mut command: assert_cmd::Command, code: i32) -> String {
    let output = command.assert().code(code).get_output().clone();
    String::from_utf8(output.stderr).unwrap()
}
