//! What is wrong with an argument is told, for every verb that takes it: one table, every word of every answer.
#![allow(clippy::unwrap_used, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, KEY};
use std::fmt::Write;

/// Tasks' ids are new in every run.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("UPID:") {
        out.push_str(before);
        out.push_str("UPID");
        rest = after.find("@pam:").map_or("", |end| &after[end + 5..]);
    }
    out + rest
}

/// Runs each line, and writes down what it says and how it ends.
fn told(bench: &Bench, lines: &[&[&str]]) -> String {
    let mut all = String::new();
    for args in lines {
        let ran = bench.run(args);
        let shown: Vec<String> = args.iter().map(|arg| fleet_core::child::quote(arg)).collect();
        assert!(ran.out.is_empty() || ran.code == 0, "{args:?}: {}", ran.out);
        write!(all, "$ proxmox-ops {}\n{}[{}]\n\n", shown.join(" "), without_ids(&ran.err), ran.code)
            .unwrap();
    }
    all
}

/// The verbs that change a VM, with what else they need.
const CHANGES: &[(&str, &[&str])] = &[
    ("configure", &["2", "2048"]),
    ("create-disk", &["5G"]),
    ("resize", &["scsi0", "40G"]),
    ("cloudinit-drive", &[]),
    ("cloudinit-config", &[KEY]),
    ("start", &[]),
    ("stop", &[]),
    ("shutdown", &[]),
    ("reboot", &[]),
    ("destroy", &["yes"]),
    ("snapshot", &["before"]),
    ("rollback", &["before", "--yes"]),
    ("delete-snapshot", &["before"]),
    ("exec", &["--", "true"]),
    ("backup", &[]),
];

/// The verbs that read one.
const READS: &[&str] = &["status", "config", "snapshots", "get-ip", "host-key", "connect"];

fn of_each<'a>(verbs: &[(&'a str, &[&'a str])], vm: &'a str) -> Vec<Vec<&'a str>> {
    verbs.iter().map(|(verb, more)| [&[*verb, vm], *more].concat()).collect()
}

