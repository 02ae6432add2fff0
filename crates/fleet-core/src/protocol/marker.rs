//! Whose a VM is.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    types::{VmName, Vmid},
};

/// The proof, in a VM's description, that these tools made it: name, VMID and a nonce of 32 hexadecimal digits.
///
/// In the description it is one line, `fleet-vm: name=web vmid=110 nonce=…`, whatever else people write there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The definition's name.
    pub name: VmName,
    /// The VMID it was made with: a copy of the VM by hand carries the marker too, but not its VMID.
    pub vmid: Vmid,
    /// Random, told apart from any other creation.
    pub nonce: String,
}

const MARKER_START: &str = "fleet-vm:";

/// A line of the description: cloud-init has done its part. From then on NixOS may be on the disk, and nothing may make
/// it a new instance of cloud-init's, whoever looks and whatever can be asked.
pub const CLOUDINIT_DONE: &str = "fleet-cloud-init: done";

/// Whether a description says [`CLOUDINIT_DONE`]; blanks after it are nothing that people see.
pub fn cloudinit_is_done(description: &str) -> bool {
    description.lines().any(|line| line.trim_end() == CLOUDINIT_DONE)
}

impl Marker {
    /// A marker with a fresh nonce.
    pub fn fresh(name: &VmName, vmid: Vmid) -> Result<Marker> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::failed("the system gives no random bytes").caused_by(e))?;
        let nonce = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Marker { name: name.clone(), vmid, nonce })
    }

    /// The marker in a description, if there is exactly one well-formed one.
    pub fn find(description: &str) -> Option<Marker> {
        let mut found = description.lines().filter_map(Marker::parse);
        match (found.next(), found.next()) {
            (Some(marker), None) => Some(marker),
            _ => None,
        }
    }

    fn parse(line: &str) -> Option<Marker> {
        let mut words = line.trim().strip_prefix(MARKER_START)?.split_whitespace();
        let name = words.next()?.strip_prefix("name=")?.parse().ok()?;
        let vmid = words.next()?.strip_prefix("vmid=")?.parse().ok()?;
        let nonce = words.next()?.strip_prefix("nonce=")?.to_owned();
        let well_formed = nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit());
        (well_formed && words.next().is_none()).then_some(Marker { name, vmid, nonce })
    }
}

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{MARKER_START} name={} vmid={} nonce={}", self.name, self.vmid, self.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloud_init_is_done_where_a_line_of_its_own_says_so() {
        for said in
            [CLOUDINIT_DONE, "mine\nfleet-cloud-init: done\nmore", "mine\r\nfleet-cloud-init: done \r\n"]
        {
            assert!(cloudinit_is_done(said), "{said:?}");
        }
        for other in ["", "mine", "fleet-cloud-init: done?", "is fleet-cloud-init: done"] {
            assert!(!cloudinit_is_done(other), "{other:?}");
        }
    }
}
