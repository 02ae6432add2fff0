//! `pve-sim demo`.

use anyhow::Result;
use fleet_core::ui::Ui;

/// Runs the demo.
pub fn run(ui: Ui, keep: bool) -> Result<()> {
    let _ = (ui, keep);
    anyhow::bail!("not yet")
}
