//! Several VMs side by side: one look at all of them before anything changes, one question, one table at the end.

mod events;
mod room;
mod summary;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fleet_core::{
    Error, Result,
    definitions::{Definitions, ManagedVm},
    interrupt,
    ui::Ui,
};

use self::{
    events::Events,
    summary::{Ended, Row},
};
use crate::{
    preflight,
    provision_one::{self, Kinds, Look, Prepared, Run, UNCHANGED},
};

/// How many VMs are looked at at once. The node answers with three workers, and its SSH server drops connections
/// when many log in at the same moment.
const LOOKS: usize = 4;

/// Provisions the named VMs, or all of them.
pub(crate) fn provision(run: &Run<'_>, ui: Ui) -> Result<()> {
    let cli = run.cli;
    ui.step("Loading VM definitions...");
    let definitions = Definitions::load(run.repo, cli.common.nix)?;
    let vms = chosen(run, &definitions)?;
    if vms.is_empty() {
        ui.done("No managed VM is defined: there is nothing to do");
        return Ok(());
    }
    ui.done(match vms.len() {
        1 => "1 VM definition loaded".to_owned(),
        count => format!("{count} VM definitions loaded"),
    });
    let names: Vec<String> = vms.iter().map(|vm| vm.name.to_string()).collect();
    let events = Events::new(ui);

    ui.step("Validating VM configurations...");
    vms.iter().take(1).for_each(|vm| preflight::unlock(run, vm));
    let lanes = ui.lanes(&names, false);
    let looked = side_by_side(vms.len(), cli.jobs.min(LOOKS), |at| {
        interrupt::check()?;
        Prepared::new(run, lanes[at], &definitions, vms[at], Look::AmongOthers)
    });
    interrupt::check()?;
    let (ready, mut rows) = sorted(looked, &vms, &lanes, ui, &events)?;
    if ready.is_empty() {
        return summary::finish(&rows, cli, ui, &events);
    }
    ui.done(format!("{} of {} VM configurations valid", ready.len(), vms.len()));
    ui.say("");
    show(&ready, run, ui, &lanes);
    if cli.change.dry_run {
        for (at, mut prepared) in ready {
            ui.say("");
            ui.step(format!("VM '{}'", names[at]));
            prepared.dry_run(run, ui)?;
        }
        return summary::dry_verdict(&rows, vms.len(), cli);
    }
    if !cli.change.yes {
        ui.say("");
        let names: Vec<&str> = ready.iter().map(|(_, prepared)| prepared.vm.name.as_str()).collect();
        ui.agree("Continue?", UNCHANGED, Some(&format!("{} --yes", cli.again(&names))))?;
    }
    ui.say("");
    rows.extend(carry_out(run, ui, &definitions, ready, &events));
    rows.sort_by_key(|row| row.at);
    summary::finish(&rows, cli, ui, &events)
}

/// The VMs that the command line names, each once.
fn chosen<'a>(run: &Run<'_>, definitions: &'a Definitions) -> Result<Vec<&'a ManagedVm>> {
    if run.cli.all {
        return Ok(definitions.managed.iter().filter(|vm| !vm.readonly).collect());
    }
    let mut vms: Vec<&ManagedVm> = Vec::new();
    let mut wrong = Vec::new();
    for name in &run.cli.names {
        let vm = match provision_one::definition(definitions, name, &run.cli.names) {
            Ok(vm) => vm,
            Err(error) => {
                wrong.push(error);
                continue;
            }
        };
        if !vms.iter().any(|other| other.name == vm.name) {
            vms.push(vm);
        }
    }
    all_wrong(wrong).map_or(Ok(vms), Err)
}

/// What is wrong with the names, as one error: of the kind of the first.
fn all_wrong(mut wrong: Vec<Error>) -> Option<Error> {
    if wrong.len() < 2 {
        return wrong.pop();
    }
    let kind = wrong.first()?.kind();
    let mut all =
        Error::new(kind, format!("{} of the names are of no VM that can be provisioned", wrong.len()));
    for error in &wrong {
        all = all.now(format!("- {}", error.chain()));
    }
    let mut hints: Vec<&String> = Vec::new();
    for hint in wrong.iter().flat_map(|error| error.hints()) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    Some(hints.into_iter().fold(all.now("nothing was changed"), Error::hint))
}

/// VMs that nothing stands in the way of, by their place among all.
type Found<'a> = Vec<(usize, Prepared<'a>)>;

/// Tells all that is wrong with any of them, now that nothing is changed yet; the others can go on.
fn sorted<'a>(
    looked: Vec<Result<Prepared<'a>>>,
    vms: &[&ManagedVm],
    lanes: &[Ui],
    ui: Ui,
    events: &Events,
) -> Result<(Found<'a>, Vec<Row>)> {
    let (mut ready, mut faults) = (Vec::new(), Vec::new());
    for (at, looked) in looked.into_iter().enumerate() {
        match looked {
            Ok(prepared) => ready.push((at, prepared)),
            Err(error) => faults.push((at, error)),
        }
    }
    // Each has its place, but not all of them together.
    for (at, error) in room::faults(&ready) {
        ready.retain(|(other, _)| *other != at);
        faults.push((at, error));
    }
    // What is wrong with all of them in the same way (no way to the node) is told once.
    let same = |(_, a): &(usize, Error), (_, b): &(usize, Error)| a.report() == b.report();
    if let Some(first) = faults.first()
        && ready.is_empty()
        && faults.len() > 1
        && faults.iter().all(|fault| same(fault, first))
    {
        let fault = faults.swap_remove(0).1;
        return Err(fault.now(format!("it is the same for all {} VMs", vms.len())));
    }
    faults.iter().for_each(|(at, error)| lanes[*at].error(error));
    let rows: Vec<Row> = faults
        .into_iter()
        .map(|(at, error)| Row::new(at, vms[at], Ended::Refused(error), Duration::ZERO))
        .collect();
    rows.iter().for_each(|row| events.over(row));
    if !rows.is_empty() && !ready.is_empty() {
        ui.warn(format!("{} of {} VMs can not be provisioned", rows.len(), vms.len()));
    }
    Ok((ready, rows))
}

