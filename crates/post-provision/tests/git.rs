//! Repositories as people have them: worktrees, hooks, other owners, environments of another git.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Stdio,
    time::{Duration, Instant},
};

use common::{Fleet, fails};
use rustix::process::{Pid, Signal, kill_process_group};

fn hook(fleet: &Fleet, name: &str, script: &str) {
    let path = format!(".git/hooks/{name}");
    fleet.write(&path, &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(fleet.path(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_hook_that_formats_leaves_nothing_to_commit() {
    let fleet = Fleet::committed();
    fleet.write("unrelated", "mine\n");
    fleet.git(&["add", "unrelated"]);
    hook(&fleet, "pre-commit", "echo '# formatted' >> hosts.nix && git add hosts.nix");
    fleet.add(&[]);
    assert!(fleet.git(&["show", "HEAD:hosts.nix"]).ends_with("# formatted\n"));
    assert_eq!(fleet.git(&["status", "--porcelain"]), "A  unrelated\n");
    std::fs::remove_file(fleet.path(".git/hooks/pre-commit")).unwrap();
    assert!(fleet.add(&[]).contains("Nothing to do"));
}

#[test]
fn hosts_nix_may_be_a_link_to_another_directory() {
    let fleet = Fleet::new();
    fleet.write("nix/hosts.nix", &fleet.read("hosts.nix").replace("./hosts/", "../hosts/"));
    std::fs::remove_file(fleet.path("hosts.nix")).unwrap();
    std::os::unix::fs::symlink("nix/hosts.nix", fleet.path("hosts.nix")).unwrap();
    fleet.git(&["init", "-q", "-b", "main"]);
    fleet.git(&["add", "-A"]);
    fleet.git(&["commit", "-q", "-m", "start"]);
    fleet.add(&[]);
    // Committed where it is, with paths that are relative to there.
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
    let committed = fleet.git(&["show", "HEAD:nix/hosts.nix"]);
    assert!(committed.contains("configurationFile = ../hosts/nas/configuration.nix;"), "{committed}");
    assert!(fleet.path("hosts.nix").is_symlink());
    // What somebody is at work on there is not mixed in.
    fleet.write("nix/hosts.nix", &format!("{committed}# mine\n"));
    let said = fails(fleet.tool(&["remove", "nas", "--from-hosts", "--yes"]), 3);
    assert!(said.contains("hosts.nix has uncommitted changes"), "{said}");
}

#[test]
fn secrets_may_be_a_submodule() {
    for rules_at_root in [false, true] {
        let fleet = Fleet::new();
        if rules_at_root {
            std::fs::rename(fleet.path("secrets/.sops.yaml"), fleet.path(".sops.yaml")).unwrap();
        }
        let inside = |args: &[&str]| fleet.git(&[&["-C", "secrets"], args].concat());
        inside(&["init", "-q", "-b", "main"]);
        inside(&["add", "-A"]);
        inside(&["commit", "-q", "-m", "secrets"]);
        fleet.git(&["init", "-q", "-b", "main"]);
        fleet.git(&["-c", "advice.addEmbeddedRepo=false", "add", "-A"]);
        fleet.git(&["commit", "-q", "-m", "start"]);

        // What somebody is at work on there is seen.
        let before = fleet.read("secrets/values.yaml");
        fleet.write("secrets/values.yaml", &format!("{before}# mine\n"));
        let said = fails(fleet.tool(&["nas", "192.0.2.10", "110", "--host-key", "new.pub", "--yes"]), 3);
        assert!(said.contains("secrets/values.yaml has uncommitted changes"), "{said}");
        fleet.write("secrets/values.yaml", &before);

        let said = fleet.add(&[]);
        assert!(said.contains("not committed: secrets is a git repository of its own"), "{said}");
        assert!(fleet.git(&["show", "--format=", "--name-only", "HEAD"]).contains("hosts.nix"));
        assert_ne!(fleet.read("secrets/values.yaml"), before);
        assert!(inside(&["status", "--porcelain"]).contains(" M values.yaml"));
        // As it says: there, then here.
        inside(&["commit", "-q", "-a", "-m", "nas"]);
        fleet.git(&["commit", "-q", "-m", "secrets of nas", "secrets"]);
        assert!(fleet.add(&[]).contains("Nothing to do"));
        assert_eq!(fleet.git(&["status", "--porcelain"]), "");
    }
}

#[test]
fn the_environment_of_another_repository_is_not_taken_over() {
    let fleet = Fleet::committed();
    let other = tempfile::tempdir().unwrap();
    fleet.git(&["init", "-q", other.path().to_str().unwrap()]);
    // As within a hook of that repository.
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    command.env("GIT_DIR", other.path().join(".git")).env("GIT_INDEX_FILE", other.path().join(".git/index"));
    command.assert().success();
    assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "2\n");
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
}

#[test]
fn a_repository_that_git_will_not_work_in_is_left_alone() {
    let fleet = Fleet::committed();
    let snapshot = fleet.snapshot();
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    // What git does in a repository of another owner.
    command.env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
    let said = fails(command, 1);
    assert!(said.contains("git will not work in this repository"), "{said}");
    assert!(said.contains("dubious ownership") && said.contains("nothing was changed"), "{said}");
    assert_eq!(fleet.snapshot(), snapshot);
}

#[test]
fn a_git_that_knows_nobody_is_told_of_before_anything_changes() {
    let fleet = Fleet::committed();
    fleet.git(&["config", "user.useConfigOnly", "true"]);
    let snapshot = fleet.snapshot();
    let nameless = |more: &str| {
        let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes", more]);
        for name in ["AUTHOR", "COMMITTER"] {
            command.env_remove(format!("GIT_{name}_NAME")).env_remove(format!("GIT_{name}_EMAIL"));
        }
        command
    };
    for how in ["--quiet", "--dry-run"] {
        let said = fails(nameless(how), 1);
        assert!(said.contains("git does not know whose commits it makes"), "{said}");
        assert!(said.contains("nothing was changed") && said.contains("--no-commit"), "{said}");
        assert_eq!(fleet.snapshot(), snapshot);
    }
    nameless("--no-commit").assert().success();
    assert!(fleet.read("hosts.nix").contains("nas = {"));
}

#[test]
fn without_the_program_the_files_are_kept() {
    let fleet = Fleet::committed();
    let empty = tempfile::tempdir().unwrap();
    let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
    command.env("PATH", empty.path());
    let output = command.assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("⚠ not committed: there is no git program on PATH; the files are kept"), "{said}");
    assert!(fleet.read("hosts.nix").contains("nas = {"));
    // With git again, the commit is still to be made by hand: the tool did not say that it would.
    assert!(fleet.add(&[]).contains("Nothing to do"));
}

#[test]
fn a_worktree_and_a_submodule_are_repositories_too() {
    let fleet = Fleet::committed();
    let around = tempfile::tempdir().unwrap();
    let tree = around.path().join("tree");
    fleet.git(&["worktree", "add", "-q", "-b", "other", tree.to_str().unwrap()]);
    let top = around.path().join("top");
    fleet.git(&["init", "-q", "-b", "main", top.to_str().unwrap()]);
    let inside = |args: &[&str]| fleet.git(&[&["-C", top.to_str().unwrap()], args].concat());
    inside(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "-q",
        fleet.root().to_str().unwrap(),
        "sub",
    ]);
    for place in [tree, top.join("sub")] {
        let mut command = fleet.tool(&["nas", "--host-key", "new.pub", "--yes"]);
        command.current_dir(&place).env_remove("GIT_CEILING_DIRECTORIES").assert().success();
        let at = |args: &[&str]| fleet.git(&[&["-C", place.to_str().unwrap()], args].concat());
        assert_eq!(at(&["log", "-1", "--format=%s"]), "feat(vms): add nas to fleet\n");
        assert_eq!(at(&["status", "--porcelain"]), "");
        assert!(!place.join(".fleet").exists());
    }
    assert_eq!(fleet.git(&["rev-list", "--count", "main"]), "1\n");
}

#[test]
fn a_hook_may_ask_on_the_terminal() {
    let fleet = Fleet::committed();
    hook(
        &fleet,
        "pre-commit",
        "exec </dev/tty >/dev/tty\nprintf 'Ticket? '\nread -r ticket\ntest \"$ticket\" = 42",
    );
    let command = fleet.process(&["nas", "--host-key", "new.pub", "--yes"]);
    let mut terminal = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    terminal.exp_string("Ticket? ").unwrap();
    terminal.send_line("42").unwrap();
    let rest = terminal.exp_eof().unwrap();
    assert!(rest.contains("Committed as"), "{rest}");
    assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "2\n");
}