fn slices<'a>(lines: &'a [Vec<&'a str>]) -> Vec<&'a [&'a str]> {
    lines.iter().map(Vec::as_slice).collect()
}

#[test]
fn a_vm_that_there_is_not() {
    let bench = Bench::new();
    let mut lines = Vec::new();
    for vm in ["777", "nosuch", "no such", "99"] {
        lines.extend(READS.iter().map(|verb| vec![*verb, vm]));
    }
    // Defined, and not made yet.
    lines.extend(READS.iter().map(|verb| vec![*verb, "110"]));
    lines.extend(of_each(CHANGES, "test-automation"));
    // Defined nowhere.
    for vm in ["777", "test-automatoin"] {
        lines.extend(of_each(CHANGES, vm));
    }
    lines.push(vec!["template", "777"]);
    lines.push(vec!["template", "nosuch"]);
    lines.push(vec!["clone", "9009", "110", "test-automation"]);
    lines.push(vec!["clone", "nosuch", "110", "test-automation"]);
    lines.push(vec!["clone", "9002", "777", "web"]);
    lines.push(vec!["restore", "local:backup/vzdump-qemu-110.vma.zst", "777"]);
    insta::assert_snapshot!(told(&bench, &slices(&lines)));
    assert_eq!(bench.sim.changes(), Vec::<String>::new());
}

#[test]
fn a_template_given_as_a_vm_and_a_vm_as_a_template() {
    let bench = Bench::new();
    bench.clone_110();
    let mut lines = of_each(CHANGES, "ubuntu-cloud-template");
    lines.push(vec!["restore", "local:backup/vzdump-qemu-110.vma.zst", "9002"]);
    lines.push(vec!["clone", "9002", "9002", "web"]);
    lines.extend(["get-ip", "host-key", "connect"].map(|verb| vec![verb, "9002"]));
    lines.push(vec!["template", "110"]);
    lines.push(vec!["create-template", "110", "--import", "local:import/x.qcow2"]);
    let before = bench.sim.changes();
    insta::assert_snapshot!(told(&bench, &slices(&lines)));
    assert_eq!(bench.sim.changes(), before);
}

#[test]
fn sizes_names_storages_and_ranges() {
    let bench = Bench::new();
    let absent: &[&[&str]] = &[
        &["clone", "9002", "110", "bad name"],
        &["clone", "9002", "110", "a_b"],
        &["clone", "9002", "110", "-x"],
        &["clone", "9002", "110", "x.-y"],
        &["clone", "9002", "110", ""],
        &["clone", "9002", "110", "test-automation", "nosuch"],
        &["clone", "9002", "110", "test-automation", "local"],
        &["clone", "9002", "110", "test-automation", "../x"],
        &["create-template", "9003", "--import", "local:import/x.qcow2", "--name", "bad name"],
        &["restore", "local:backup/nosuch.vma.zst", "110"],
        &["restore", "/var/lib/vz/dump/x.vma.zst", "110"],
        &["restore", "local:backup/x.vma.zst", "110", "../x"],
        &["next-vmid", "200", "100"],
        &["next-vmid", "x"],
        &["next-vmid", "99", "200"],
        &["next-vmid", "100", "1000000000"],
    ];
    let mut all = told(&bench, absent);
    bench.clone_110();
    let before = bench.sim.changes().len();
    let there: &[&[&str]] = &[
        &["resize", "110", "scsi0", "20"],
        &["resize", "110", "scsi0", "20X"],
        &["resize", "110", "scsi0", "20GB"],
        &["resize", "110", "scsi0", "+5G"],
        &["resize", "110", "scsi0", "0G"],
        &["resize", "110", "scsi0", "1G"],
        &["resize", "110", "scsi9", "40G"],
        &["resize", "110", "disk0", "40G"],
        &["resize", "110", "scsi31", "40G"],
        &["create-disk", "110", "-5G"],
        &["exec", "110", "--", "echo", "\u{2018}"],
        &["status", "0110"],
        &["create-disk", "110", "20"],
        &["create-disk", "110", "0G"],
        &["create-disk", "110", "5G", "nvmeprom", "scsi99"],
        &["configure", "110", "0", "2048"],
        &["configure", "110", "two", "2048"],
        &["configure", "110", "2", "4G"],
        &["configure", "110", "2", "256"],
        &["snapshot", "110", "x"],
        &["snapshot", "110", "current"],
        &["snapshot", "110", "1st"],
        &["backup", "110", "--storage", "nosuch"],
        &["backup", "110", "--storage", "nvmeprom"],
    ];
    all += &told(&bench, there);
    assert_eq!(bench.sim.changes().len(), before);
    // What only the node knows.
    let asked: &[&[&str]] = &[
        &["create-disk", "110", "5G", "nosuch"],
        &["create-disk", "110", "5G", "local"],
        &["cloudinit-drive", "110", "nosuch"],
        &["cloudinit-drive", "110", "local"],
    ];
    all += &told(&bench, asked);
    insta::assert_snapshot!(all);
}

#[test]
fn keys() {
    let bench = Bench::new();
    bench.clone_110();
    let before = bench.sim.changes().len();
    bench.fleet.write("empty", "");
    bench.fleet.write("blank", "\r\n \n");
    bench.fleet.write("comments", "# only\n# words\n");
    bench.fleet.write("broken", &format!("{KEY}\nssh-ed25519 AAAA\n"));
    bench.fleet.write(
        "private",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----\n",
    );
    let bad: &[&[&str]] = &[
        &["cloudinit-config", "110", ""],
        &["cloudinit-config", "110", "# only a comment"],
        &["cloudinit-config", "110", "ssh-rsa AAAA"],
        &["cloudinit-config", "110", "@"],
        &["cloudinit-config", "110", "@nosuch"],
        &["cloudinit-config", "110", "@empty"],
        &["cloudinit-config", "110", "@blank"],
        &["cloudinit-config", "110", "@comments"],
        &["cloudinit-config", "110", "@broken"],
        &["cloudinit-config", "110", "@private"],
        &["cloudinit-config", "110", "-"],
        &["cloudinit-config", "110", KEY, "bad_name"],
    ];
    let mut all = told(&bench, bad);
    assert_eq!(bench.sim.changes().len(), before);
    // These are good keys, written as people write them.
    bench.fleet.write("odd", &format!("# the fleet\r\n\r\n{KEY}\r\n"));
    all += &told(&bench, &[&["cloudinit-config", "110", "@odd"]]);
    insta::assert_snapshot!(all);
}

#[test]
fn hosts() {
    let bench = Bench::new();
    let mut all = String::new();
    for host in [
        "",
        "a b",
        "root@prom",
        "ssh://prom",
        "prom:",
        "prom:0",
        "prom:ssh",
        "prom:99999",
        "[::1",
        "[::1]x",
        "::1:x",
        "-oX",
    ] {
        let mut command = bench.command(&["list"]);
        let ran = bench.finish(command.env("PROXMOX_HOST", host));
        write!(all, "$ PROXMOX_HOST='{host}' proxmox-ops list\n{}[{}]\n\n", ran.err, ran.code).unwrap();
    }
    insta::assert_snapshot!(all);
    assert_eq!(bench.sim.connections(), 0);
    // A port in the host is none of them.
    let mut command = bench.command(&["status", "104"]);
    let ran = bench.finish(command.env("PROXMOX_HOST", format!("127.0.0.1:{}", bench.sim.port())));
    assert_eq!((ran.code, ran.out.as_str()), (0, "running\n"), "{}", ran.err);
}

/// All four tools have one way of it.
#[test]
fn a_command_line_that_is_none_is_told_in_json_too() {
    let bench = Bench::new();
    let run = |tool: &str, args: &[&str]| bench.sim.command(tool, &bench.fleet).args(args).output().unwrap();
    for (tool, args, says) in [
        ("proxmox-ops", &["--json", "configure", "110", "x", "2048"][..], "no number of cores, 1 to 8192"),
        ("proxmox-ops", &["resize", "110", "scsi0", "20", "--json"], "'20' for '<SIZE>'"),
        ("proxmox-ops", &["--json", "next-vmid", "0", "5"], "[START]"),
        ("proxmox-ops", &["status", "--json"], "were not provided: <VMID>"),
        ("proxmox-ops", &["--json", "foo"], "unrecognized subcommand 'foo'"),
        ("proxmox-ops", &["--json"], "subcommand"),
        ("cloudinit-gen", &["user-data", "--json", "--nosuch"], "unexpected argument '--nosuch'"),
        ("provision-vm", &["web", "--json", "--jobs", "0"], "a whole number from 1 to 64"),
        ("post-provision-vm", &["--json"], "were not provided: <NAME>"),
    ] {
        let ran = run(tool, args);
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!((ran.status.code(), &answer["error"]["exit_code"]), (Some(2), &2.into()), "{args:?}");
        assert_eq!(answer["error"]["kind"], "usage");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{args:?}: {answer}");
        let hints = answer["error"]["hints"].to_string();
        assert!(hints.contains(&format!("{tool} ")) && hints.contains("--help"), "{args:?}: {answer}");
        assert!(String::from_utf8_lossy(&ran.stderr).starts_with("error: "), "{args:?}");
        let plain: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--json").collect();
        let ran = run(tool, &plain);
        assert_eq!((ran.status.code(), ran.stdout.len()), (Some(2), 0), "{plain:?}");
    }
    for tool in ["proxmox-ops", "cloudinit-gen", "provision-vm", "post-provision-vm"] {
        let ran = run(tool, &["--json", "--version"]);
        assert_eq!(ran.status.code(), Some(0));
        assert!(String::from_utf8(ran.stdout).unwrap().starts_with(&format!("{tool} ")));
        let ran = run(tool, &["--help", "--json"]);
        assert_eq!(ran.status.code(), Some(0));
        assert!(String::from_utf8(ran.stdout).unwrap().contains(&format!("Usage: {tool} ")));
    }
    // What is a guest's own is none of ours.
    let ran = run("proxmox-ops", &["exec", "--nosuch", "110", "--", "ip", "--json", "address"]);
    assert_eq!((ran.status.code(), ran.stdout.len()), (Some(2), 0));
}
