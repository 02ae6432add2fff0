use super::*;

fn run(script: &str) -> Result<Built> {
    run_for(script, None)
}

fn run_for(script: &str, unknown: Option<&Unknown>) -> Result<Built> {
    let command = Command::new("sh").args(["-c", script]);
    read(&command, &command.output(Deadline::secs(20)).unwrap(), unknown)
}

#[test]
fn what_a_flake_lacks_before_the_fleet_knows_the_vm_is_no_fault_of_its_own() {
    let unknown = |later| Unknown {
        name: "web".to_owned(),
        config: "web-config".to_owned(),
        later,
        probe: Command::new("true"),
    };
    let said = |words: &str, later: bool| {
        run_for(&format!("cat >&2 <<'END'\n{words}\nEND\nexit 1"), Some(&unknown(later)))
    };
    let given = |words: &str| match said(words, true) {
        Ok(Built::NotYet(_)) => "its entry",
        Ok(Built::NotGiven(_)) => "its system",
        other => panic!("{words}: {other:?}"),
    };
    for (words, lacks) in [
        (
            "error: flake 'git+file:///f' does not provide attribute \
             'packages.x86_64-linux.nixosConfigurations.\"web-config\".config.system.build.diskoScript', or x",
            "its system",
        ),
        ("error: attribute 'web-config' missing", "its system"),
        ("error: attribute 'web' missing\n  at /nix/store/x/flake.nix:1:2:", "its entry"),
        ("       error: attribute '\"web\"' missing", "its entry"),
    ] {
        assert_eq!(given(words), lacks, "{words}");
        let error = said(words, false).unwrap_err();
        assert!(error.hints()[1].ends_with(": --integrate before"), "{error:?}");
    }
    for words in ["error: attribute 'webb' missing", "error: undefined variable 'web'"] {
        let error = said(words, true).unwrap_err();
        assert_eq!((error.facts(), error.hints().len()), ([words.to_owned()].as_slice(), 1));
    }
}

/// A closure whose build is this script, of a VM `web` that hosts.nix does not know yet.
fn closure(script: &str, later: bool, probe: Command) -> Closure {
    let command = Command::new("sh").args(["-c", script]);
    Closure {
        running: Some(Background::start(command.clone())),
        command: Some(command),
        unknown: Some(Unknown { name: "web".to_owned(), config: "web".to_owned(), later, probe }),
        hostname: "web".to_owned(),
        config: "web".to_owned(),
        ..Closure::none()
    }
}

#[test]
fn only_a_flake_that_clearly_has_no_such_system_waits_for_the_fleet() {
    let lacks = "echo \"error: flake 'f' does not provide attribute 'nixosConfigurations.\\\"web\\\".config'\" >&2; exit 1";
    let asked = |probe: &str| closure(lacks, true, Command::new("sh").args(["-c", probe]));
    let mut waits = asked("echo false");
    waits.wait(|_| {}).unwrap();
    assert_eq!(waits.waits(), Some("the flake has no 'web' before"));
    let told = |probe: &str| asked(probe).wait(|_| {}).unwrap_err().facts().last().cloned().unwrap();
    assert!(told("echo true").starts_with("error: flake 'f' does not provide"));
    for probe in ["exit 1", "echo", "echo false; exit 1"] {
        assert_eq!(told(probe), "whether the flake has 'web' could not be found out", "{probe}");
    }
    // Its own entry is not there for sure, whatever else the flake has.
    let mut waits = closure(
        "echo \"error: attribute 'web' missing\" >&2; exit 1",
        true,
        Command::new("sh").args(["-c", "echo true"]),
    );
    waits.wait(|_| {}).unwrap();
    assert_eq!(waits.waits(), Some("the flake reads the entry of 'web' in hosts.nix"));
}

