//! The lines of a journal: what they say, and how they are written.

use std::{collections::BTreeMap, path::Path};

use fleet_core::{
    definitions::ManagedVm,
    error::Report,
    types::{VmName, Vmid},
};
use serde::{Deserialize, Serialize};

use crate::steps::Step;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What a run is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// The way from a definition to a machine in the fleet.
    #[default]
    Provision,
    /// A VM that is there is brought in line with its definition.
    Apply,
    /// A VM is taken out of node and fleet.
    Destroy,
}

impl Verb {
    /// Its name: one word, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Provision => "provision",
            Verb::Apply => "apply",
            Verb::Destroy => "destroy",
        }
    }

    /// Of the run that wrote this file, by its name.
    pub(super) fn of(path: &Path) -> Verb {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let of = |verb: &Verb| name.split('-').any(|word| word == verb.name());
        [Verb::Apply, Verb::Destroy].into_iter().find(of).unwrap_or_default()
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What a line of a journal says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run begins.
    Begin {
        /// What it is about.
        #[serde(default)]
        verb: Verb,
        /// The VM.
        name: VmName,
        /// Its number.
        vmid: Vmid,
        /// The command line.
        command: Vec<String>,
        /// Version of each program and of the node, as far as known.
        versions: BTreeMap<String, String>,
        /// The steps that it will take.
        steps: Vec<Step>,
    },
    /// A step begins.
    Started {
        /// Which.
        step: Step,
    },
    /// A request to `proxmox-ops session`, as it was sent.
    Request {
        /// In which step.
        step: Option<Step>,
        /// The request, without its envelope.
        request: serde_json::Value,
    },
    /// A task of the node that does what was asked.
    Task {
        /// In which step.
        step: Option<Step>,
        /// Its id.
        upid: String,
    },
    /// A program that was run.
    Command {
        /// In which step.
        step: Option<Step>,
        /// As one would type it.
        command: String,
    },
    /// A step ended.
    Ended {
        /// Which.
        step: Step,
        /// How.
        outcome: Outcome,
        /// How long it took, in seconds.
        seconds: f64,
        /// What was said of it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        said: String,
    },
    /// The run ended.
    End {
        /// How.
        outcome: Outcome,
        /// How long it took, in seconds.
        seconds: f64,
        /// The program's exit code.
        exit_code: u8,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Report>,
    },
}

impl Event {
    /// What stands at the head of a journal: a run of `verb` begins, with the node's version of Proxmox VE.
    pub fn beginning(verb: Verb, vm: &ManagedVm, proxmox: &str, steps: Vec<Step>) -> Event {
        let versions = [("provision-vm", env!("CARGO_PKG_VERSION")), ("proxmox-ve", proxmox)];
        Event::Begin {
            verb,
            name: vm.name.clone(),
            vmid: vm.vmid,
            command: std::env::args().collect(),
            versions: versions.into_iter().map(|(name, it)| (name.to_owned(), it.to_owned())).collect(),
            steps,
        }
    }
}

/// How a step or a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// There was nothing to do any more.
    Already,
    /// It failed.
    Failed,
}
