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
