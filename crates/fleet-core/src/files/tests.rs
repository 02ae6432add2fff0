use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".git")).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["a", "sub/b"] {
            std::fs::write(dir.path().join(name), format!("old {name}")).unwrap();
        }
        std::fs::set_permissions(dir.path().join("sub/b"), std::fs::Permissions::from_mode(0o640)).unwrap();
        Place { dir }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn state(&self) -> PathBuf {
        state_dir(self.root())
    }

    fn changes(&self) -> Vec<Change> {
        let change = |name: &str, before: Option<&str>| Change {
            path: self.root().join(name),
            before: before.map(|b| b.as_bytes().to_vec()),
            after: format!("new {name}").into_bytes(),
        };
        vec![change("a", Some("old a")), change("sub/b", Some("old sub/b")), change("docs/c", None)]
    }

    /// Content of the three files, and whether anything else lies around.
    fn seen(&self) -> (Vec<Option<String>>, bool) {
        let read = |name: &str| std::fs::read_to_string(self.root().join(name)).ok();
        let rest = [".", "sub", "docs"].iter().any(|dir| {
            std::fs::read_dir(self.root().join(dir))
                .into_iter()
                .flatten()
                .any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".fleet-new"))
        });
        (vec![read("a"), read("sub/b"), read("docs/c")], rest || self.state().join(JOURNAL).exists())
    }
}

fn some(texts: [&str; 3]) -> Vec<Option<String>> {
    texts.iter().map(|t| (!t.is_empty()).then(|| (*t).to_owned())).collect()
}

#[test]
fn all_files_change_together_and_keep_their_modes() {
    let place = Place::new();
    let lock = Lock::take(&place.state()).unwrap();
    assert_eq!(recover(&lock, &place.state()).unwrap(), Recovery::Clean);
    apply(&lock, place.root(), &place.state(), &place.changes()).unwrap();
    assert_eq!(place.seen(), (some(["new a", "new sub/b", "new docs/c"]), false));
    let mode = |name: &str| std::fs::metadata(place.root().join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("sub/b"), mode("docs/c")), (0o640, 0o644));
}

#[test]
fn stopped_anywhere_the_next_run_completes_or_takes_back() {
    let steps = [
        Step::Intent,
        Step::Staged(0),
        Step::Staged(1),
        Step::Staged(2),
        Step::Ready,
        Step::Renamed(0),
        Step::Renamed(1),
        Step::Renamed(2),
    ];
    for (index, at) in steps.into_iter().enumerate() {
        let place = Place::new();
        assert!(!run(place.root(), &place.state(), &place.changes(), &mut |step| step == at).unwrap());
        let lock = Lock::take(&place.state()).unwrap();
        let recovery = recover(&lock, &place.state()).unwrap();
        if index < 4 {
            assert_eq!(recovery, Recovery::TakenBack, "{at:?}");
            assert_eq!(place.seen(), (some(["old a", "old sub/b", ""]), false), "{at:?}");
        } else {
            assert!(matches!(recovery, Recovery::Completed(files) if files.len() == 3), "{at:?}");
            assert_eq!(place.seen(), (some(["new a", "new sub/b", "new docs/c"]), false), "{at:?}");
        }
        assert_eq!(recover(&lock, &place.state()).unwrap(), Recovery::Clean, "{at:?}");
    }
}

#[test]
fn a_file_changed_after_the_crash_is_not_overwritten() {
    let place = Place::new();
    run(place.root(), &place.state(), &place.changes(), &mut |step| step == Step::Renamed(0)).unwrap();
    std::fs::write(place.root().join("sub/b"), "mine").unwrap();
    let lock = Lock::take(&place.state()).unwrap();
    let error = recover(&lock, &place.state()).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::PartlyDone);
    assert!(error.message().contains("somebody changed since"), "{error:?}");
    assert_eq!(std::fs::read_to_string(place.root().join("sub/b")).unwrap(), "mine");
    std::fs::remove_file(place.root().join("sub/.b.fleet-new")).unwrap();
    recover(&lock, &place.state()).unwrap();
    assert_eq!(place.seen(), (some(["new a", "mine", "new docs/c"]), false));
}

#[test]
fn nothing_changes_when_one_can_not() {
    let refused = |prepare: &dyn Fn(&Place), part: &str| {
        let place = Place::new();
        prepare(&place);
        let before = place.seen();
        let lock = Lock::take(&place.state()).unwrap();
        let error = apply(&lock, place.root(), &place.state(), &place.changes()).unwrap_err();
        assert!(error.chain().contains(part), "{error:?}");
        assert!(error.facts().iter().any(|fact| fact == "no file was changed"), "{error:?}");
        assert_eq!(place.seen(), before);
    };
    refused(&|p| std::fs::write(p.root().join("sub/b"), "other").unwrap(), "changed while this ran");
    refused(
        &|p| {
            let mode = std::fs::Permissions::from_mode(0o440);
            std::fs::set_permissions(p.root().join("sub/b"), mode).unwrap();
        },
        "is read-only",
    );
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("b"), "old sub/b").unwrap();
    refused(
        &|p| {
            std::fs::remove_file(p.root().join("sub/b")).unwrap();
            std::os::unix::fs::symlink(elsewhere.path().join("b"), p.root().join("sub/b")).unwrap();
        },
        "leads out of the repository",
    );
    refused(
        &|p| {
            std::fs::remove_file(p.root().join("sub/b")).unwrap();
            std::fs::create_dir(p.root().join("sub/b")).unwrap();
        },
        "no regular file",
    );
    assert_eq!(std::fs::read_to_string(elsewhere.path().join("b")).unwrap(), "old sub/b");
}

#[test]
fn a_link_within_the_repository_is_followed() {
    let place = Place::new();
    std::os::unix::fs::symlink("sub/b", place.root().join("link")).unwrap();
    let change = Change {
        path: place.root().join("link"),
        before: Some(b"old sub/b".to_vec()),
        after: b"through the link".to_vec(),
    };
    let lock = Lock::take(&place.state()).unwrap();
    apply(&lock, place.root(), &place.state(), &[change]).unwrap();
    assert!(place.root().join("link").is_symlink());
    assert_eq!(std::fs::read_to_string(place.root().join("sub/b")).unwrap(), "through the link");
}

#[test]
fn one_at_a_time() {
    let place = Place::new();
    let held = Lock::take(&place.state()).unwrap();
    assert_eq!(Lock::take(&place.state()).unwrap_err().kind(), crate::Kind::Conflict);
    drop(held);
    Lock::take(&place.state()).unwrap();
}

#[test]
fn the_state_directory_of_a_worktree_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".git"), "gitdir: /elsewhere/.git/worktrees/x\n").unwrap();
    assert_eq!(state_dir(&dir.path().join("below")), Path::new("/elsewhere/.git/worktrees/x/fleet"));
    let bare = tempfile::tempdir().unwrap();
    assert_eq!(state_dir(bare.path()), bare.path().join(".fleet"));
}

#[test]
fn whether_files_could_change_is_seen_without_changing_any() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("docs"), "a file where a directory is wanted").unwrap();
    let could = |path: &str| changeable(dir.path(), &[PathBuf::from(path)]);
    could("hosts.nix").unwrap();
    could("new/below/hosts.nix").unwrap();
    let error = could("docs/machines.md").unwrap_err().to_string();
    assert!(error.contains("docs"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only looked");
}
