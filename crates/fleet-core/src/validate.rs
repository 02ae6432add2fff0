//! Everything in a fleet repository that can be checked without a connection, all faults at once.

use std::collections::HashSet;

use crate::{
    Error, Result,
    definitions::{Addressing, Definitions, Dir, ManagedVm, nearest},
    disk_layout,
    faults::{self, Fault},
    hosts::{Hosts, doubts},
    nix::{NixMode, eval::Evaluated, reader::quoted, source::Location},
    repo::Repo,
};

/// What a host's directory must hold for its VM to be installed.
const REQUIRED: &[&str] = &["configuration.nix", "disko.nix"];

/// What a check of the repository found.
#[derive(Debug, Default)]
pub struct Report {
    /// The definitions, when they are valid.
    pub definitions: Option<Definitions>,
    /// The hosts, when they are valid.
    pub hosts: Option<Hosts>,
    /// Every fault found.
    pub faults: Vec<Fault>,
}

impl Report {
    /// Nothing if no fault was found, else all of them as one error.
    pub fn result(self) -> Result<()> {
        faults::check("the fleet repository", self.faults)
    }
}

/// Reads definitions and hosts, both at once: neither needs the other.
pub fn load(repo: &Repo, nix: NixMode) -> (Result<Definitions>, Result<Hosts>) {
    both(|| Definitions::load(repo, nix), || Hosts::load(repo, nix))
}

/// Runs both at once.
fn both<A, B: Send>(
    definitions: impl FnOnce() -> A,
    hosts: impl FnOnce() -> Result<B> + Send,
) -> (A, Result<B>) {
    std::thread::scope(|scope| {
        let hosts = scope.spawn(hosts);
        let definitions = definitions();
        let hosts = hosts.join().unwrap_or_else(|_| Err(Error::failed("reading hosts.nix panicked")));
        (definitions, hosts)
    })
}

/// Where an attribute is, or else the last one on the way to it that the file has.
fn place(evaluated: &Evaluated, path: &[&str]) -> Option<Location> {
    let mut value = &evaluated.value;
    let mut at = value.at;
    for name in path {
        let Some(attr) = value.get(name) else { break };
        at = attr.key;
        value = &attr.value;
        if Some(name) == path.last() {
            at = value.at.or(at);
        }
    }
    evaluated.locate(at)
}

/// Where attributes of `vms/definitions.nix` are, for faults that are found later: one for each path. Reads the file again.
pub fn places_in_definitions(repo: &Repo, nix: NixMode, paths: &[&[&str]]) -> Vec<Option<Location>> {
    let reading = Definitions::evaluate(repo, nix).ok();
    paths.iter().map(|path| place(&reading.as_ref()?.evaluated, path)).collect()
}

/// Checks definitions, hosts and host directories against each other. Reads files only. What is right is checked
/// further, whatever else is wrong in its file.
pub fn repository(repo: &Repo, nix: NixMode) -> Report {
    let mut report = Report::default();
    let definitions = || {
        let mut faults = Vec::new();
        let (read, managed) = match Definitions::evaluate(repo, nix) {
            Ok(reading) => {
                let read = Definitions::of(&reading, repo);
                if let Err(error) = &read {
                    faults.extend(faults::from_error(error, &repo.definitions(), repo.root()));
                }
                faults.extend(host_dirs(repo, &reading.evaluated));
                (read.ok(), managed_names(&reading.evaluated))
            }
            Err(error) => {
                faults.extend(faults::from_error(&error, &repo.definitions(), repo.root()));
                (None, None)
            }
        };
        (read, managed, faults)
    };
    let hosts = || {
        let reading = Hosts::evaluate(repo, nix)?;
        let (hosts, mut faults) = Hosts::read(&reading, repo);
        let valid = faults.is_empty();
        faults.extend(host_files(repo, &hosts, &reading.evaluated));
        Ok((reading.evaluated, hosts, valid, faults))
    };
    let ((definitions, managed, faults), hosts) = both(definitions, hosts);
    report.definitions = definitions;
    report.faults = faults;
    match hosts {
        Ok((evaluated, hosts, valid, faults)) => {
            report.faults.extend(faults);
            report.faults.extend(doubts::faults(&hosts, managed.as_ref(), &evaluated, repo.root()));
            report.hosts = valid.then_some(hosts);
        }
        Err(error) => report.faults.extend(faults::from_error(&error, &repo.hosts(), repo.root())),
    }
    report
}

/// The names of the managed VMs, whatever else is wrong with them.
fn managed_names(evaluated: &Evaluated) -> Option<HashSet<String>> {
    let top = evaluated.value.attrs()?;
    match top.iter().find(|attr| attr.name.as_ref() == "managed") {
        Some(section) => Some(section.value.attrs()?.iter().map(|vm| vm.name.to_string()).collect()),
        None => Some(HashSet::new()),
    }
}

/// Managed VMs whose NixOS configuration is not there. A VM of which it is not known where that is, is passed over.
fn host_dirs(repo: &Repo, evaluated: &Evaluated) -> Vec<Fault> {
    let mut faults = Vec::new();
    let known: Vec<String> = std::fs::read_dir(repo.root().join("hosts"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    for Dir { vm, name } in Dir::all(&evaluated.value) {
        let dir = repo.host_dir(&name);
        let path = format!("managed.{}.nixosConfig", quoted(&vm));
        let shown = dir.strip_prefix(repo.root()).unwrap_or(&dir).display().to_string();
        let at = place(evaluated, &["managed", &vm, "nixosConfig"]);
        let new = |message: String| Fault::new(&repo.definitions(), repo.root(), at.as_ref(), &path, message);
        if !dir.is_dir() {
            let near = nearest(&name, known.iter().map(String::as_str));
            let help = match near {
                Some(near) => {
                    format!("did you mean `{near}`? Else create {shown}/ with {}", REQUIRED.join(" and "))
                }
                None => format!("create {shown}/ with {}", REQUIRED.join(" and ")),
            };
            faults.push(new(format!("{shown}/ does not exist")).help(help));
            continue;
        }
        let is_there = |file: &str| {
            // A layout may be shared, and imported.
            dir.join(file).is_file()
                || file == "disko.nix" && disk_layout::of_host(repo.root(), &dir).is_some()
        };
        for file in REQUIRED.iter().filter(|file| !is_there(file)) {
            faults.push(new(format!("{shown}/{file} does not exist")));
        }
    }
    faults
}

/// Fixed addresses without a gateway: such a VM reaches its own network alone.
pub fn without_gateway(vm: &ManagedVm) -> Option<String> {
    let Addressing::Static(cidr) = vm.addressing else { return None };
    vm.gateway.is_none().then(|| {
        format!(
            "managed.{}: the address {cidr} has no gateway: the VM reaches its own network alone; give `gateway`",
            vm.name
        )
    })
}

/// Paths in hosts.nix that lead nowhere.
fn host_files(repo: &Repo, hosts: &Hosts, evaluated: &Evaluated) -> Vec<Fault> {
    let mut faults = Vec::new();
    for host in &hosts.hosts {
        for (attr, file) in [("configurationFile", &host.configuration_file), ("homeFile", &host.home_file)] {
            let Some(file) = file.as_ref().filter(|file| !file.exists()) else { continue };
            let shown = file.strip_prefix(repo.root()).unwrap_or(file).display();
            let path = format!("{}.{attr}", host.name);
            let at = place(evaluated, &[&host.name, attr]);
            let message = format!("{shown} does not exist");
            faults.push(Fault::new(&hosts.path, repo.root(), at.as_ref(), &path, message));
        }
    }
    faults
}
