//! What becomes of a VM when its run failed.

use fleet_core::{
    Error, Kind, Result,
    child::Command,
    error::Report,
    protocol::{Marker, Op},
};

use super::{Job, limit};
use crate::{again, cli::OnFailure, relay, state, steps::Step, unfinished, world};

/// The error with what is true now, and what to do next: the VM is kept and the same command goes on with it, or
/// what this run made is removed again. `made` is the marker of this run's own clone, `known` says that the fleet
/// knew the VM before.
pub fn failed(job: &Job<'_>, made: Option<&Marker>, known: bool, error: Error) -> Error {
    let name = &job.vm.name;
    let keep = |error: Error| match error.kind() {
        Kind::PartlyDone => error,
        _ if clears(job, &error) => {
            let report = error.report();
            let again = format!("`{}` removes what is left of it, and goes on", job.again());
            Error::from(Report { hints: vec![again], ..report })
        }
        // What heals it is said already.
        _ if error.hints().iter().any(|hint| hint.contains(&job.again())) => error,
        _ => error.hint(format!("`{}` continues from here", job.again())),
    };
    // Who stops a run wants it to stop.
    if job.cli.on_failure == OnFailure::Keep || error.kind() == Kind::Interrupted {
        return keep(error);
    }
    let Some(marker) = made else {
        return keep(error.now(format!("VM {} was there before this run: it is kept", job.vm.vmid)));
    };
    let error = match undo(job, marker) {
        Ok(true) => error.now(format!("VM {} '{name}', which this run made, is removed again", job.vm.vmid)),
        Ok(false) => error.now(format!("this run made no VM {}", job.vm.vmid)),
        Err(why) => {
            return keep(error.now(format!("what this run made could not be removed: {}", why.chain())));
        }
    };
    match leave(job, known) {
        Ok(()) => error.hint(format!("`{}` tries it again", job.again())),
        Err(why) => error
            .now(format!("'{name}' could not be taken out of the fleet again: {}", why.chain()))
            .hint(again::post_provision_vm(&["remove", name.as_str()])),
    }
}

/// Whether the next run clears away by itself what this error tells to be cleared by hand: a clone's remainder that is
/// proven to be one of ours, and not refused as what may be somebody else's.
fn clears(job: &Job<'_>, error: &Error) -> bool {
    if error.kind() == Kind::Refused {
        return false;
    }
    let by_hand = format!("qm destroy {}", job.vm.vmid);
    error.hints().iter().any(|hint| hint.contains(&by_hand)) && unfinished::task(job.vm).is_some()
}

/// Removes the VM with exactly this marker. Whether there was one.
fn undo(job: &Job<'_>, marker: &Marker) -> Result<bool> {
    // The old conversation may be what failed.
    let mut session = job.tools.session()?;
    let there = world::existing(&mut session, job.vm.vmid)?;
    if let (Some((_, status)), Some(task)) = (&there, unfinished::task(job.vm))
        && status.is_remainder()
    {
        unfinished::clear(job.vm, task, |op| job.change(&mut session, op, limit::CHANGE))?;
        return Ok(true);
    }
    if there.and_then(|(config, _)| config.marker).as_ref() != Some(marker) {
        return Ok(false);
    }
    job.ui.step("Removing what this run made...");
    let destroy = Op::Destroy { vmid: job.vm.vmid, marker: marker.clone(), stop: true };
    job.change(&mut session, destroy, limit::CHANGE)?;
    state::forget(&job.vm.name, job.vm.vmid);
    Ok(true)
}

/// Takes out of the fleet what this run took in, whatever there was of the VM by then.
fn leave(job: &Job<'_>, known: bool) -> Result<()> {
    if !job.journal.took().iter().any(|(step, _)| *step == Step::Integrate) {
        return Ok(());
    }
    let remove = job.tools.post_provision().args(["--json", "remove", job.vm.name.as_str(), "--yes"]);
    run(job, &if known { remove } else { remove.arg("--from-hosts") })
}

fn run(job: &Job<'_>, command: &Command) -> Result<()> {
    relay::run(command, limit::INTEGRATE, job.journal, job.ui)?.failed().map_or(Ok(()), Err)
}
