//! A plan put in place: dirty files refused, everything staged and renamed under the journal, one commit.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_core::{
    Error, Kind, Result, child,
    deadline::Deadline,
    files::{self, Lock, Recovery},
    interrupt,
    repo::Repo,
    ui::Ui,
};
use serde::{Deserialize, Serialize};

use crate::{
    git::{Committed, Git, Reason},
    plan::Plan,
};

/// Beside the journal: a commit that is still to be made of files that are in place.
const PENDING: &str = "pending-commit.json";

/// The repository, locked, with nothing half-done in it.
#[derive(Debug)]
pub struct Desk<'a> {
    repo: &'a Repo,
    ui: Ui,
    state: PathBuf,
    lock: Lock,
    git: std::result::Result<Git, Reason>,
    /// A commit that an earlier run could not make.
    pending: Option<Pending>,
}

/// How long to wait for another run, in seconds: longer than one takes that nobody has to answer.
const LOCK_LIMIT: u64 = 60;

/// A commit to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pending {
    message: String,
    /// Paths relative to the repository and the checksums they must have.
    files: Vec<(PathBuf, String)>,
}

impl Pending {
    /// What is due still becomes part of this commit: one file has the changes of both.
    fn takes_over(&mut self, due: &Pending) {
        let own: Vec<&PathBuf> = self.files.iter().map(|(path, _)| path).collect();
        let other: Vec<_> = due.files.iter().filter(|(path, _)| !own.contains(&path)).cloned().collect();
        self.files.extend(other);
        self.message = format!("{}\n{}", due.message, self.message);
    }
}

/// What became of a plan.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Files that changed, relative to the repository.
    pub changed: Vec<PathBuf>,
    /// Short name of the commit.
    pub commit: Option<String>,
    /// Short name of the commit of what an earlier run changed, where this one made that first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_commit: Option<String>,
    /// Why there is none, if one was wanted.
    pub not_committed: Option<String>,
    /// Of a dry run: files that an earlier run changed and could not commit. The next run commits them first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub due: Vec<PathBuf>,
}

/// Whether an interrupted run has to be finished before anything can be planned.
pub fn interrupted(repo: &Repo) -> bool {
    files::interrupted(&files::state_dir(repo.root()))
}

/// The files whose commit an earlier run still owes, as it left them.
pub fn due(repo: &Repo) -> Vec<PathBuf> {
    let pending = pending_in(repo.root(), &files::state_dir(repo.root()));
    pending.into_iter().flat_map(|pending| pending.files).map(|(path, _)| path).collect()
}

/// The commit that is still to be made, if the files are as they were left.
fn pending_in(root: &Path, state: &Path) -> Option<Pending> {
    let text = std::fs::read(state.join(PENDING)).ok()?;
    let is_as_left = |(path, sum): &(PathBuf, String)| {
        files::checksum_of(&root.join(path)).is_ok_and(|now| now.as_deref() == Some(sum))
    };
    serde_json::from_slice::<Pending>(&text).ok().filter(|pending| pending.files.iter().all(is_as_left))
}

