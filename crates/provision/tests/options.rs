//! No option is accepted and passed over: before a verb it does what it does after it, or is refused.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools"
)]

use std::{collections::BTreeSet, ffi::OsString, fmt::Debug, path::Path, process::Command};

use clap::{Arg, ArgAction};
use fleet_core::cli::{Line, read};
use pve_sim::testing::tool;

/// The verbs of each tool, with what else they need.
const TOOLS: [(&str, &[&[&str]]); 4] = [
    ("provision-vm", PROVISION),
    ("post-provision-vm", POST_PROVISION),
    ("cloudinit-gen", CLOUDINIT_GEN),
    ("proxmox-ops", PROXMOX_OPS),
];

const PROVISION: &[&[&str]] = &[
    &["plan"],
    &["apply", "web"],
    &["status"],
    &["new", "web"],
    &["destroy", "web"],
    &["log"],
    &["check"],
    &["completions", "bash"],
    &["man"],
];

const POST_PROVISION: &[&[&str]] =
    &[&["remove", "web"], &["secrets"], &["inventory"], &["completions", "bash"], &["man"]];

const CLOUDINIT_GEN: &[&[&str]] = &[
    &["user-data", "web"],
    &["network-config", "web"],
    &["meta-data", "web"],
    &["vendor-data", "web"],
    &["ssh-keys", "web"],
    &["all", "web", "--output-dir", "out"],
    &["seed", "web", "--output", "out"],
    &["check", "file"],
    &["completions", "bash"],
    &["man"],
];

const PROXMOX_OPS: &[&[&str]] = &[
    &["list"],
    &["status", "110"],
    &["config", "110"],
    &["clone", "9002", "110", "web"],
    &["configure", "110", "2", "2048"],
    &["create-disk", "110", "5G"],
    &["resize", "110", "scsi0", "40G"],
    &["cloudinit-drive", "110"],
    &["cloudinit-config", "110", "@keys"],
    &["start", "110"],
    &["stop", "110"],
    &["shutdown", "110"],
    &["reboot", "110"],
    &["destroy", "110", "yes"],
    &["get-ip", "110"],
    &["wait-ssh", "192.0.2.1", "1"],
    &["storage"],
    &["next-vmid"],
    &["template", "9002"],
    &["create-template", "9002", "--import", "local:import/x.qcow2"],
    &["backup", "110"],
    &["restore", "local:backup/x.vma", "110"],
    &["console", "110"],
    &["snapshot", "110", "before"],
    &["snapshots", "110"],
    &["rollback", "110", "before"],
    &["delete-snapshot", "110", "before"],
    &["exec", "110", "--", "true"],
    &["ps"],
    &["top"],
    &["host-key", "110"],
    &["connect", "110"],
    &["session"],
    &["completions", "bash"],
    &["man"],
];

/// The options of a command line of clap's, each with a value that is not its usual one.
fn options<C: Line>() -> Vec<String> {
    let command = C::command();
    let with_value = |arg: &Arg| {
        let values = arg.get_possible_values();
        let value = values.last().map_or("7", |value| value.get_name()).to_owned();
        let long = arg.get_long()?;
        Some(match arg.get_action() {
            ArgAction::SetTrue => format!("--{long}"),
            _ => format!("--{long}={value}"),
        })
    };
    command.get_arguments().filter_map(with_value).collect()
}

fn typed<C: Line>(words: &[&[&str]]) -> Result<C, clap::Error> {
    let words = words.iter().flat_map(|words| words.iter()).map(OsString::from);
    read(&std::iter::once("tool".into()).chain(words).collect::<Vec<_>>())
}

