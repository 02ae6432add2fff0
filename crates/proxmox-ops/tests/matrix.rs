//! Each fault with each verb: the verb ends, says what is true, and run again ends well.
//!
//! What is true is looked up in the simulated node's state, not in what it answered. The endpoints that the verbs
//! use are held against the list that `pve-sim replay` counts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that can not go on must stop"
)]

mod common;
mod faults;
mod matrix_verbs;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::Ran;
use faults::FAULTS;
use matrix_verbs::{Base, Stage, VERBS, Verb};
use pve_sim::{log::What, replay};

/// What has to hold whatever was run and whatever went wrong; gives what does not.
fn broken(stage: &Stage, verb: &Verb, allowed: &[i32], ran: &Ran, before: &str) -> Option<String> {
    if !allowed.contains(&ran.code) {
        return Some(format!("ended with {}, expected one of {allowed:?}", ran.code));
    }
    if let Some(wrong) = stage.documents_wrong() {
        return Some(wrong.to_owned());
    }
    if ran.code == 0 {
        let done = (verb.done)(&stage.bench.sim, &ran.out);
        if !done {
            return Some("says that it is done, and it is not".to_owned());
        }
        return (!(verb.prints)(&ran.out)).then(|| format!("does not print what it did: '{}'", ran.out));
    }
    if verb.streams && ran.out.contains("\"error\"") {
        return None;
    }
    if ran.err.trim().is_empty() || !ran.err.starts_with('✗') && !ran.err.contains("\n✗ ") {
        return Some("fails without a word".to_owned());
    }
    if !verb.streams && !verb.terminal && !ran.out.is_empty() {
        return Some("fails and prints data all the same".to_owned());
    }
    let after = stage.state();
    let untouched = ["nothing was changed", "nothing was sent", "nothing was done"];
    let claims = untouched.iter().find(|words| ran.err.contains(**words));
    if let Some(words) = claims.filter(|_| after != before) {
        return Some(format!("says '{words}', and something was:\n{before}\nis now\n{after}"));
    }
    match ran.code {
        // Refused, a conflict, not found, unreachable: then it has changed nothing.
        2..=6 if after != before => Some(format!("ended with {}, and changed:\n{before}\n{after}", ran.code)),
        // A failure of the node's own task is no success.
        1 if verb.changes && (verb.done)(&stage.bench.sim, "") => {
            Some("says that it failed, and it is done".to_owned())
        }
        // What can not be known, or still goes on, has to say how to look.
        7 | 8 if !ran.err.contains("hint: ") && ran.err.lines().count() < 2 => {
            Some("does not say what is true and what to do".to_owned())
        }
        _ => None,
    }
}

fn case(stage: &Stage, verb: &Verb, fault: &faults::Fault) -> Option<String> {
    stage.set(verb.base);
    let before = stage.state();
    (fault.strike)(stage);
    let ran = stage.run(verb);
    let allowed = (fault.codes)(verb);
    // What the node still works on is part of what came of it.
    stage.settle();
    if let Some(wrong) = broken(stage, verb, allowed, &ran, &before) {
        return Some(format!("{wrong}\n{}", ran.err));
    }
    (fault.lift)(stage);
    if ran.code == 0 && !verb.changes {
        return None;
    }
    let done = (verb.done)(&stage.bench.sim, "");
    // What was killed while it was made is in the way: which one, the conflict says.
    let locked = |vmid| stage.bench.sim.config(vmid).is_some_and(|c| c.lock().is_some());
    // So is what a restore that failed leaves.
    let empty = |vmid| stage.bench.sim.config(vmid).is_some_and(|c| c.main.is_empty());
    let in_the_way = match verb.args[0] {
        "create-template" => locked(9002),
        "restore" => locked(110) || empty(110),
        _ => verb.again == 4 && locked(110),
    };
    let again = stage.run(verb);
    stage.settle();
    // What makes something new finds it there: a conflict, which says what it is.
    let well = again.code == 0 || done && again.code == verb.again || in_the_way && again.code == 4;
    if !well {
        return Some(format!(
            "again: ended with {}\nfirst {}: {}\nthen: {}",
            again.code, ran.code, ran.err, again.err
        ));
    }
    let done = again.code != 0 || (verb.done)(&stage.bench.sim, &again.out);
    (!done).then(|| format!("again: says that it is done, and it is not: {}", again.err))
}

