//! An account that is not root, with an API token.
#![allow(clippy::unwrap_used, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, Ran, second};
use pve_sim::{faults::Fault, log::What, testing::Sim, world::World};

const ID: &str = "fleet@pve!ops";
const SECRET: &str = "c3a1d2e4-5b6f-4a7c-8d9e-0f1a2b3c4d5e";
/// What docs/proxmox.md asks for.
const RIGHTS: &[&str] = &[
    "Datastore.AllocateSpace",
    "Datastore.Audit",
    "Sys.Audit",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.Unrestricted",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];

fn bench(rights: &[&str]) -> Bench {
    Bench::with(World::default().with_account("fleet").with_token(ID, SECRET, rights))
}

/// Runs as that account; the token comes from the environment, or from a file.
fn run(bench: &Bench, args: &[&str], by_file: bool) -> Ran {
    let mut command = bench.command(args);
    command.env("PROXMOX_USER", "fleet");
    let token = format!("{ID}={SECRET}");
    if by_file {
        let path = bench.sim.dir().join("token");
        std::fs::write(&path, token + "\n").unwrap();
        command.env("PROXMOX_TOKEN_FILE", path);
    } else {
        command.env("PROXMOX_TOKEN", token);
    }
    bench.finish(&mut command)
}

#[test]
fn the_life_of_a_vm_with_a_token() {
    for by_file in [false, true] {
        let bench = bench(RIGHTS);
        let verbs: &[&[&str]] = &[
            &["list"],
            &["clone", "9002", "110", "test-automation"],
            &["configure", "110", "2", "2048"],
            &["resize", "110", "scsi0", "20G"],
            &["create-disk", "110", "4G"],
            &["cloudinit-config", "110", common::KEY],
            &["cloudinit-drive", "110"],
            &["snapshot", "110", "before"],
            &["backup", "110"],
            &["start", "110"],
            &["get-ip", "110", "--timeout", "20"],
            &["status", "110"],
            &["host-key", "110"],
            &["exec", "110", "--", "true"],
            &["stop", "110"],
            &["rollback", "110", "before", "--yes"],
            &["delete-snapshot", "110", "before"],
            &["destroy", "110", "yes"],
        ];
        for args in verbs {
            let ran = run(&bench, args, by_file);
            assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
            assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET));
            if args[0] == "create-disk" {
                // On a storage of files, of which it may not read the settings, it is one that takes snapshots.
                let config = bench.sim.config(110).unwrap();
                assert!(config.get("scsi1").is_some_and(|disk| disk.contains(".qcow2,")), "{config:?}");
            }
        }
        assert!(bench.sim.config(110).is_none());
        // Nothing was run as root: no ticket was minted, and each task carries the token's name.
        let minted =
            |w: &What| matches!(w, What::Exec { command, .. } if command.contains("PVE::AccessControl"));
        assert!(!bench.sim.requests().iter().any(|r| minted(&r.what)));
        let users: Vec<String> = bench.sim.node().read(|d| d.tasks.iter().map(|t| t.user.clone()).collect());
        assert!(users.iter().all(|user| user == ID) && !users.is_empty(), "{users:?}");
    }
}

#[test]
fn a_missing_privilege_is_named() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("VM.Clone", &["clone", "9002", "110", "test-automation"], "/vms/9002, VM.Clone"),
        ("VM.Config.CPU", &["configure", "110", "3", "2048"], "/vms/110, VM.Config.CPU"),
        ("VM.PowerMgmt", &["start", "110"], "/vms/110, VM.PowerMgmt"),
        ("VM.Snapshot", &["snapshot", "110", "before"], "/vms/110, VM.Snapshot"),
        ("VM.Backup", &["backup", "110"], "/vms/110, VM.Backup"),
        ("VM.Allocate", &["destroy", "110", "yes"], "/vms/110, VM.Allocate"),
    ];
    for (lacking, args, words) in cases {
        let rights: Vec<&str> = RIGHTS.iter().copied().filter(|right| right != lacking).collect();
        let bench = bench(&rights);
        if args[0] != "clone" {
            bench.clone_110();
        }
        let before = bench.sim.config(110);
        let ran = run(&bench, args, false);
        assert!(![0, 5, 7].contains(&ran.code), "{lacking}: {} {}", ran.code, ran.err);
        assert!(ran.err.contains(&format!("permission missing: {words}")), "{}", ran.err);
        assert!(ran.err.contains("hint: "), "{}", ran.err);
        assert_eq!(bench.sim.config(110), before, "{lacking}");
    }
}