/// What stands before a verb means what it means after it, or is refused as bad usage.
fn is_heard_or_refused<C: Line + Debug>(verbs: &[&[&str]], heard: &[&str]) {
    let options = options::<C>();
    assert!(heard.iter().all(|heard| options.iter().any(|option| option == heard)), "{options:?}");
    for verb in verbs {
        let without = format!("{:?}", typed::<C>(&[verb]).unwrap());
        for option in &options {
            let after = typed::<C>(&[verb, &[option]]);
            match typed::<C>(&[&[option], verb]) {
                Ok(before) => {
                    let before = format!("{before:?}");
                    assert_eq!(before, format!("{:?}", after.unwrap()), "{option} {verb:?}");
                    assert_ne!(before, without, "{option} {verb:?} is passed over");
                }
                Err(refused) => {
                    assert_eq!(refused.exit_code(), 2, "{option} {verb:?}");
                    let said = refused.to_string();
                    let name = option.split('=').next().unwrap();
                    assert!(said.contains(&format!("'{name}' can not stand before '{}'", verb[0])), "{said}");
                    // One that the verb has, too, could be meant: then it is told where it belongs.
                    assert!(after.is_err() || said.contains("put it after the verb"), "{said}");
                    assert!(!heard.contains(&option.as_str()) || after.is_err(), "{option} {verb:?}: {said}");
                }
            }
        }
    }
}

#[test]
fn an_option_before_a_verb_is_the_verb_s_or_is_refused() {
    is_heard_or_refused::<provision::cli::Cli>(PROVISION, &["--dry-run", "--yes", "--json", "--quiet"]);
    is_heard_or_refused::<post_provision::cli::Cli>(
        POST_PROVISION,
        &["--dry-run", "--yes", "--no-commit", "--allow-dirty", "--json", "--quiet"],
    );
}

/// Runs a tool where there is no fleet repository.
fn run(name: &str, words: &[&[&str]], dir: &Path) -> (i32, String, String) {
    let mut command = Command::new(tool(name));
    for variable in ["FLEET_REPO", "PROXMOX_HOST", "PROXMOX_USER", "PROXMOX_NODE"] {
        command.env_remove(variable);
    }
    let output = command.args(words.concat()).current_dir(dir).env("XDG_STATE_HOME", dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The options that a help page lists, each with a value where it takes one.
fn listed(help: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let (_, option) = line.trim_start().split_once("--").filter(|(short, _)| short.len() <= 4)?;
        let (name, rest) = option.split_once(' ').unwrap_or((option, ""));
        let fits =
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !["help", "version"].contains(&name);
        let value = match name {
            "color" => "=always",
            "nix" => "=embedded",
            _ if rest.starts_with('<') || rest.starts_with('[') => "=7",
            _ => "",
        };
        fits.then(|| format!("--{name}{value}"))
    };
    help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(line).collect()
}

#[test]
fn every_option_of_every_tool_before_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, verbs) in TOOLS {
        let help = run(name, &[&["--help"]], dir).1;
        let known: BTreeSet<&str> = verbs.iter().map(|verb| verb[0]).collect();
        let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let there = commands.lines().filter(|line| !line.starts_with("   "));
        let there: BTreeSet<&str> = there.filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(
            there.into_iter().filter(|verb| *verb != "help").collect::<BTreeSet<_>>(),
            known,
            "{name}"
        );
        let options = listed(&help);
        assert!(options.len() >= 5, "{name}: {options:?}");
        for verb in verbs {
            let its = listed(&run(name, &[&[verb[0], "--help"]], dir).1);
            for option in &options {
                let before = run(name, &[&[option], verb], dir);
                if its.contains(option) && !before.2.contains("put it after the verb") {
                    let (first, rest) = verb.split_first().unwrap();
                    let after = run(name, &[&[first], &[option], rest], dir);
                    assert_eq!(before, after, "{name} {option} {verb:?}");
                } else {
                    assert_eq!(before.0, 2, "{name} {option} {verb:?}: {}", before.2);
                    let option = option.split('=').next().unwrap();
                    assert!(before.2.contains(option), "{name} {option} {verb:?}: {}", before.2);
                }
            }
            // Of two values neither is chosen in silence.
            let twice = run(name, &[&["--repo", "a"], verb, &["--repo=b"]], dir);
            let is_words = verb.contains(&"--");
            assert_eq!(twice.0 == 2, !is_words, "{name} {verb:?}: {}", twice.2);
        }
    }
}
