//! Everything in a fleet repository that can be checked without a connection, all faults at once.

use crate::{
    Error, Result,
    definitions::{Addressing, Definitions, Install, ManagedVm, nearest},
    faults::{self, Fault},
    hosts::{Hosts, doubts},
    nix::{NixMode, eval::Evaluated, source::Location},
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
    let (definitions, hosts) = load_placed(repo, nix);
    (definitions.map(|(definitions, _)| definitions), hosts.map(|(hosts, _)| hosts))
}

type Placed<T> = Result<(T, Evaluated)>;

fn load_placed(repo: &Repo, nix: NixMode) -> (Placed<Definitions>, Placed<Hosts>) {
    std::thread::scope(|scope| {
        let hosts = scope.spawn(|| Hosts::load_placed(repo, nix));
        let definitions = Definitions::load_placed(repo, nix);
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

/// Checks definitions, hosts and host directories against each other. Reads files only.
pub fn repository(repo: &Repo, nix: NixMode) -> Report {
    let mut report = Report::default();
    let (definitions, hosts) = load_placed(repo, nix);
    match definitions {
        Ok((definitions, evaluated)) => {
            report.faults.extend(host_dirs(repo, &definitions, &evaluated));
            report.definitions = Some(definitions);
        }
        Err(error) => report.faults.extend(faults::from_error(&error, &repo.definitions(), repo.root())),
    }
    match hosts {
        Ok((hosts, evaluated)) => {
            report.faults.extend(host_files(repo, &hosts, &evaluated));
            let definitions = report.definitions.as_ref();
            report.faults.extend(doubts::faults(&hosts, definitions, &evaluated, repo.root()));
            report.hosts = Some(hosts);
        }
        Err(error) => report.faults.extend(faults::from_error(&error, &repo.hosts(), repo.root())),
    }
    report
}

/// Managed VMs whose NixOS configuration is not there.
fn host_dirs(repo: &Repo, definitions: &Definitions, evaluated: &Evaluated) -> Vec<Fault> {
    let mut faults = Vec::new();
    let known: Vec<String> = std::fs::read_dir(repo.root().join("hosts"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    for vm in definitions.managed.iter().filter(|vm| vm.install != Install::None) {
        let dir = repo.host_dir(&vm.nixos_config);
        let path = format!("managed.{}.nixosConfig", vm.name);
        let shown = dir.strip_prefix(repo.root()).unwrap_or(&dir).display().to_string();
        let at = place(evaluated, &["managed", vm.name.as_str(), "nixosConfig"]);
        let new = |message: String| Fault::new(&definitions.path, repo.root(), at.as_ref(), &path, message);
        if !dir.is_dir() {
            let near = nearest(&vm.nixos_config, known.iter().map(String::as_str));
            let help = match near {
                Some(near) => {
                    format!("did you mean `{near}`? Else create {shown}/ with {}", REQUIRED.join(" and "))
                }
                None => format!("create {shown}/ with {}", REQUIRED.join(" and ")),
            };
            faults.push(new(format!("{shown}/ does not exist")).help(help));
            continue;
        }
        for file in REQUIRED.iter().filter(|file| !dir.join(file).is_file()) {
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
