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
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fleet_core::{
    child,
    deadline::Deadline,
    hosts::Hosts,
    nix::{
        NixMode,
        edit::{Change, NewHost, apply, set_attr},
        eval::{Budget, eval_file},
    },
    repo::Repo,
    validate,
};

/// As `provision-vm` and `post-provision-vm` have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, root] = args.as_slice()
        && word == ONCE
    {
        let repo = Repo::at(Path::new(root)).unwrap();
        println!("{}", measure(1, || read(&repo)).cpu);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let large = fleet(&dir.path().join("large"), 10_000);
    let bytes =
        [large.definitions(), large.hosts()].iter().map(|f| fs::metadata(f).unwrap().len()).sum::<u64>();
    let before = peak_mib();
    let read_large = measure(16, || read(&large));
    println!("10000 VMs and 10000 hosts ({} KiB), read and checked: {read_large}", bytes / 1024);
    println!("  peak memory {:.0} MiB (of which the program before it {before:.0} MiB)", peak_mib());
    let evaluate =
        |file: PathBuf| move || eval_file(&file, Budget::default()).unwrap().sources.iter().count();
    println!("  evaluating the definitions alone: {}", measure(8, evaluate(large.definitions())));
    println!("  evaluating the hosts alone: {}", measure(8, evaluate(large.hosts())));

    let small = fleet(&dir.path().join("small"), 100);
    let read_small = measure(200, || read(&small));
    // In turns: what else the machine does changes, and would be taken for the size's.
    let turn = |_| measure(1, || read(&large)).cpu / measure(25, || read(&small)).cpu;
    let times = median((0..9).map(turn).collect());
    println!("100 VMs and 100 hosts: {read_small}; a hundred times as many take {times:.0} times as long");
    let (mut many, mut few) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        many.push(read_by_a_process(&large));
        few.extend((0..9).map(|_| read_by_a_process(&small)));
    }
    let (many, few) = (median(many), median(few));
    println!(
        "  read once by a process of its own, as a command reads: {:.1} ms and {:.2} ms of processor, {:.0} times",
        many * 1e3,
        few * 1e3,
        many / few
    );

    let check = |repo: &Repo| {
        let report = validate::repository(repo, NixMode::Embedded);
        assert!(report.faults.is_empty(), "{}", report.faults[0].message);
        report.hosts.map_or(0, |hosts| hosts.hosts.len())
    };
    let (check_large, check_small) = (measure(4, || check(&large)), measure(200, || check(&small)));
    println!("  with every doubt about them, as `provision-vm check` has it: {check_large}");
    println!("  a hundred times as many take {:.0} times as long", check_large.cpu / check_small.cpu);

    let text = fs::read_to_string(large.hosts()).unwrap();
    let read_hosts = measure(8, || Hosts::load(&large, NixMode::Embedded).unwrap().hosts.len());
    let file = large.hosts();
    let insert = |text: &str| {
        let host = NewHost { user: Some("fleet".to_owned()), ..NewHost::default() };
        let change = Change::Insert { name: "new".to_owned(), host };
        apply(text, &file, &change, NixMode::Embedded).unwrap().len()
    };
    let edit = measure(8, || insert(&text));
    let remove = |name: &str| {
        let change = Change::Remove { name: name.to_owned() };
        apply(&text, &file, &change, NixMode::Embedded).unwrap().len()
    };
    let (first, middle) = (measure(8, || remove("vm-0")), measure(8, || remove("vm-5000")));
    let splice = measure(8, || set_attr(&text, "vm-5000", "publicKey", "new").unwrap().len());
    println!("reading 10000 hosts: {read_hosts}");
    println!(
        "  one edit, spliced and parsed again: {splice}, {:.2} times that",
        splice.wall / read_hosts.wall
    );
    println!("  one edit, proven by two evaluations: {edit}, {:.2} times that", edit.wall / read_hosts.wall);
    println!(
        "  the same of the first host: {first}, {:.2} times that; of one in the middle: {middle}, {:.2} times",
        first.wall / read_hosts.wall,
        middle.wall / read_hosts.wall
    );
    // No two of them: the expression for them is first tried, then the shared keys are written out.
    let mut parts = text.split("= masterKeys;").enumerate();
    let first = parts.next().map_or("", |(_, part)| part).to_owned();
    let own = parts.fold(first, |text, (n, part)| {
        format!("{text}= masterKeys ++ [ \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOnlyOnlyOnlyOnlyOnlyOnlyOnlyOnlyOnly{n:07} only-{n}\" ];{part}")
    });
    fs::write(&file, &own).unwrap();
    let read_own = measure(4, || Hosts::load(&large, NixMode::Embedded).unwrap().hosts.len());
    let edit = measure(4, || insert(&own));
    println!(
        "  the same where every host has keys of its own: {edit}, {:.2} times the reading of that file, {read_own}",
        edit.wall / read_own.wall
    );
    let own = Repo::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    let ours = measure(2000, || read(&own));
    let Some(nix) = child::find_program("nix") else {
        println!("this repository: {ours} (nix is not on PATH to compare with)");
        return;
    };
    let theirs = measure(5, || {
        let command = child::Command::new(&nix)
            .args(["--extra-experimental-features", "nix-command", "eval", "--json", "--file"])
            .arg(own.definitions());
        command.output(Deadline::secs(60)).unwrap().checked().unwrap().stdout.len()
    });
    println!("this repository, definitions and hosts: {ours}");
    println!("  `nix eval` of the definitions alone: {theirs}, {:.0} times that", theirs.wall / ours.wall);
}

