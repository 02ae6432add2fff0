//! Faults × steps: whatever goes wrong, in or after whichever step, a run ends in success, or the same command once more
//! does, or it is refused and nothing was changed.
//!
//! The table of every day has each fault and each step; with `FLEET_MATRIX=all` in the environment it goes through every
//! fault in and after every step, which takes some minutes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and starts the tools itself"
)]

mod common;

use std::{
    fmt::Write as _,
    panic::AssertUnwindSafe,
    path::Path,
    process::{Child, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Bench, by_image, until};
use post_provision::{identity::Identity, sops};
use pve_sim::{faults::Fault, guest::Os, log::What, testing::operator_identity};
use rustix::process::{Pid, Signal, kill_process};

const NAME: &str = "test-automation";
const VMID: u32 = 110;
/// The steps of every run.
const TO_SSH: &[&str] = &["clone", "configure", "grow", "start", "address", "host-key", "ssh"];
/// The steps that only a run with the installation has.
const TO_FLEET: &[&str] = &["kexec", "integrate", "install", "reboot", "verify", "detach"];
/// The steps that only a run has which makes the VM of an image.
const OF_IMAGE: &[&str] = &["build", "upload", "create"];

/// When it strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// When the step has begun, and asked for something if it asks for anything.
    In,
    /// When it is over.
    After,
}

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Strike {
    /// `kill -9` of provision-vm.
    KillRun,
    /// `kill -9` of `proxmox-ops session`.
    KillSession,
    /// The SSH connections to the node are cut.
    CutLink,
    /// The node's API daemon is restarted: tasks that run are interrupted.
    RestartDaemon,
    /// Ctrl-C once.
    CtrlC,
    /// Ctrl-C twice.
    CtrlCTwice,
}

const STRIKES: &[Strike] = &[
    Strike::KillRun,
    Strike::KillSession,
    Strike::CutLink,
    Strike::RestartDaemon,
    Strike::CtrlC,
    Strike::CtrlCTwice,
];

fn start(bench: &Bench, args: &[&str]) -> Child {
    let mut command = bench.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Whether the journal says that it has come so far.
fn reached(bench: &Bench, step: &str, when: When) -> bool {
    let runs = bench.sim.dir().join("home/.local/state/fleet/runs").join(NAME);
    let journals = std::fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = journals.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max();
    let text = newest.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let of_step = format!("\"step\":\"{step}\"");
    text.lines().filter(|line| line.contains(&of_step)).any(|line| match when {
        // What only looks asks for nothing that is written down.
        When::In if ["host-key", "ssh", "verify", "address", "build", "upload"].contains(&step) => {
            line.contains("\"started\"")
        }
        When::In => ["\"request\"", "\"command\"", "\"ended\""].iter().any(|event| line.contains(event)),
        When::After => line.contains("\"event\":\"ended\""),
    })
}

/// The process below `parent` whose command line has these words.
fn descendant(parent: u32, words: &[&str]) -> Option<Pid> {
    let fields = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<u32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let found = pids.into_iter().find(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        fields(*pid) == Some(parent)
            && words.iter().all(|word| line.split('\0').any(|arg| arg.ends_with(word)))
    })?;
    Pid::from_raw(i32::try_from(found).ok()?)
}

impl Strike {
    fn strike(self, bench: &Bench, child: &Child) {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        // Who is gone already can not be hit any more.
        let signal = |pid: Pid, signal| {
            let _ = kill_process(pid, signal);
        };
        match self {
            Strike::KillRun => signal(pid, Signal::KILL),
            Strike::KillSession => {
                if let Some(session) = descendant(child.id(), &["proxmox-ops", "session"]) {
                    signal(session, Signal::KILL);
                }
            }
            Strike::CutLink => bench.sim.node().cut.send_modify(|n| *n += 1),
            Strike::RestartDaemon => bench.sim.node().restart_daemon(),
            Strike::CtrlC => signal(pid, Signal::INT),
            Strike::CtrlCTwice => {
                signal(pid, Signal::INT);
                std::thread::sleep(Duration::from_millis(20));
                signal(pid, Signal::INT);
            }
        }
    }
}

