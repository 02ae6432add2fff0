//! The system that gets installed, built by `nix` on this machine while the VM is made.
//!
//! nixos-anywhere evaluates the flake in every phase and asks `nix config`, which Nix before 2.9 does not have, for
//! the system that it can build for. What was built here is handed to it as store paths: then it does neither.

mod unknown;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use fleet_core::{
    Error, Kind, Result,
    child::{self, Command, Output},
    deadline::Deadline,
    definitions::{Install, ManagedVm},
    interrupt,
};
use serde::Deserialize;

use self::unknown::{Lacks, reads_hosts};
pub use self::unknown::{Unknown, probe};

/// How long a build may take, in seconds: a whole system, also where no binary cache has it.
const LIMIT: u64 = 3 * 60 * 60;
/// Lines of nix's that an error repeats.
const LAST_LINES: usize = 12;

/// Where the system is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BuildOn {
    /// On this machine when nix is here and can build for the VM's system, else where nixos-anywhere can.
    #[default]
    Auto,
    /// On this machine.
    Local,
    /// In the VM, by its installer.
    Remote,
}

/// Where the installer gets the system from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It was built here.
    Built(StorePaths),
    /// The script that makes a disk image of it was built here.
    Script(PathBuf),
    /// The installer builds it: where, or as it decides itself.
    Installer(Option<BuildOn>),
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePaths {
    /// The program that partitions, formats and mounts.
    pub disko: PathBuf,
    /// The system.
    pub system: PathBuf,
}

/// What is built of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The system, and the script that partitions for it.
    System,
    /// The script that makes a disk image.
    Image,
}

impl What {
    /// What the VM's definition asks for.
    pub fn of(vm: &ManagedVm) -> What {
        if vm.install == Install::Image { What::Image } else { What::System }
    }
}

/// What a build came to.
#[derive(Debug, PartialEq, Eq)]
enum Built {
    Here(Source),
    /// This machine can not build for the VM's system, as nix says it.
    NotHere(String),
    /// The flake speaks of the VM only when the fleet knows it, as nix says it.
    NotYet(String),
    /// The flake gives nothing for the VM: so it is too when its configuration lacks what is asked for.
    NotGiven(String),
}

/// A build that runs beside everything else. Dropping it ends it, with all that it started.
#[derive(Debug)]
pub struct Background {
    lines: mpsc::Receiver<String>,
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Output>>>,
}

