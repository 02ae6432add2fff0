//! `provision-vm status`: what is known of each VM, in one table. Reads only.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;
use fleet_core::{
    Kind, Result,
    cli::silent_exit,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    hosts::Hosts,
    protocol::{Address, Op, Session},
    repo::Repo,
    ssh::keys::PublicKey,
    ui::columns,
};
use serde::{Deserialize, Serialize};

use crate::{
    cli::Cli,
    compare::{self, Comparison},
    installed::{self, Installed},
    journal::{Outcome, Past, Verb},
    plan, state, table,
    tools::Tools,
    world::World,
};

/// How many VMs' secrets are looked at side by side: a process for each.
const AT_ONCE: usize = 4;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// VMs to look at [default: every managed VM]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// What is known of one VM.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    vmid: u32,
    /// `same`, `change`, `create`, `foreign`, or `unknown` when the node can not be asked.
    definition: String,
    node: Option<String>,
    power: Option<String>,
    /// Whether NixOS is on it, as far as its settings tell; none of one that is not there.
    nixos: Option<Installed>,
    address: Option<IpAddr>,
    /// SHA256 fingerprint of the key in hosts.nix.
    host_key: Option<String>,
    secrets: Secrets,
    last_run: Option<LastRun>,
}

/// Whether the secrets open for the VM's key.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Secrets {
    /// Every one that its rules name it for.
    Open,
    /// So many files are not wrapped for it yet.
    Behind(usize),
    /// It has no key on record.
    NoKey,
    /// They could not be looked at.
    Unknown(String),
}

#[derive(Debug, Serialize)]
struct LastRun {
    /// What it was about.
    run: Verb,
    time: String,
    /// `done`, `failed`, `stopped` (by the user), `at work`, or `cut short`.
    outcome: &'static str,
    /// The step it was in last.
    step: Option<crate::steps::Step>,
    exit_code: Option<u8>,
}

/// Runs the verb. A node that can not be asked is said, and everything else is told all the same.
pub fn run(cli: &Cli, args: &StatusArgs) -> Result<()> {
    let ui = cli.common.ui();
    let repo = cli.common.repo("provision-vm --repo DIR status")?;
    let definitions = Definitions::load(&repo, cli.common.nix)?;
    let hosts = Hosts::load(&repo, cli.common.nix)?;
    let tools = Tools::find(cli, &repo)?;
    let vms = compare::named(&definitions, &args.names)?;
    let asked = tools.session().and_then(|mut session| {
        let world = compare::survey(&mut session)?;
        Ok((session, world))
    });
    let (mut node, trouble) = match asked {
        Ok(both) => (Some(both), None),
        Err(error) => (None, Some(error)),
    };
    let mut rows: Vec<Row> = vms.iter().map(|vm| row(vm, &hosts, &mut node)).collect();
    addresses(&vms, &mut rows, &mut node);
    secrets_of_all(&vms, &mut rows, &repo, &tools, &hosts);
    ui.answer(&rows, || fitting(&rows, columns()))?;
    let Some(error) = trouble else { return Ok(()) };
    ui.warn(format!("the node could not be asked: {}", error.chain()));
    Err(silent_exit(if error.kind() == Kind::Usage { Kind::Failed } else { error.kind() }))
}

fn key(vm: &ManagedVm, hosts: &Hosts) -> Option<PublicKey> {
    let line = hosts.get(vm.name.as_str()).and_then(|host| host.public_key.as_deref());
    line.and_then(|line| PublicKey::parse(line).ok())
}

/// What the files and the one look at the cluster tell.
fn row(vm: &ManagedVm, hosts: &Hosts, node: &mut Option<(Session, World)>) -> Row {
    let mut row = Row {
        name: vm.name.to_string(),
        vmid: vm.vmid.get(),
        definition: "unknown".to_owned(),
        node: None,
        power: None,
        nixos: None,
        address: plan::fixed_address(vm),
        secrets: Secrets::NoKey,
        host_key: key(vm, hosts).map(|key| key.fingerprint()),
        last_run: Past::last_of(&vm.name).map(|past| {
            let at_work = past.process().is_some_and(|it| state::holder(&vm.name, vm.vmid) == Some(it));
            last_run(&past, at_work)
        }),
    };
    let Some((_, world)) = node else { return row };
    world.existing = compare::existing(world, vm);
    let comparison = compare::compare(vm, world);
    row.definition = match &comparison {
        Comparison::Create => "create",
        Comparison::Same { .. } => "same",
        Comparison::Change { .. } => "change",
        Comparison::Foreign { .. } => "foreign",
    }
    .to_owned();
    let ours = matches!(comparison, Comparison::Same { .. } | Comparison::Change { .. });
    if let (true, Some((config, status))) = (ours, &world.existing) {
        row.node = Some(config.node.to_string());
        row.power = Some(status.status.clone());
        row.nixos = Some(installed::of(vm, config, world));
    }
    row
}

