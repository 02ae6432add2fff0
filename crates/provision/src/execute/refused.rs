//! Who is let in to a VM, and what it means when nobody is.

use std::time::{Duration, Instant};

use fleet_core::{Error, Kind, child::Command};

use crate::again;

/// Whom a machine lets in that has the new system's host key, but does not let the fleet user in.
#[derive(Debug)]
pub(super) enum LetsIn {
    /// Whoever it was before, for what ran before the reboot still answers: what that is.
    Before(String),
    Root,
    Nobody,
    /// That could not be tried: the agent that has the key is locked, or gone.
    Untried(Error),
}

impl LetsIn {
    /// What that means, and what there is to do: `mend` what the configuration lacks, `switch` to it.
    pub(super) fn told(
        self,
        error: Error,
        (name, again): (&str, &str),
        user: &str,
        mend: &str,
        switch: &Command,
    ) -> Error {
        let installed = |error: Error| {
            error.now(format!("it runs and has the host key that it was given, but does not let '{user}' in"))
        };
        match self {
            LetsIn::Before(what) => error
                .now(format!("{what} still runs on it: it did not reboot into the new system"))
                .hint(again::proxmox_ops(&["reboot", name]))
                .hint(format!("and then, for what remains: {again}")),
            LetsIn::Root => installed(error)
                .hint(format!("{mend}, then: {switch}"))
                .hint(format!("and then, for what remains: {again}")),
            LetsIn::Nobody => installed(error)
                .hint(format!("{mend}; nobody gets in to change it there, so make it anew"))
                .hint(format!("{} && {again}", again::provision_vm(&["destroy", name]))),
            LetsIn::Untried(why) => {
                let error = error.now(format!(
                    "it runs and has the host key that it was given; whom it lets in could not be tried: {}",
                    why_not(&why)
                ));
                why.hints().iter().fold(error, Error::hint)
            }
        }
    }
}

/// Why a login did not come about. Where the key was refused, that is all; else what was in its way tells more.
pub(super) fn why_not(error: &Error) -> String {
    let facts = error.facts().iter().filter(|_| !error.is_login_refused());
    facts.fold(error.chain(), |said, fact| format!("{said}; {fact}"))
}

/// Whether every login is refused, and for how long.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// How long a machine that is up refuses a key before that is told: cloud-init may still put the keys in their place.
    pub(super) patience: Duration,
    since: Option<Instant>,
    last: Option<Instant>,
    /// It has been so for that long, up to the last try that was answered.
    steady: bool,
    /// When it was seen last whether more keys may still come.
    looked: Option<Instant>,
    /// Since when it is known that no more come.
    settled: Option<Instant>,
    /// It is refused for good.
    is_final: bool,
}

/// How a wait for a login came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its key was refused all the time, up to its deadline or until the user had enough of it; or for good.
    Refused,
    /// Nobody answered, or not for long enough to tell.
    Silent,
    /// Another host key was shown.
    AnotherKey,
    /// Something else, which tells for itself.
    Other,
}

impl Refusal {
    /// In a wait of so many seconds.
    pub(super) fn within(seconds: u64) -> Refusal {
        Refusal { patience: Duration::from_secs(seconds) / 5, ..Refusal::default() }
    }

    /// Hears of a try. Whether this is the one with which it became steady.
    ///
    /// Who was refused a few times is not answered at all for a while by a newer sshd: that is no end of it.
    pub(super) fn heard(&mut self, refused: bool, now: Instant) -> bool {
        if !refused {
            if self.last.is_some_and(|at| now.duration_since(at) < self.patience / 2) {
                return false;
            }
            // It may be another system when it answers again.
            *self = Refusal { patience: self.patience, ..Refusal::default() };
            return false;
        }
        self.last = Some(now);
        let steady = now.duration_since(*self.since.get_or_insert(now)) >= self.patience;
        steady && !std::mem::replace(&mut self.steady, true)
    }

    /// Of a try that was refused: once it is steady, looks now and then by `no_more` whether no more keys come. Where that
    /// is so, and still is when the key has been refused for as long again, it is refused for good: for how long by then.
    pub(super) fn for_good(&mut self, now: Instant, no_more: impl FnOnce() -> bool) -> Option<Duration> {
        let since = self.since.filter(|_| self.steady)?;
        let due = match self.settled {
            Some(at) => now.duration_since(at) >= self.patience,
            None => self.looked.is_none_or(|at| now.duration_since(at) >= self.patience / 4),
        };
        if !due {
            return None;
        }
        self.looked = Some(now);
        let known = self.settled.take();
        // It may have been started anew meanwhile.
        self.settled = no_more().then_some(known.unwrap_or(now));
        self.is_final = known.is_some() && self.settled.is_some();
        self.is_final.then(|| now.duration_since(since))
    }

    /// What the wait came to that ended with this error.
    pub(super) fn end(&self, error: &Error) -> End {
        match error.kind() {
            _ if error.is_host_key_mismatch() => End::AnotherKey,
            Kind::DeadlinePassed | Kind::Interrupted if self.steady => End::Refused,
            _ if self.is_final => End::Refused,
            Kind::DeadlinePassed => End::Silent,
            _ => End::Other,
        }
    }
}

