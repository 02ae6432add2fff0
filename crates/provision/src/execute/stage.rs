//! Where nixos-anywhere is, by what it says, and those of its waits that have no end though the machine answers: for its
//! key to be taken (`until ssh-copy-id …`), and for the running system to go away when kexec or a reboot was asked for.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long such a wait may take before the machine is looked at.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for a reboot, which is asked for six seconds after it was announced.
const PATIENCE_REBOOT: Duration = Duration::from_secs(45);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(15);
/// So many of its last lines are told.
const TOLD: usize = 3;
/// How it announces a step, and the one that waits for its key to be taken.
const STEP: &str = "### ";
const KEYS: &str = "### Uploading install SSH keys";
const KEXEC: &str = "### Switching system into kexec";
/// From here on the disk is not what it was.
const FORMAT: &str = "### Formatting hard drive";
/// How a shell's trace of a command begins.
const TRACE: &str = "+ ";
/// What the installer's own script says on the machine, a few seconds before it boots it.
const BOOTS: &str = "machine will boot into nixos";
const REBOOTS: &str = "### Waiting for the machine to become unreachable due to reboot";

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// That the machine takes its key.
    Keys,
    /// That the system goes away in whose place the installer boots.
    Boot,
    /// That the installer goes away, in whose place the new system boots.
    Reboot,
}

/// What was said last, and what is waited for.
#[derive(Debug)]
pub(super) struct Stage {
    patience: Duration,
    wait: Option<(Wait, Instant)>,
    next: Duration,
    last: VecDeque<String>,
    announced: bool,
    fetching: bool,
    formats: bool,
}

impl Stage {
    /// At the beginning of a phase; `limit` is how long nothing new may be said.
    pub(super) fn new(limit: Duration) -> Stage {
        let patience = PATIENCE.min(limit);
        Stage {
            patience,
            wait: None,
            next: patience,
            last: VecDeque::new(),
            announced: false,
            fetching: false,
            formats: false,
        }
    }

    /// It said this.
    pub(super) fn heard(&mut self, line: &str) {
        let wait = if line.starts_with(KEYS) {
            Some(Wait::Keys)
        } else if line.contains(BOOTS) {
            (self.announced, self.fetching) = (true, false);
            Some(Wait::Boot)
        } else if line.starts_with(REBOOTS) {
            Some(Wait::Reboot)
        } else if line.starts_with(STEP) {
            self.fetching = line.starts_with(KEXEC);
            self.formats |= line.starts_with(FORMAT);
            None
        } else {
            // The installer's own script traces what it does: it is there.
            self.fetching &= !line.starts_with(TRACE);
            if !line.trim().is_empty() && self.last.back().is_none_or(|last| last != line) {
                self.last.push_back(line.to_owned());
            }
            if self.last.len() > TOLD {
                self.last.pop_front();
            }
            return;
        };
        self.wait = wait.map(|wait| (wait, Instant::now()));
        self.next = match wait {
            Some(Wait::Reboot) => PATIENCE_REBOOT.min(self.patience),
            _ => self.patience,
        };
        self.last.clear();
    }

    /// What it waits for, when that has taken so long that the machine is to be looked at now.
    pub(super) fn due(&mut self) -> Option<Wait> {
        let (wait, since) = self.wait?;
        self.due_after(wait, since.elapsed())
    }

    fn due_after(&mut self, wait: Wait, waited: Duration) -> Option<Wait> {
        if waited < self.next {
            return None;
        }
        self.next = waited + PAUSE.min(self.patience);
        Some(wait)
    }

    /// How long it has waited.
    pub(super) fn waited(&self) -> Duration {
        self.wait.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// Its last lines.
    pub(super) fn last(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Whether the installer was there, about to boot.
    pub(super) fn announced(&self) -> bool {
        self.announced
    }

    /// Whether it had begun with the disk.
    pub(super) fn formats(&self) -> bool {
        self.formats
    }

    /// Whether it was last at getting the installer onto the machine.
    pub(super) fn fetching(&self) -> bool {
        self.fetching
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_wait_for_the_key_or_for_the_boot_is_looked_at_and_nothing_else() {
        let mut stage = Stage::new(secs(300));
        assert_eq!(stage.due(), None);
        stage.heard("### Uploading install SSH keys ###");
        stage.heard("/usr/bin/ssh-copy-id: ERROR: Too many arguments");
        stage.heard("/usr/bin/ssh-copy-id: ERROR: Too many arguments");
        assert_eq!(stage.wait.map(|(wait, _)| wait), Some(Wait::Keys));
        assert_eq!(stage.due_after(Wait::Keys, secs(119)), None);
        assert_eq!(stage.due_after(Wait::Keys, secs(120)), Some(Wait::Keys));
        assert_eq!(stage.due_after(Wait::Keys, secs(121)), None);
        assert_eq!(stage.due_after(Wait::Keys, secs(135)), Some(Wait::Keys));
        assert_eq!(stage.last(), "/usr/bin/ssh-copy-id: ERROR: Too many arguments");
        stage.heard("### Gathering machine facts ###");
        assert_eq!((stage.due(), stage.last().as_str()), (None, ""));
        stage.heard("### Switching system into kexec ###");
        assert!(stage.fetching() && !stage.announced() && stage.due().is_none());
        stage.heard("setsid: failed to execute /root/kexec/kexec/run: No such file or directory");
        assert!(stage.fetching());
        stage.heard("+ sh -c kexec --load");
        assert!(!stage.fetching());
        stage.heard("machine will boot into nixos in 6s...");
        assert!(!stage.fetching() && stage.announced());
        assert_eq!(stage.wait.map(|(wait, _)| wait), Some(Wait::Boot));
        assert_eq!(stage.due_after(Wait::Boot, secs(120)), Some(Wait::Boot));
        assert!(!stage.formats());
        stage.heard("### Formatting hard drive with disko ###");
        assert_eq!(stage.due(), None);
        stage.heard("### Uploading the system closure ###");
        assert!(stage.formats());
        stage.heard("### Waiting for the machine to become unreachable due to reboot ###");
        assert_eq!(stage.due_after(Wait::Reboot, secs(44)), None);
        assert_eq!(stage.due_after(Wait::Reboot, secs(45)), Some(Wait::Reboot));
    }
}
