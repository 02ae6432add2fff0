//! How a run of several VMs ended: a table for people, and one verdict for the exit code.

use std::time::Duration;

use fleet_core::{
    Error, Kind, Result,
    definitions::ManagedVm,
    ui::{Ui, columns},
};
use serde_json::{Value, json};

use super::events::Events;
use crate::{
    cli::Cli,
    provision_one::{Prepared, Report, first_step},
    table,
};

/// How one VM's part of the run ended.
#[derive(Debug)]
pub(super) enum Ended {
    Done(Report),
    Failed(Error),
    /// Something stood in its way before anything was begun.
    Refused(Error),
    /// The run was stopped before its turn.
    NotBegun,
}

/// One VM.
#[derive(Debug)]
pub(super) struct Row {
    /// Its place among all.
    pub(super) at: usize,
    name: String,
    vmid: u32,
    ended: Ended,
    took: Duration,
}

impl Row {
    pub(super) fn new(at: usize, vm: &ManagedVm, ended: Ended, took: Duration) -> Row {
        Row { at, name: vm.name.to_string(), vmid: vm.vmid.get(), ended, took }
    }

    fn outcome(&self) -> &'static str {
        match &self.ended {
            Ended::Done(_) => "done",
            Ended::Failed(error) if error.kind() == Kind::Interrupted => "stopped",
            Ended::Failed(_) => "failed",
            Ended::Refused(error) if error.kind() == Kind::Interrupted => "stopped",
            Ended::Refused(_) => "refused",
            Ended::NotBegun => "not begun",
        }
    }

    fn address(&self) -> Option<String> {
        match &self.ended {
            Ended::Done(report) => Some(report.address.to_string()),
            _ => None,
        }
    }

    /// On one line.
    pub(super) fn in_words(&self) -> String {
        match &self.ended {
            Ended::Done(report) => format!("✓ done: {}", report.address),
            Ended::Failed(error) | Ended::Refused(error) => {
                format!("✗ {}: {}", self.outcome(), error.message())
            }
            Ended::NotBegun => "not begun".to_owned(),
        }
    }

    /// For machines.
    pub(super) fn value(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "vmid": self.vmid,
            "outcome": self.outcome().replace(' ', "-"),
            "seconds": (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
        });
        match &self.ended {
            Ended::Done(report) => {
                if let (Some(value), Ok(Value::Object(report))) =
                    (value.as_object_mut(), serde_json::to_value(report))
                {
                    value.extend(report);
                }
            }
            Ended::Failed(error) | Ended::Refused(error) => value["error"] = json!(error.report()),
            Ended::NotBegun => {}
        }
        value
    }
}

/// What will be done to one VM, on one line.
pub(super) fn about(prepared: &Prepared<'_>) -> String {
    let vm = prepared.vm;
    format!(
        "  {} (VMID {}): {} cores, {}MB, {} on {}{}; {}",
        vm.name,
        vm.vmid,
        vm.cores,
        vm.memory,
        vm.disk,
        vm.storage,
        prepared.plan().placed.as_ref().map(|placed| format!(", node {placed}")).unwrap_or_default(),
        first_step(prepared.plan(), vm)
    )
}

/// Shows the table, or the event that stands for it, and gives the verdict.
pub(super) fn finish(rows: &[Row], cli: &Cli, ui: Ui, events: &Events) -> Result<()> {
    if events.wanted() {
        events.summary(rows);
    } else {
        ui.lanes_end();
        ui.say("");
        ui.data(table(rows, columns()))?;
    }
    verdict(rows, cli)
}

fn table(rows: &[Row], columns: Option<usize>) -> String {
    let cells = rows.iter().map(|row| {
        // Of one that is refused nothing was begun.
        let seconds = match &row.ended {
            Ended::Refused(_) => table::NOTHING.to_owned(),
            _ => format!("{:.1} s", row.took.as_secs_f64()),
        };
        let outcome = match &row.ended {
            Ended::Failed(error) | Ended::Refused(error) => {
                format!("{} ({})", row.outcome(), error.kind().exit_code())
            }
            _ => row.outcome().to_owned(),
        };
        let address = row.address().unwrap_or_else(|| table::NOTHING.to_owned());
        vec![row.name.clone(), row.vmid.to_string(), address, outcome, seconds]
    });
    let head = ["NAME", "VMID", "ADDRESS", "OUTCOME", "TIME"];
    table::fitting(&head, &cells.collect::<Vec<_>>(), &[], columns)
}