fn read(repo: &Repo) -> usize {
    let (definitions, hosts) = validate::load(repo, NixMode::Embedded);
    definitions.unwrap().managed.len() + hosts.unwrap().hosts.len()
}

/// What the benchmark is started with to read one fleet and print the processor time of that.
const ONCE: &str = "once";

/// The processor time of reading a fleet by a new process: with memory that nobody used before, whatever the size.
fn read_by_a_process(repo: &Repo) -> f64 {
    let program = std::env::current_exe().unwrap();
    let command = child::Command::new(&program).arg(ONCE).arg(repo.root());
    let output = command.output(Deadline::secs(60)).unwrap().checked().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

/// How long something took.
struct Took {
    /// The shortest of the runs by the clock, in seconds: when the least got in its way.
    wall: f64,
    /// Processor time of the median run, in seconds, all threads together: what it takes on a machine that is busy too.
    cpu: f64,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms ({:.1} ms of processor)", self.wall * 1e3, self.cpu * 1e3)
    }
}

fn measure(runs: u32, mut work: impl FnMut() -> usize) -> Took {
    let (mut wall, mut cpus) = (f64::INFINITY, Vec::new());
    for _ in 0..runs {
        let (start, cpu) = (Instant::now(), cpu_time());
        std::hint::black_box(work());
        wall = wall.min(start.elapsed().as_secs_f64());
        cpus.push((cpu_time() - cpu).as_secs_f64());
    }
    Took { wall, cpu: median(cpus) }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Processor time of this process so far, all its threads together.
fn cpu_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().unwrap()
}

/// The most memory that this process ever had, in MiB.
fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// A fleet of `count` VMs and as many hosts, half of which have a key more than all have. VMIDs above 9999 can only be
/// imported ones.
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
            writeln!(imported, "    vm-{n} = {{ vmid = {vmid}; readonly = true; }};").unwrap();
        }
        let keys = match n % 2 {
            0 => "masterKeys".to_owned(),
            _ => format!(
                "masterKeys ++ [ \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOwnOwnOwnOwnOwnOwnOwnOwnOwnOwnOwnOwn{n:07} own-{n}\" ]"
            ),
        };
        write!(
            hosts,
            "  vm-{n} = {{\n    configurationFile = ./hosts/vm-{n}/configuration.nix;\n    homeFile = ./hosts/vm-{n}/home.nix;\n    \
             user = \"fleet\";\n    homeDirectory = \"/home/fleet\";\n    hostName = \"vm-{n}\";\n    sshAlias = \"vm-{n}\";\n    \
             sshKeyName = \"id_ed25519\";\n    publicKey = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDemoDemoDemoDemoDemoDemoDemoDemoDemo{n:07} \
             root@vm-{n}\"; # since its reinstall\n    authorizedKeys = {keys};\n  }};\n\n"
        )
        .unwrap();
        let dir = root.join(format!("hosts/vm-{n}"));
        fs::create_dir_all(&dir).unwrap();
        for file in ["configuration.nix", "disko.nix", "home.nix"] {
            fs::write(dir.join(file), "{ }\n").unwrap();
        }
    }
    fs::create_dir_all(root.join("vms")).unwrap();
    let head = "  proxmox = { host = \"prom\"; defaultStorage = \"tank\"; };\n";
    fs::write(
        root.join("vms/definitions.nix"),
        format!("{{\n{head}  imported = {{\n{imported}  }};\n  managed = {{\n{managed}  }};\n}}\n"),
    )
    .unwrap();
    let keys = "let\n  masterKeys = [\n    \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOneOneOneOneOneOneOneOneOneOneOneOne0000001 one\"\n    \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAITwoTwoTwoTwoTwoTwoTwoTwoTwoTwoTwoTwo0000002 two\"\n  ];\nin\n";
    fs::write(root.join("hosts.nix"), format!("{keys}{{\n{hosts}}}\n")).unwrap();
    Repo::at(root).unwrap()
}
