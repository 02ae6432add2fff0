//! What is asked on a terminal, with somebody there who types.
#![allow(clippy::unwrap_used, reason = "a test that can not go on must stop")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod common;

use common::Bench;
use rexpect::session::PtySession;

fn sit_down(bench: &Bench, args: &[&str]) -> PtySession {
    rexpect::session::spawn_command(bench.std_command(args), Some(20_000)).unwrap()
}

/// How it ended: `Exited(Pid(1), 130)` and the like.
fn ended(session: &PtySession) -> String {
    format!("{:?}", session.process().wait().unwrap())
}

#[test]
fn ctrl_c_at_a_question_is_an_answer() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["snapshot", "110", "before"]);
    let before = bench.sim.changes();
    let mut session = sit_down(&bench, &["rollback", "110", "before"]);
    session.exp_string("what came after is lost. Continue? (y/N) ").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("stopped by the user").unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 130)"));
    // The name of a VM that is to be destroyed.
    let mut session = sit_down(&bench, &["destroy", "110"]);
    session.exp_string("Type its name to destroy it: ").unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 130)"));
    assert_eq!(bench.sim.changes(), before);
    // And whoever answers is heard.
    let mut session = sit_down(&bench, &["rollback", "110", "before"]);
    session.exp_string("Continue? (y/N) ").unwrap();
    session.send_line("y").unwrap();
    session.exp_string("is what it was at the snapshot 'before'").unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 0)"));
}

/// As the one of the VM, through OpenSSH's client.
#[test]
fn a_console_is_entered_typed_into_and_left() {
    if fleet_core::child::find_program("ssh").is_none() {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "ssh is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        return;
    }
    let bench = Bench::new();
    bench.clone_110();
    let mut session = sit_down(&bench, &["console", "110"]);
    session.exp_string("VM 110 has no console: it is stopped").unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 1)"));
    bench.ok(&["start", "110"]);
    let mut session = sit_down(&bench, &["console", "test-automation"]);
    session.exp_string("starting serial terminal on interface serial0").unwrap();
    session.send_line("root of it").unwrap();
    session.send_control('o').unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 0)"));
}
