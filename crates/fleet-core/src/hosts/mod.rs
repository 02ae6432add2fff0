//! `hosts.nix` as a typed model.

pub(crate) mod doubts;
mod load;

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    Error, Result,
    faults::{self, Fault},
    nix::{NixMode, Reading},
    repo::Repo,
};

/// Everything that `hosts.nix` says.
#[derive(Debug, Clone, Serialize)]
pub struct Hosts {
    /// The file it came from.
    pub path: PathBuf,
    /// Its hosts, in the file's order.
    pub hosts: Vec<Host>,
}

/// One host of the fleet.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Attribute name.
    pub name: String,
    /// Its NixOS configuration, absolute; absent where it is not NixOS.
    pub configuration_file: Option<PathBuf>,
    /// Its home-manager configuration, absolute.
    pub home_file: Option<PathBuf>,
    /// The person's or service's login.
    pub user: Option<String>,
    /// That login's home directory.
    pub home_directory: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// ssh_config alias.
    pub ssh_alias: Option<String>,
    /// File name of the key it logs in elsewhere with.
    pub ssh_key_name: Option<String>,
    /// Its public SSH host key, one OpenSSH line; may be a placeholder before the host exists.
    pub public_key: Option<String>,
    /// Where that is written, `FILE:LINE`.
    #[serde(skip)]
    pub public_key_place: Option<String>,
    /// Keys that may log in, one OpenSSH line each.
    pub authorized_keys: Vec<String>,
    /// Where each of them is written, `FILE:LINE`.
    #[serde(skip)]
    pub key_places: Vec<String>,
}

/// A key that may log in, and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    /// One OpenSSH line, not checked yet.
    pub line: String,
    /// `FILE:LINE`, the file relative to the repository.
    pub place: String,
}

impl Hosts {
    /// Reads the repository's `hosts.nix`.
    pub fn load(repo: &Repo, nix: NixMode) -> Result<Hosts> {
        let (hosts, found) = Hosts::read(&Hosts::evaluate(repo, nix)?, repo);
        let shown = hosts.path.strip_prefix(repo.root()).unwrap_or(&hosts.path).display().to_string();
        faults::check(&shown, found)?;
        Ok(hosts)
    }

    /// The value of the repository's `hosts.nix`, which knows its places, and every evaluation error.
    pub(crate) fn evaluate(repo: &Repo, nix: NixMode) -> Result<Reading> {
        crate::nix::read_with_faults(&repo.hosts(), repo.root(), nix)
    }

    /// What is right in that value, and every fault.
    pub(crate) fn read(reading: &Reading, repo: &Repo) -> (Hosts, Vec<Fault>) {
        load::read(reading, &repo.hosts(), repo.root())
    }

    /// The host of this attribute name.
    pub fn get(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// Keys that may log in on `name`: the host's own list, else the keys that every host with a list has, in
    /// the first such host's order. Never empty: no key at all is an error of kind not-found.
    pub fn keys_for(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.listed_keys_for(name)?.into_iter().map(|key| key.line).collect())
    }

    /// As [`Hosts::keys_for`], with where each key is written.
    pub fn listed_keys_for(&self, name: &str) -> Result<Vec<ListedKey>> {
        let listed = |host: &Host| -> Vec<ListedKey> {
            let pairs = host.authorized_keys.iter().zip(&host.key_places);
            pairs.map(|(line, place)| ListedKey { line: line.clone(), place: place.clone() }).collect()
        };
        if let Some(host) = self.get(name).filter(|host| !host.authorized_keys.is_empty()) {
            return Ok(listed(host));
        }
        let mut hosts = self.hosts.iter().filter(|host| !host.authorized_keys.is_empty());
        let mut shared = hosts.next().map(listed).unwrap_or_default();
        for host in hosts {
            shared.retain(|key| host.authorized_keys.contains(&key.line));
        }
        if shared.is_empty() {
            return Err(Error::not_found(format!("no key may log in on '{}'", name.escape_debug()))
                .now(format!(
                    "{} has no `authorizedKeys` for it, and its hosts share none",
                    self.path.display()
                ))
                .hint(format!("give {name} an `authorizedKeys` list in {}", self.path.display())));
        }
        Ok(shared)
    }

    /// The login of most hosts with a configuration: of more than half of them. One odd host (a WSL, a router) does
    /// not make the others' a guess.
    pub fn common_user(&self) -> Option<&str> {
        let users: Vec<&str> = self
            .hosts
            .iter()
            .filter(|host| host.configuration_file.is_some())
            .filter_map(|host| host.user.as_deref())
            .collect();
        let times = |user: &&str| users.iter().filter(|other| *other == user).count();
        users.iter().find(|user| 2 * times(user) > users.len()).copied()
    }
}