/// Two nodes, on both of which the account may log in and the token is known. The account may not read the cluster's own
/// files: where the other node is the API says, and its host key is in the operator's known hosts.
fn two(rights: &[&str]) -> (Bench, Sim) {
    let bench = bench(rights);
    let b = bench.sim.join(second("192.0.2.3").with_account("fleet").with_token(ID, SECRET, rights));
    let known = std::fs::read_to_string(bench.sim.known_hosts()).unwrap();
    std::fs::write(bench.sim.known_hosts(), format!("{known}192.0.2.3 {}\n", b.host_key())).unwrap();
    (bench, b)
}

#[test]
fn a_vm_of_another_node_is_reached_with_a_token() {
    let (bench, b) = two(RIGHTS);
    let marker = format!("fleet-vm: name=test-automation vmid=110 nonce={}", "0123456789abcdef".repeat(2));
    b.edit(110, |conf| {
        conf.main.insert("description".into(), marker);
    });
    let verbs: &[&[&str]] = &[
        &["list"],
        &["status", "test-automation"],
        &["config", "110"],
        &["configure", "110", "2", "2048"],
        &["resize", "110", "scsi0", "20G"],
        &["create-disk", "110", "4G"],
        &["cloudinit-config", "110", common::KEY],
        &["cloudinit-drive", "110"],
        &["snapshot", "110", "before"],
        &["snapshots", "110"],
        &["start", "110"],
        &["get-ip", "110", "--timeout", "20"],
        &["host-key", "110", "--timeout", "20"],
        &["exec", "110", "--", "true"],
        &["reboot", "110"],
        &["stop", "110"],
        &["rollback", "110", "before", "--yes"],
        &["delete-snapshot", "110", "before"],
        &["destroy", "110", "yes"],
    ];
    for args in verbs {
        let ran = run(&bench, args, false);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET));
        match args[0] {
            "list" => assert!(ran.out.contains("test-automation") && ran.out.contains("doc1"), "{}", ran.out),
            "get-ip" => assert_eq!(ran.out.trim_end(), b.guest(110).unwrap().1),
            _ => {}
        }
    }
    assert!(b.config(110).is_none());
    assert_eq!(bench.sim.changes(), Vec::<String>::new(), "the first node was asked to change something");
    // On the other node, too, it is the token that acts, and nobody logs in as root.
    let tasks: Vec<(String, String)> =
        b.node().read(|d| d.tasks.iter().map(|t| (t.user.clone(), t.kind.clone())).collect());
    let others: Vec<_> = tasks.iter().filter(|(user, _)| user != ID).collect();
    // The start that a reboot ends with is the node's own.
    assert_eq!(others, [&("root@pam".to_owned(), "qmstart".to_owned())], "{tasks:?}");
    for sim in [&bench.sim, &b] {
        let root = |w: &What| matches!(w, What::Login { user, .. } if user != "fleet");
        let minted =
            |w: &What| matches!(w, What::Exec { command, .. } if command.contains("PVE::AccessControl"));
        assert!(!sim.requests().iter().any(|r| root(&r.what) || minted(&r.what)));
    }
}

