//! `provision-vm log`: what the last run did.

use clap::Args;
use fleet_core::{Error, Result, child::quote, types::VmName};

use crate::{
    again,
    cli::Cli,
    journal::{Event, Outcome, Past, Record},
    state,
};

/// Arguments of `log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The VM whose last run to show [default: the last run of all]
    #[arg(value_name = "NAME")]
    pub name: Option<VmName>,
}

/// Runs the verb: the journal's lines with `--json`, else a line for each step.
pub fn run(cli: &Cli, args: &LogArgs) -> Result<()> {
    let ui = cli.common.ui();
    let past = match &args.name {
        Some(name) => Past::last_of(name),
        None => Past::last(),
    };
    let past = past.ok_or_else(|| {
        let of = args.name.as_ref().map(|name| format!(" of '{name}'")).unwrap_or_default();
        Error::not_found(format!("there is no run{of} on this machine"))
            .now(format!("looked in {}", crate::journal::directory().display()))
            .hint(format!("`{}` shows the last run of every VM", again::provision_vm(&["status"])))
    })?;
    if ui.json() {
        return past.records.iter().try_for_each(|record| ui.json_line(record));
    }
    ui.data(text(&past))
}

fn text(past: &Past) -> String {
    let mut lines: Vec<String> = past.records.iter().filter_map(line).collect();
    if past.end().is_none() {
        let at = past.last_step().map(|step| format!(" in the step '{step}'")).unwrap_or_default();
        lines.push(match at_work(past) {
            Some(process) => format!("at work{at} (process {process})"),
            None => format!("cut short{at}"),
        });
    }
    lines.push(format!("journal: {}", past.path.display()));
    lines.push(format!("output:  {}", past.path.with_extension("log").display()));
    lines.join("\n") + "\n"
}

/// The process that is still at it: the one that holds the VM.
fn at_work(past: &Past) -> Option<i32> {
    let begun = past.records.iter().find_map(|record| match &record.event {
        Event::Begin { name, vmid, .. } => Some((name, *vmid)),
        _ => None,
    });
    let (name, vmid) = begun?;
    past.process().filter(|process| state::holder(name, vmid) == Some(*process))
}

fn line(record: &Record) -> Option<String> {
    Some(match &record.event {
        Event::Begin { verb, name, vmid, command, versions, .. } => {
            let versions: Vec<String> =
                versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
            format!(
                "{name} (VMID {vmid}), {verb}, {}\n$ {}\n{}",
                record.time,
                command.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
                versions.join(", ")
            )
        }
        Event::Ended { step, outcome, seconds, said } => {
            let (mark, took) = match outcome {
                Outcome::Done => ("done", format!("{seconds:.1} s")),
                Outcome::Already => ("already", String::new()),
                Outcome::Failed => ("failed", format!("{seconds:.1} s")),
            };
            format!("  {step:<10} {mark:<8} {took:>8}  {said}").trim_end().to_owned()
        }
        Event::Task { upid, .. } => format!("             {upid}"),
        Event::End { outcome: Outcome::Failed, seconds, exit_code, error } => {
            let mut text = format!("failed after {seconds:.1} s, exit code {exit_code}");
            if let Some(error) = error {
                text.push_str(&format!(": {}", error.message));
                error.now.iter().for_each(|fact| text.push_str(&format!("\n  {fact}")));
                error.hints.iter().for_each(|hint| text.push_str(&format!("\nhint: {hint}")));
            }
            text
        }
        Event::End { seconds, .. } => format!("done after {seconds:.1} s"),
        Event::Started { .. } | Event::Request { .. } | Event::Command { .. } => return None,
    })
}