/// Several VMs may be taken in side by side: the second waits for the first.
fn wait_for_lock(state: &Path, ui: Ui) -> Result<Lock> {
    let deadline = Deadline::secs(LOCK_LIMIT);
    let mut told = false;
    loop {
        match Lock::take(state) {
            Err(error) if error.kind() == Kind::Conflict && !deadline.passed() => {
                if !told {
                    ui.step("Waiting for another fleet tool to finish with this repository...");
                    told = true;
                }
                deadline.sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}

impl<'a> Desk<'a> {
    /// Locks the repository, and finishes or takes back what an interrupted run left.
    pub fn open(repo: &'a Repo, ui: Ui) -> Result<Desk<'a>> {
        let state = files::state_dir(repo.root());
        let lock = wait_for_lock(&state, ui)?;
        match files::recover(&lock, &state)? {
            Recovery::Clean => {}
            Recovery::Completed(files) => ui.warn(format!(
                "finished an interrupted run: {} put in place",
                crate::carry_out::files(files.len())
            )),
            Recovery::TakenBack => ui.warn("took back an interrupted run: it had changed nothing"),
        }
        let mut desk = Desk { repo, ui, state, lock, git: Git::find(repo.root())?, pending: None };
        desk.pending = desk.read_pending()?;
        Ok(desk)
    }

    fn pending_path(&self) -> PathBuf {
        self.state.join(PENDING)
    }

    /// A commit that is still to be made; one that no longer fits the files is forgotten.
    fn read_pending(&self) -> Result<Option<Pending>> {
        let fits = pending_in(self.repo.root(), &self.state);
        if fits.is_none() {
            self.forget_pending()?;
        }
        Ok(fits)
    }

    fn forget_pending(&self) -> Result<()> {
        match std::fs::remove_file(self.pending_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.pending_path(), e))
            }
            _ => Ok(()),
        }
    }

    /// The files whose commit an earlier run still owes.
    pub fn owed(&self) -> Vec<PathBuf> {
        self.pending.iter().flat_map(|pending| &pending.files).map(|(path, _)| path.clone()).collect()
    }

    /// Why nothing would be committed now.
    pub fn hindrance(&self) -> Result<Option<Reason>> {
        hindrance(&self.git)
    }

    /// Makes the commit that an earlier run could not make. While it can not be made either it stays due.
    pub fn catch_up(&mut self) -> Result<Option<Outcome>> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        self.ui.step("Committing what an earlier run changed...");
        let mut outcome = Outcome {
            changed: pending.files.iter().map(|(path, _)| path.clone()).collect(),
            ..Outcome::default()
        };
        if self.commit(&pending, &mut outcome)? {
            self.pending = Some(pending);
        }
        Ok(Some(outcome))
    }

    /// Refuses by name those files of a plan that have changes of the user's own.
    pub fn refuse_dirty(&self, plan: &Plan) -> Result<()> {
        let Ok(git) = &self.git else { return Ok(()) };
        let existing: Vec<PathBuf> =
            plan.paths().into_iter().filter(|path| self.repo.root().join(path).exists()).collect();
        let mut dirty = git.dirty(&existing)?;
        // What is left to be committed by us is nobody's work that could be lost.
        let owed = self.owed();
        dirty.retain(|path| !owed.contains(path));
        if dirty.is_empty() {
            return Ok(());
        }
        let verb = if dirty.len() == 1 { "has" } else { "have" };
        Err(Error::refused(format!("refused: {} {verb} uncommitted changes", shown(&dirty)))
            .now("nothing was changed")
            .hint(format!("commit them, or put them away: git stash push -- {}", quoted(&dirty)))
            .hint("or take them along: --allow-dirty"))
    }

    /// Of what the inventory is generated from, what has uncommitted changes that the plan does not commit with it.
    pub fn uncommitted_sources(&self, plan: &Plan) -> Result<Vec<PathBuf>> {
        let (paths, owed, root) = (plan.paths(), self.owed(), self.repo.root());
        let relative = |path: PathBuf| path.strip_prefix(root).map(Path::to_owned).unwrap_or(path);
        let Ok(git) = &self.git else { return Ok(Vec::new()) };
        if !paths.contains(&relative(self.repo.inventory())) {
            return Ok(Vec::new());
        }
        let mut sources = vec![relative(self.repo.definitions()), relative(self.repo.hosts())];
        sources.retain(|source| !paths.contains(source) && !owed.contains(source));
        git.dirty(&sources)
    }

    /// Puts everything in place and commits it.
    pub fn apply(&self, plan: &Plan, commit: bool) -> Result<Outcome> {
        let root = self.repo.root();
        let changes = plan.changes(root);
        let mut outcome = Outcome { changed: plan.paths(), ..Outcome::default() };
        let sums = plan.paths().into_iter().zip(changes.iter().map(|change| files::checksum(&change.after)));
        let mut pending = Pending { message: plan.message.clone(), files: sums.collect() };
        if let Some(due) = &self.pending {
            pending.takes_over(due);
        }
        if commit {
            let text =
                serde_json::to_vec(&pending).map_err(|e| Error::failed("can not write JSON").caused_by(e))?;
            let path = self.pending_path();
            std::fs::write(&path, text)
                .map_err(|e| Error::io("write", &path, e).now("no file was changed"))?;
        }
        files::apply(&self.lock, root, &self.state, &changes)?;
        if commit {
            self.commit(&pending, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Commits it, or says why not; whether it is due still.
    fn commit(&self, pending: &Pending, outcome: &mut Outcome) -> Result<bool> {
        let hindrance = self.hindrance()?;
        let passes = hindrance.as_ref().is_some_and(Reason::passes);
        let paths: Vec<PathBuf> = pending.files.iter().map(|(path, _)| path.clone()).collect();
        let apart = self.git.as_ref().map_or_else(|_| Vec::new(), |git| apart(git, &paths));
        let here: Vec<PathBuf> = paths
            .iter()
            .filter(|path| !apart.iter().any(|(_, files)| files.contains(path)))
            .cloned()
            .collect();
        match (&self.git, hindrance) {
            (Ok(_), None) if here.is_empty() => outcome.not_committed = Some(Reason::Apart.describe()),
            (Ok(git), None) => match git.commit(&here, &pending.message) {
                Ok(Committed::As(name)) => outcome.commit = Some(name),
                Ok(Committed::Before) => {}
                Ok(Committed::Ignored) => outcome.not_committed = Some(Reason::Ignored.describe()),
                Err(error) if interrupt::asked() => {
                    return Err(Error::interrupted("stopped by the user while git made the commit")
                        .caused_by(error)
                        .now(format!("the files are in place, and not committed: {}", shown(&paths)))
                        .hint("run the same command again: it commits them"));
                }
                Err(error) => {
                    return Err(error
                        .context("the files are in place, but git would not commit them")
                        .with_kind(Kind::PartlyDone)
                        .now(format!("changed and not committed: {}", shown(&paths)))
                        .hint("mend what git says and run the same command again: it commits them"));
                }
            },
            (_, reason) => outcome.not_committed = reason.map(|reason| reason.describe()),
        }
        if let Some(why) = &outcome.not_committed {
            let later = if passes { ", and the next run commits them" } else { "" };
            self.ui.warn(format!("not committed: {why}; the files are kept{later}: {}", shown(&paths)));
        } else {
            for (dir, files) in &apart {
                self.ui.warn(format!(
                    "not committed: {} is a git repository of its own; commit there, and then {0} here: {}",
                    dir.display(),
                    shown(files)
                ));
            }
        }
        if !passes {
            self.forget_pending()?;
        }
        Ok(passes)
    }
}

/// Those of the files that are in repositories inside this one, by these.
fn apart(git: &Git, paths: &[PathBuf]) -> Vec<(PathBuf, Vec<PathBuf>)> {
    let mut apart: Vec<(PathBuf, Vec<PathBuf>)> = Vec::new();
    for path in paths {
        let Some(dir) = git.apart(path) else { continue };
        match apart.iter_mut().find(|(known, _)| *known == dir) {
            Some((_, files)) => files.push(path.clone()),
            None => apart.push((dir, vec![path.clone()])),
        }
    }
    apart
}

/// Why nothing would be committed now.
pub(crate) fn hindrance(git: &std::result::Result<Git, Reason>) -> Result<Option<Reason>> {
    match git {
        Err(reason) => Ok(Some(reason.clone())),
        Ok(git) => git.hindrance(),
    }
}

/// Names for a command line.
fn quoted(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| child::quote(&path.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// Names for a message: all of a few, the first of many.
pub(crate) fn shown(paths: &[PathBuf]) -> String {
    const MOST: usize = 12;
    let names: Vec<String> = paths.iter().take(MOST).map(|path| path.display().to_string()).collect();
    match paths.len().saturating_sub(MOST) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
