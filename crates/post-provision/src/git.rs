//! What is asked of git: which of our files have changes of the user's own, and one commit of nothing but our
//! paths. The user's index, hooks and signing stay as they are.

use std::path::{Path, PathBuf};

use fleet_core::{
    Error, Result,
    child::{Command, find_program},
    deadline::Deadline,
};

/// Longest wait for git itself, in seconds; hooks and signing may take their time.
const LIMIT: u64 = 30;
const COMMIT_LIMIT: u64 = 900;

/// Variables that bind git to one repository (`git rev-parse --local-env-vars`). A hook or an alias that runs this
/// tool has them set, for a repository that need not be the fleet's.
const LOCAL: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_INTERNAL_SUPER_PREFIX",
];

/// The git work tree that the fleet repository is in.
#[derive(Debug, Clone)]
pub struct Git {
    root: PathBuf,
    program: PathBuf,
    /// Whether the repository is found by looking for `.git`, whatever the environment says.
    by_place: bool,
}

/// Why nothing is committed, although it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No work tree.
    NoGit,
    /// A work tree, and no program to commit with.
    NoProgram,
    /// HEAD is no branch.
    Detached,
    /// A merge, rebase, cherry-pick, revert or bisect is going on.
    Busy(&'static str),
    /// git ignores every path.
    Ignored,
    /// Every path is in a repository inside this one.
    Apart,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Made; its short name.
    As(String),
    /// The files are committed already.
    Before,
    /// git ignores every one of the files.
    Ignored,
}

impl Reason {
    /// Whether it passes: what is not committed for it is committed later.
    pub fn passes(&self) -> bool {
        matches!(self, Reason::Detached | Reason::Busy(_))
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Reason::NoGit => "this is no git repository".to_owned(),
            Reason::NoProgram => "there is no git program on PATH".to_owned(),
            Reason::Detached => "HEAD is detached: a commit would belong to no branch".to_owned(),
            Reason::Busy(what) => format!("{what} is in progress"),
            Reason::Ignored => "git ignores the changed files".to_owned(),
            Reason::Apart => "the changed files are in a git repository of their own".to_owned(),
        }
    }
}

/// Refuses to begin what git would not commit at the end.
pub fn refuse_nameless(root: &Path) -> Result<()> {
    match Git::find(root)? {
        Ok(git) if git.hindrance()?.is_none() => git.knows_who_commits(),
        _ => Ok(()),
    }
}

impl Git {
    /// The work tree around `root`, or why there is none to commit in. A repository that git will not work in (of
    /// another owner, damaged) is an error: what has changed in it can not be told.
    pub fn find(root: &Path) -> Result<std::result::Result<Git, Reason>> {
        let by_place = root.ancestors().any(|place| place.join(".git").exists());
        let Some(program) = find_program("git") else {
            return Ok(Err(if by_place { Reason::NoProgram } else { Reason::NoGit }));
        };
        let git = Git { root: root.to_owned(), program, by_place };
        match git.run(&["rev-parse", "--is-inside-work-tree"]) {
            Ok(inside) if inside.trim() == "true" => Ok(Ok(git)),
            Err(error) if by_place => {
                Err(error.context("git will not work in this repository").now("nothing was changed"))
            }
            _ => Ok(Err(Reason::NoGit)),
        }
    }

    /// Nothing is set that a hook could notice.
    fn command(&self) -> Command {
        let command = Command::new(&self.program).arg("-C").arg(&self.root).finishes();
        LOCAL.iter().filter(|_| self.by_place).fold(command, |command, name| command.env_remove(name))
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        Ok(self.command().args(args).output(Deadline::secs(LIMIT))?.checked()?.stdout_text())
    }

    /// Where git has the content of a path: behind a link, if that leads to another file of the repository.
    fn tracked(&self, path: &Path) -> PathBuf {
        let real = || {
            let real = self.root.join(path).canonicalize().ok()?;
            Some(real.strip_prefix(self.root.canonicalize().ok()?).ok()?.to_owned())
        };
        real().unwrap_or_else(|| path.to_owned())
    }

    /// Those of `paths` (relative to the fleet repository) that differ from the last commit, or exist without
    /// being in it.
    pub fn dirty(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let tracked: Vec<PathBuf> = paths.iter().map(|path| self.tracked(path)).collect();
        let mut dirty = Vec::new();
        // Each by the repository that has it.
        let mut left: Vec<&PathBuf> = tracked.iter().collect();
        while let Some(first) = left.first() {
            let dir = self.apart(first);
            let here = |path: &&PathBuf| self.apart(path) == dir;
            let asked: Vec<&PathBuf> = left.iter().copied().filter(here).collect();
            left.retain(|path| !asked.contains(path));
            let Some(dir) = dir else {
                dirty.extend(self.changed(&asked.into_iter().cloned().collect::<Vec<_>>())?);
                continue;
            };
            let inside = Git { root: self.root.join(&dir), by_place: true, ..self.clone() };
            let below = asked.iter().filter_map(|path| Some(path.strip_prefix(&dir).ok()?.to_owned()));
            dirty.extend(inside.changed(&below.collect::<Vec<_>>())?.iter().map(|path| dir.join(path)));
        }
        let pairs = paths.iter().zip(&tracked).filter(|(_, tracked)| dirty.contains(tracked));
        let mut found: Vec<PathBuf> = pairs.map(|(path, _)| path.clone()).collect();
        found.sort();
        Ok(found)
    }

