//! How long `proxmox-ops` takes against what one would type instead: `cargo bench -p proxmox-ops`.
//!
//! The node is simulated, with the latencies of a genuine one; the alternative is OpenSSH's `ssh` to the same SSH
//! server. Prints ratios between things measured in the same run, medians of several; asserts nothing about time.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, stops where it can not go on, and starts what it measures"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use pve_sim::{
    guest,
    ledger::Work,
    testing::{ScratchFleet, Sim},
    world::{Foreign, Latency, World},
};

fn main() {
    // `cargo bench -p proxmox-ops -- create wait-ssh` measures those only.
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|arg| arg == name);
    let genuine = Bench::new(World { latency: Latency::genuine(), ..World::default() });
    if wanted("status") {
        status(&genuine);
    }
    if wanted("create") {
        for full in [false, true] {
            create_path(full, &Latency::genuine());
        }
        // The node's own work is the same on both sides. These two show what that hides.
        println!("the same, where nothing but the start of a `qm` and reads take time:");
        create_path(true, &Latency { qm: Latency::genuine().qm, read: Latency::genuine().read, ..idle() });
        println!("the same, where a `qm` takes what it took on the node that was recorded:");
        create_path(true, &Latency { qm: RECORDED_QM, ..Latency::genuine() });
    }
    if wanted("list") {
        list();
    }
    if wanted("wait-ssh") {
        wait_ssh();
    }
    if wanted("first-byte") {
        first_byte(&genuine);
    }
}

struct Bench {
    sim: Sim,
    fleet: ScratchFleet,
}

impl Bench {
    fn new(world: World) -> Bench {
        let sim = Sim::with(world);
        let fleet = sim.scratch_fleet();
        Bench { sim, fleet }
    }

    fn ours(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxmox-ops"));
        self.sim.apply(&mut command);
        command.current_dir(self.fleet.path()).args(args).stdin(Stdio::null());
        command
    }

    /// `ssh OPTIONS node LINE`: a connection of its own, nothing of the user's settings.
    fn ssh(&self, options: &[&str], line: &str) -> Command {
        let mut command = Command::new("ssh");
        self.sim.apply(&mut command);
        let known_hosts = format!("UserKnownHostsFile={}", self.sim.known_hosts().display());
        command.args(["-F", "none", "-o", &known_hosts, "-o", "BatchMode=yes", "-i"]);
        command.arg(self.sim.identity()).args(["-p", &self.sim.port().to_string()]).args(options);
        command.arg("root@127.0.0.1").args((!line.is_empty()).then_some(line)).stdin(Stdio::null());
        command
    }
}

/// Runs it to its end, which must be a good one.
fn run(command: &mut Command) -> Duration {
    let start = Instant::now();
    let output = command.output().unwrap();
    let took = start.elapsed();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    took
}

/// Medians of things that are measured in turns, so that a busy moment meets them all.
fn medians<const N: usize>(rounds: usize, mut things: [&mut dyn FnMut() -> Duration; N]) -> [Duration; N] {
    let mut all = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (times, thing) in all.iter_mut().zip(&mut things) {
            times.push(thing());
        }
    }
    all.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn status(bench: &Bench) {
    let [ours, theirs] = medians(
        9,
        [&mut || run(&mut bench.ours(&["status", "104"])), &mut || run(&mut bench.ssh(&[], "qm status 104"))],
    );
    println!("status: {}", ms(ours));
    println!("  `ssh node qm status`, a new connection: {}", ms(theirs));
    println!("  ratio {:.2} (wanted: at most 0.33)", ratio(ours, theirs));
}

/// What a `qm` took beyond the same work by the API. Creating a VM by a full clone of 2 GiB took 1.93 s by the API, and
/// 1.44, 0.92, 1.12 and 2.08 s by `qm` `clone`, `set`, `resize` and `start` on the same node. 0.55 s is what a `qm` takes
/// that does nothing.
const RECORDED_QM: Duration = Duration::from_millis((1440 + 920 + 1120 + 2080 - 1930) / 4);

