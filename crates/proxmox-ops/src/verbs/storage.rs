//! `proxmox-ops storage`

use clap::Args;
use fleet_core::{Result, ui};

use super::{human, table::Table};
use crate::{
    context::{Context, read_deadline},
    ops::host,
};

/// List the storages of the node, and of the other nodes of its cluster
#[derive(Debug, Args)]
pub struct Storage {}

impl Storage {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let storages = host::all_storages(&cluster, read_deadline())?;
        cx.ui.answer(&storages, || {
            let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human);
            let cells = |s: &fleet_core::protocol::Storage| {
                vec![
                    s.storage.to_string(),
                    s.node.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                    s.kind.clone(),
                    (if s.active { "active" } else { "inactive" }).to_owned(),
                    (if s.shared { "yes" } else { "no" }).to_owned(),
                    size(s.available),
                    size(s.total),
                    s.content.join(","),
                ]
            };
            let table = Table {
                header: &["NAME", "NODE", "TYPE", "STATUS", "SHARED", "FREE", "TOTAL", "CONTENT"],
                numbers: &[5, 6],
                optional: &[4, 2, 6],
                text_last: true,
            };
            table.of(&storages, cells, ui::columns())
        })
    }
}