/// The addresses of those that run: all asked for at once, over the one connection.
fn addresses(vms: &[&ManagedVm], rows: &mut [Row], node: &mut Option<(Session, World)>) {
    let Some((session, _)) = node else { return };
    let (mut ops, mut running) = (Vec::new(), Vec::new());
    for (vm, row) in vms.iter().zip(rows).filter(|(_, row)| row.power.as_deref() == Some("running")) {
        ops.push(Op::Address { vmid: vm.vmid, timeout: 0 });
        running.push(row);
    }
    let found = session.ask_all::<Address>(ops, Deadline::secs(60));
    for (row, found) in running.into_iter().zip(found) {
        row.address = found.map(|found| found.address).ok().or(row.address);
    }
}

/// Whether the secrets open for each that has a key, some at a time.
fn secrets_of_all(vms: &[&ManagedVm], rows: &mut [Row], repo: &Repo, tools: &Tools, hosts: &Hosts) {
    let waiting = std::sync::Mutex::new(vms.iter().zip(rows));
    let work = || {
        loop {
            // One that panicked took one row with it, not the list.
            let next = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((vm, row)) = next else { return };
            // One that is not there opens none.
            if row.definition != "create"
                && let Some(key) = key(vm, hosts)
            {
                row.secrets = secrets(vm, repo, tools, &key);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
}

/// Asks what `post-provision-vm` would change for the key on record.
fn secrets(vm: &ManagedVm, repo: &Repo, tools: &Tools, key: &PublicKey) -> Secrets {
    #[derive(Deserialize)]
    struct Answer {
        rewrapped: Vec<PathBuf>,
    }
    if repo.sops_rules().is_none() {
        return Secrets::Open;
    }
    let ask = || -> Result<Answer> {
        let file = tempfile::NamedTempFile::new()
            .and_then(|file| std::fs::write(file.path(), format!("{key}\n")).map(|()| file))
            .map_err(|e| fleet_core::Error::failed("can not write a temporary file").caused_by(e))?;
        let path = file.path().to_string_lossy().into_owned();
        tools.ask_post_provision(&["--dry-run", "--host-key", &path, "--", vm.name.as_str()])
    };
    match ask() {
        Ok(Answer { rewrapped }) if rewrapped.is_empty() => Secrets::Open,
        Ok(Answer { rewrapped }) => Secrets::Behind(rewrapped.len()),
        Err(error) => Secrets::Unknown(error.message().to_owned()),
    }
}

/// `at_work`: the process that wrote it holds the VM.
fn last_run(past: &Past, at_work: bool) -> LastRun {
    let end = past.end();
    LastRun {
        run: past.verb(),
        time: past.records.first().map(|record| record.time.clone()).unwrap_or_default(),
        outcome: match end {
            Some((Outcome::Failed, code)) if code == Kind::Interrupted.exit_code() => "stopped",
            Some((Outcome::Failed, _)) => "failed",
            Some(_) => "done",
            None if at_work => "at work",
            None => "cut short",
        },
        step: past.last_step(),
        exit_code: end.map(|(_, code)| code),
    }
}

/// The table, or where it is too wide for the terminal a few lines for each.
fn fitting(rows: &[Row], columns: Option<usize>) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::fitting(&HEAD, &cells, &[1], columns)
}

const HEAD: [&str; 10] =
    ["NAME", "VMID", "DEFINITION", "NODE", "POWER", "NIXOS", "ADDRESS", "HOST KEY", "SECRETS", "LAST RUN"];

fn cells(row: &Row) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| table::NOTHING.to_owned());
    vec![
        row.name.clone(),
        row.vmid.to_string(),
        row.definition.clone(),
        or_dash(row.node.clone()),
        or_dash(row.power.clone()),
        match row.nixos {
            None => table::NOTHING.to_owned(),
            Some(Installed::No) => "no".to_owned(),
            Some(Installed::Maybe) => "maybe".to_owned(),
            Some(Installed::Yes) => "yes".to_owned(),
        },
        or_dash(row.address.map(|address| address.to_string())),
        // Enough of it to compare by eye.
        or_dash(row.host_key.as_ref().map(|key| key.chars().take("SHA256:".len() + 8).collect())),
        match &row.secrets {
            Secrets::Open => "open".to_owned(),
            Secrets::Behind(1) => "1 file behind".to_owned(),
            Secrets::Behind(n) => format!("{n} files behind"),
            Secrets::NoKey => table::NOTHING.to_owned(),
            Secrets::Unknown(_) => "unknown".to_owned(),
        },
        or_dash(row.last_run.as_ref().map(|run| {
            let at = match (run.outcome, run.step) {
                ("done", _) | (_, None) => String::new(),
                (_, Some(step)) => format!(" in {step}"),
            };
            let time = run.time.get(..16).unwrap_or(&run.time).replace('T', " ");
            format!("{} {}{at}, {time} UTC", run.run, run.outcome)
        })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Event;

    #[test]
    fn a_run_that_is_at_work_or_was_stopped_is_called_so() {
        let record = |event: Event| crate::journal::Record { time: "2026-11-26T22:25:06.123Z".into(), event };
        let end = |exit_code| Event::End { outcome: Outcome::Failed, seconds: 1.0, exit_code, error: None };
        let outcome = |events: Vec<Event>, at_work| {
            let records = events.into_iter().map(record).collect();
            last_run(&Past { path: "20261126T222506.123Z-77.jsonl".into(), records }, at_work).outcome
        };
        let started = || Event::Started { step: crate::steps::Step::Kexec };
        assert_eq!(outcome(vec![started()], true), "at work");
        assert_eq!(outcome(vec![started()], false), "cut short");
        assert_eq!(outcome(vec![started(), end(130)], false), "stopped");
        assert_eq!(outcome(vec![started(), end(8)], true), "failed");
    }

    #[test]
    fn the_table_is_short_and_aligned() {
        let row = |name: &str, secrets, last_run| Row {
            name: name.to_owned(),
            vmid: 110,
            definition: "same".into(),
            node: Some("prom".into()),
            power: Some("running".into()),
            nixos: Some(Installed::Yes),
            address: Some("192.0.2.10".parse().unwrap()),
            host_key: Some("SHA256:AZ4Zd7dlt6+qQGhTznGDEceaIdwpk7/ewTndVsz8PQE".into()),
            secrets,
            last_run,
        };
        let time = || "2026-11-26T22:25:06.123Z".into();
        let run =
            |outcome, step| Some(LastRun { run: Verb::Apply, time: time(), outcome, step, exit_code: None });
        let mut none = row("db", Secrets::NoKey, run("cut short", Some(crate::steps::Step::Kexec)));
        (none.node, none.power, none.nixos, none.address, none.host_key) = (None, None, None, None, None);
        let rows = [row("web", Secrets::Open, run("done", None)), none];
        insta::assert_snapshot!(fitting(&rows, None), @r"
        NAME  VMID  DEFINITION  NODE  POWER    NIXOS  ADDRESS     HOST KEY         SECRETS  LAST RUN
        web    110  same        prom  running  yes    192.0.2.10  SHA256:AZ4Zd7dl  open     apply done, 2026-11-26 22:25 UTC
        db     110  same        -     -        -      -           -                -        apply cut short in kexec, 2026-11-26 22:25 UTC
        ");
        assert_eq!(fitting(&rows, Some(130)), fitting(&rows, None));
        insta::assert_snapshot!(fitting(&rows, Some(60)), @r"
        web
          vmid: 110
          definition: same
          node: prom
          power: running
          nixos: yes
          address: 192.0.2.10
          host key: SHA256:AZ4Zd7dl
          secrets: open
          last run: apply done, 2026-11-26 22:25 UTC
        db
          vmid: 110
          definition: same
          last run: apply cut short in kexec, 2026-11-26 22:25 UTC
        ");
    }
}
