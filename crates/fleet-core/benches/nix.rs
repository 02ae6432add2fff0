//! How long reading, checking and editing the fleet's Nix files takes: `cargo bench -p fleet-core --bench nix`.
//!
//! Prints ratios between things measured in the same run; asserts nothing about time.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops where it can not go on"
)]

use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fleet_core::{
    child,
    deadline::Deadline,
    definitions::Definitions,
    hosts::Hosts,
    nix::{
        NixMode,
        edit::{Change, NewHost, apply},
    },
    repo::Repo,
};

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let large = fleet(&dir.path().join("large"), 10_000);
    let bytes =
        [large.definitions(), large.hosts()].iter().map(|f| fs::metadata(f).unwrap().len()).sum::<u64>();
    let before = peak_mib();
    let read_large = best(5, || read(&large));
    println!("10000 VMs and 10000 hosts ({} KiB): read and checked in {read_large:.0?}", bytes / 1024);
    println!("  peak memory {:.0} MiB (of which the program before it {before:.0} MiB)", peak_mib());

    let small = fleet(&dir.path().join("small"), 100);
    let read_small = best(50, || read(&small));
    println!(
        "100 VMs and 100 hosts: {read_small:.1?}; a hundred times as many take {:.0} times as long",
        ratio(read_large, read_small)
    );

    let text = fs::read_to_string(large.hosts()).unwrap();
    let read_hosts = best(5, || Hosts::load(&large, NixMode::Embedded).unwrap().hosts.len());
    let file = large.hosts();
    let edit = best(5, || {
        let host = NewHost { user: Some("fleet".to_owned()), ..NewHost::default() };
        apply(&text, &file, &Change::Insert { name: "new".to_owned(), host }).unwrap().len()
    });
    println!(
        "one proven edit among 10000 hosts: {edit:.0?}, {:.2} times reading them ({read_hosts:.0?})",
        ratio(edit, read_hosts)
    );

    let own = Repo::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    let ours = best(50, || Definitions::load(&own, NixMode::Embedded).unwrap().managed.len());
    let Some(nix) = child::find_program("nix") else {
        println!("this repository's definitions: {ours:.1?} (nix is not on PATH to compare with)");
        return;
    };
    let theirs = best(5, || {
        let command = child::Command::new(&nix)
            .args(["--extra-experimental-features", "nix-command", "eval", "--json", "--file"])
            .arg(own.definitions());
        command.output(Deadline::secs(60)).unwrap().checked().unwrap().stdout.len()
    });
    println!(
        "this repository's definitions: {ours:.1?}; `nix eval` takes {:.0} times as long ({theirs:.1?})",
        ratio(theirs, ours)
    );
}

fn read(repo: &Repo) -> usize {
    let definitions = Definitions::load(repo, NixMode::Embedded).unwrap();
    let hosts = Hosts::load(repo, NixMode::Embedded).unwrap();
    definitions.managed.len() + hosts.hosts.len()
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// The shortest of several runs: what the work takes when nothing else gets in its way.
fn best(runs: usize, mut work: impl FnMut() -> usize) -> Duration {
    let time = |work: &mut dyn FnMut() -> usize| {
        let start = Instant::now();
        std::hint::black_box(work());
        start.elapsed()
    };
    (0..runs).map(|_| time(&mut work)).min().unwrap_or_default()
}

/// The most memory that this process ever had, in MiB.
fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// A fleet of `count` VMs and as many hosts. VMIDs above 9999 can only be imported ones.
fn fleet(root: &Path, count: u32) -> Repo {
    let mut managed = String::new();
    let mut imported = String::new();
    let mut hosts = String::new();
    for n in 0..count {
        let vmid = 100 + n;
        let address = format!("10.{}.{}.{}/8", n / 40_000, n / 200 % 200, n % 200 + 1);
        if vmid <= 9999 {
            write!(
                managed,
                "    vm-{n} = {{\n      vmid = {vmid};\n      cores = 2; # enough\n      memory = 4096;\n      disk = \"20G\";\n      \
                 ip = \"{address}\";\n      purpose = \"Number {n}\";\n      services = [ \"web\" \"db\" ];\n    }};\n\n"
            )
            .unwrap();
        } else {
            write!(imported, "    vm-{n} = {{ vmid = {vmid}; readonly = true; }};\n").unwrap();
        }
        write!(
            hosts,
            "  vm-{n} = {{\n    configurationFile = ./hosts/vm-{n}/configuration.nix;\n    homeFile = ./hosts/vm-{n}/home.nix;\n    \
             user = \"fleet\";\n    homeDirectory = \"/home/fleet\";\n    hostname = \"vm-{n}\";\n    sshAlias = \"vm-{n}\";\n    \
             sshKeyName = \"id_ed25519\";\n    publicKey = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDemoDemoDemoDemoDemoDemoDemoDemoDemo{n:06} \
             root@vm-{n}\"; # since its reinstall\n    authorizedKeys = masterKeys;\n  }};\n\n"
        )
        .unwrap();
    }
    fs::create_dir_all(root.join("vms")).unwrap();
    let head = "  proxmox = { host = \"prom\"; defaultStorage = \"tank\"; };\n";
    fs::write(
        root.join("vms/definitions.nix"),
        format!("{{\n{head}  imported = {{\n{imported}  }};\n  managed = {{\n{managed}  }};\n}}\n"),
    )
    .unwrap();
    let keys =
        "let\n  masterKeys = [\n    \"ssh-ed25519 AAAA one\"\n    \"ssh-ed25519 AAAA two\"\n  ];\nin\n";
    fs::write(root.join("hosts.nix"), format!("{keys}{{\n{hosts}}}\n")).unwrap();
    Repo::at(root).unwrap()
}
