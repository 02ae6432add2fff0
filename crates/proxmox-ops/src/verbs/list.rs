//! `proxmox-ops list`

use clap::Args;
use fleet_core::{
    Result,
    definitions::{Definitions, Entry},
    protocol::{Resource, ResourceKind},
    types::Vmid,
};
use serde_json::Value;

use super::{human, table};
use crate::context::{Context, read_deadline};

/// List every VM and container of the cluster
#[derive(Debug, Args)]
pub struct List {}

impl List {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let resources = cluster.resources(read_deadline())?;
        cx.ui.answer(&resources, || text(&cx.definitions, &resources))
    }
}

fn text(definitions: &Definitions, resources: &[Resource]) -> String {
    let rows = resources.iter().map(|r| {
        let number = |key: &str| r.other.get(key).and_then(Value::as_u64).unwrap_or_default();
        let kind = match (r.kind, r.template) {
            (_, true) => "template",
            (ResourceKind::Qemu, false) => "vm",
            (ResourceKind::Lxc, false) => "container",
        };
        let blank_or = |n: u64, text: String| if n == 0 { "-".to_owned() } else { text };
        vec![
            r.vmid.to_string(),
            r.name.clone().unwrap_or_else(|| "-".to_owned()),
            kind.to_owned(),
            r.status.clone(),
            r.node.to_string(),
            blank_or(number("maxcpu"), number("maxcpu").to_string()),
            blank_or(number("maxmem"), human(number("maxmem"))),
            blank_or(number("maxdisk"), human(number("maxdisk"))),
            defined(definitions, r.vmid).to_owned(),
        ]
    });
    table(
        &["VMID", "NAME", "TYPE", "STATUS", "NODE", "CORES", "MEMORY", "DISK", "DEFINED"],
        &[0, 5, 6, 7],
        rows.collect(),
    )
}

fn defined(definitions: &Definitions, vmid: Vmid) -> &'static str {
    match definitions.by_vmid(vmid) {
        Some(Entry::Imported(_)) => "imported",
        Some(Entry::Managed(_)) => "managed",
        Some(Entry::Template(_)) => "template",
        None => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_list_is_an_aligned_table() {
        let resources: Vec<Resource> = serde_json::from_value(json!([
            {"vmid": 104, "type": "qemu", "name": "doc1", "node": "prom", "status": "running", "maxcpu": 8, "maxmem": 34359738368u64, "maxdisk": 268435456000u64},
            {"vmid": 110, "type": "qemu", "name": "web", "node": "prom", "status": "stopped", "maxcpu": 2, "maxmem": 4294967296u64, "maxdisk": 21474836480u64},
            {"vmid": 201, "type": "lxc", "node": "prom", "status": "unknown"},
            {"vmid": 9002, "type": "qemu", "name": "tmpl", "node": "prom", "status": "stopped", "template": true, "maxcpu": 2},
        ]))
        .unwrap();
        insta::assert_snapshot!(text(&crate::testing::definitions(), &resources), @r"
        VMID  NAME  TYPE       STATUS   NODE  CORES    MEMORY       DISK  DEFINED
         104  doc1  vm         running  prom      8  32.0 GiB  250.0 GiB  imported
         110  web   vm         stopped  prom      2   4.0 GiB   20.0 GiB  managed
         201  -     container  unknown  prom      -         -          -  -
        9002  tmpl  template   stopped  prom      2         -          -  template
        ");
    }
}
