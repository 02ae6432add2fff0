//! `proxmox-ops snapshots`

use clap::Args;
use fleet_core::{Result, types::VmRef};

use super::table;
use crate::{
    context::{Context, read_deadline},
    ops::snapshot,
};

/// List the snapshots of a VM, oldest first
#[derive(Debug, Args)]
pub struct Snapshots {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
}

impl Snapshots {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let vmid = cx.vmid(&self.vm, &cluster)?;
        let snapshots = cluster.on(vmid, |node| snapshot::list(node, vmid, read_deadline()))?;
        cx.ui.answer(&snapshots, || {
            let rows = snapshots.iter().map(|s| {
                vec![
                    s.name.clone(),
                    s.snaptime.map_or_else(|| "-".to_owned(), utc),
                    (if s.has_memory() { "yes" } else { "no" }).to_owned(),
                    s.parent.clone().unwrap_or_else(|| "-".to_owned()),
                    s.description.lines().next().unwrap_or_default().to_owned(),
                ]
            });
            table(&["NAME", "TAKEN", "MEMORY", "PARENT", "DESCRIPTION"], &[], &rows.collect::<Vec<_>>())
        })
    }
}

/// Seconds since 1970 as a date and time in UTC.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days from civil, turned around (Howard Hinnant's algorithm): eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_407_492), "2026-11-23 04:18 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59 UTC");
    }
}
