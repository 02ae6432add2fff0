//! Why nixos-anywhere failed, in its own words.

use fleet_core::{
    Error, Result,
    child::{self, Output},
};

use super::said::Said;

/// So many lines are told where none of them says that it is the error.
const TOLD: usize = 6;

/// Errors of nix that only say that the other end is gone, and how they begin.
const FOLLOWS: &[&str] = &[
    "cannot connect to '",
    "cannot open connection to remote store '",
    "unexpected end-of-file",
    "writing to file: Broken pipe",
];

/// An error unless it ended well: why first, then how. Its command line is long, and in the journal.
pub(super) fn well(output: &Output, said: &Said) -> Result<()> {
    if output.success() {
        return Ok(());
    }
    let how = format!("nixos-anywhere {}", child::describe(output.status));
    let words = last_words(&said.lines(), said.known().map(|(line, _)| line));
    let error = Error::failed(match &words.error {
        Some(error) => format!("{error} ({how})"),
        None => how,
    });
    let error = words.others.iter().fold(error, |error, line| error.now(format!("it said: {line}")));
    let error = said.step().map(|step| format!("it was at '{step}'")).iter().fold(error, Error::now);
    Err(match said.known() {
        Some((_, hint)) => error.hint(hint),
        None => error,
    })
}

/// What a program said at the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct LastWords {
    /// Its last error, else the line that is known to tell why, else its last line.
    error: Option<String>,
    /// What it said after an error, where that is no part of it; else the lines about the one that was chosen.
    others: Vec<String>,
}

/// nix says `error: …`, with the cause of a trace indented below it; what depends on a failed build fails of nothing of
/// its own. nixos-anywhere says `aborted: …`, git and ssh-keygen `fatal: …`.
fn last_words(lines: &[&str], known: Option<&str>) -> LastWords {
    let error_of = |line: &str| {
        let line = line.trim();
        let text = ["error: ", "aborted: ", "fatal: "].iter().find_map(|start| line.strip_prefix(start))?;
        (!text.contains("of derivation '") || !text.contains("failed to build")).then(|| text.to_owned())
    };
    // What comes of the other end's own error is said last.
    let end = lines.len().saturating_sub(TOLD);
    let first = |line: &&str| {
        error_of(line).is_some_and(|error| !FOLLOWS.iter().any(|start| error.starts_with(start)))
    };
    let at = lines[end..].iter().rposition(first).map(|at| end + at);
    let at = at.or_else(|| lines.iter().rposition(|line| error_of(line).is_some()));
    let Some(at) = at else {
        let end = &lines[end..];
        let chosen = match known {
            Some(known) => end.iter().rposition(|line| line.trim() == known),
            None => end.len().checked_sub(1),
        };
        let others = end.iter().enumerate().filter(|(at, _)| Some(*at) != chosen);
        return LastWords {
            error: known.or(chosen.map(|at| end[at].trim())).map(str::to_owned),
            others: others.map(|(_, line)| line.trim().to_owned()).collect(),
        };
    };
    let own = |line: &str| line.starts_with([' ', '\t']) || line.contains("error: ");
    let last = lines[at + 1..].last().filter(|line| !own(line));
    // Why the other end is gone, ssh has said before.
    let before = lines[..at].last().filter(|_| !first(&lines[at]));
    LastWords {
        error: error_of(lines[at]),
        others: before.into_iter().chain(last).map(|line| line.trim().to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(said: &str, known: Option<&str>) -> (String, Vec<String>) {
        let said = last_words(&said.lines().collect::<Vec<_>>(), known);
        (said.error.unwrap_or_default(), said.others)
    }

    #[test]
    fn the_last_error_is_what_it_failed_of() {
        let words = |said: &str| words(said, None);
        let only = |error: &str| (error.to_owned(), Vec::new());
        assert_eq!(words("building\nerror: no space"), only("no space"));
        assert_eq!(words("error: one\nerror: two\n       at /nix/store/x.nix:1:2"), only("two"));
        assert_eq!(
            words("error:\n       … while evaluating\n       error: attribute 'x' missing"),
            only("attribute 'x' missing")
        );
        let failed = "error: builder for '/nix/store/a.drv' failed with exit code 1;\n       last 10 log lines:\n\
                      error: 1 dependencies of derivation '/nix/store/b.drv' failed to build";
        assert_eq!(words(failed), only("builder for '/nix/store/a.drv' failed with exit code 1;"));
        assert_eq!(words("aborted: no SSH key"), only("no SSH key"));
        assert_eq!(
            words("error: one\numount: /mnt: target is busy"),
            ("one".to_owned(), vec!["umount: /mnt: target is busy".to_owned()])
        );
        assert_eq!(words("ssh: lost"), only("ssh: lost"));
        let gone = "error: cannot connect to 'root@web.fleet.invalid'";
        assert_eq!(words(&format!("error: database or disk is full\n{gone}")).0, "database or disk is full");
        assert_eq!(words(&format!("ssh: lost\n{gone}")).1, ["ssh: lost"]);
        assert_eq!(words(&format!("error: one\n1\n2\n3\n4\n5\n{gone}")).0, &gone["error: ".len()..]);
        assert_eq!(words(""), only(""));
    }

    #[test]
    fn where_nothing_says_that_it_is_the_error_the_last_lines_are_told() {
        let lines = "0\n1\n2\nwget: no such host\ngzip: end of file\ntar: fails\nsetsid: no such file";
        let (error, others) = words(lines, None);
        assert_eq!(error, "setsid: no such file");
        assert_eq!(others, ["1", "2", "wget: no such host", "gzip: end of file", "tar: fails"]);
        let (error, others) =
            words("+ kexec --load\nkexec_load failed\n[ 1.0] PEFILE", Some("kexec_load failed"));
        assert_eq!(
            (error.as_str(), others),
            ("kexec_load failed", vec!["+ kexec --load".into(), "[ 1.0] PEFILE".into()])
        );
    }
}
