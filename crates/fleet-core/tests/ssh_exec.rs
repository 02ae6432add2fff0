//! Commands over OpenSSH's own sshd: statuses, floods, early ends, lost links.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ssh_support;

use std::{
    io::{Read, Write},
    time::Duration,
};

use fleet_core::{
    Kind,
    deadline::Deadline,
    ssh::{ExecStatus, Transport},
};
use ssh_support::{Fault, Sshd};

/// Ends only when nobody reads what it says, so that nothing is left of it when its sshd is gone.
const FOREVER: &str = "while echo; do sleep 0.1; done";

fn limit() -> Deadline {
    Deadline::secs(180)
}

#[test]
fn a_command_gives_both_outputs_and_its_exit_code() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let out = session.exec("cat; echo oops >&2; exit 3", b"hello", limit()).unwrap();
    assert_eq!(out.stdout, b"hello");
    assert_eq!(out.stderr, b"oops\n");
    assert_eq!(out.status, ExecStatus::Code(3));
    let out = session.exec("true", b"", limit()).unwrap();
    assert_eq!((out.stdout.len(), out.status), (0, ExecStatus::Code(0)));
    assert_eq!(session.host_key(), sshd.host_key().rsplit_once(' ').unwrap().0);
}

#[test]
fn a_program_of_many_lines_is_named_by_its_first() {
    let Some(sshd) = Sshd::start("MaxSessions 0") else { return };
    let error = sshd.connect().exec("echo one\necho two\n", b"", limit()).unwrap_err();
    let said = error.message();
    assert!(said.starts_with("127.0.0.1 refused to open a channel for `echo one…`: "), "{said}");
    assert_eq!(error.facts(), ["the command did not run"]);
}

#[test]
fn death_by_signal_is_told() {
    let Some(sshd) = Sshd::start("") else { return };
    let out = sshd.connect().exec("kill -TERM $$", b"", limit()).unwrap();
    assert_eq!(out.status, ExecStatus::Signal("TERM".into()));
}

#[test]
fn a_lot_goes_both_ways_at_once() {
    let Some(sshd) = Sshd::start("") else { return };
    let input: Vec<u8> = (0..64u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = sshd.connect().exec("cat", &input, limit()).unwrap();
    assert!(out.stdout == input, "{} bytes came back", out.stdout.len());
    assert_eq!(out.status, ExecStatus::Code(0));
}

#[test]
fn a_flood_of_stderr_blocks_nothing() {
    let Some(sshd) = Sshd::start("") else { return };
    let out = sshd.connect().exec("head -c 16777216 /dev/zero >&2; echo done", b"", limit()).unwrap();
    assert_eq!((out.stdout.as_slice(), out.stderr.len()), (b"done\n".as_slice(), 16 << 20));
}

#[test]
fn a_command_may_leave_its_input_unread() {
    let Some(sshd) = Sshd::start("") else { return };
    let out = sshd.connect().exec("exit 5", &vec![0; 16 << 20], limit()).unwrap();
    assert_eq!(out.status, ExecStatus::Code(5));
}

#[test]
fn a_command_may_close_its_output_and_read_on() {
    let Some(sshd) = Sshd::start("") else { return };
    let file = sshd.path("taken");
    let command = format!("exec >&- 2>&-; cat > {}; exit 4", file.display());
    let out = sshd.connect().exec(&command, &vec![7; 8 << 20], limit()).unwrap();
    assert_eq!(out.status, ExecStatus::Code(4));
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 8 << 20);
}

#[test]
fn a_deadline_ends_the_wait_but_not_the_session() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let short = Deadline::after(Duration::from_millis(200));
    let error = session.exec(FOREVER, b"", short).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlinePassed);
    assert!(error.message().contains("done` on 127.0.0.1 to end"), "{error:?}");
    assert_eq!(session.exec("echo still here", b"", limit()).unwrap().stdout, b"still here\n");
    assert_eq!(sshd.connections(), 1);
}

#[test]
fn a_peer_that_falls_silent_is_given_up_and_left() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let input = vec![0; 32 << 20];
    for stdin in [&b""[..], &input] {
        sshd.fault(Fault::SilentAfter(sshd.sent_by_server() + 100));
        let error = session.exec("cat", stdin, Deadline::after(Duration::from_millis(400))).unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlinePassed, "{error:?}");
        sshd.fault(Fault::None);
        let out = session.exec("echo here", b"", limit()).unwrap();
        assert_eq!(out.stdout, b"here\n");
    }
    // Dropping a session whose peer is silent waits for nothing.
    sshd.fault(Fault::SilentAfter(sshd.sent_by_server()));
    drop(session);
}

