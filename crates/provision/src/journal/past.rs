//! A journal read again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fleet_core::types::{VmName, Vmid};

use super::{Event, Outcome, Record, Verb, directory, journals};
use crate::steps::Step;

/// A journal that was read again.
#[derive(Debug, Clone)]
pub struct Past {
    /// The file.
    pub path: PathBuf,
    /// What it says. A line that was cut short by a crash is left out.
    pub records: Vec<Record>,
}

impl Past {
    /// The last run of this VM.
    pub fn last_of(name: &VmName) -> Option<Past> {
        Past::last_in(&directory().join(name.as_str()))
    }

    pub(super) fn last_in(dir: &Path) -> Option<Past> {
        Past::read(journals(dir).pop()?)
    }

    /// All runs of this VM that are kept, the newest first.
    pub fn all_of(name: &VmName) -> impl Iterator<Item = Past> {
        journals(&directory().join(name.as_str())).into_iter().rev().filter_map(Past::read)
    }

    /// Whether this run asked for VM `vmid` to be made, and the node's task that does it, if it came to that.
    pub fn making(&self, vmid: Vmid) -> Option<Option<String>> {
        let mut making = None;
        for record in &self.records {
            match &record.event {
                Event::Request { request, .. } => {
                    let made = request["op"] == "clone" || request["op"] == "create";
                    if made && request["vmid"] == vmid.get() {
                        making = Some(None);
                    }
                }
                Event::Task { step: Some(Step::Clone | Step::Create), upid } => {
                    let kind = upid.split(':').nth(5);
                    if let (Some(task), Some("qmclone" | "qmcreate")) = (&mut making, kind) {
                        *task = Some(upid.clone());
                    }
                }
                _ => {}
            }
        }
        making
    }

    /// The last run of any VM.
    pub fn last() -> Option<Past> {
        let dirs = fs::read_dir(directory()).into_iter().flatten().flatten();
        let newest = dirs.filter_map(|dir| journals(&dir.path()).pop());
        newest.max_by(|a, b| a.file_name().cmp(&b.file_name())).and_then(Past::read)
    }

    fn read(path: PathBuf) -> Option<Past> {
        let text = fs::read_to_string(&path).ok()?;
        let records = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Some(Past { path, records })
    }

    /// What it was about.
    pub fn verb(&self) -> Verb {
        self.records
            .iter()
            .find_map(|record| match &record.event {
                Event::Begin { verb, .. } => Some(*verb),
                _ => None,
            })
            .unwrap_or_else(|| Verb::of(&self.path))
    }

    /// The process that wrote it, by the file's name.
    pub fn process(&self) -> Option<i32> {
        self.path.file_stem()?.to_str()?.rsplit('-').next()?.parse().ok()
    }

    /// How it ended; none when it was cut short, or is still going on.
    pub fn end(&self) -> Option<(Outcome, u8)> {
        self.records.iter().rev().find_map(|record| match &record.event {
            Event::End { outcome, exit_code, .. } => Some((*outcome, *exit_code)),
            _ => None,
        })
    }

    /// The step that it was in last.
    pub fn last_step(&self) -> Option<Step> {
        self.records.iter().rev().find_map(|record| match &record.event {
            Event::Started { step } | Event::Ended { step, .. } => Some(*step),
            _ => None,
        })
    }
}
