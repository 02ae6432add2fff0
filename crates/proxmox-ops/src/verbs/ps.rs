//! `proxmox-ops ps` and `proxmox-ops top`

use std::io::IsTerminal;

use clap::Args;
use fleet_core::{
    Result,
    deadline::Deadline,
    interrupt,
    protocol::{Resource, ResourceKind},
    ui::{columns, screen, typed},
};

use super::{human, table::Table};
use crate::{
    api::encode,
    context::{Context, read_deadline},
};

/// Show what the running VMs use now, the busiest CPU first
#[derive(Debug, Args)]
pub struct Ps {}

impl Ps {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let running = running(cluster.resources(read_deadline())?);
        cx.ui.answer(&running, || text(&running, columns()))
    }
}

/// Show what the running VMs use, the busiest CPU first, again and again until q or Ctrl-C; once where there is no
/// terminal
#[derive(Debug, Args)]
pub struct Top {
    /// Seconds between two looks; Proxmox itself measures every ten
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

impl Top {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let cluster = cx.connect()?;
        let live = std::io::stdout().is_terminal() && !cx.ui.json();
        loop {
            let running = running(cluster.resources(read_deadline())?);
            if !live {
                return cx.ui.answer(&running, || text(&running, columns()));
            }
            // Home, the lines, then the rest of the screen wiped: no flicker. The line feed that ends it is not said twice:
            // on a full screen all would move up by a line.
            let page = format!("{}\n\n{}", heading(&running), text(&running, columns()));
            cx.ui.data(format!("\x1b[H{}\x1b[J", screen(&page).trim_end_matches('\n')))?;
            if typed(b"q", Deadline::secs(self.every)) || interrupt::asked() {
                return Ok(());
            }
        }
    }
}

fn running(mut resources: Vec<Resource>) -> Vec<Resource> {
    resources.retain(|r| r.status == "running");
    let cpu = |r: &Resource| encode::real(r.other.get("cpu")).unwrap_or_default();
    resources.sort_by(|a, b| cpu(b).total_cmp(&cpu(a)).then(a.vmid.cmp(&b.vmid)));
    resources
}

/// What the table that follows is of; a terminal may be too low for all of it.
fn heading(running: &[Resource]) -> String {
    format!("{} running, the busiest CPU first; q leaves", running.len())
}

fn text(running: &[Resource], columns: Option<usize>) -> String {
    let cells = |r: &Resource| {
        let number = |key: &str| encode::real(r.other.get(key)).unwrap_or_default();
        // Whole bytes and seconds come as numbers that a double holds exactly.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative, below 2^53"
        )]
        let whole = |key: &str| number(key) as u64;
        let memory = number("mem") / number("maxmem").max(1.0) * 100.0;
        vec![
            r.vmid.to_string(),
            r.name.clone().unwrap_or_else(|| "-".to_owned()),
            (if r.kind == ResourceKind::Lxc { "container" } else { "vm" }).to_owned(),
            r.node.to_string(),
            format!("{:.1}%", number("cpu") * 100.0),
            whole("maxcpu").to_string(),
            human(whole("mem")),
            format!("{memory:.0}%"),
            human(whole("netin")),
            human(whole("netout")),
            uptime(whole("uptime")),
        ]
    };
    let table = Table {
        header: &[
            "VMID", "NAME", "TYPE", "NODE", "CPU", "CORES", "MEMORY", "OF MAX", "NET IN", "NET OUT", "UP",
        ],
        numbers: &[0, 4, 5, 6, 7, 8, 9, 10],
        optional: &[5, 9, 8, 2, 7, 10, 3],
        text_last: false,
    };
    table.of(running, cells, columns)
}

/// How long something has been up, in its two largest units.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_busiest_comes_first() {
        let resources: Vec<Resource> = serde_json::from_value(json!([
            {"vmid": 104, "type": "qemu", "name": "doc1", "node": "prom", "status": "running", "cpu": 0.051, "maxcpu": 8,
             "mem": 17179869184u64, "maxmem": 34359738368u64, "netin": 1048576, "netout": 2048, "uptime": 90061},
            {"vmid": 109, "type": "qemu", "name": "igp", "node": "prom", "status": "running", "cpu": 0.97, "maxcpu": 8,
             "mem": 1024, "maxmem": 2048, "netin": 0, "netout": 0, "uptime": 59},
            {"vmid": 110, "type": "qemu", "name": "web", "node": "prom", "status": "stopped"},
        ]))
        .unwrap();
        insta::assert_snapshot!(text(&running(resources), None), @r"
        VMID  NAME  TYPE  NODE    CPU  CORES    MEMORY  OF MAX   NET IN  NET OUT     UP
         109  igp   vm    prom  97.0%      8   1.0 KiB     50%      0 B      0 B  0m59s
         104  doc1  vm    prom   5.1%      8  16.0 GiB     50%  1.0 MiB  2.0 KiB  1d01h
        ");
        assert_eq!(uptime(3_660), "1h01m");
    }
}