#[test]
fn what_a_token_lacks_for_another_node_is_told() {
    // Its host key is recorded by the cluster alone, which this account may not read.
    let (bench, b) = two(RIGHTS);
    bench.sim.expect_own_host_key();
    let ran = run(&bench, &["start", "110"], false);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("is not known") && ran.err.contains("192.0.2.3"), "{}", ran.err);
    // Where the other node is may only be read with a privilege.
    let rights: Vec<&str> = RIGHTS.iter().copied().filter(|right| *right != "Sys.Audit").collect();
    let (bench, c) = two(&rights);
    let ran = run(&bench, &["start", "110"], false);
    assert!(![0, 5, 7].contains(&ran.code), "{} {}", ran.code, ran.err);
    assert!(ran.err.contains("Sys.Audit") && ran.err.contains("hint: "), "{}", ran.err);
    // It does not log in there.
    let (bench, d) = two(RIGHTS);
    d.inject(Fault::LoginRefused);
    let ran = run(&bench, &["start", "110"], false);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("VM 110 is on the node 'b'"), "{}", ran.err);
    for sim in [b, c, d] {
        assert!(sim.changes().is_empty() && !sim.is_running(110));
    }
}

#[test]
fn a_token_that_is_not_known_is_refused() {
    let bench = bench(RIGHTS);
    let mut command = bench.command(&["list"]);
    command.env("PROXMOX_USER", "fleet").env("PROXMOX_TOKEN", format!("{ID}=wrong"));
    let ran = bench.finish(&mut command);
    assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{}", ran.err);
    assert!(ran.err.contains("token") && !ran.err.contains("wrong\n"), "{}", ran.err);
    let mut command = bench.command(&["list"]);
    command.env("PROXMOX_USER", "fleet");
    let ran = bench.finish(&mut command);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("PROXMOX_TOKEN"), "{}", ran.err);
}

/// Who logs in: the option, the environment, the definitions, the ssh_config, root.
#[test]
fn the_ssh_config_says_who_logs_in_where_nobody_else_does() {
    if fleet_core::child::find_program("ssh").is_none() {
        assert!(
            std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "ssh is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        return;
    }
    let bench = bench(RIGHTS);
    let config = bench.sim.dir().join("ssh_config");
    let logins = || -> Vec<String> {
        let mut users = Vec::new();
        for record in bench.sim.requests() {
            if let What::Login { user, accepted: true, .. } = record.what {
                users.push(user);
            }
        }
        users
    };
    let as_said = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = bench.command(args);
        command.env("FLEET_SSH_CONFIG", &config).envs(env.iter().copied());
        let before = logins().len();
        let ran = bench.finish(&mut command);
        (ran.code, ran.err, logins().split_off(before))
    };
    let token = format!("{ID}={SECRET}");
    let token = [("PROXMOX_TOKEN", token.as_str())];
    std::fs::write(&config, "Host 127.0.0.1\n User fleet\n").unwrap();
    // The example's definitions say that it is root.
    assert_eq!(as_said(&["list"], &[]).2, ["root"]);
    bench.fleet.edit("vms/definitions.nix", "    user = \"root\";\n", "");
    assert_eq!(as_said(&["list"], &token).2, ["fleet"]);
    // It decides how the API is spoken to, too; and what is said here goes before it.
    let (code, err, users) = as_said(&["list"], &[]);
    assert_eq!((code, users), (6, vec![]));
    assert!(err.contains("the login 'fleet' can not make a ticket") && err.contains("--user root"), "{err}");
    assert_eq!(as_said(&["list"], &[("PROXMOX_USER", "root")]).2, ["root"]);
    assert_eq!(as_said(&["--user", "root", "list"], &token).2, ["root"]);
    let mut console = bench.command(&["console", "110", "--dry-run"]);
    let shown = bench.finish(console.env("FLEET_SSH_CONFIG", &config)).out;
    assert!(shown.contains(" -l fleet "), "{shown}");
    // No word for this host.
    std::fs::write(&config, "Host elsewhere\n User fleet\n").unwrap();
    assert_eq!(as_said(&["list"], &[]).2, ["root"]);
    std::fs::write(&config, "Host 127.0.0.1\n User 'a;b'\n").unwrap();
    let (code, err, _) = as_said(&["list"], &[]);
    assert!(code == 2 || code == 1, "{err}");
}
