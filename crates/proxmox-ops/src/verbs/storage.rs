//! `proxmox-ops storage`

use clap::Args;
use fleet_core::Result;

use super::{human, table};
use crate::{
    context::{Context, read_deadline},
    ops::host,
};

/// List the node's storages
#[derive(Debug, Args)]
pub struct Storage {}

impl Storage {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let node = cx.connect()?;
        let storages = host::storages(&node, read_deadline())?;
        cx.ui.answer(&storages, || {
            let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human);
            let rows = storages.iter().map(|s| {
                vec![
                    s.storage.to_string(),
                    s.kind.clone(),
                    (if s.active { "active" } else { "inactive" }).to_owned(),
                    size(s.available),
                    size(s.total),
                    s.content.join(","),
                ]
            });
            table(&["NAME", "TYPE", "STATUS", "FREE", "TOTAL", "CONTENT"], &[3, 4], rows.collect())
        })
    }
}
