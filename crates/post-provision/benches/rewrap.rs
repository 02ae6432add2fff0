//! 500 secrets for one more recipient: this tool against `sops updatekeys` file by file, in one run. Prints figures
//! and ratios, asserts nothing. `cargo bench -p post-provision`; wants sops on PATH, else only ours is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark")]
#![allow(unreachable_pub, reason = "shared with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Fleet, fixture, fixtures, recipient};

const FILES: usize = 500;
/// sops is measured on so many of them.
const SAMPLE: usize = 60;

fn fleet() -> Fleet {
    let fleet = Fleet::new();
    for number in 0..FILES {
        let (name, kind) =
            [("values.yaml", "yaml"), ("values.env", "env"), ("values.json", "json")][number % 3];
        fleet.write(&format!("secrets/many/{number}.{kind}"), &String::from_utf8(fixture(name)).unwrap());
    }
    fleet
}

/// Time and peak memory (KiB) of one run.
fn ours(fleet: &Fleet, args: &[&str]) -> (Duration, u64) {
    let begin = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_post-provision-vm"))
        .args(args)
        .current_dir(fleet.root())
        .env("SOPS_AGE_KEY_FILE", fixtures().join("identity-a-TEST-FIXTURE.txt"))
        .env("HOME", fleet.home())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return (begin.elapsed(), peak);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn sops(fleet: &Fleet, program: &Path) -> Duration {
    let rules = fleet.path("sops-rules.yaml");
    std::fs::write(&rules, format!("creation_rules:\n  - age: {},{}\n", recipient("a"), recipient("c")))
        .unwrap();
    let begin = Instant::now();
    for number in 0..SAMPLE {
        let kind = ["yaml", "env", "json"][number % 3];
        let status = Command::new(program)
            .args(["--config".as_ref(), rules.as_os_str()])
            .args(["updatekeys", "--yes"])
            .arg(fleet.path(&format!("secrets/many/{number}.{kind}")))
            .env("SOPS_DISABLE_VERSION_CHECK", "true")
            .env("SOPS_AGE_KEY_FILE", fixtures().join("identity-a-TEST-FIXTURE.txt"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }
    begin.elapsed()
}

fn main() {
    let add = ["nas", "--host-key", "new.pub", "--yes"];
    let fresh = fleet();
    let (first, memory) = ours(&fresh, &add);
    let (again, _) = ours(&fresh, &add);
    let per_file = first / u32::try_from(FILES).unwrap();
    println!(
        "{FILES} files wrapped anew, verified and put in place: {first:.0?} ({per_file:.0?} a file), {} MiB",
        memory / 1024
    );
    println!("{FILES} files up to date: {again:.0?}");
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join("sops"))
        .find(|f| f.is_file());
    match found {
        Some(program) => {
            let theirs = sops(&fleet(), &program) / u32::try_from(SAMPLE).unwrap();
            println!(
                "sops updatekeys: {theirs:.1?} a file; ratio {:.0}",
                theirs.as_secs_f64() / per_file.as_secs_f64()
            );
        }
        None => println!("sops is not on PATH: nothing to compare with"),
    }
}