    /// The repository inside this one that a path is in, such as a submodule: none of its files can be committed here.
    pub fn apart(&self, path: &Path) -> Option<PathBuf> {
        let inside = |dir: &&Path| !dir.as_os_str().is_empty() && self.root.join(dir).join(".git").exists();
        path.ancestors().skip(1).find(inside).map(Path::to_owned)
    }

    /// The same of paths as git has them.
    fn changed(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let prefix = self.run(&["rev-parse", "--show-prefix"])?.trim().to_owned();
        // Paths as they are, never patterns; NUL between them, as any name may hold anything else.
        // Without taking the index's lock: this only looks.
        let output = self
            .command()
            .args(["--no-optional-locks", "--literal-pathspecs"])
            .args([
                "status",
                "--porcelain=v1",
                "-z",
                "--no-renames",
                "--untracked-files=all",
                "--ignored=no",
                "--",
            ])
            .args(paths)
            .output(Deadline::secs(LIMIT))?
            .checked()?;
        let text = output.stdout_text();
        Ok(text
            .split('\0')
            .filter_map(|entry| entry.get(3..))
            .map(|path| PathBuf::from(path.strip_prefix(prefix.as_str()).unwrap_or(path)))
            .collect())
    }

    /// Whether git knows whose commits it makes (git-var(1): it fails where a commit would).
    fn knows_who_commits(&self) -> Result<()> {
        for role in ["GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"] {
            let told = self.command().args(["var", role]).output(Deadline::secs(LIMIT))?;
            if !told.success() {
                return Err(Error::failed("git does not know whose commits it makes: it would not commit")
                    .now("nothing was changed")
                    .hint("git config --global user.name NAME && git config --global user.email ADDRESS")
                    .hint("or leave the commit to you: --no-commit (provision-vm: --integrate never)"));
            }
        }
        Ok(())
    }

    /// Why a commit would not be right now, if so.
    pub fn hindrance(&self) -> Result<Option<Reason>> {
        let dir = PathBuf::from(self.run(&["rev-parse", "--absolute-git-dir"])?.trim_end_matches('\n'));
        let going_on = [
            ("rebase-merge", "a rebase"),
            ("rebase-apply", "a rebase"),
            ("MERGE_HEAD", "a merge"),
            ("CHERRY_PICK_HEAD", "a cherry-pick"),
            ("REVERT_HEAD", "a revert"),
            ("BISECT_LOG", "a bisect"),
        ];
        if let Some((_, what)) = going_on.iter().find(|(file, _)| dir.join(file).exists()) {
            return Ok(Some(Reason::Busy(what)));
        }
        let on_a_branch =
            self.command().args(["symbolic-ref", "-q", "HEAD"]).output(Deadline::secs(LIMIT))?.success();
        Ok((!on_a_branch).then_some(Reason::Detached))
    }

    /// Commits exactly `paths`.
    pub fn commit(&self, paths: &[PathBuf], message: &str) -> Result<Committed> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| self.tracked(path)).collect();
        let ignored = self.command().args(["check-ignore", "-z", "--stdin"]).stdin(nul_separated(&paths));
        let ignored = ignored.output(Deadline::secs(LIMIT))?.stdout_text();
        let paths: Vec<PathBuf> = paths
            .iter()
            .filter(|path| !ignored.split('\0').any(|i| Path::new(i) == path.as_path()))
            .cloned()
            .collect();
        if paths.is_empty() {
            return Ok(Committed::Ignored);
        }
        if self.changed(&paths)?.is_empty() {
            return Ok(Committed::Before);
        }
        let tracked = self
            .command()
            .arg("--literal-pathspecs")
            .args(["ls-files", "-z", "--"])
            .args(&paths)
            .output(Deadline::secs(LIMIT))?
            .checked()?
            .stdout_text();
        let new: Vec<&PathBuf> = paths
            .iter()
            .filter(|path| !tracked.split('\0').any(|t| Path::new(t) == path.as_path()))
            .collect();
        // `commit --only` takes what git knows; an intention to add is all it needs to know.
        if !new.is_empty() {
            self.command()
                .arg("--literal-pathspecs")
                .args(["add", "--intent-to-add", "--"])
                .args(&new)
                .output(Deadline::secs(LIMIT))?
                .checked()?;
        }
        // Hooks and signing may ask on the terminal; Ctrl-C there ends them too.
        let committed = self
            .command()
            .foreground()
            .arg("--literal-pathspecs")
            .args(["commit", "--quiet", "--only", "--file=-", "--"])
            .args(&paths)
            .stdin(message)
            .output(Deadline::secs(COMMIT_LIMIT))
            .and_then(fleet_core::child::Output::checked);
        if let Err(error) = committed {
            if !new.is_empty() {
                // The index as it was; if that fails too, the first failure is the one to tell.
                let _ = self
                    .command()
                    .arg("--literal-pathspecs")
                    .args(["rm", "--quiet", "--cached", "--"])
                    .args(&new)
                    .output(Deadline::secs(LIMIT));
            }
            return Err(error);
        }
        // A hook that formats what is committed adds to the commit's own index only: the user's would say to take
        // that back.
        if !self.changed(&paths)?.is_empty() {
            self.command()
                .arg("--literal-pathspecs")
                .args(["reset", "--quiet", "--"])
                .args(&paths)
                .output(Deadline::secs(LIMIT))?
                .checked()?;
        }
        Ok(Committed::As(self.run(&["rev-parse", "--short", "HEAD"])?.trim().to_owned()))
    }
}

fn nul_separated(paths: &[PathBuf]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    paths.iter().flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([0])).collect()
}