impl Background {
    /// Starts `command`.
    pub fn start(command: Command) -> Background {
        let (sender, lines) = mpsc::channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&cancel);
        let thread = std::thread::spawn(move || {
            let on_line = |line: &str| drop(sender.send(line.to_owned()));
            command.run_watched(Deadline::secs(LIMIT), on_line, || {
                if asked.load(Ordering::Relaxed) {
                    return Err(Error::interrupted("the build is not needed any more"));
                }
                Ok(())
            })
        });
        Background { lines, cancel, thread: Some(thread) }
    }

    /// What it has said since it was asked last.
    pub fn said(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its next line, at most for `limit`.
    pub fn next_line(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Its output; waits for its end.
    fn output(mut self) -> Result<Output> {
        let thread = self.thread.take().map(JoinHandle::join);
        match thread {
            Some(Ok(output)) => output,
            _ => Err(Error::failed("the build ended in an unknown way")),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has ended when the process group has.
            let _ = thread.join();
        }
    }
}

/// Whether the system can be built where it shall be, as far as that can be told at once.
pub fn possible(build_on: BuildOn) -> Result<()> {
    if build_on == BuildOn::Local && child::find_program("nix").is_none() {
        return Err(Error::not_found("--build-on local needs nix, which is not on PATH")
            .hint("install nix (https://nixos.org/download), or leave --build-on out"));
    }
    Ok(())
}

/// The same for a disk image, which only this machine can build.
pub fn image_possible(build_on: BuildOn, no_install: bool) -> Result<()> {
    if no_install {
        return Err(Error::new(
            Kind::Usage,
            "install = \"image\" and --no-install: an image has nothing to stop at",
        )
        .hint("leave --no-install out; or use install = \"none\" in the definition"));
    }
    if build_on == BuildOn::Remote {
        return Err(Error::new(
            Kind::Usage,
            "install = \"image\": the image is built on this machine, not in the VM",
        )
        .hint("leave --build-on remote out"));
    }
    if child::find_program("nix").is_none() {
        return Err(Error::not_found("install = \"image\" needs nix, which is not on PATH")
            .hint("install nix (https://nixos.org/download), or use install = \"nixos-anywhere\""));
    }
    Ok(())
}

/// The command that builds configuration `config` of the flake in `root` on this machine; none where it is not to, or
/// has no nix.
pub fn planned(what: What, build_on: BuildOn, root: &Path, config: &str) -> Option<Command> {
    let nix = match (what, build_on) {
        (What::System, BuildOn::Remote) => None,
        // An image is built nowhere else.
        _ => child::find_program("nix"),
    };
    nix.map(|nix| command(what, &nix, root, config))
}

/// The closure of one VM: what builds it, and how far that is.
#[derive(Debug)]
pub struct Closure {
    build_on: BuildOn,
    /// None where nothing is built here.
    command: Option<Command>,
    running: Option<Background>,
    /// Where the system comes from, once that is known.
    source: Option<Source>,
    /// While hosts.nix does not know the VM, and the flake reads it.
    unknown: Option<Unknown>,
    /// Why it can be built only after the VM was taken into the fleet.
    waits: Option<String>,
    /// What the system is to call itself, and its configuration.
    hostname: String,
    config: String,
}

impl Closure {
    /// For a run that installs nothing.
    pub fn none() -> Closure {
        Closure {
            build_on: BuildOn::Auto,
            command: None,
            running: None,
            source: None,
            unknown: None,
            waits: None,
            hostname: String::new(),
            config: String::new(),
        }
    }

    /// Starts to build the VM's configuration of the flake in `root`, when this machine is to and has nix.
    pub fn begin(build_on: BuildOn, root: &Path, vm: &ManagedVm, unknown: Option<Unknown>) -> Closure {
        let command = planned(What::of(vm), build_on, root, &vm.nixos_config);
        let running = command.clone().map(Background::start);
        let unknown = unknown.filter(|_| running.is_some() && reads_hosts(root));
        let (hostname, config) = (vm.hostname.to_string(), vm.nixos_config.clone());
        Closure { build_on, command, running, source: None, unknown, waits: None, hostname, config }
    }

    /// Why it can be built only after the VM was taken into the fleet, when that is so.
    pub fn waits(&self) -> Option<&str> {
        self.waits.as_deref()
    }

    /// Whether something is built here.
    pub fn is_built_here(&self) -> bool {
        self.command.is_some()
    }

    /// Looks at the build without waiting: gives its lines to `on_line`, and fails as soon as it has failed.
    pub fn look(&mut self, on_line: impl FnMut(&str)) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let over = running.is_over();
        running.said().iter().map(String::as_str).for_each(on_line);
        if over { self.settle() } else { Ok(()) }
    }

    /// Waits for the build and says where the system comes from.
    pub fn wait(&mut self, mut on_line: impl FnMut(&str)) -> Result<Source> {
        while let Some(running) = &self.running {
            interrupt::check()?;
            if let Some(line) = running.next_line(Duration::from_millis(100)) {
                on_line(&line);
            }
            self.look(&mut on_line)?;
        }
        Ok(self.source.clone().unwrap_or(Source::Installer(match self.build_on {
            BuildOn::Auto => None,
            other => Some(other),
        })))
    }

    /// Builds once more, because the files have changed; only what differs is built.
    pub fn again(&mut self) {
        (self.unknown, self.waits) = (None, None);
        if let (Some(command), None | Some(Source::Built(_) | Source::Script(_))) =
            (&self.command, &self.source)
        {
            // The one before would only be in its way.
            self.running = None;
            self.running = Some(Background::start(command.clone()));
        }
    }

    fn settle(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let Some(command) = &self.command else { return Ok(()) };
        let output = running.output()?;
        match read(command, &output, self.unknown.as_ref())? {
            Built::Here(source) => {
                // Where it is built once more with its entry in hosts.nix, that may give it its name.
                let last = self.unknown.as_ref().is_none_or(|unknown| !unknown.later);
                if let (Source::Built(paths), true) = (&source, last) {
                    has_name(&paths.system, &self.hostname, &self.config)?;
                }
                self.source = Some(source);
            }
            Built::NotYet(why) => self.waits = Some(why),
            Built::NotGiven(why) => match self.unknown.as_ref().and_then(Unknown::is_in_flake) {
                Some(false) => self.waits = Some(why),
                Some(true) => return Err(failed(command, &output)),
                None => {
                    interrupt::check()?;
                    let unsure = format!("whether the flake has '{}' could not be found out", self.config);
                    return Err(failed(command, &output).now(unsure));
                }
            },
            Built::NotHere(why) if self.build_on == BuildOn::Local => {
                return Err(Error::failed(format!("this machine can not build the system: {why}"))
                    .hint("leave --build-on local out: the VM builds it then")
                    .hint("or give nix a builder for that system (`builders` in nix.conf)"));
            }
            Built::NotHere(_) => self.source = Some(Source::Installer(Some(BuildOn::Remote))),
        }
        Ok(())
    }
}

