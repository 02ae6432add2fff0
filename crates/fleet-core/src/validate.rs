//! Everything in a fleet repository that can be checked without a connection, all faults at once.

use std::path::Path;

use crate::{
    Error, Result,
    definitions::{Definitions, Install, nearest},
    faults::Fault,
    hosts::Hosts,
    nix::NixMode,
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
        crate::faults::check("the fleet repository", self.faults)
    }
}

/// Reads definitions and hosts, both at once: neither needs the other.
pub fn load(repo: &Repo, nix: NixMode) -> (Result<Definitions>, Result<Hosts>) {
    std::thread::scope(|scope| {
        let hosts = scope.spawn(|| Hosts::load(repo, nix));
        let definitions = Definitions::load(repo, nix);
        let hosts = hosts.join().unwrap_or_else(|_| Err(Error::failed("reading hosts.nix panicked")));
        (definitions, hosts)
    })
}

/// Checks definitions, hosts and host directories against each other. Reads files only.
pub fn repository(repo: &Repo, nix: NixMode) -> Report {
    let mut report = Report::default();
    let (definitions, hosts) = load(repo, nix);
    match definitions {
        Ok(definitions) => report.definitions = Some(definitions),
        Err(error) => report.faults.extend(faults_of(&error, &repo.definitions(), repo.root())),
    }
    match hosts {
        Ok(hosts) => report.hosts = Some(hosts),
        Err(error) => report.faults.extend(faults_of(&error, &repo.hosts(), repo.root())),
    }
    if let Some(definitions) = &report.definitions {
        report.faults.extend(host_dirs(repo, definitions));
    }
    if let Some(hosts) = &report.hosts {
        report.faults.extend(host_files(repo, hosts));
    }
    report
}

/// The faults that an error of a loader carries, or the error itself as one.
fn faults_of(error: &Error, file: &Path, base: &Path) -> Vec<Fault> {
    let details = error.report().details;
    let listed: Option<Vec<Fault>> = details.and_then(|details| serde_json::from_value(details).ok());
    match listed {
        Some(faults) if !faults.is_empty() => faults,
        _ => {
            let mut fault = Fault::new(file, base, None, "", error.chain());
            fault.help = error.hints().first().cloned();
            vec![fault]
        }
    }
}

/// Managed VMs whose NixOS configuration is not there.
fn host_dirs(repo: &Repo, definitions: &Definitions) -> Vec<Fault> {
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
        let new = |message: String| Fault::new(&definitions.path, repo.root(), None, &path, message);
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

/// Paths in hosts.nix that lead nowhere.
fn host_files(repo: &Repo, hosts: &Hosts) -> Vec<Fault> {
    let mut faults = Vec::new();
    for host in &hosts.hosts {
        for (attr, file) in [("configurationFile", &host.configuration_file), ("homeFile", &host.home_file)] {
            let Some(file) = file.as_ref().filter(|file| !file.exists()) else { continue };
            let shown = file.strip_prefix(repo.root()).unwrap_or(file).display();
            let path = format!("{}.{attr}", host.name);
            faults.push(Fault::new(&hosts.path, repo.root(), None, &path, format!("{shown} does not exist")));
        }
    }
    faults
}
