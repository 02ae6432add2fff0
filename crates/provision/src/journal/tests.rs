use std::collections::BTreeMap;

use super::*;

fn beginning() -> Event {
    Event::Begin {
        verb: Verb::Provision,
        name: "web".parse().unwrap(),
        vmid: "110".parse().unwrap(),
        command: vec!["provision-vm".into(), "web".into()],
        versions: BTreeMap::new(),
        steps: vec![Step::Clone],
    }
}

#[test]
fn a_run_is_read_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::begin_in(dir.path(), &beginning(), None).unwrap();
    journal.started(Step::Clone);
    journal.request(&Op::Start { vmid: "110".parse().unwrap() });
    journal.progress("task UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:");
    journal.progress("transferred 1 GiB of 2 GiB (50%)");
    journal.progress("VM 110 is locked (clone); waiting for the task that works on it: UPID:prom:00000001:");
    journal.ended(Step::Clone, Outcome::Done, Duration::from_millis(1500), "VM cloned");
    let past = Past::last_in(dir.path()).unwrap();
    assert_eq!((past.end(), past.last_step()), (None, Some(Step::Clone)));
    journal.end(Err(&Error::conflict("taken")));
    let past = Past::last_in(dir.path()).unwrap();
    assert_eq!(past.end(), Some((Outcome::Failed, 4)));
    assert_eq!(past.records[0].event, beginning());
    assert_eq!(
        past.records[3].event,
        Event::Task {
            step: Some(Step::Clone),
            upid: "UPID:prom:00000ED5:000AE788:6B03B82C:qmclone:9002:root@pam:".into()
        }
    );
    assert_eq!(past.records.len(), 6, "{past:?}");
    assert_eq!(journal.took(), [(Step::Clone, Duration::from_millis(1500))]);
}

#[test]
fn a_line_that_was_cut_short_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    drop(Journal::begin_in(dir.path(), &beginning(), None).unwrap());
    let path = journals(dir.path()).pop().unwrap();
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"time\":\"2026");
    fs::write(&path, text).unwrap();
    assert_eq!(Past::last_in(dir.path()).unwrap().records.len(), 1);
}

#[test]
fn what_is_hidden_is_written_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("etc/ssh/key");
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(&key, "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END KEY-----\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let journal = Journal::begin_in(dir.path(), &beginning(), None).unwrap();
    journal.hide_files(keys.path());
    journal.output("it printed b3BlbnNzaC1rZXktdjEAAAAA!");
    journal.command("run --with b3BlbnNzaC1rZXktdjEAAAAA");
    journal.end(Err(&Error::failed("b3BlbnNzaC1rZXktdjEAAAAA and AGE-SECRET-KEY-1QQQ, too")));
    for entry in fs::read_dir(dir.path()).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("b3BlbnNza") && !text.contains("1QQQ"), "{text}");
        assert!(text.contains("(hidden)"), "{text}");
    }
}

#[test]
fn only_the_last_runs_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..KEPT + 5 {
        fs::write(dir.path().join(format!("20260101T0000{number:02}.000Z-1.jsonl")), "").unwrap();
        fs::write(dir.path().join(format!("20260101T0000{number:02}.000Z-1.log")), "").unwrap();
    }
    drop(Journal::begin_in(dir.path(), &beginning(), None).unwrap());
    assert_eq!(journals(dir.path()).len(), KEPT);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2 * KEPT);
    assert!(!dir.path().join("20260101T000005.000Z-1.jsonl").exists());
}

#[test]
fn a_short_copy_is_told_by_its_end_alone_and_a_long_one_now_and_then() {
    let begun = Instant::now();
    let mut pace = Pace(begun);
    let mut told = vec![0.0, 1.0, 2.9, 3.0, 3.1, 5.9, 6.1, 9.0, 20.0];
    told.retain(|at| pace.due(begun + Duration::from_secs_f64(*at)));
    assert_eq!(told, [3.0, 6.1, 20.0]);
}

#[test]
fn what_changed_a_vm_often_leaves_what_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let beginning = |verb| {
        let Event::Begin { name, vmid, command, versions, steps, .. } = beginning() else { unreachable!() };
        Event::Begin { verb, name, vmid, command, versions, steps }
    };
    let begin = |verb| Journal::begin_in(dir.path(), &beginning(verb), None).unwrap();
    let made = begin(Verb::Provision);
    made.request(&Op::Start { vmid: "110".parse().unwrap() });
    for number in 0..KEPT {
        for verb in ["apply", "destroy"] {
            fs::write(dir.path().join(format!("20991231T2359{number:02}.000Z-{verb}-1.jsonl")), "").unwrap();
        }
    }
    begin(Verb::Apply);
    begin(Verb::Destroy);
    let left = journals(dir.path());
    let of = |verb| left.iter().filter(|path| Verb::of(path) == verb).count();
    assert_eq!([of(Verb::Provision), of(Verb::Apply), of(Verb::Destroy)], [1, KEPT, KEPT]);
    let own = |path: &PathBuf| Past { path: path.clone(), records: Vec::new() }.process();
    assert_eq!(left.iter().filter(|path| own(path) == i32::try_from(std::process::id()).ok()).count(), 3);
}