/// Shows what will be done to each, and what to all.
fn show(ready: &Found<'_>, run: &Run<'_>, ui: Ui, lanes: &[Ui]) {
    let told = ui.before_question(run.cli.asks());
    ready.iter().for_each(|(_, prepared)| told.say(summary::about(prepared)));
    ui.say("");
    ready.iter().for_each(|(at, prepared)| prepared.warn(lanes[*at]));
    told.attention(match ready.len() {
        1 => "Ready to provision 1 VM".to_owned(),
        count => format!("Ready to provision {count} VMs, {} at once", run.cli.jobs.min(count)),
    });
    told.attention(if ready.len() == 1 { "This will:" } else { "This will, for each:" });
    let all: Vec<&Prepared<'_>> = ready.iter().map(|(_, prepared)| prepared).collect();
    let fresh = "Clone template VM, or continue with the one that an earlier run made";
    let first = match all.as_slice() {
        [one] => provision_one::first_step(one.plan(), one.vm),
        all if all.iter().all(|it| it.plan().makes()) => "Clone template VM".to_owned(),
        all if all.iter().all(|it| !it.plan().makes()) => "Continue with what an earlier run made".to_owned(),
        _ => fresh.to_owned(),
    };
    provision_one::announce(&first, run.cli, Kinds::of(&all), told);
}

fn carry_out(
    run: &Run<'_>,
    ui: Ui,
    definitions: &Definitions,
    ready: Found<'_>,
    events: &Events,
) -> Vec<Row> {
    let names: Vec<String> = ready.iter().map(|(_, prepared)| prepared.vm.name.to_string()).collect();
    let lanes = ui.lanes(&names, true);
    let work: Vec<_> = ready.into_iter().map(|ready| Mutex::new(Some(ready))).collect();
    let rows = side_by_side(work.len(), run.cli.jobs, |number| {
        let lane = lanes[number];
        let taken = work[number].lock().unwrap_or_else(PoisonError::into_inner).take();
        let (at, prepared) = taken?;
        let (vm, began) = (prepared.vm, Instant::now());
        lane.lane_begins();
        let ended = match interrupt::check() {
            Err(_) => Ended::NotBegun,
            Ok(()) => match its_turn(run, lane, definitions, prepared)
                .and_then(|prepared| prepared.carry_out(run, lane, events.watch(vm.name.as_str())))
            {
                Ok(report) => Ended::Done(report),
                Err(error) => {
                    lane.error(&error);
                    Ended::Failed(error)
                }
            },
        };
        let row = Row::new(at, vm, ended, began.elapsed());
        lane.lane_ends(&row.in_words());
        events.over(&row);
        Some(row)
    });
    rows.into_iter().flatten().collect()
}

/// A VM that is being cloned is waited for now, and looked at again; nobody else had to wait for it.
fn its_turn<'a>(
    run: &Run<'_>,
    lane: Ui,
    definitions: &Definitions,
    prepared: Prepared<'a>,
) -> Result<Prepared<'a>> {
    if !prepared.goes_on() {
        return Ok(prepared);
    }
    let vm = prepared.vm;
    // With it goes its hold on the VM.
    drop(prepared);
    Prepared::new(run, lane, definitions, vm, Look::Alone)
}

/// Does `work` for each number below `count`, `jobs` at once, in their order; gives what came of each.
fn side_by_side<T: Send>(count: usize, jobs: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let outcome = work(number);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
        }
    };
    std::thread::scope(|scope| (0..jobs.min(count)).for_each(|_| drop(scope.spawn(worker))));
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_wrong_is_told() {
        assert!(all_wrong(Vec::new()).is_none());
        let unknown = || Error::not_found("no VM 'nosuch'").hint("add it");
        assert_eq!(all_wrong(vec![unknown()]).unwrap().message(), "no VM 'nosuch'");
        let both = all_wrong(vec![Error::refused("refused: 'doc1'"), unknown(), unknown()]).unwrap();
        assert_eq!(both.kind(), fleet_core::Kind::Refused);
        assert_eq!(both.facts()[..2], ["- refused: 'doc1'", "- no VM 'nosuch'"]);
        assert_eq!(both.hints(), ["add it"]);
    }

    #[test]
    fn all_is_done_once_in_order_and_no_more_at_once_than_allowed() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let outcome = side_by_side(20, 3, |number| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            now.fetch_sub(1, Ordering::SeqCst);
            number * 2
        });
        assert_eq!(outcome, (0..20).map(|number| number * 2).collect::<Vec<_>>());
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(side_by_side(0, 3, |number| number), [] as [usize; 0]);
    }
}
