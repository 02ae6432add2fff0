//! What nixos-anywhere said, without the noise: most of it is `ssh`'s, the progress of copies, the trace of a shell, or the
//! machine's kernel log, and some of it is said twice.

use std::collections::{HashSet, VecDeque};

/// So many of its last lines are kept.
const KEPT: usize = 100;
/// Lines that are known again.
const REMEMBERED: usize = 4096;
/// How it announces a step.
const STEP: &str = "### ";
/// Below this it repeats what the machine has said before.
const REPEATS: &str = "Remote output log:";
/// How these lines begin, which tell nothing: those of `ssh` and `ssh-copy-id`, of what is fetched, unpacked and copied,
/// and that something failed.
const NOISE: &[&str] = &[
    "Warning: Permanently added ",
    "Warning: Identity file ",
    "Pseudo-terminal will not be allocated ",
    "(if you think this is a mistake",
    "Downloading kexec tarball",
    "kexec/",
    "copying ",
    "kexec failed, dumping dmesg",
    "Kexec may have failed ",
    "Kexec failed",
];
/// The same within a line.
const NOISE_WITHIN: &[&str] =
    &["ssh-copy-id: INFO: ", "ssh-copy-id: WARNING: All keys were skipped", " .......... "];
/// What the kernel has to say of a kexec, in small letters.
const OF_KEXEC: &[&str] = &["kexec", "lockdown", "pefile", "secure boot"];

/// What there is to do, by words of what was said.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["kexec_load failed", "kexec_file_load failed"],
        "kexec fails where memory is short (give the VM more `memory`), and is refused under Secure Boot: the template's efidisk0 \
         needs pre-enrolled-keys=0",
    ),
    (
        &["No space left on device", "database or disk is full"],
        "the installer has what it is sent in memory until the disk is there, and then on the disk: give the VM more \
         `memory`, or a larger `disk`",
    ),
    (
        &["unrecognised flag '--print-out-paths'"],
        "the nix that nixos-anywhere runs is older than 2.9: install a newer one, or leave `--build-on remote` out",
    ),
];

/// The lines that tell something.
#[derive(Debug, Default)]
pub(super) struct Said {
    step: Option<String>,
    last: VecDeque<String>,
    /// What a shell traced last: told where the command says something.
    traced: Option<String>,
    known: HashSet<String>,
    repeats: bool,
    hint: Option<(String, &'static str)>,
}

impl Said {
    /// It said this.
    pub(super) fn heard(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(step) = line.strip_prefix(STEP) {
            self.step = Some(step.trim_end_matches(" ###").to_owned());
            (self.repeats, self.traced) = (false, None);
            return;
        }
        if line == REPEATS {
            self.repeats = true;
        }
        let new = self.known.len() < REMEMBERED && self.known.insert(line.to_owned());
        if line == REPEATS || (self.repeats && !new) || is_noise(line) {
            return;
        }
        if line.starts_with('+') && line.trim_start_matches('+').starts_with(' ') {
            self.traced = Some(line.to_owned()).filter(|line| !line.starts_with("+ echo "));
            return;
        }
        if let Some((_, hint)) = HINTS.iter().find(|(words, _)| words.iter().any(|word| line.contains(word)))
        {
            self.hint = Some((line.trim().to_owned(), hint));
        }
        let traced = self.traced.take();
        self.last.extend(traced.into_iter().chain([line.to_owned()]));
        self.last.drain(..self.last.len().saturating_sub(KEPT));
    }

    /// Its last lines.
    pub(super) fn lines(&self) -> Vec<&str> {
        self.last.iter().map(String::as_str).collect()
    }

    /// The step that it had announced last.
    pub(super) fn step(&self) -> Option<&str> {
        self.step.as_deref()
    }

    /// A line that tells why, where it is one that is known, and what there is to do then.
    pub(super) fn known(&self) -> Option<(&str, &'static str)> {
        self.hint.as_ref().map(|(line, hint)| (line.as_str(), *hint))
    }
}

fn is_noise(line: &str) -> bool {
    let begins = line.trim_start();
    begins.is_empty()
        || NOISE.iter().any(|noise| begins.starts_with(noise))
        || NOISE_WITHIN.iter().any(|noise| line.contains(noise))
        || is_kernels(line)
        || is_cpios(line)
}

/// `6 blocks`.
fn is_cpios(line: &str) -> bool {
    line.strip_suffix(" blocks").is_some_and(|number| number.parse::<u64>().is_ok())
}

/// A line of the kernel's log, `[  703.146585] …`, of something else than the kexec.
fn is_kernels(line: &str) -> bool {
    let Some((time, text)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
        return false;
    };
    let text = text.to_ascii_lowercase();
    time.trim_start().parse::<f64>().is_ok() && !OF_KEXEC.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        text.lines().for_each(|line| said.heard(line));
        said
    }

    /// The kernel's log comes after what kexec said, and then all of it once more.
    #[test]
    fn a_kexec_that_was_refused_is_known_without_the_log_of_the_kernel() {
        let machine = "Downloading kexec tarball, this may take a moment...\nkexec/\nkexec/kexec\n+ find .\n6 blocks\n\
             + sh -c '/root/kexec/kexec/kexec' --load '/root/kexec/kexec/bzImage'\n\
             kexec_file_load failed: Address not available\n\
             + echo kexec failed, dumping dmesg\nkexec failed, dumping dmesg\n+ dmesg\n+ tail -n 100\n\
             [  693.326348] audit: type=1400 apparmor=\"DENIED\"\n[  703.146585] PEFILE: Unsigned PE binary\n\
             + exit 1\n+ cleanup\n+ rm -rf /root/kexec/kexec/tmp.9QIP6zzOcv\nKexec may have failed - check output above\n";
        let said = said(&format!(
            "Pseudo-terminal will not be allocated because stdin is not a terminal.\n\
             ### Switching system into kexec ###\n\
             Warning: Permanently added 'web.fleet.invalid' (ED25519) to the list of known hosts.\n\
             {machine}Remote output log:\n{machine}Kexec failed\n"
        ));
        assert_eq!(
            said.lines(),
            [
                "+ sh -c '/root/kexec/kexec/kexec' --load '/root/kexec/kexec/bzImage'",
                "kexec_file_load failed: Address not available",
                "+ tail -n 100",
                "[  703.146585] PEFILE: Unsigned PE binary"
            ]
        );
        assert_eq!(said.step(), Some("Switching system into kexec"));
        let (line, hint) = said.known().unwrap();
        assert_eq!(line, "kexec_file_load failed: Address not available");
        assert!(hint.contains("pre-enrolled-keys=0"), "{hint}");
    }

    #[test]
    fn a_download_that_failed_is_told_without_its_progress() {
        let said = said(
            "### Switching system into kexec ###\nwget: unable to resolve host address 'github.com'\n\
             \x20    0K .......... .......... 12%  1.2M\ngzip: stdin: unexpected end of file\nKexec failed\n",
        );
        let lines =
            ["wget: unable to resolve host address 'github.com'", "gzip: stdin: unexpected end of file"];
        assert_eq!(said.lines(), lines);
        assert_eq!(said.known(), None);
    }

    #[test]
    fn copies_and_the_trace_of_a_step_before_tell_nothing() {
        let copies: String =
            (0..200).map(|n| format!("copying path '/nix/store/{n}-x' to 'ssh://'...\n")).collect();
        let said = said(&format!("a\n+ mount /dev/sda /mnt\n### Installing NixOS ###\n{copies}b\n"));
        assert_eq!(said.lines(), ["a", "b"]);
    }
}