/// Runs, strikes when it has come so far, and lets the same command finish; then looks at what is there.
fn struck(strike: Strike, step: &str, when: When) {
    let bench = Bench::new();
    let image = OF_IMAGE.contains(&step);
    if image {
        by_image(&bench);
    }
    let whole = image || TO_FLEET.contains(&step);
    let args: &[&str] = if whole { &[NAME, "--yes"] } else { &[NAME, "--yes", "--no-install"] };
    let mut child = start(&bench, args);
    // `After` the last step there may be nothing left to strike.
    until(step, 120, || reached(&bench, step, when) || child.try_wait().unwrap().is_some());
    strike.strike(&bench, &child);
    let first = child.wait_with_output().unwrap();
    if matches!(strike, Strike::CtrlC) && first.status.code() == Some(130) {
        let seen = bench.seen(&first);
        let same = if whole { NAME.to_owned() } else { format!("{NAME} --no-install") };
        assert!(seen.ends_with(&format!("hint: `provision-vm {same}` continues from here\n")), "{seen}");
    }
    finished(&bench, args, whole, &first);
}

/// The run was successful, or the same command is; and all is as if nothing had happened.
fn finished(bench: &Bench, args: &[&str], whole: bool, first: &Output) {
    let mut seen = bench.seen(first);
    if !first.status.success() {
        let again = bench.run(args);
        write!(seen, "\n=== once more\n{}", bench.seen(&again)).unwrap();
        assert!(again.status.success(), "{seen}");
    }
    let sim = &bench.sim;
    let changes = sim.changes();
    let makes = |change: &&String| change.contains("/clone") || *change == "POST /nodes/prom/qemu";
    assert!(changes.iter().filter(makes).count() >= 1, "{seen}");
    // One VM, and nothing of another.
    let mut known: Vec<u32> = sim.node().read(|d| d.vms.keys().copied().collect());
    known.sort_unstable();
    assert_eq!(known, [104, 109, VMID, 9002], "{seen}");
    let config = sim.config(VMID).unwrap();
    assert!(config.get("lock").is_none(), "{seen}");
    assert_eq!(sim.guest(VMID).unwrap().0, if whole { Os::Nixos } else { Os::CloudImage }, "{seen}");
    // What is remembered of it is its own key.
    let key = sim.guest_host_key(VMID).unwrap();
    let blob = key.split_whitespace().nth(1).unwrap();
    let record = sim.dir().join(format!("home/.local/state/fleet/vms/{NAME}-{VMID}.json"));
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    assert_eq!(record["host_keys"][0].as_str().unwrap().split_whitespace().nth(1), Some(blob), "{seen}");
    // Every volume of its own belongs to its configuration.
    let text = format!("{config:?}");
    let volumes: Vec<String> = sim.node().read(|d| d.volumes.keys().cloned().collect());
    for volume in volumes.iter().filter(|volume| volume.contains(&format!("vm-{VMID}-"))) {
        assert!(text.contains(volume.as_str()), "{volume} belongs to nobody: {text}\n{seen}");
    }
    // No image is left on the node.
    assert_eq!(walk(&sim.node().file("/var/tmp")), [] as [String; 0], "{seen}");
    // Nothing of the host key is left on the node, nor of the run in memory.
    let snippets = walk(sim.node().file("/").as_path());
    assert!(!snippets.iter().any(|path| path.contains("/snippets/")), "{snippets:?}\n{seen}");
    let memory = walk(&sim.dir().join("run"));
    assert!(!memory.iter().any(|path| path.contains("fleet-run-")), "{memory:?}\n{seen}");
    // The repository is clean, and no half of a change waits in it.
    assert_eq!(bench.fleet.status(), "", "{seen}");
    let state = walk(&bench.fleet.path().join(".git/fleet"));
    assert!(state.iter().all(|path| path.ends_with("/lock")), "{state:?}\n{seen}");
    assert!(!bench.fleet.path().join(".git/index.lock").exists(), "{seen}");
    if whole {
        assert!(bench.fleet.read("hosts.nix").contains(blob), "{seen}");
        let operator = std::fs::read_to_string(operator_identity()).unwrap();
        let operator =
            Identity::from_ssh(&operator[operator.find("-----BEGIN").unwrap()..], "operator").unwrap();
        let machine = Identity::from_ssh(&sim.guest_private_key(VMID).unwrap(), "machine").unwrap();
        for secret in ["secrets/common.yaml", "secrets/tailscale.env"] {
            let first = bench.fleet.git(&["rev-list", "--max-parents=0", "HEAD"]).unwrap();
            let before = bench.fleet.git(&["show", &format!("{}:{secret}", first.trim())]).unwrap();
            let before = bench.sim.dir().join("before").join(secret).tap(&before);
            let values = |path: &Path, identity: &Identity| {
                let opened = sops::decrypt_file(path, identity).unwrap();
                opened
                    .values
                    .iter()
                    .map(|v| format!("{}={}", v.path.join("."), v.text.as_str()))
                    .collect::<Vec<_>>()
            };
            let now = bench.fleet.path().join(secret);
            assert_eq!(values(&now, &machine), values(&before, &operator), "{secret}\n{seen}");
        }
    }
}