/// A node on which only logins and tickets take their time: they are ours alone.
fn idle() -> Latency {
    let Latency { login, mint, mint_short, .. } = Latency::genuine();
    Latency { login, mint, mint_short, ..Latency::none() }
}

/// Conflict check, clone, configuration, resize, start, as `provision` asks for them; and four `qm` in one `ssh`.
fn create_path(full: bool, latency: &Latency) {
    let requests = [
        r#"{"v":1,"id":1,"op":"resources"}"#.to_owned(),
        format!(
            r#"{{"v":1,"id":2,"op":"clone","template":9002,"vmid":110,"name":"test-automation","full":{full},"marker":{{"name":"test-automation","vmid":110,"nonce":"00112233445566778899aabbccddeeff"}}}}"#
        ),
        r#"{"v":1,"id":3,"op":"configure","vmid":110,"settings":{"cores":"2","memory":"4096"}}"#.to_owned(),
        r#"{"v":1,"id":4,"op":"resize","vmid":110,"disk":"scsi0","size":"20G"}"#.to_owned(),
        r#"{"v":1,"id":5,"op":"start","vmid":110}"#.to_owned(),
    ];
    let clone = if full { "--full 1" } else { "--full 0" };
    let line = format!(
        "qm clone 9002 110 --name test-automation {clone} && qm set 110 --cores 2 --memory 4096 \
         && qm resize 110 scsi0 20G && qm start 110"
    );
    let genuine = || Bench::new(World { latency: *latency, ..World::default() });
    let mut runs = Vec::new();
    let [ours, theirs, bare] = medians(
        5,
        [
            &mut || {
                let bench = genuine();
                let start = Instant::now();
                let mut session = Session::start(&bench);
                for request in &requests {
                    session.ask(request);
                }
                let answered = start.elapsed();
                session.end();
                let run = Run { wall: start.elapsed(), answered, bench: &bench };
                runs.push(run.beyond());
                run.wall
            },
            &mut || run(&mut genuine().ssh(&[], &line)),
            &mut || run(&mut genuine().ssh(&[], "true")),
        ],
    );
    println!("create path, {} clone: {}", if full { "full" } else { "linked" }, ms(ours));
    println!("  four `qm` in one `ssh`: {} (of which the connection {})", ms(theirs), ms(bare));
    println!("  ratio {:.2} (wanted: at most 0.45)", ratio(ours, theirs));
    // The middle one by what is beyond the node's work.
    runs.sort_unstable_by_key(|run| run.own);
    let Beyond { own, node, login, ticket, end } = runs[runs.len() / 2];
    println!(
        "  beyond the node's own work of {}: {} or {:.0} % (wanted: at most 300 ms or 10 %), from {} to {}",
        ms(node),
        ms(own),
        ratio(own, node) * 100.0,
        ms(runs[0].own),
        ms(runs[runs.len() - 1].own)
    );
    println!(
        "    of that: the ticket {}, the login in its sshd {}, the rest {} (after the last answer {})",
        ms(ticket),
        ms(login),
        ms(own.saturating_sub(ticket + login)),
        ms(end)
    );
    if full {
        // With nothing of our own at all: its connection, and the same work without four starts of `qm`.
        let least = bare + node;
        let most = least + latency.qm * 4;
        println!(
            "  no program could have less than ({} + {}) / ({} + 4 × {}) = {:.2} here",
            ms(bare),
            ms(node),
            ms(least),
            ms(latency.qm),
            ratio(least, most)
        );
    }
}

/// What a run took beyond the node's own work: everything but its API's answers and tasks is counted as ours, its
/// sshd's login and the ticket that it mints included.
#[derive(Clone, Copy)]
struct Beyond {
    own: Duration,
    node: Duration,
    login: Duration,
    ticket: Duration,
    /// From the last answer to the program's end.
    end: Duration,
}

/// One run of ours.
struct Run<'a> {
    wall: Duration,
    answered: Duration,
    bench: &'a Bench,
}