#[test]
fn a_session_that_was_cut_while_idle_is_replaced_unseen() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    sshd.kill_servers();
    assert_eq!(session.exec("echo back", b"", limit()).unwrap().stdout, b"back\n");
    assert_eq!(sshd.connections(), 2);
}

#[test]
fn a_killed_server_leaves_the_outcome_unknown_and_the_next_command_connects_again() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    let begun = sshd.path("begun");
    let command = format!("touch {}; {FOREVER}", begun.display());
    let error = std::thread::scope(|scope| {
        let running = scope.spawn(|| session.exec(&command, b"", limit()).unwrap_err());
        let patience = limit();
        while !begun.exists() && !patience.passed() {
            std::thread::sleep(Duration::from_millis(5));
        }
        sshd.kill_servers();
        running.join().unwrap()
    });
    assert_eq!(error.kind(), Kind::OutcomeUnknown);
    assert!(error.message().contains("was lost while running `touch"), "{error:?}");
    assert_eq!(session.exec("echo back", b"", limit()).unwrap().stdout, b"back\n");
    assert_eq!(sshd.connections(), 2);
}

#[test]
fn a_server_that_vanishes_at_any_byte_is_never_a_success() {
    let Some(sshd) = Sshd::start("") else { return };
    // How many bytes a whole command takes, to cut inside each part of it.
    let session = sshd.connect();
    let before = sshd.sent_by_server();
    session.exec("echo hello; exit 3", b"x", limit()).unwrap();
    let length = sshd.sent_by_server() - before;
    drop(session);
    for cut in (0..length).step_by(11) {
        sshd.fault(Fault::None);
        let session = sshd.connect();
        sshd.fault(Fault::CutAfter(sshd.sent_by_server() + cut));
        match session.exec("echo hello; exit 3", b"x", limit()) {
            // The last bytes may be messages after the close, or the padding of a shorter packet.
            Ok(out) => {
                assert_eq!((out.stdout.as_slice(), out.status), (b"hello\n".as_slice(), ExecStatus::Code(3)));
            }
            Err(e) => assert!(matches!(e.kind(), Kind::OutcomeUnknown | Kind::Unreachable), "{e:?}"),
        }
        sshd.fault(Fault::None);
    }
}

/// What sshd answers to one of them is no answer to another.
#[test]
fn commands_that_begin_at_once_are_told_apart() {
    let Some(sshd) = Sshd::start("") else { return };
    let session = sshd.connect();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let session = &session;
            scope.spawn(move || {
                for m in 0..25 {
                    let output = session.exec(&format!("echo {n} {m}"), b"", limit()).unwrap();
                    assert_eq!(output.stdout_text(), format!("{n} {m}\n"));
                }
            });
        }
    });
    assert_eq!(sshd.connections(), 1);
}

/// sshd refuses what is more than its MaxSessions, ten where nobody says: it is asked again until one of them ends.
#[test]
fn more_commands_than_sshd_takes_at_once_take_turns() {
    let Some(sshd) = Sshd::start("MaxSessions 3") else { return };
    let session = sshd.connect();
    // As a relay does, it holds one for as long as it is there.
    let mut held = session.open_exec_stream("cat", limit()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let output = session.exec("sleep 0.05; echo so", b"", limit()).unwrap();
                    assert_eq!(output.stdout, b"so\n");
                }
            });
        }
    });
    held.write_all(b"x").unwrap();
    assert_eq!(held.read(&mut [0; 9]).unwrap(), 1);
    assert_eq!(sshd.connections(), 1);
}

/// sshd asks for new keys after an amount of data, or a time (`RekeyLimit`): in the middle of whatever goes on.
#[test]
fn keys_that_are_exchanged_anew_interrupt_nothing() {
    let Some(sshd) = Sshd::start("RekeyLimit 1M") else { return };
    let session = sshd.connect();
    let megabytes: Vec<u8> = (0..16u32 << 20).map(|n| (n % 251) as u8).collect();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (session, input) = (&session, &megabytes[n..]);
            scope.spawn(move || {
                let output = session.exec("cat", input, limit()).unwrap();
                assert!(output.success() && output.stdout == input, "{:?}", output.status);
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                assert_eq!(session.exec("sleep 0.2; echo so", b"", limit()).unwrap().stdout, b"so\n");
            }
        });
    });
    assert_eq!(sshd.connections(), 1);
}