/// Nothing when all are done. Where none is, the failure is of the kind of the first; where some are and some are
/// not, the run is partly done; who stopped it is told that it was stopped.
pub(super) fn verdict(rows: &[Row], cli: &Cli) -> Result<()> {
    let open: Vec<&Row> = rows.iter().filter(|row| !matches!(row.ended, Ended::Done(_))).collect();
    let open_names: Vec<&str> = open.iter().map(|row| row.name.as_str()).collect();
    let names = open_names.join(" ");
    let kind_of = |row: &&&Row| match &row.ended {
        Ended::Failed(error) | Ended::Refused(error) => error.kind(),
        _ => Kind::Interrupted,
    };
    let Some(first) = open.first() else { return Ok(()) };
    let stopped = open.iter().any(|row| kind_of(&row) == Kind::Interrupted);
    let kind = match (stopped, open.len() == rows.len()) {
        (true, _) => Kind::Interrupted,
        (false, true) => kind_of(&first),
        (false, false) => Kind::PartlyDone,
    };
    let message = match stopped {
        true => format!("stopped by the user: {} of {} VMs are done", rows.len() - open.len(), rows.len()),
        false if rows.len() == 1 => format!("the one VM is not done: {names}"),
        false => match open.len() {
            1 => format!("1 of {} VMs is not done: {names}", rows.len()),
            count => format!("{count} of {} VMs are not done: {names}", rows.len()),
        },
    };
    let refused = open.iter().filter(|row| matches!(row.ended, Ended::Refused(_))).count();
    let again = cli.again(&open_names);
    Err(Error::new(kind, message).hint(match refused {
        0 => format!("`{again}` continues with what is left"),
        _ if refused == open.len() => format!("once what stands in the way is mended: {again}"),
        _ => format!("`{again}` continues with what is left, once what stands in the way is mended"),
    }))
}

/// Of a dry run: nothing when nothing stands in the way of any of so many VMs. `rows` are the others.
pub(super) fn dry_verdict(rows: &[Row], of: usize, cli: &Cli) -> Result<()> {
    verdict(rows, cli).map_err(|error| {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let message = format!("{} of {of} VMs can not be provisioned: {}", rows.len(), names.join(" "));
        let kind = if error.kind() == Kind::PartlyDone { Kind::Failed } else { error.kind() };
        Error::new(kind, message)
            .hint(format!("once what stands in the way is mended: {}", cli.again(&names)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ended: Ended) -> Row {
        Row { at: 0, name: name.to_owned(), vmid: 110, ended, took: Duration::from_millis(61_240) }
    }

    fn done() -> Ended {
        Ended::Done(Report {
            name: "web".to_owned(),
            vmid: 110,
            address: "192.0.2.10".parse().unwrap(),
            user: "fleet".to_owned(),
            installed: true,
            integrated: true,
        })
    }

    #[test]
    fn the_table_tells_each_and_the_verdict_all() {
        let rows = [
            row("web", done()),
            row("db", Ended::Failed(Error::conflict("taken"))),
            row("mail", Ended::NotBegun),
            row("nas", Ended::Refused(Error::refused("protected"))),
        ];
        insta::assert_snapshot!(table(&rows, None), @r"
        NAME  VMID  ADDRESS     OUTCOME      TIME
        web   110   192.0.2.10  done         61.2 s
        db    110   -           failed (4)   61.2 s
        mail  110   -           not begun    61.2 s
        nas   110   -           refused (3)  -
        ");
        let cli = <Cli as clap::Parser>::parse_from(["provision-vm", "--all", "--no-install"]);
        let verdict =
            |rows: &[Row]| verdict(rows, &cli).map_err(|error| (error.kind(), error.message().to_owned()));
        assert_eq!(verdict(&rows[..1]), Ok(()));
        assert_eq!(verdict(&rows[..2]), Err((Kind::PartlyDone, "1 of 2 VMs is not done: db".to_owned())));
        assert_eq!(verdict(&rows[1..2]), Err((Kind::Conflict, "the one VM is not done: db".to_owned())));
        assert_eq!(
            verdict(&rows[..3]),
            Err((Kind::Interrupted, "stopped by the user: 1 of 3 VMs are done".to_owned()))
        );
        let told = |rows: &[Row]| super::verdict(rows, &cli).unwrap_err().hints().to_vec();
        assert_eq!(told(&rows[..2]), ["`provision-vm db --no-install` continues with what is left"]);
        assert_eq!(
            told(&rows),
            [
                "`provision-vm db mail nas --no-install` continues with what is left, once what stands in the way is mended"
            ]
        );
        let mended = ["once what stands in the way is mended: provision-vm nas --no-install"];
        assert_eq!(told(&rows[3..]), mended);
        let dry = dry_verdict(&rows[3..], 4, &cli).unwrap_err();
        assert_eq!(
            (dry.kind(), dry.message(), dry.hints()),
            (Kind::Refused, "1 of 4 VMs can not be provisioned: nas", &mended.map(str::to_owned)[..])
        );
    }
}