impl Run<'_> {
    fn beyond(&self) -> Beyond {
        let ledger = &self.bench.sim.node().ledger;
        let node = ledger.total(Work::Api);
        Beyond {
            own: self.wall.saturating_sub(node),
            node,
            login: ledger.total(Work::Login),
            ticket: ledger.total(Work::Ticket),
            end: self.wall.saturating_sub(self.answered),
        }
    }
}

/// A `proxmox-ops session`.
struct Session {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Session {
    fn start(bench: &Bench) -> Session {
        let mut child =
            bench.ours(&["session"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Session { child, requests, answers }
    }

    /// Asks, and reads up to the answer, which must be a good one.
    fn ask(&mut self, request: &str) {
        writeln!(self.requests, "{request}").unwrap();
        loop {
            let mut line = String::new();
            self.answers.read_line(&mut line).unwrap();
            if line.contains(r#","ok":"#) {
                return;
            }
            assert!(line.contains(r#","progress":"#), "{request}: {line}");
        }
    }

    fn end(self) {
        drop(self.requests);
        let mut child = self.child;
        assert!(child.wait().unwrap().success());
    }
}

/// Ten thousand VMs, and the same bytes by a plain client through `ssh -W`.
fn list() {
    let foreign = |n: u32| Foreign {
        vmid: 10_000 + n,
        name: format!("web-{n}"),
        node: "second".to_owned(),
        running: n.is_multiple_of(2),
    };
    let bench = Bench::new(World {
        latency: Latency::genuine(),
        other_nodes: vec!["second".to_owned()],
        foreign: (0..10_000).map(foreign).collect(),
        ..World::default()
    });
    let mut bytes = 0;
    let [table, json, theirs] = medians(
        7,
        [
            &mut || run(&mut bench.ours(&["list"])),
            &mut || run(&mut bench.ours(&["list", "--json"])),
            &mut || {
                let start = Instant::now();
                let plain = Plain::connect(&bench);
                bytes = plain.transfer();
                start.elapsed()
            },
        ],
    );
    println!("list of 10,000 VMs: {}; as JSON: {}", ms(table), ms(json));
    println!("  the same {} KiB through `ssh -W`, a new connection: {}", bytes / 1024, ms(theirs));
    println!("  ratio {:.2}, as JSON {:.2} (wanted: at most 1.5)", ratio(table, theirs), ratio(json, theirs));

    // Without what it takes to get there.
    let mut session = Session::start(&bench);
    session.ask(r#"{"v":1,"id":1,"op":"node"}"#);
    let mut plain = Plain::connect(&bench);
    plain.first();
    let [ours, theirs] = medians(
        7,
        [
            &mut || {
                let start = Instant::now();
                session.ask(r#"{"v":1,"id":2,"op":"resources"}"#);
                start.elapsed()
            },
            &mut || {
                let mut plain = Plain::connect(&bench);
                plain.first();
                let start = Instant::now();
                plain.transfer();
                start.elapsed()
            },
        ],
    );
    println!(
        "  on connections that are open: {} against {}, ratio {:.2}",
        ms(ours),
        ms(theirs),
        ratio(ours, theirs)
    );
    println!("memory at its highest, session with that list: {}", peak(&session.child));
    session.end();
    for args in [&["list"][..], &["list", "--json"], &["status", "104"]] {
        // The list is longer than a pipe: the program waits with it while it is looked at.
        let mut child = bench.ours(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0];
        out.read_exact(&mut first).unwrap();
        println!("memory at its highest, {}: {} (wanted: under 20 MiB)", args.join(" "), peak(&child));
        std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        child.wait().unwrap();
    }
}

/// `VmHWM` of a program that still runs.
fn peak(child: &Child) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<f64>().ok())
        .map_or_else(|| "it has ended already".to_owned(), |kib| format!("{:.1} MiB", kib / 1024.0))
}

/// A client that knows nothing but HTTP, through `ssh -W`.
struct Plain {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    ticket: String,
}

impl Plain {
    fn connect(bench: &Bench) -> Plain {
        let (ticket, _) = bench.sim.node().mint_ticket();
        let mut command = bench.ssh(&["-W", "127.0.0.1:85"], "");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::with_capacity(1 << 16, child.stdout.take().unwrap());
        Plain { child, to, from, ticket }
    }

    fn first(&mut self) {
        self.get("/version");
    }

    fn transfer(mut self) -> usize {
        let bytes = self.get("/cluster/resources?type=vm");
        drop(self.to);
        self.child.wait().unwrap();
        bytes
    }

    fn get(&mut self, path: &str) -> usize {
        let ticket = &self.ticket;
        write!(
            self.to,
            "GET /api2/json{path} HTTP/1.1\r\nHost: localhost\r\nCookie: PVEAuthCookie={ticket}\r\n\r\n"
        )
        .unwrap();
        let mut length = None;
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "no answer");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length = length.or_else(|| line.strip_prefix("content-length: ")?.parse().ok());
        }
        let mut body = vec![0; length.unwrap()];
        self.from.read_exact(&mut body).unwrap();
        body.len()
    }
}

/// From the moment in which a port opens to the end of `wait-ssh`, straight and through the node. Before it opens,
/// what comes to it is refused.
fn wait_ssh() {
    const BOOT: Duration = Duration::from_millis(900);
    let bench = Bench::new(World {
        latency: Latency { boot: BOOT, ..Latency::genuine() },
        addresses_move: false,
        ..World::default()
    });
    let (mut straight, mut through) = (Vec::new(), Vec::new());
    for n in 0..20u32 {
        // A little later each time, so that it opens in every phase of the waiting.
        let later = BOOT + Duration::from_millis(17) * n;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = bench.ours(&["wait-ssh", "127.0.0.1", "30", "--port", &port.to_string()]);
        let mut child = command.env("FLEET_ROUTE", "direct").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(later);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let open = Instant::now();
        listener.accept().unwrap().0.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").unwrap();
        assert!(child.wait().unwrap().success());
        straight.push(open.elapsed());

        let address = bench.sim.guest(104).unwrap().1;
        let begun = Instant::now();
        guest::reboot(bench.sim.node(), 104);
        std::thread::sleep(Duration::from_millis(17) * n);
        run(&mut bench.ours(&["wait-ssh", &address, "30"]));
        through.push(begun.elapsed().saturating_sub(BOOT));
    }
    for (way, mut times) in [("straight", straight), ("through the node", through)] {
        times.sort_unstable();
        println!(
            "wait-ssh {way}, from the opening of the port: median {}, at most {} (wanted: at most 300 ms)",
            ms(times[times.len() / 2]),
            ms(times[times.len() - 1])
        );
    }
}

/// From the start of the program to the first byte that reaches the node. The best of many says what the program
/// takes; on a busy machine the median says what its neighbours take.
fn first_byte(bench: &Bench) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut times = Vec::new();
    for _ in 0..40 {
        let mut command = bench.ours(&["status", "110"]);
        command.env("PROXMOX_HOST", format!("127.0.0.1:{port}")).env_remove("FLEET_SSH_CONFIG");
        command.stderr(Stdio::null()).stdout(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.read_exact(&mut [0]).unwrap();
        times.push(start.elapsed());
        drop(peer);
        child.wait().unwrap();
    }
    times.sort_unstable();
    let (best, median) = (times[0], times[times.len() / 2]);
    println!(
        "program start to the first byte sent: {}, median {} (wanted: under 15 ms)",
        ms(best),
        ms(median)
    );
    let [settings, version] = medians(
        25,
        [&mut || run(Command::new("ssh").args(["-G", "127.0.0.1"]).stdin(Stdio::null())), &mut || {
            run(&mut bench.ours(&["--version"]))
        }],
    );
    println!("  of which, by themselves: `ssh -G` {}; `--version` {}", ms(settings), ms(version));
}
