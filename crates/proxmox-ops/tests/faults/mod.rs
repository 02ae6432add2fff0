//! What goes wrong in the matrix.
#![allow(unreachable_pub, reason = "shared by tests")]

use std::time::{Duration, Instant};

use pve_sim::faults::{Fault as Sim, Stream};

use crate::matrix_verbs::{Base, Stage, Verb};

/// One row: how to make it happen, how to end it, and which exit codes a verb may end with.
pub struct Fault {
    pub name: &'static str,
    pub strike: fn(&Stage),
    pub lift: fn(&Stage),
    pub codes: fn(&Verb) -> &'static [i32],
    /// Whether a verb has anything that it could strike: a run that it can not touch is no case of it.
    pub strikes: fn(&Verb) -> bool,
}

impl Fault {
    const fn on(self, strikes: fn(&Verb) -> bool) -> Fault {
        Fault { strikes, ..self }
    }
}

fn anything(_: &Verb) -> bool {
    true
}

fn changes(verb: &Verb) -> bool {
    verb.changes
}

fn tasks(verb: &Verb) -> bool {
    verb.task
}

fn allocations(verb: &Verb) -> bool {
    verb.allocates
}

fn images(verb: &Verb) -> bool {
    verb.uploads
}

fn files(verb: &Verb) -> bool {
    verb.uploads || verb.args.contains(&"--user-data")
}

/// VM 110, which runs.
fn guests(verb: &Verb) -> bool {
    verb.base == Base::Running
}

const fn row(name: &'static str, strike: fn(&Stage), codes: fn(&Verb) -> &'static [i32]) -> Fault {
    Fault { name, strike, lift: |stage| stage.bench.sim.clear_faults(), codes, strikes: anything }
}

fn inject(stage: &Stage, fault: Sim) {
    stage.bench.sim.inject(fault);
}

/// Everything goes well all the same.
fn fine(_: &Verb) -> &'static [i32] {
    &[0]
}

/// The node is not reached.
fn unreachable(_: &Verb) -> &'static [i32] {
    &[6]
}

/// A read is simply tried again; of a change it may not be known.
fn lost(verb: &Verb) -> &'static [i32] {
    if verb.changes { &[0, 7] } else { &[0] }
}

/// A link that is cut anywhere may also never have come to be.
fn cut(verb: &Verb) -> &'static [i32] {
    if verb.streams {
        &[0, 1, 6, 7]
    } else if verb.changes {
        &[0, 6, 7]
    } else {
        &[0, 6]
    }
}

/// The node's task fails.
fn fails(_: &Verb) -> &'static [i32] {
    &[1]
}

/// A lock that is never given back: what needs it fails or runs out of time.
fn held(verb: &Verb) -> &'static [i32] {
    if verb.locks { &[1, 8] } else { &[0] }
}

/// What asks the guest agent once may ask too early.
fn late_agent(verb: &Verb) -> &'static [i32] {
    if verb.agent { &[0, 5] } else { &[0] }
}

/// What needs the guest agent waits for it and gives up; the rest does not care.
fn no_agent(verb: &Verb) -> &'static [i32] {
    if verb.agent { &[5] } else { &[0] }
}

/// What is reached by the daemon only once is restarted: running tasks are interrupted, too.
fn restarted(verb: &Verb) -> &'static [i32] {
    if verb.changes { &[0, 1, 7] } else { &[0] }
}