/// A build that failed, with what nix said last.
fn failed(command: &Command, output: &Output) -> Error {
    let said = output.stderr_text();
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let error = Error::failed(format!("the system can not be built: nix {}", child::describe(output.status)));
    let error = last.iter().fold(error, |error, line| error.now(*line));
    error.hint(format!("mend the configuration; this builds it alone: {command}"))
}

/// `nix build` of the disko script and the system. Nix before 2.9 has no `--print-out-paths`, hence `--json`.
fn command(what: What, nix: &Path, root: &Path, config: &str) -> Command {
    let attribute = |what: &str| {
        format!("{}#nixosConfigurations.\"{config}\".config.system.build.{what}", root.display())
    };
    Command::new(nix)
        .tethered()
        .args(["--extra-experimental-features", "nix-command flakes"])
        .args(["build", "--no-link", "--json", "--no-write-lock-file"])
        .args(match what {
            What::System => vec![attribute("diskoScript"), attribute("toplevel")],
            What::Image => vec![attribute("diskoImagesScript")],
        })
}

fn read(command: &Command, output: &Output, unknown: Option<&Unknown>) -> Result<Built> {
    let said = output.stderr_text();
    if !output.success() {
        if let Some(why) = said.lines().find(|line| is_for_another_system(line)) {
            return Ok(Built::NotHere(why.trim_start_matches("error: ").trim().to_owned()));
        }
        let Some((unknown, lacks)) = unknown.and_then(|unknown| Some((unknown, unknown.lacks(&said)?)))
        else {
            return Err(failed(command, output));
        };
        return match lacks {
            _ if !unknown.later => Err(failed(command, output).hint(format!(
                "where the flake takes its systems from hosts.nix, '{}' has to be in it first: --integrate before",
                unknown.name
            ))),
            Lacks::Host => Ok(Built::NotYet(format!("the flake reads the entry of '{}' in hosts.nix", unknown.name))),
            Lacks::System => Ok(Built::NotGiven(format!("the flake has no '{}' before", unknown.config))),
        };
    }
    #[derive(Deserialize)]
    struct Row {
        outputs: std::collections::BTreeMap<String, PathBuf>,
    }
    let strange =
        || Error::failed(format!("`{command}` gave something else than expected: {}", output.stdout_text()));
    let rows: Vec<Row> =
        serde_json::from_slice(&output.stdout).map_err(|error| strange().caused_by(error))?;
    // nix gives them in an order of its own: the system is a directory, the disko script a program.
    let (systems, scripts): (Vec<PathBuf>, Vec<PathBuf>) =
        rows.into_iter().filter_map(|mut row| row.outputs.remove("out")).partition(|path| path.is_dir());
    match (<[PathBuf; 1]>::try_from(systems), <[PathBuf; 1]>::try_from(scripts)) {
        (Ok([system]), Ok([disko])) => Ok(Built::Here(Source::Built(StorePaths { disko, system }))),
        (Err(systems), Ok([script])) if systems.is_empty() => Ok(Built::Here(Source::Script(script))),
        _ => Err(strange()),
    }
}

/// A system must call itself as its VM is called, where it has a fixed name: else its verification could only fail.
fn has_name(system: &Path, wanted: &str, config: &str) -> Result<()> {
    match std::fs::read_to_string(system.join("etc/hostname")) {
        Ok(name) if !name.trim().is_empty() && name.trim() != wanted => Err(Error::failed(format!(
            "the system that was built calls itself '{}', not '{wanted}'",
            name.trim()
        ))
        .hint(format!(
            "set networking.hostName in hosts/{config}/configuration.nix, or `hostname` in the definition"
        ))),
        _ => Ok(()),
    }
}

/// Whether nix says that this machine is of the wrong kind: in the words of Nix up to 2.29, and of those after.
fn is_for_another_system(line: &str) -> bool {
    (line.contains("is required to build") && line.contains("but I am a"))
        || line.contains("required system or feature not available")
        || line.contains("platform mismatch")
}

#[cfg(test)]
mod tests;
