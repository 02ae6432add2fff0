//! What is asked on a terminal, with somebody there who types.
#![allow(clippy::unwrap_used, reason = "a test that can not go on must stop")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod common;

use common::Bench;
use pve_sim::world::World;
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
    // Nobody is asked about a snapshot that there is not.
    let mut session = sit_down(&bench, &["rollback", "110", "befor"]);
    let said = session.exp_eof().unwrap();
    assert!(said.contains("VM 110 has no snapshot 'befor'") && !said.contains("(y/N)"), "{said}");
    assert!(ended(&session).ends_with(", 5)"));
}

#[test]
fn whoever_says_no_is_told_so_in_json_too() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["snapshot", "110", "before"]);
    let mut session = sit_down(&bench, &["--json", "rollback", "110", "before"]);
    session.exp_string("Continue? (y/N) ").unwrap();
    session.send_line("n").unwrap();
    session.exp_string(r#"{"error":{"kind":"interrupted""#).unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 130)"));
}

/// A shell that runs it and then says what the terminal is like.
fn and_the_terminal_after(bench: &Bench, args: &[&str]) -> PtySession {
    let inner = bench.std_command(args);
    let mut shell = std::process::Command::new("sh");
    bench.sim.apply(&mut shell);
    shell.current_dir(bench.fleet.path());
    shell.args(["-c", "stty echo; trap : INT; \"$@\"; echo \"code=$?\"; stty -a", "sh"]);
    shell.arg(inner.get_program()).args(inner.get_args());
    rexpect::session::spawn_command(shell, Some(20_000)).unwrap()
}

#[test]
fn q_and_ctrl_c_leave_top_and_the_terminal_as_it_was() {
    let bench = Bench::new();
    for leave in ["q", "\u{3}"] {
        let mut session = and_the_terminal_after(&bench, &["top", "--every", "3600"]);
        // The last line of the table, and the rest of the screen wiped: it waits now.
        session.exp_string("\u{1b}[J").unwrap();
        session.send("x").unwrap();
        session.send(leave).unwrap();
        session.flush().unwrap();
        session.exp_string("code=0").unwrap();
        let said = session.exp_eof().unwrap();
        assert!(said.contains(" icanon ") && said.contains(" echo "), "{said}");
    }
}

/// A screen that is full does not scroll: its first line stays, and says what the table is sorted by.
#[test]
fn top_fits_into_a_low_terminal() {
    let bench = Bench::new();
    let inner = bench.std_command(&["top", "--every", "3600"]);
    let mut shell = std::process::Command::new("sh");
    bench.sim.apply(&mut shell);
    shell.current_dir(bench.fleet.path());
    shell
        .args(["-c", "stty rows 4 cols 80; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let mut session = rexpect::session::spawn_command(shell, Some(20_000)).unwrap();
    session.exp_string("\u{1b}[H").unwrap();
    let page = session.exp_string("\u{1b}[J").unwrap();
    assert!(page.contains("running, the busiest CPU first"), "{page}");
    session.send("q").unwrap();
    session.flush().unwrap();
    let rest = session.exp_eof().unwrap();
    assert_eq!(page.matches('\n').count() + rest.matches('\n').count(), 3, "{page:?} {rest:?}");
}

/// Whoever types a name says whose VM it is only where the definitions, or the marker, say so too.
#[test]
fn a_typed_name_makes_no_strangers_vm_ours() {
    const MARKER: &str = "fleet-vm: name=web vmid=333 nonce=00112233445566778899aabbccddeeff";
    let with =
        |vmid: u32, settings: &[(&str, &str)]| Bench::with(World::default().with_vm(vmid, false, settings));
    for (vmid, settings) in [
        (333, &[("name", "stranger")][..]),
        (110, &[("name", "stranger")]),
        // A copy by hand.
        (334, &[("name", "web"), ("description", MARKER)]),
    ] {
        let (bench, vmid) = (with(vmid, settings), vmid.to_string());
        let mut session = sit_down(&bench, &["destroy", &vmid, "yes", "--unmanaged", &vmid]);
        session.exp_string("nothing proves that it is ours").unwrap();
        session.exp_eof().unwrap();
        assert!(ended(&session).ends_with(", 3)"), "{vmid}");
        assert_eq!(bench.sim.changes(), [] as [String; 0]);
    }
    for (vmid, name, settings, why) in [
        (110, "test-automation", &[("name", "test-automation")][..], "these tools did not make it"),
        (333, "web", &[("name", "web"), ("description", MARKER)], "no definition has it"),
    ] {
        let (bench, number) = (with(vmid, settings), vmid.to_string());
        let args = ["destroy", &number, "yes", "--unmanaged", &number];
        // Without a terminal nobody types.
        assert_eq!(bench.run(&args).code, 3);
        let mut session = sit_down(&bench, &args);
        session.exp_string(why).unwrap();
        session.exp_string("Type its name to destroy it: ").unwrap();
        session.send_line(name).unwrap();
        session.exp_eof().unwrap();
        assert!(ended(&session).ends_with(", 0)"), "{vmid}");
        assert!(bench.sim.config(vmid).is_none());
    }
}

#[test]
fn a_template_that_these_tools_made_goes_after_its_linked_clones() {
    let bench = Bench::new();
    let image = ["--import", "nvmeprom:import/debian-13.qcow2", "--name", "old"];
    bench.ok(&[&["create-template", "9005", "--unmanaged", "9005"][..], &image].concat());
    bench.ok(&["clone", "9005", "110", "test-automation", "--linked"]);
    let args = ["destroy", "9005", "--unmanaged", "9005"];
    let before = bench.sim.changes();
    let mut session = sit_down(&bench, &args);
    session.exp_string("refused to destroy VM 9005: it is a template with linked clones").unwrap();
    let said = session.exp_eof().unwrap();
    assert!(said.contains("nvmeprom:9005/base-9005-disk-1.qcow2/110/vm-110-disk-"), "{said}");
    assert!(ended(&session).ends_with(", 3)"));
    assert_eq!(bench.sim.changes(), before);
    bench.ok(&["destroy", "110", "yes"]);
    let mut session = sit_down(&bench, &args);
    session.exp_string("Type its name to destroy it: ").unwrap();
    session.send_line("old").unwrap();
    session.exp_string("VM 9005 'old' and its disks are gone").unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 0)"));
    assert!(bench.sim.config(9005).is_none());
}

#[test]
fn on_a_narrow_terminal_no_row_of_a_table_wraps() {
    let bench = Bench::new();
    bench.clone_110();
    bench.ok(&["snapshot", "110", "before", "--description", &"a text that is long ".repeat(9)]);
    for args in [&["list"][..], &["ps"], &["storage"], &["snapshots", "110"]] {
        let piped = bench.ok(args);
        let mut before = usize::MAX;
        for columns in [200, 80, 60, 40] {
            let seen = bench.finish(&mut bench.on_columns(columns, args)).out.replace('\r', "");
            assert_eq!(seen.lines().count(), piped.lines().count(), "{columns}: {seen}");
            let widest = seen.lines().map(fleet_core::ui::width).max().unwrap();
            assert!(widest <= columns && widest <= before, "{columns}: {seen}");
            before = widest;
        }
    }
    // Where there is room nothing is left out.
    assert_eq!(
        bench.finish(&mut bench.on_columns(200, &["list"])).out.replace('\r', ""),
        bench.ok(&["list"])
    );
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
    // Somebody else's VM in its place: what is typed there is a change.
    bench.sim.edit(110, |conf| {
        conf.main.insert("name".into(), "pihole".into());
        conf.main.remove("description");
    });
    let mut session = sit_down(&bench, &["console", "110"]);
    session.exp_string("refused to open the console of VM 110: VM 110 is not 'test-automation'").unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 3)"));
    // On another node, from this one on.
    let mut world = World {
        node: "b".to_owned(),
        address: "192.0.2.3".to_owned(),
        containers: vec![],
        ..World::default()
    };
    world.vms.clear();
    let world = world.with_vm(333, true, &[("name", "web"), ("memory", "512"), ("serial0", "socket")]);
    let _b = bench.sim.join(world);
    let mut session = sit_down(&bench, &["console", "333", "--unmanaged", "333"]);
    session.exp_string("starting serial terminal on interface serial0").unwrap();
    session.send_control('o').unwrap();
    session.exp_eof().unwrap();
    assert!(ended(&session).ends_with(", 0)"));
}