pub const FAULTS: &[Fault] = &[
    row("latency", |s| inject(s, Sim::Slow { path: String::new(), by: Duration::from_millis(25) }), fine),
    row("cut at byte 0 from the node", |s| inject(s, Sim::CutAtByte { stream: Stream::SshDown, at: 0 }), cut),
    row("cut in the key exchange", |s| inject(s, Sim::CutAtByte { stream: Stream::SshDown, at: 900 }), cut),
    row("cut in the login", |s| inject(s, Sim::CutAtByte { stream: Stream::SshDown, at: 2400 }), cut),
    row("cut in an answer", |s| inject(s, Sim::CutAtByte { stream: Stream::SshDown, at: 4200 }), cut),
    row("cut while a file is sent", |s| inject(s, Sim::CutAtByte { stream: Stream::SshUp, at: 40_000 }), cut)
        .on(files),
    row("cut on the way there", |s| inject(s, Sim::CutAtByte { stream: Stream::SshUp, at: 3300 }), cut),
    row(
        "the API's stream cut in a head",
        |s| inject(s, Sim::CutAtByte { stream: Stream::ApiDown, at: 20 }),
        lost,
    ),
    row(
        "the API's stream cut in a body",
        |s| inject(s, Sim::CutAtByte { stream: Stream::ApiDown, at: 250 }),
        lost,
    ),
    row(
        "the API's stream cut in a request",
        |s| inject(s, Sim::CutAtByte { stream: Stream::ApiUp, at: 60 }),
        lost,
    ),
    row("an answer lost, the work done", |s| inject(s, Sim::DropLink { after: 0, done: true }), lost),
    row("the third answer lost, the work done", |s| inject(s, Sim::DropLink { after: 2, done: true }), lost),
    row("a change's answer lost, the work done", |s| change(s, true), lost).on(changes),
    row("a change lost", |s| change(s, false), lost).on(changes),
    row("the task killed, with clean-up", |s| inject(s, killed(true)), fails).on(tasks),
    row("the task killed, without clean-up", |s| inject(s, killed(false)), fails).on(tasks),
    row(
        "the task fails",
        |s| inject(s, Sim::TaskFails { kind: "any".into(), message: "no quorum".into() }),
        fails,
    )
    .on(tasks),
    row("warnings", |s| inject(s, Sim::TaskWarnings { kind: "any".into(), count: 2 }), fine).on(tasks),
    row("one lock time-out", |s| inject(s, Sim::LockTimeout { vmid: 110, times: 1 }), fine).on(changes),
    row("the lock never free", |s| inject(s, Sim::LockTimeout { vmid: 110, times: 1_000_000 }), held)
        .on(changes),
    row("storage full", |s| inject(s, Sim::StorageFull { storage: "nvmeprom".into() }), fails)
        .on(allocations),
    row("no room for an image", |s| inject(s, Sim::ImagesFull { free: 100_000 }), fails).on(images),
    row("no `ip` on the node", |s| inject(s, Sim::NoProgram { name: "ip".into() }), fine),
    row("agent late", agent_late, late_agent).on(guests),
    row("agent never", |s| inject(s, Sim::AgentNever { vmid: 110 }), no_agent).on(guests),
    row("docker0 first", |s| inject(s, Sim::DockerFirst { vmid: 110 }), fine).on(guests),
    Fault {
        name: "address moved",
        strike: |s| s.bench.sim.move_address(110),
        lift: Stage::move_back,
        codes: moved,
        strikes: guests,
    },
    Fault {
        name: "wrong host key",
        strike: |s| s.bench.sim.expect_another_host_key(),
        lift: |s| s.bench.sim.expect_own_host_key(),
        codes: unreachable,
        strikes: anything,
    },
    row("forwarding forbidden", |s| inject(s, Sim::ForwardingForbidden), fine),
    row("login refused", |s| inject(s, Sim::LoginRefused), unreachable),
    row("daemon down", |s| inject(s, Sim::ApiDown), without_daemon),
    row("daemon restarted at once", |s| inject(s, Sim::DaemonRestarts { after: 0 }), restarted),
    row("daemon restarted on the way", |s| inject(s, Sim::DaemonRestarts { after: 2 }), restarted),
    row("daemon restarted later", |s| inject(s, Sim::DaemonRestarts { after: 4 }), restarted),
    row("ticket expired at once", |s| inject(s, Sim::TicketsExpire { after: 0 }), fine),
    row("ticket expired on the way", |s| inject(s, Sim::TicketsExpire { after: 2 }), fine),
];

fn killed(cleaned: bool) -> Sim {
    Sim::TaskKilled { kind: "any".into(), cleaned }
}

/// The first request that changes something.
fn change(stage: &Stage, done: bool) {
    for method in ["POST", "PUT", "DELETE"] {
        inject(stage, Sim::DropLinkAt { method: method.into(), path: "/".into(), done });
    }
}

/// The guest has just come up, and its agent takes a while.
fn agent_late(stage: &Stage) {
    stage.bench.sim.node().change(|d| {
        if let Some(run) = d.guests.get_mut(&110).and_then(|g| g.running.as_mut()) {
            run.booting = Some((Instant::now(), Duration::ZERO));
        }
    });
    inject(stage, Sim::AgentLate { vmid: 110, by: Duration::from_millis(300) });
}

/// Who waits at the address that it had waits in vain.
fn moved(verb: &Verb) -> &'static [i32] {
    if verb.args[0] == "wait-ssh" { &[8] } else { &[0] }
}

/// What does not ask the daemon does not miss it.
fn without_daemon(verb: &Verb) -> &'static [i32] {
    // Its answers have their own errors.
    if matches!(verb.args[0], "session" | "wait-ssh") { &[0] } else { &[6] }
}