/// It is in the foreground there, and so Ctrl-C ends it.
#[test]
fn ctrl_c_at_a_terminal_ends_a_hook_and_the_next_run_commits() {
    let fleet = Fleet::committed();
    let begun = fleet.home().join("begun");
    std::fs::remove_file(fleet.path("docs/machines.md")).unwrap();
    fleet.git(&["commit", "-qam", "no inventory"]);
    hook(&fleet, "pre-commit", &format!("echo > {}\nexec sleep 60", begun.display()));
    let child = fleet
        .process(&["nas", "--host-key", "new.pub", "--yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let limit = Instant::now() + Duration::from_secs(120);
    while !begun.exists() {
        assert!(Instant::now() < limit, "nothing was committed");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A terminal sends it to all that are in the foreground.
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("⚠ stopping at the next safe point; once more leaves at once"), "{said}");
    assert!(said.contains("✗ stopped by the user while git made the commit: "), "{said}");
    assert!(said.contains("  the files are in place, and not committed: hosts.nix, "), "{said}");
    assert_eq!(fleet.git(&["rev-list", "--count", "HEAD"]), "2\n");
    assert!(fleet.git(&["status", "--porcelain"]).contains("?? docs/"), "the index is as it was");
    std::fs::remove_file(fleet.path(".git/hooks/pre-commit")).unwrap();
    assert!(fleet.add(&[]).contains("Committing what an earlier run changed"));
    assert_eq!(fleet.git(&["status", "--porcelain"]), "");
}
