//! `proxmox-ops list`

use clap::Args;
use fleet_core::{
    Result,
    definitions::{Definitions, Entry},
    types::Vmid,
    ui,
};

use super::{human, table::Table};
use crate::{
    context::{Context, read_deadline},
    ops::rows::{Kind, Row},
};

/// List every VM and container of the cluster
#[derive(Debug, Args)]
pub struct List {}

impl List {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let rows = cx.connect()?.rows(read_deadline())?;
        if cx.ui.json() {
            cx.ui.json_line(&rows.json()?)
        } else {
            cx.ui.data(text(&cx.definitions, &rows.table()?, ui::columns()))
        }
    }
}

fn text(definitions: &Definitions, rows: &[Row], columns: Option<usize>) -> String {
    let cells = |r: &Row| {
        let kind = match (r.kind, r.template) {
            (_, true) => "template",
            (Kind::Qemu, false) => "vm",
            (_, false) => "container",
        };
        let blank_or = |n: u64, text: String| if n == 0 { "-".to_owned() } else { text };
        vec![
            r.vmid.to_string(),
            r.name.as_deref().unwrap_or("-").to_owned(),
            kind.to_owned(),
            r.status.to_string(),
            r.node.to_string(),
            blank_or(r.maxcpu, r.maxcpu.to_string()),
            blank_or(r.maxmem, human(r.maxmem)),
            blank_or(r.maxdisk, human(r.maxdisk)),
            defined(definitions, r.vmid).to_owned(),
        ]
    };
    let table = Table {
        header: &["VMID", "NAME", "TYPE", "STATUS", "NODE", "CORES", "MEMORY", "DISK", "DEFINED"],
        numbers: &[0, 5, 6, 7],
        optional: &[5, 7, 6, 2, 8, 4],
        text_last: false,
    };
    table.of(rows, cells, columns)
}

fn defined(definitions: &Definitions, vmid: u32) -> &'static str {
    match Vmid::new(vmid).ok().and_then(|vmid| definitions.by_vmid(vmid)) {
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
        let rows: Vec<Row> = serde_json::from_value(json!([
            {"vmid": 104, "type": "qemu", "name": "doc1", "node": "prom", "status": "running", "maxcpu": 8, "maxmem": 34359738368u64, "maxdisk": 268435456000u64},
            {"vmid": 110, "type": "qemu", "name": "web", "node": "prom", "status": "stopped", "maxcpu": 2, "maxmem": 4294967296u64, "maxdisk": 21474836480u64},
            {"vmid": 201, "type": "lxc", "node": "prom", "status": "unknown"},
            {"vmid": 9002, "type": "qemu", "name": "tmpl", "node": "prom", "status": "stopped", "template": true, "maxcpu": 2},
        ]))
        .unwrap();
        insta::assert_snapshot!(text(&crate::testing::definitions(), &rows, None), @r"
        VMID  NAME  TYPE       STATUS   NODE  CORES    MEMORY       DISK  DEFINED
         104  doc1  vm         running  prom      8  32.0 GiB  250.0 GiB  imported
         110  web   vm         stopped  prom      2   4.0 GiB   20.0 GiB  managed
         201  -     container  unknown  prom      -         -          -  -
        9002  tmpl  template   stopped  prom      2         -          -  template
        ");
    }
}