/// What people call the keys of `sshkeys`: their comments, or else the end of the key.
pub(super) fn names_of_keys(lines: &str) -> Vec<String> {
    let name = |line: &str| {
        let key = line.parse::<fleet_core::authorized_keys::AuthorizedKey>().ok()?;
        let mut words = key.line.split_whitespace().rev();
        words.next().map(|last| match last.len() {
            0..=60 => last.to_owned(),
            long => format!("…{}", last.get(long - 12..).unwrap_or(last)),
        })
    };
    lines.lines().filter_map(|line| name(line.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_refused_steadily_after_a_minute_without_another_word() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut refusal = Refusal::within(300);
        assert!(!refusal.heard(true, at(0)) && !refusal.heard(true, at(29)) && !refusal.steady);
        // It went down in between: it does not answer for half of the time.
        assert!(!refusal.heard(false, at(30)) && !refusal.heard(false, at(59)));
        assert!(!refusal.heard(true, at(61)) && !refusal.heard(true, at(120)) && !refusal.steady);
        // It lets nobody in for a while who was refused.
        assert!(!refusal.heard(false, at(121)) && refusal.heard(true, at(122)) && refusal.steady);
        assert!(!refusal.heard(false, at(123)) && !refusal.heard(true, at(124)) && refusal.steady);
        let ends = |refusal: &Refusal| {
            [Kind::DeadlinePassed, Kind::Interrupted, Kind::Unreachable]
                .map(|kind| refusal.end(&Error::new(kind, "the end of the wait")))
        };
        assert_eq!(ends(&refusal), [End::Refused, End::Refused, End::Other]);
        assert!(!refusal.heard(false, at(154)) && !refusal.steady);
        assert_eq!(ends(&refusal), [End::Silent, End::Other, End::Other]);
    }

    #[test]
    fn a_key_is_refused_for_good_only_where_no_more_keys_come() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut refusal = Refusal::within(300);
        let never = || panic!("asked");
        // Nobody is asked before it is steady.
        refusal.heard(true, at(0));
        assert_eq!(refusal.for_good(at(59), never), None);
        refusal.heard(true, at(60));
        // cloud-init is slow: it is looked at again, not too often, and whatever the time is it is no failure.
        assert_eq!(refusal.for_good(at(60), || false), None);
        assert_eq!(refusal.for_good(at(61), never), None);
        assert_eq!(refusal.for_good(at(200), || false), None);
        assert_eq!(refusal.for_good(at(220), || true), None);
        // What it put in its place last has time to work, and it may start anew meanwhile.
        assert_eq!(refusal.for_good(at(279), never), None);
        assert_eq!(refusal.for_good(at(280), || false), None);
        assert_eq!(refusal.for_good(at(300), || true), None);
        let ended = Error::unreachable("refused");
        assert_eq!(refusal.end(&ended), End::Other);
        assert_eq!(refusal.for_good(at(360), || true), Some(Duration::from_secs(360)));
        assert_eq!(refusal.end(&ended), End::Refused);
        // What is known of a system is not known of the next.
        refusal.heard(false, at(361));
        refusal.heard(true, at(362));
        refusal.heard(true, at(422));
        assert_eq!(refusal.for_good(at(422), || false), None);
    }

    #[test]
    fn a_machine_that_did_not_reboot_is_not_told_as_a_system_that_lets_nobody_in() {
        let told = |lets_in: LetsIn| {
            let error = Error::new(Kind::DeadlinePassed, "no NixOS");
            let error =
                lets_in.told(error, ("web", "provision-vm web"), "fleet", "mend it", &Command::new("switch"));
            [error.facts(), error.hints()].concat()
        };
        let installed = "it runs and has the host key that it was given, but does not let 'fleet' in";
        let rest = "and then, for what remains: provision-vm web";
        let installer = "the installer still runs on it: it did not reboot into the new system";
        assert_eq!(
            told(LetsIn::Before("the installer".to_owned())),
            [installer, "proxmox-ops reboot web", rest]
        );
        assert_eq!(told(LetsIn::Root), [installed, "mend it, then: switch", rest]);
        let anew = "mend it; nobody gets in to change it there, so make it anew";
        assert_eq!(told(LetsIn::Nobody), [installed, anew, "provision-vm destroy web && provision-vm web"]);
        let locked = Error::unreachable("web refused").now("no key was offered to it").hint("ssh-add");
        let untried = "it runs and has the host key that it was given; whom it lets in could not be tried: \
                       web refused; no key was offered to it";
        assert_eq!(told(LetsIn::Untried(locked)), [untried, "ssh-add"]);
    }

    #[test]
    fn keys_are_called_by_their_comments() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6";
        let names = names_of_keys(&format!("{key} me@laptop\n\n{key}\n# none\n"));
        assert_eq!(names, ["me@laptop", "…1SzzS2QJOHE6"]);
    }
}