#[test]
fn each_fault_with_each_verb() {
    let cases: Vec<(&Verb, &faults::Fault)> = VERBS
        .iter()
        .flat_map(|verb| FAULTS.iter().map(move |fault| (verb, fault)))
        .filter(|(verb, fault)| (fault.strikes)(verb))
        .collect();
    // Each of both is in some.
    for fault in FAULTS {
        assert!(VERBS.iter().any(fault.strikes), "{} strikes nothing", fault.name);
    }
    let next = AtomicUsize::new(0);
    let wrong: Mutex<Vec<String>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() * 2).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let stage = Stage::new();
                while let Some((verb, fault)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(found) = case(&stage, verb, fault) {
                        let name = format!("{} × {}", fault.name, verb.args.join(" "));
                        wrong.lock().unwrap().push(format!("--- {name}: {found}"));
                    }
                    (fault.lift)(&stage);
                }
                if !stage.no_image_stays() {
                    wrong.lock().unwrap().push("--- an image stays on the node".to_owned());
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    println!(
        "{} faults × {} verbs: {} cases, without {} in which there is nothing to strike",
        FAULTS.len(),
        VERBS.len(),
        cases.len(),
        FAULTS.len() * VERBS.len() - cases.len()
    );
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// `pve-sim replay` counts the endpoints that the tools use: those, and no others.
#[test]
fn the_endpoints_that_the_verbs_use() {
    let stage = Stage::new();
    let mut used = BTreeSet::new();
    for verb in VERBS {
        stage.set(verb.base);
        stage.run(verb);
        used.extend(stage.bench.sim.requests().iter().filter_map(|r| match &r.what {
            What::Http { method, path, .. } => Some(replay::endpoint(method, path)),
            _ => None,
        }));
    }
    let counted: BTreeSet<String> = replay::USED.iter().map(|e| (*e).to_owned()).collect();
    let missing: Vec<_> = used.difference(&counted).collect();
    assert!(missing.is_empty(), "not counted by `pve-sim replay`: {missing:?}");
    // Of tasks' logs is read only what failed; those lists are for what takes long.
    // When a reboot's start is looked for, it may have happened already.
    let rare = [
        "GET /nodes/N/tasks",
        "GET /nodes/N/tasks/UPID/log",
        "GET /nodes/N/time",
        "GET /version",
        "GET /nodes/N/network",
    ];
    let unused: Vec<_> = counted.difference(&used).filter(|e| !rare.contains(&e.as_str())).collect();
    assert!(unused.is_empty(), "counted although no verb uses them: {unused:?}");
}

/// The rules above can fail: a run that lies is found out.
#[test]
fn lies_are_found_out() {
    let stage = Stage::new();
    let verb = VERBS.iter().find(|v| v.args[0] == "start").unwrap();
    stage.set(Base::Stopped);
    let before = stage.state();
    let ran = |code: i32, err: &str| Ran { code, out: String::new(), err: err.to_owned() };
    let found = |ran: &Ran| broken(&stage, verb, &[0, 1, 4, 6, 7], ran, &before).is_some();
    assert!(found(&ran(0, "")), "done, and it is not");
    assert!(found(&ran(1, "")), "no word");
    assert!(found(&ran(101, "✗ panicked")), "no exit code of ours");
    assert!(found(&Ran { out: "stopped\n".to_owned(), ..ran(1, "✗ no\n") }), "data of a failure");
    assert!(!found(&ran(6, "✗ can not reach the node\n  nothing was changed\n")));
    assert!(found(&ran(7, "✗ unknown\n")), "and nothing to do about it");
    stage.bench.sim.edit(110, |conf| {
        conf.main.insert("cores".to_owned(), "7".to_owned());
    });
    assert!(found(&ran(6, "✗ can not reach the node\n")), "changed");
    assert!(found(&ran(1, "✗ no\n  nothing was changed\n")), "says that nothing was");
}
