//! From a plan to its end, the same for every verb: show, refuse, ask, put in place, commit, tell.

use fleet_core::{
    Error, Result, again,
    cli::{ChangeArgs, CommonArgs},
    faults::Fault,
    interrupt,
    repo::Repo,
    ui::Ui,
};

use crate::{
    apply::{Desk, Outcome, due, hindrance, interrupted, shown},
    git::{Git, Reason, refuse_nameless},
    identity::{Identity, Places},
    plan::Plan,
};

/// What the user wants of every verb that changes something.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct CommitArgs {
    /// Change the files and leave the commit to you
    #[arg(long)]
    pub no_commit: bool,
    /// Change files that have uncommitted changes, and commit these too
    #[arg(long)]
    pub allow_dirty: bool,
}

impl CommitArgs {
    /// Takes over what was said before the verb.
    pub fn join(&mut self, before: &CommitArgs) {
        self.no_commit |= before.no_commit;
        self.allow_dirty |= before.allow_dirty;
    }
}

/// What is true after a second Ctrl-C, said before leaving.
const LEAVING: &str = "left at once: all files are in place or none, the commit is not made yet; the same command does the rest";

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// There was nothing to change; a commit that was still due may have been made.
    Nothing(Outcome),
    /// `--dry-run`: the plan was shown.
    Shown(Outcome),
    /// Done.
    Done(Outcome),
}

/// Plans with `plan` (under the lock, unless it is a dry run) and carries the plan out. `nothing` is said when there
/// is nothing to do, `done` at the end.
pub fn carry_out<P: AsRef<Plan>>(
    repo: &Repo,
    ui: Ui,
    change: ChangeArgs,
    commit: CommitArgs,
    (nothing, done): (&str, &str),
    plan: impl FnOnce() -> Result<P>,
) -> Result<(P, End)> {
    if change.dry_run {
        refuse_interrupted(repo)?;
        let planned = plan()?;
        let shown = planned.as_ref();
        warn(shown, ui);
        shown.notes.iter().for_each(|note| ui.say(note));
        if shown.is_empty() {
            ui.done(nothing);
        } else if !commit.no_commit {
            refuse_nameless(repo.root())?;
        }
        if !ui.json() {
            ui.data(shown.diff())?;
        }
        let hindered = !commit.no_commit && !shown.is_empty();
        let hindrance = if hindered { hindrance(&Git::find(repo.root())?)? } else { None };
        let outcome = Outcome {
            changed: shown.paths(),
            due: due(repo),
            not_committed: hindrance.filter(Reason::passes).map(|reason| reason.describe()),
            ..Outcome::default()
        };
        return Ok((planned, End::Shown(outcome)));
    }
    let mut desk = Desk::open(repo, ui)?;
    let planned = plan()?;
    let wanted = planned.as_ref();
    warn(wanted, ui);
    if wanted.is_empty() {
        let outcome = earlier(&mut desk, commit, ui)?.unwrap_or_default();
        match (&outcome.commit, &outcome.not_committed) {
            (Some(_), _) => {}
            (None, Some(_)) => ui.done(format!("{nothing}; not committed yet")),
            (None, None) => ui.done(nothing),
        }
        return Ok((planned, End::Nothing(outcome)));
    }
    if !commit.allow_dirty {
        desk.refuse_dirty(wanted)?;
    }
    if !commit.no_commit {
        refuse_nameless(repo.root())?;
        for source in desk.uncommitted_sources(wanted)? {
            ui.warn(format!(
                "{} has uncommitted changes: docs/machines.md is committed with what it says, and it is not",
                source.display()
            ));
        }
    }
    let told = ui.before_question(!change.yes);
    told.say(format!("This will change {}:", files(wanted.paths().len())));
    wanted.summary().iter().for_each(|line| told.say(line));
    let owed = desk.owed();
    if !commit.no_commit && !owed.is_empty() {
        told.say(format!("and commits what an earlier run changed: {}", shown(&owed)));
    }
    // Until now Ctrl-C leaves, with nothing changed, and so it does at the question. What begins then is brought to its
    // end; twice leaves at once.
    interrupt::announce(ui, LEAVING)?;
    if !change.yes {
        ui.agree("Continue?", "nothing was changed", None)?;
    }
    // Of two commits each has its own changes; where none can be made, what is due becomes part of this one's.
    let earlier = match desk.hindrance()? {
        Some(reason) if reason.passes() => None,
        _ => earlier(&mut desk, commit, ui)?.and_then(|outcome| outcome.commit),
    };
    let outcome = Outcome { earlier_commit: earlier, ..desk.apply(wanted, !commit.no_commit)? };
    ui.done(format!("Changed {}", files(outcome.changed.len())));
    if let Some(commit) = &outcome.commit {
        ui.done(format!("Committed as {commit}"));
    }
    match &outcome.not_committed {
        Some(_) => ui.done(format!("{done}; not committed")),
        None => ui.done(done),
    }
    Ok((planned, End::Done(outcome)))
}

/// Makes the commit that an earlier run owes, unless none is wanted.
fn earlier(desk: &mut Desk<'_>, commit: CommitArgs, ui: Ui) -> Result<Option<Outcome>> {
    let outcome = if commit.no_commit { None } else { desk.catch_up()? };
    if let Some(name) = outcome.as_ref().and_then(|outcome| outcome.commit.as_ref()) {
        ui.done(format!("Committed as {name}"));
    }
    Ok(outcome)
}

/// An error when files may be half-changed.
pub(crate) fn refuse_interrupted(repo: &Repo) -> Result<()> {
    if !interrupted(repo) {
        return Ok(());
    }
    Err(Error::partly_done("an interrupted run has to be finished before anything can be planned").hint(
        format!(
            "{}   # finishes it first, as every verb that may change files",
            again::post_provision_vm(&["inventory"])
        ),
    ))
}

fn warn(plan: &Plan, ui: Ui) {
    for warning in plan.warnings.iter().chain(&plan.secrets.warnings) {
        ui.warn(warning);
    }
}

/// "1 file", "5 files".
pub(crate) fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// The operator's identities, looked for when they are needed.
pub(crate) fn identities(common: &CommonArgs) -> impl FnOnce() -> Result<Vec<Identity>> {
    let ui = common.ui();
    move || {
        let (identities, notes) = Places::from_env().identities()?;
        // Why a usual place gave nothing is worth knowing only when nothing else did.
        notes.iter().for_each(|note| if identities.is_empty() { ui.warn(note) } else { ui.detail(note) });
        Ok(identities)
    }
}

pub(crate) fn read(path: &std::path::Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let fault = Fault::not_utf8(path, std::path::Path::new(""), e.as_bytes());
        fault.map_or_else(|| Error::failed(format!("{} is not UTF-8", path.display())), Fault::error)
    })
}
