//! A simulated node, a scratch copy of the fleet, and `provision-vm` run against them.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "each test program uses some of it")]

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output},
    sync::mpsc,
    time::{Duration, Instant},
};

use pve_sim::testing::{ScratchFleet, Sim};

/// Waits until `reached` holds, looking often, for so many seconds at most: whether it did.
fn comes(seconds: u64, mut reached: impl FnMut() -> bool) -> bool {
    let limit = Instant::now() + Duration::from_secs(seconds);
    loop {
        if reached() {
            return true;
        }
        if Instant::now() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for `what`, for so many seconds at most: until `reached` holds.
pub(crate) fn until(what: &str, seconds: u64, reached: impl FnMut() -> bool) {
    assert!(comes(seconds, reached), "{what} never came");
}

/// What a run says on its standard error, as it comes.
pub(crate) struct Said {
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Said {
    pub(crate) fn of(run: &mut Child) -> Said {
        let (stderr, (tell, lines)) = (run.stderr.take().unwrap(), mpsc::channel());
        // It ends with the run.
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
        });
        Said { lines, seen: String::new() }
    }

    /// Waits until it has said this, for so many seconds at most.
    pub(crate) fn until(&mut self, words: &str, seconds: u64) {
        let limit = Instant::now() + Duration::from_secs(seconds);
        while !self.seen.contains(words) {
            let line = self.lines.recv_timeout(limit.saturating_duration_since(Instant::now()));
            assert!(line.is_ok(), "{words:?} never came: {}", self.seen);
            self.seen.push_str(&format!("{}\n", line.unwrap_or_default()));
        }
    }

    /// All that it has said when it has ended.
    pub(crate) fn all(mut self) -> String {
        self.lines.iter().for_each(|line| self.seen.push_str(&format!("{line}\n")));
        self.seen
    }
}

/// One test's surroundings.
pub(crate) struct Bench {
    pub(crate) sim: Sim,
    pub(crate) fleet: ScratchFleet,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(Sim::start())
    }

    pub(crate) fn with(sim: Sim) -> Bench {
        let fleet = sim.scratch_fleet();
        Bench { sim, fleet }
    }

    /// Defines these VMs too, beside `test-automation`, each with a host directory of its own.
    #[allow(dead_code, reason = "not every test has several")]
    pub(crate) fn define(&self, vms: &[(&str, u32)]) {
        let mut text = self.fleet.read("vms/definitions.nix");
        for (name, vmid) in vms {
            let vm = format!("{name} = {{ vmid = {vmid}; cores = 1; memory = 2048; disk = \"10G\"; }};");
            text = text.replacen("managed = {", &format!("managed = {{\n    {vm}"), 1);
            for file in ["configuration.nix", "disko.nix", "hardware-configuration.nix", "home.nix"] {
                let of_another = self.fleet.read(&format!("hosts/test-automation/{file}"));
                let own = of_another.replace("\"test-automation\"", &format!("\"{name}\""));
                self.fleet.write(&format!("hosts/{name}/{file}"), &own);
            }
        }
        self.fleet.write("vms/definitions.nix", &text);
        self.fleet.commit("more of them");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sim.command("provision-vm", &self.fleet);
        command.args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts a run and kills it hard as soon as `reached` holds; `what` names that.
    pub(crate) fn killed_when(&self, args: &[&str], what: &str, mut reached: impl FnMut() -> bool) {
        let null = std::process::Stdio::null;
        let mut child = self.command(args).stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        let mut ended = false;
        let came = comes(60, || {
            let reached = reached();
            ended = !reached && child.try_wait().unwrap().is_some();
            reached || ended
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(came && !ended, "{what} never came, or the run ended before");
    }

    /// What a person saw and the exit code, with what changes from run to run replaced.
    pub(crate) fn seen(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut seen =
            format!("exit code: {}\n", output.status.code().map_or("none".into(), |c| c.to_string()));
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !bytes.is_empty() {
                seen.push_str(&format!("--- {name}\n{}", text(bytes)));
            }
        }
        self.plain(&seen)
    }

    pub(crate) fn plain(&self, text: &str) -> String {
        let fleet = self.fleet.path().to_string_lossy().into_owned();
        let real = self.fleet.path().canonicalize().unwrap().to_string_lossy().into_owned();
        text.replace(&real, "FLEET")
            .replace(&fleet, "FLEET")
            .replace(&self.sim.dir().to_string_lossy().into_owned(), "DIR")
            .replace(&self.sim.address(), "NODE")
            .replace(&format!("-p {}", self.sim.port()), "-p PORT")
            .replace(&format!("[127.0.0.1]:{}", self.sim.port()), "[127.0.0.1]:PORT")
    }
}

/// Puts a shell script in the place of a program.
pub(crate) fn script(bench: &Bench, name: &str, text: &str) {
    let path = bench.sim.dir().join("bin").join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// Runs the stand-in for nixos-anywhere as `real`, or this instead of it.
pub(crate) fn instead(bench: &Bench, text: &str) {
    let real = "real() { \"$(readlink -f \"$(dirname \"$0\")/nix\")\" nixos-anywhere \"$@\"; }";
    script(bench, "nixos-anywhere", &format!("{real}\n{text}\nreal \"$@\""));
}

/// The calls of nixos-anywhere that the last run wrote down.
pub(crate) fn calls(bench: &Bench) -> Vec<String> {
    let log = bench.run(&["log", "--json"]);
    let text = String::from_utf8(log.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let commands = records.filter_map(|record| record["command"].as_str().map(str::to_owned));
    commands.filter(|command| command.contains("--phases")).collect()
}

/// A definition of the VM as one that is made of an image, in a fleet without a template.
pub(crate) fn by_image(bench: &Bench) {
    let definition = "nixosConfig = \"test-automation\";";
    bench.fleet.edit("vms/definitions.nix", definition, &format!("{definition} install = \"image\";"));
    let text = bench.fleet.read("vms/definitions.nix");
    let (before, rest) = text.split_once("  template = {").unwrap();
    let (_, after) = rest.split_once("};").unwrap();
    bench.fleet.write("vms/definitions.nix", &format!("{before}{after}"));
    bench.fleet.commit("an image, and no template");
}

/// Where something waits until it may go on.
pub(crate) struct Gate(PathBuf);

impl Gate {
    pub(crate) fn new(bench: &Bench) -> Gate {
        Gate(bench.sim.dir().join("gate"))
    }

    /// What a shell script does there.
    pub(crate) fn shell(&self) -> String {
        let gate = self.0.display();
        format!("touch '{gate}.reached'; while [ ! -e '{gate}.open' ]; do sleep 0.02; done")
    }

    pub(crate) fn reached(&self) -> bool {
        self.0.with_extension("reached").exists()
    }

    pub(crate) fn open(&self) {
        std::fs::write(self.0.with_extension("open"), "").unwrap();
    }
}