/// The node asks before anything is tried, or where the straight way is not open; in each once.
#[test]
fn waiting_for_ssh_asks_about_the_node_once() {
    let bench = Bench::new();
    bench.sim.forget_host_key();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for (route, connections, code) in [("node", 1, 6), ("auto", 2, 8)] {
        let before = bench.sim.connections();
        let mut command = bench.std_command(&["wait-ssh", "127.0.0.1", "2", "--port", &port]);
        command.env("FLEET_ROUTE", route);
        let mut session = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        session.exp_string("own console shows? (y/N) ").unwrap();
        session.send_line("n").unwrap();
        let said = session.exp_eof().unwrap();
        assert!(said.contains("you did not say yes") || said.contains("through the node: "), "{said}");
        assert!(!said.contains("(y/N)"), "{said}");
        assert!(ended(&session).ends_with(&format!(", {code})")), "{route}: {said}");
        assert_eq!(bench.sim.connections() - before, connections, "{route}");
    }
    // How long somebody thinks is not counted.
    let address = bench.sim.guest(104).unwrap().1;
    let mut session = sit_down(&bench, &["wait-ssh", &address, "2"]);
    session.exp_string("own console shows? (y/N) ").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    session.send_line("y").unwrap();
    session.exp_string("SSH answers on").unwrap();
    session.exp_eof().unwrap();
}

#[test]
fn whoever_stops_at_a_passphrase_sees_again_what_they_type() {
    let bench = Bench::new();
    let Some(keygen) = fleet_core::child::find_program("ssh-keygen") else {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "ssh-keygen is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        return;
    };
    let locked = bench.fleet.path().join("locked");
    let mut make = std::process::Command::new(keygen);
    make.args(["-q", "-t", "ed25519", "-N", "open sesame", "-f"]).arg(&locked);
    assert!(make.status().unwrap().success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    // No key without one is let in, or there is none: somebody has to be asked.
    bench.sim.inject(pve_sim::faults::Fault::LoginRefused);
    for (route, other_keys) in [("node", true), ("auto", true), ("auto", false)] {
        if !other_keys {
            std::fs::remove_file(bench.sim.identity()).unwrap();
        }
        let inner = bench.std_command(&["wait-ssh", "127.0.0.1", "60", "--port", &port]);
        let mut shell = std::process::Command::new("sh");
        bench.sim.apply(&mut shell);
        shell.env("FLEET_IDENTITY", &locked).env("FLEET_ROUTE", route).current_dir(bench.fleet.path());
        shell
            .args(["-c", "stty echo; trap : INT; \"$@\"; stty -a", "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        let mut session = rexpect::session::spawn_command(shell, Some(20_000)).unwrap();
        session.exp_string("Passphrase for ").unwrap();
        session.send_control('c').unwrap();
        session.exp_string("stopped by the user").unwrap();
        let said = session.exp_eof().unwrap();
        assert!(said.contains(" echo ") && !said.contains("-echo "), "{route}, {other_keys}: {said}");
    }
}