#[test]
fn a_name_is_judged_when_it_is_built_for_the_last_time() {
    let dir = tempfile::tempdir().unwrap();
    let (system, disko) = (dir.path().join("nixos-system-web"), dir.path().join("disko"));
    std::fs::create_dir_all(system.join("etc")).unwrap();
    std::fs::write(system.join("etc/hostname"), "nixos\n").unwrap();
    std::fs::write(&disko, "").unwrap();
    let row = |path: &Path| format!(r#"{{"outputs":{{"out":"{}"}}}}"#, path.display());
    let script = format!("echo '[{},{}]'", row(&system), row(&disko));
    let named = |closure: &mut Closure| closure.wait(|_| {}).map(drop).map_err(|e| e.message().to_owned());
    let wrong = Err("the system that was built calls itself 'nixos', not 'web'".to_owned());
    let mut before = closure(&script, true, Command::new("true"));
    assert_eq!(named(&mut before), Ok(()));
    before.again();
    assert_eq!(named(&mut before), wrong);
    assert_eq!(named(&mut closure(&script, false, Command::new("true"))), wrong);
}

#[test]
fn a_system_of_another_name_is_told_before_it_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    has_name(dir.path(), "web", "web").unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    for (text, fits) in [("web\n", true), ("", true), ("nixos\n", false)] {
        std::fs::write(dir.path().join("etc/hostname"), text).unwrap();
        assert_eq!(has_name(dir.path(), "web", "web").is_ok(), fits, "{text}");
    }
}

#[test]
fn the_order_of_nix_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let (system, disko) = (dir.path().join("nixos-system-web"), dir.path().join("disko"));
    std::fs::create_dir(&system).unwrap();
    std::fs::write(&disko, "").unwrap();
    let row = |path: &Path| format!(r#"{{"drvPath":"/x.drv","outputs":{{"out":"{}"}}}}"#, path.display());
    for rows in [[row(&system), row(&disko)], [row(&disko), row(&system)]] {
        let built = run(&format!("echo '[{}]'", rows.join(","))).unwrap();
        let paths = StorePaths { disko: disko.clone(), system: system.clone() };
        assert_eq!(built, Built::Here(Source::Built(paths)));
    }
    assert!(run("echo '[]'").is_err());
    assert!(run(&format!("echo '[{}]'", row(&system))).is_err());
    let script = run(&format!("echo '[{}]'", row(&disko))).unwrap();
    assert_eq!(script, Built::Here(Source::Script(disko)));
}

#[test]
fn another_kind_of_machine_is_told_apart_from_a_broken_configuration() {
    for words in [
        "error: a 'x86_64-linux' with features {} is required to build '/nix/store/x-disko.drv', but I am a \
         'aarch64-darwin' with features {benchmark}",
        "error: Cannot build '/nix/store/x.drv'.\n  Reason: required system or feature not available",
    ] {
        assert!(matches!(run(&format!("echo \"{words}\" >&2; exit 1")), Ok(Built::NotHere(_))), "{words}");
    }
    let error = run("echo 'error: attribute '\"'\"'web'\"'\"' missing' >&2; exit 1").unwrap_err();
    assert_eq!(error.message(), "the system can not be built: nix exited with 1");
    assert_eq!(error.facts(), ["error: attribute 'web' missing"]);
}

#[test]
fn a_build_that_is_not_needed_any_more_ends_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    // One of them heeds no request.
    let script = "(trap '' TERM; echo $$ >> \"$0\"; exec sleep 300) & echo $$ >> \"$0\"; echo on; wait";
    let build = Background::start(Command::new("bash").args(["-c", script]).arg(&file));
    assert_eq!(build.next_line(Duration::from_secs(20)).as_deref(), Some("on"));
    drop(build);
    let group = std::fs::read_to_string(&file).unwrap();
    let group = rustix::process::Pid::from_raw(group.lines().next().unwrap().parse().unwrap()).unwrap();
    let gone = || rustix::process::test_kill_process_group(group).is_err();
    // Who was killed is gone once its new parent has noticed.
    fleet_core::deadline::poll(Deadline::secs(20), "the group to be gone", || {
        Ok(if gone() { Ok(()) } else { Err("something of it still runs".to_owned()) })
    })
    .unwrap();
}