/// Writes a file where a path says.
trait Tap {
    fn tap(self, text: &str) -> Self;
}

impl Tap for std::path::PathBuf {
    fn tap(self, text: &str) -> Self {
        std::fs::create_dir_all(self.parent().unwrap()).unwrap();
        std::fs::write(&self, text).unwrap();
        self
    }
}

/// All files below a directory.
fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

/// Goes through cases side by side; tells all that failed.
fn all<T: Sync + std::fmt::Debug>(cases: &[T], run: impl Fn(&T) + Sync) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if std::panic::catch_unwind(AssertUnwindSafe(|| run(case))).is_err() {
                        failed.lock().unwrap().push(format!("{case:?}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), cases.len());
}

fn struck_at((strike, step, when): &(Strike, &str, When)) {
    struck(*strike, step, *when);
}

/// Each fault and each step, in and after, but not each with each unless that is asked for.
#[test]
fn an_integration_that_was_killed_while_it_staged_its_files_is_in_nobodys_way() {
    let bench = Bench::new();
    let journal = bench.fleet.path().join(".git/fleet/files.json");
    std::fs::create_dir_all(journal.parent().unwrap()).unwrap();
    std::fs::write(&journal, r#"{"version": 1, "ready": false, "entries": []}"#).unwrap();
    let first = bench.run(&[NAME, "--yes"]);
    let seen = bench.seen(&first);
    assert!(first.status.success(), "{seen}");
    assert!(seen.contains("took back an interrupted run"), "{seen}");
    finished(&bench, &[NAME, "--yes"], true, &first);
}

#[test]
fn struck_in_and_after_each_step() {
    if std::env::var_os("FLEET_MATRIX").is_some_and(|which| which == "all") {
        return struck_everywhere_by_everything();
    }
    let early = TO_SSH.iter().flat_map(|step| [(*step, When::In), (*step, When::After)]).enumerate();
    let mut cases: Vec<_> = early.map(|(n, (step, when))| (STRIKES[n % STRIKES.len()], step, when)).collect();
    // What costs most to lose: each of these with the hardest and with one other.
    for (n, step) in TO_FLEET.iter().enumerate() {
        cases.push((Strike::KillRun, step, When::In));
        cases.push((
            STRIKES[1 + n % (STRIKES.len() - 1)],
            step,
            if n % 2 == 0 { When::After } else { When::In },
        ));
    }
    for (n, step) in OF_IMAGE.iter().enumerate() {
        cases.push((Strike::KillRun, step, When::In));
        cases.push((STRIKES[1 + n], step, When::In));
        cases.push((STRIKES[3 + n], step, When::After));
    }
    all(&cases, struck_at);
}

fn struck_everywhere_by_everything() {
    let mut cases = Vec::new();
    for step in TO_SSH.iter().chain(TO_FLEET).chain(OF_IMAGE) {
        for strike in STRIKES {
            cases.extend([When::In, When::After].map(|when| (*strike, *step, when)));
        }
    }
    all(&cases, struck_at);
}

/// What a fault of the world may come to.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Nothing: the run is successful.
    Nothing,
    /// The run fails with this code, or gets over it; without the fault the same command finishes.
    Fails(i32),
    /// It ends with this code, and nobody was logged in to on the VM; without the fault the same command finishes.
    Ends(i32),
    /// It is refused with this code, nothing is changed, and without the fault the same command finishes.
    Refused(i32),
}

#[test]
fn faults_of_the_world() {
    let answer = |method: &str, path: &str, done| Fault::DropLinkAt {
        method: method.to_owned(),
        path: path.to_owned(),
        done,
    };
    let task_fails =
        |kind: &str| Fault::TaskFails { kind: kind.to_owned(), message: "it was not to be".to_owned() };
    let mut cases = vec![
        (Fault::AgentNever { vmid: VMID }, Then::Nothing),
        (Fault::QuietNeighbours { vmid: VMID }, Then::Nothing),
        (Fault::LockTimeout { vmid: VMID, times: 1 }, Then::Fails(1)),
        (Fault::StorageFull { storage: "nvmeprom".to_owned() }, Then::Refused(1)),
        (Fault::LoginRefused, Then::Refused(6)),
        (Fault::HostKeyChanged { vmid: VMID }, Then::Ends(6)),
        (task_fails("qmstart"), Then::Fails(1)),
        (Fault::TaskWarnings { kind: "qmclone".to_owned(), count: 1 }, Then::Nothing),
    ];
    for done in [false, true] {
        cases.extend(
            [("POST", "/clone"), ("PUT", "/config"), ("PUT", "/resize"), ("POST", "/status/start")]
                .map(|(method, path)| (answer(method, path, done), Then::Fails(7))),
        );
    }
    all(&cases, |(fault, then)| {
        let bench = Bench::new();
        bench.sim.inject(fault.clone());
        let args = &[NAME, "--yes", "--no-install"];
        let first = bench.run(args);
        let seen = bench.seen(&first);
        match then {
            Then::Nothing => assert!(first.status.success(), "{seen}"),
            Then::Fails(code) => {
                assert!([Some(0), Some(*code)].contains(&first.status.code()), "{seen}");
            }
            Then::Ends(code) => {
                assert_eq!(first.status.code(), Some(*code), "{seen}");
                let of_the_vm =
                    |what: &What| matches!(what, What::GuestLogin { .. } | What::GuestExec { .. });
                assert!(!bench.sim.requests().iter().any(|record| of_the_vm(&record.what)), "{seen}");
            }
            Then::Refused(code) => {
                assert_eq!(first.status.code(), Some(*code), "{seen}");
                assert_eq!(bench.sim.changes(), [] as [String; 0], "{seen}");
                assert_eq!(bench.fleet.status(), "");
            }
        }
        bench.sim.clear_faults();
        finished(&bench, args, false, &first);
    });
}

/// What goes wrong while the template is copied, when the preflight has found all well: the storage fills, and the
/// node's daemon is restarted. The node undoes what it had begun.
#[test]
fn struck_while_the_template_is_copied() {
    let args = &[NAME, "--yes", "--no-install"];
    all(&["full", "restarted"], |case| {
        let bench = Bench::new();
        let node = bench.sim.node();
        node.hold_tasks(true);
        let mut child = start(&bench, args);
        // The first disk is there, and waits to be copied; the other one is not allocated yet.
        until("the clone", 60, || {
            assert!(child.try_wait().unwrap().is_none(), "it was never cloned");
            node.read(|d| d.volumes.values().any(|volume| volume.vmid == Some(VMID)))
        });
        match *case {
            "full" => bench.sim.inject(Fault::StorageFull { storage: "nvmeprom".to_owned() }),
            _ => node.restart_daemon(),
        }
        node.hold_tasks(false);
        node.release_all();
        let first = child.wait_with_output().unwrap();
        let seen = bench.seen(&first);
        if *case == "full" {
            assert_eq!(first.status.code(), Some(1), "{seen}");
            assert!(seen.contains("No space left on device"), "{seen}");
            assert!(seen.contains("VM 110 does not exist"), "{seen}");
        }
        if !first.status.success() {
            assert!(bench.sim.config(VMID).is_none(), "{seen}");
            assert!(node.read(|d| d.volumes.values().all(|volume| volume.vmid != Some(VMID))), "{seen}");
        }
        bench.sim.clear_faults();
        finished(&bench, args, false, &first);
    });
}

/// A run whose clone was killed, as by a power failure of the node, when it had copied so many of the template's two
/// drives, and a volume of which no configuration says anything: what is left is locked, and says whose it is only with
/// the first drive.
fn killed_clone(bench: &Bench, args: &[&str], drives: u32) -> Output {
    bench.sim.inject(Fault::CloneKilled { drives });
    let first = bench.run(args);
    let seen = bench.seen(&first);
    assert_eq!(first.status.code(), Some(1), "{seen}");
    let left = bench.sim.config(VMID).unwrap();
    assert_eq!(left.get("lock"), Some("clone"), "{seen}");
    let there = ["efidisk0", "scsi0"].map(|slot| left.get(slot).is_some());
    assert_eq!(there, [drives > 0, drives > 1], "{left}");
    assert_eq!(left.to_string().contains("name=test-automation vmid=110 nonce="), drives > 0, "{left}");
    bench.sim.node().change(|d| {
        let base = d.volumes.iter().find(|(id, _)| id.contains("base-9002-disk-0")).unwrap();
        let part = pve_sim::data::Volume { vmid: Some(VMID), ctime: 0, ..base.1.clone() };
        d.volumes.insert(format!("nvmeprom:{VMID}/vm-{VMID}-disk-7.qcow2"), part);
    });
    first
}

/// Nothing of the VM's number is on the node.
fn cleared(bench: &Bench, seen: &str) {
    assert!(bench.sim.config(VMID).is_none(), "{seen}");
    let of_it = |d: &pve_sim::data::Data| d.volumes.values().filter(|v| v.vmid == Some(VMID)).count();
    assert_eq!(bench.sim.node().read(of_it), 0, "{seen}");
}

/// What a killed clone left is ours when the node's task is the one that our run had it start, however far it came.
#[test]
fn the_remainder_of_our_own_clone_is_removed_and_cloned_again() {
    let args = &[NAME, "--yes", "--no-install"];
    all(&[0, 1, 2], |drives| {
        let bench = Bench::new();
        let first = killed_clone(&bench, args, *drives);
        let changes = bench.sim.changes().len();
        let dry = bench.run(&[NAME, "--dry-run", "--no-install"]);
        let seen = bench.seen(&dry);
        assert!(dry.status.success(), "{seen}");
        assert!(seen.contains("1. Remove what a killed clone left, and clone template VM"), "{seen}");
        let shown = "DELETE /nodes/prom/qemu/110 purge=1 destroy-unreferenced-disks=1 skiplock=1";
        assert!(seen.contains(shown), "{seen}");
        assert_eq!(bench.sim.changes().len(), changes, "{seen}");
        finished(&bench, args, false, &first);
    });
}

/// Who wants no VM any more need not finish it first.
#[test]
fn the_remainder_of_our_own_clone_is_destroyed() {
    let args = &[NAME, "--yes", "--no-install"];
    all(&[0, 1, 2], |drives| {
        let bench = Bench::new();
        killed_clone(&bench, args, *drives);
        let gone = bench.run(&["destroy", NAME, "--confirm", NAME, "--yes"]);
        let seen = bench.seen(&gone);
        assert!(gone.status.success(), "{seen}");
        cleared(&bench, &seen);
    });
    // A failed run takes it back when asked to.
    let bench = Bench::new();
    killed_clone(&bench, args, 0);
    let message = "it was not to be".to_owned();
    bench.sim.inject(Fault::TaskFails { kind: "qmclone".to_owned(), message });
    let undone = bench.run(&[NAME, "--yes", "--no-install", "--on-failure", "destroy"]);
    let seen = bench.seen(&undone);
    assert_eq!(undone.status.code(), Some(1), "{seen}");
    cleared(&bench, &seen);
}

/// What a clone has written so far carries our marker and settings; the run that finds it waits for the rest.
#[test]
fn a_clone_that_goes_on_without_its_run_is_waited_for() {
    let bench = Bench::new();
    let args = &[NAME, "--yes", "--no-install"];
    bench.sim.inject(Fault::CloneHeld { drives: 1 });
    let mut child = start(&bench, args);
    until("the first drive", 60, || {
        assert!(child.try_wait().unwrap().is_none(), "it was never cloned");
        bench.sim.config(VMID).is_some_and(|config| config.get("efidisk0").is_some())
    });
    Strike::KillRun.strike(&bench, &child);
    let first = child.wait_with_output().unwrap();
    let half = bench.sim.config(VMID).unwrap();
    assert!(half.to_string().contains("name=test-automation vmid=110 nonce="), "{half}");
    assert_eq!((half.lock(), half.get("scsi0")), (Some("clone"), None), "{half}");
    // It looks at what is there a few times, and does nothing about it, until the clone is done.
    let looks = || bench.sim.calls().iter().filter(|call| call.contains("/qemu/110/status/current")).count();
    let (before, changes) = (looks(), bench.sim.changes());
    let mut again = start(&bench, args);
    until("its looks at the clone", 60, || again.try_wait().unwrap().is_some() || looks() > before + 2);
    assert_eq!(bench.sim.changes(), changes);
    bench.sim.clear_faults();
    let again = again.wait_with_output().unwrap();
    let seen = bench.seen(&again);
    assert!(again.status.success(), "{seen}");
    assert!(seen.contains("VM 110 is being made by an earlier run: waiting for it..."), "{seen}");
    let cloned = bench.sim.changes().iter().filter(|change| change.contains("/clone")).count();
    assert_eq!(cloned, 1, "{seen}");
    assert!(bench.sim.config(VMID).unwrap().get("scsi0").unwrap().contains("size=20G"), "{seen}");
    finished(&bench, args, false, &first);
}

/// A clone of several disks has its settings with the first of them, and our marker: it is not taken for whole.
#[test]
fn a_clone_that_was_killed_between_two_disks_is_not_gone_on_with() {
    let args = &[NAME, "--yes", "--no-install"];
    let killed = || {
        let bench = Bench::new();
        bench.sim.inject(Fault::TaskKilled { kind: "qmclone".to_owned(), cleaned: false });
        let first = bench.run(args);
        let seen = bench.seen(&first);
        assert_eq!(first.status.code(), Some(1), "{seen}");
        let config = bench.sim.config(VMID).unwrap();
        assert_eq!((config.get("lock"), config.get("name")), (Some("clone"), Some(NAME)), "{seen}");
        assert!(config.to_string().contains("name=test-automation vmid=110 nonce="), "{config}");
        (bench, first)
    };
    let (bench, first) = killed();
    finished(&bench, args, false, &first);
    // Without the run's journal nobody knows which task made it: a person is told what to do, and it goes on then.
    let (bench, first) = killed();
    std::fs::remove_dir_all(bench.sim.dir().join("home/.local/state/fleet/runs")).unwrap();
    let changes = bench.sim.changes().len();
    let by_hand = "qm unlock 110 && qm destroy 110";
    for args in [&args[..], &["destroy", NAME, "--confirm", NAME, "--yes"]] {
        let again = bench.run(args);
        let seen = bench.seen(&again);
        assert_eq!(again.status.code(), Some(4), "{seen}");
        assert!(seen.contains(by_hand), "{seen}");
        assert_eq!(bench.sim.changes().len(), changes, "{seen}");
    }
    bench.sim.node().change(|d| {
        d.vms.remove(&VMID);
        d.volumes.retain(|_, volume| volume.vmid != Some(VMID));
    });
    finished(&bench, args, false, &first);
}

/// One that no run of ours began, or that a later clone may have left, is not waited for and not touched.
#[test]
fn the_remainder_of_a_strangers_clone_is_told_at_once() {
    let bench = Bench::new();
    let args = &[NAME, "--yes", "--no-install"];
    killed_clone(&bench, args, 0);
    let changes = bench.sim.changes().len();
    let refused = |code: i32, words: &[&str]| {
        let again = bench.run(args);
        let seen = bench.seen(&again);
        assert_eq!(again.status.code(), Some(code), "{seen}");
        for words in words.iter().chain(&[
            "hint: if it is your own clone's remainder, on its node: qm unlock 110 && qm destroy 110",
        ]) {
            assert!(seen.contains(words), "{words}: {seen}");
        }
        assert_eq!(bench.sim.changes().len(), changes, "{seen}");
    };
    // Ours was removed by hand, and somebody cloned into the same VMID since.
    bench.sim.node().change(|d| {
        let mut theirs = d.tasks.iter().rfind(|task| task.kind == "qmclone").unwrap().clone();
        let began = theirs.upid.split(':').nth(3).unwrap();
        theirs.upid = theirs.upid.replace(began, "FFFFFFFF");
        d.tasks.push(theirs);
    });
    refused(3, &["is later, and may have made it"]);
    std::fs::remove_dir_all(bench.sim.dir().join("home/.local/state/fleet/runs")).unwrap();
    refused(
        4,
        &["VM 110 is locked by a clone that nothing on the node works on any more, and no run here began it"],
    );
}

#[test]
fn another_machine_at_the_nodes_address_is_refused() {
    let bench = Bench::new();
    bench.sim.expect_another_host_key();
    let output = bench.run(&[NAME, "--yes"]);
    assert_eq!(output.status.code(), Some(6), "{}", bench.seen(&output));
    assert_eq!(bench.sim.changes(), [] as [String; 0]);
}
