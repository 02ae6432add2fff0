//! How long the documents of a large fleet take: `cargo bench -p cloudinit-gen`.
//!
//! The program as it is run, from the files of 1,000 VMs and hosts to 5,000 written files, beside what
//! `cloud-init schema` takes to look at one document, in the same run. Asserts nothing about time.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, stops where it can not go on, and starts what it measures itself"
)]

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

const MACHINES: u32 = 1000;
const RUNS: u32 = 5;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    fleet(dir.path());
    // Each run into a directory of its own: files that are there already are not written again.
    let out = |run: u32| dir.path().join(format!("out-{run}"));
    let program = |run: u32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloudinit-gen"));
        command.current_dir(dir.path()).args(["--quiet", "all", "--output-dir"]).arg(out(run));
        command.env_remove("FLEET_REPO").stdout(Stdio::null());
        command
    };
    let ours = (0..RUNS).map(|run| seconds(program(run))).fold(f64::INFINITY, f64::min);
    let files: usize =
        fs::read_dir(out(0)).unwrap().map(|vm| fs::read_dir(vm.unwrap().path()).unwrap().count()).sum();
    println!("{MACHINES} VMs, {files} files in one `all --output-dir` run: {:.0} ms", ours * 1e3);
    println!("  again, with all of them written: {:.0} ms", seconds(program(0)) * 1e3);
    match peak_mib(&program(RUNS)) {
        Some(peak) => println!("  peak memory {peak:.0} MiB"),
        None => println!("  peak memory not measured: python3 is not on PATH"),
    }
    let mut schema = Command::new("cloud-init");
    schema.args(["schema", "--config-file"]).arg(out(0).join("vm-0/user-data"));
    schema.stdout(Stdio::null()).stderr(Stdio::null());
    if schema.status().is_err() {
        println!("  cloud-init is not on PATH to compare with");
        return;
    }
    let mut theirs = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        assert!(schema.status().unwrap().success());
        theirs = theirs.min(start.elapsed().as_secs_f64());
    }
    println!(
        "`cloud-init schema` of one of them: {:.0} ms; all the documents take {:.2} times that, one VM's {:.5} times",
        theirs * 1e3,
        ours / theirs,
        ours / theirs / f64::from(MACHINES)
    );
}

fn seconds(mut command: Command) -> f64 {
    let start = Instant::now();
    assert!(command.status().unwrap().success());
    start.elapsed().as_secs_f64()
}

/// The most memory that the program has, in MiB: the kernel tells its parent, and Python asks the kernel.
fn peak_mib(command: &Command) -> Option<f64> {
    const ASK: &str = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, \
                       stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut python = Command::new("python3");
    python.arg("-c").arg(ASK).arg(command.get_program()).args(command.get_args());
    let output = python.current_dir(command.get_current_dir()?).output().ok()?;
    let kib: f64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// A fleet of as many managed VMs and hosts, every second one with a fixed address.
fn fleet(root: &Path) {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIEtfhhsJqlmAOIaEgTU0QsDGdzAVy1a2vo009FQUXp";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6";
    let (mut managed, mut hosts) = (String::new(), String::new());
    for n in 0..MACHINES {
        let (high, low) = (n / 200, n % 200 + 10);
        let address = format!(
            "ip = \"10.0.{high}.{low}/16\"; gateway = \"10.0.255.1\"; nameservers = [ \"10.0.255.53\" ];"
        );
        let address = if n % 2 == 0 { address.as_str() } else { "" };
        writeln!(
            managed,
            "    vm-{n} = {{\n      vmid = {}; cores = 2; memory = 4096; disk = \"20G\";\n      \
             mac = \"bc:24:11:00:{high:02x}:{low:02x}\"; timezone = \"UTC\"; packages = [ \"curl\" ]; {address}\n    }};",
            100 + n
        )
        .unwrap();
        writeln!(
            hosts,
            "  vm-{n} = {{ user = \"fleet\"; hostname = \"vm-{n}\"; authorizedKeys = masterKeys; }};"
        )
        .unwrap();
    }
    fs::create_dir_all(root.join("vms")).unwrap();
    let head = "  proxmox = { host = \"prom\"; defaultStorage = \"tank\"; };\n";
    fs::write(root.join("vms/definitions.nix"), format!("{{\n{head}  managed = {{\n{managed}  }};\n}}\n"))
        .unwrap();
    let keys = format!("let\n  masterKeys = [\n    \"{KEY} one\"\n    \"{OTHER} two\"\n  ];\nin\n");
    fs::write(root.join("hosts.nix"), format!("{keys}{{\n{hosts}}}\n")).unwrap();
}
