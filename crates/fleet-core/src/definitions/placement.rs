//! Which node a VM belongs on.

use std::{collections::BTreeSet, str::FromStr};

use serde::{Serialize, Serializer};

use super::ManagedVm;
use crate::{Error, Result, types::NodeName};

/// `node` of a managed VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Placement {
    /// The node where all new VMs belong.
    #[default]
    Default,
    /// This one.
    Node(NodeName),
    /// The one with the most room, when the VM is made; then it stays there.
    Auto,
}

impl Placement {
    /// The node, where the definition names one.
    pub fn named(&self) -> Option<&NodeName> {
        match self {
            Placement::Node(node) => Some(node),
            Placement::Default | Placement::Auto => None,
        }
    }

    /// As it is written, when it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Placement::Default => None,
            Placement::Node(node) => Some(node.as_str()),
            Placement::Auto => Some("auto"),
        }
    }
}

impl FromStr for Placement {
    type Err = Error;
    fn from_str(text: &str) -> Result<Placement> {
        if text == "auto" { Ok(Placement::Auto) } else { text.parse().map(Placement::Node) }
    }
}

impl Serialize for Placement {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.as_str().serialize(serializer)
    }
}

impl ManagedVm {
    /// Whether the two should not share a node: `antiAffinity` names a group of both, or one of them the other.
    pub fn avoids(&self, other: &ManagedVm) -> bool {
        let groups = |vm: &ManagedVm| -> BTreeSet<String> {
            vm.anti_affinity.iter().cloned().chain([vm.name.to_string()]).collect()
        };
        self.name != other.name && !groups(self).is_disjoint(&groups(other))
    }
}
