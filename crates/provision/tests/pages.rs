//! Completions and manual pages of every tool: made from its command line, and read by the programs they are for.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and starts the tools"
)]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use pve_sim::testing::tool;

const TOOLS: [&str; 4] = ["proxmox-ops", "cloudinit-gen", "provision-vm", "post-provision-vm"];

/// Runs a tool where there is no fleet repository, and gives what it prints.
fn run(name: &str, args: &[&str], dir: &Path) -> String {
    let output =
        Command::new(tool(name)).args(args).current_dir(dir).env_remove("FLEET_REPO").output().unwrap();
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that `--help` lists.
fn verbs(name: &str, dir: &Path) -> Vec<String> {
    let help = run(name, &["--help"], dir);
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // What a verb does may go on in the next line, further to the right.
    let verbs =
        listed.lines().filter(|line| !line.starts_with("   ")).filter_map(|l| l.split_whitespace().next());
    let verbs: Vec<String> = verbs.map(str::to_owned).filter(|verb| verb != "help").collect();
    assert!(verbs.len() >= 4 && verbs.contains(&"man".to_owned()), "{name}: {verbs:?}");
    verbs
}

#[test]
fn every_tool_and_every_verb_has_its_manual_page() {
    for name in TOOLS {
        let dir = tempfile::tempdir().unwrap();
        run(name, &["man", "--output-dir", "share/man/man1"], dir.path());
        let pages = dir.path().join("share/man/man1");
        let files: BTreeSet<String> = std::fs::read_dir(&pages)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let verbs = verbs(name, dir.path());
        let mut wanted: BTreeSet<String> = verbs.iter().map(|verb| format!("{name}-{verb}.1")).collect();
        wanted.insert(format!("{name}.1"));
        assert_eq!(files, wanted);
        for file in &files {
            let text = std::fs::read_to_string(pages.join(file)).unwrap();
            let title = file.strip_suffix(".1").unwrap();
            let version = env!("CARGO_PKG_VERSION");
            assert!(
                text.contains(&format!(".TH {title} 1  \"{name} {version}\" \"Fleet tools\"\n")),
                "{file}: {text}"
            );
            assert!(text.contains("\n.SH OPTIONS\n") && text.contains("\\-\\-help"), "{file} has no options");
        }
        assert_eq!(
            run(name, &["man"], dir.path()),
            std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap()
        );
        assert_eq!(
            run(name, &["man", &verbs[0]], dir.path()),
            std::fs::read_to_string(pages.join(format!("{name}-{}.1", verbs[0]))).unwrap()
        );
        lint(&pages, &files);
    }
}

/// mandoc finds no error in them. Skipped where there is none, unless `FLEET_REQUIRE_ORACLES=1`.
fn lint(dir: &Path, files: &BTreeSet<String>) {
    let ran =
        Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(files).current_dir(dir).output();
    let Ok(output) = ran else {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "mandoc is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        println!("skipped: no mandoc");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_verb_that_is_not_there_has_no_page() {
    for name in TOOLS {
        let output = Command::new(tool(name)).args(["man", "nonsense"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("there is no verb 'nonsense'"), "{said}");
    }
}

#[test]
fn bash_completes_every_verb_and_option() {
    for name in TOOLS {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("completions");
        std::fs::write(&script, run(name, &["completions", "bash"], dir.path())).unwrap();
        // As bash itself does at a TAB: it calls what `complete` named, with the line so far.
        let complete = |words: &[&str]| {
            let typed = words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
            let (last, before) = (words.len() - 1, words.len().saturating_sub(2));
            let line = format!(
                "set -eu; source completions; set +eu; call=$(complete -p {name}); call=${{call#*-F }}; \
                 COMP_WORDS=({typed}); COMP_CWORD={last}; \
                 ${{call%% *}} {name} \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{before}]}}\"; \
                 printf '%s\\n' \"${{COMPREPLY[@]}}\""
            );
            let mut bash = Command::new("bash");
            bash.args(["--norc", "-c", &line]).current_dir(dir.path()).stdin(Stdio::null());
            let output = bash.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{words:?}: {said}");
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let offered = complete(&[name, ""]);
        let verbs = verbs(name, dir.path());
        for verb in &verbs {
            assert!(offered.contains(verb), "{name}: {verb} is not among {offered:?}");
            let options = complete(&[name, verb, "--"]);
            assert!(options.contains("--help") && options.contains("--json"), "{name} {verb}: {options:?}");
        }
        assert_eq!(complete(&[name, "--color", "al"]), BTreeSet::from(["always".to_owned()]));
        assert_eq!(complete(&[name, "completions", "zs"]), BTreeSet::from(["zsh".to_owned()]));
    }
}

#[test]
fn the_other_shells_get_theirs() {
    let dir = tempfile::tempdir().unwrap();
    for name in TOOLS {
        let zsh = run(name, &["completions", "zsh"], dir.path());
        assert!(zsh.starts_with(&format!("#compdef {name}\n")), "{name}");
        // The first word is the verb, also of a program that takes other words without one.
        let (options, verbs_of) = zsh.split_once(&format!("\":: :_{name}_commands\" \\\n")).unwrap();
        assert!(options.ends_with("'--version[Print version]' \\\n"), "{name}: {options}");
        assert!(verbs_of.contains("case $line[1] in") && !verbs_of.contains("$line[2]"), "{name}");
        let fish = run(name, &["completions", "fish"], dir.path());
        for verb in verbs(name, dir.path()) {
            assert!(fish.contains(&format!("-a \"{verb}\"")), "{name} {verb}");
        }
    }
}
