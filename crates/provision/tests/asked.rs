//! Questions: what they are about is seen, and whoever does not say yes has changed nothing, in every tool alike.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::Bench;
use rexpect::process::WaitStatus;

/// A tool and its words, what it says before the question, and the question.
struct Case(&'static str, &'static [&'static str], &'static str, &'static str);

const CASES: [Case; 8] = [
    Case(
        "provision-vm",
        &["test-automation"],
        "  1. Continue with VM 110, which an earlier run made",
        "Continue? (y/N) ",
    ),
    Case("provision-vm", &["test-automation", "db"], "db (VMID 121): 1 cores, 2048MB", "Continue? (y/N) "),
    Case(
        "provision-vm",
        &[
            "new",
            "web2",
            "--vmid",
            "115",
            "--cores",
            "1",
            "--memory",
            "2048",
            "--disk",
            "10G",
            "--ip",
            "dhcp",
            "--purpose",
            "x",
        ],
        "web2 = {",
        "Write this? (y/N) ",
    ),
    Case(
        "provision-vm",
        &["apply", "test-automation"],
        "cores: 2 -> 3",
        "Change VM 'test-automation' (VMID 110)? (y/N) ",
    ),
    Case(
        "provision-vm",
        &["destroy", "test-automation"],
        "to keep it, powered off",
        "Type the VM's name to destroy it: ",
    ),
    Case("proxmox-ops", &["destroy", "110", "--stop"], "", "Type its name to destroy it: "),
    Case("proxmox-ops", &["rollback", "110", "before"], "", "what came after is lost. Continue? (y/N) "),
    Case("post-provision-vm", &["inventory"], "docs/machines.md", "Continue? (y/N) "),
];

#[test]
fn who_does_not_say_yes_has_changed_nothing_and_the_exit_code_is_130() {
    let bench = Bench::new();
    bench.define(&[("db", 121)]);
    let made = bench.run(&["test-automation", "--yes", "--no-install"]);
    assert!(made.status.success(), "{}", bench.seen(&made));
    let snapshot =
        bench.sim.command("proxmox-ops", &bench.fleet).args(["snapshot", "110", "before"]).output();
    assert!(snapshot.unwrap().status.success());
    bench.fleet.edit("vms/definitions.nix", "cores = 2;", "cores = 3;");
    bench.fleet.commit("one more core");
    let log = || bench.fleet.git(&["log", "--format=%H"]).unwrap();
    let before = (bench.sim.changes(), bench.fleet.status(), log());
    for Case(tool, words, about, question) in CASES {
        // Enter alone, a no, the end of the input, Ctrl-C.
        for leave in ["\n", "n\n", "\u{4}", "\u{3}"] {
            let mut command = bench.sim.command(tool, &bench.fleet);
            command.args(words).arg("--quiet").env("TERM", "dumb");
            let case = format!("{tool} {words:?}, left with {leave:?}");
            let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
            let asked = session.exp_string(question).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(asked.contains(about), "{case}: {asked}");
            session.send(leave).unwrap();
            session.flush().unwrap();
            let rest = session.exp_eof().unwrap();
            let ended = session.process().wait().unwrap();
            assert!(matches!(ended, WaitStatus::Exited(_, 130)), "{case}: {ended:?}: {rest}");
            let told =
                rest.contains("othing was changed") || rest.contains("'test-automation' was not changed");
            assert!(told && !rest.contains("safe point"), "{case}: {rest}");
        }
    }
    assert_eq!((bench.sim.changes(), bench.fleet.status(), log()), before);
}

#[test]
fn a_name_that_is_not_the_vms_is_refused_and_a_no_is_an_answer_to_machines_too() {
    let bench = Bench::new();
    let made = bench.run(&["test-automation", "--yes", "--no-install"]);
    assert!(made.status.success(), "{}", bench.seen(&made));
    for (answer, code, told) in
        [("web", 3, r#""kind":"refused""#), ("no", 130, r#"{"error":{"kind":"interrupted""#)]
    {
        let command = bench.command(&["destroy", "test-automation", "--json"]);
        let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        session.exp_string("Type the VM's name to destroy it: ").unwrap();
        session.send_line(answer).unwrap();
        let rest = session.exp_eof().unwrap();
        let ended = session.process().wait().unwrap();
        assert!(matches!(ended, WaitStatus::Exited(_, it) if it == code), "{ended:?}");
        assert!(rest.contains(told) && rest.contains("nothing was changed"), "{rest}");
    }
}
