//! Why nixos-anywhere failed, in its own words.

use fleet_core::{
    Error, Result,
    child::{self, Output},
};

/// An error unless it ended well: why first, then how. Its command line is long, and in the journal.
pub(super) fn well(output: &Output) -> Result<()> {
    if output.success() {
        return Ok(());
    }
    let how = format!("nixos-anywhere {}", child::describe(output.status));
    let said = last_words(&output.stderr_text());
    let error = Error::failed(match &said.error {
        Some(error) => format!("{error} ({how})"),
        None => how,
    });
    Err(match said.last {
        Some(last) => error.now(format!("it said last: {last}")),
        None => error,
    })
}

/// What a program said at the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct LastWords {
    /// Its last error, else its last line.
    error: Option<String>,
    /// Its last line, where that is another than the error's own and no part of it.
    last: Option<String>,
}

/// nix says `error: …`, with the cause of a trace indented below it; what depends on a failed build fails of nothing of
/// its own. nixos-anywhere says `aborted: …`, git and ssh-keygen `fatal: …`.
fn last_words(said: &str) -> LastWords {
    let lines: Vec<String> = said.lines().map(super::printable).collect();
    let full = |line: &&String| !line.trim().is_empty();
    let error_of = |line: &String| {
        let line = line.trim();
        let text = ["error: ", "aborted: ", "fatal: "].iter().find_map(|start| line.strip_prefix(start))?;
        (!text.contains("of derivation '") || !text.contains("failed to build")).then(|| text.to_owned())
    };
    let at = lines.iter().rposition(|line| error_of(line).is_some());
    let last = lines.iter().enumerate().rev().find(|(_, line)| full(line));
    let Some(at) = at else {
        return LastWords { error: last.map(|(_, line)| line.trim().to_owned()), last: None };
    };
    let own = |line: &str| line.starts_with([' ', '\t']) || line.contains("error: ");
    LastWords {
        error: error_of(&lines[at]),
        last: last.filter(|(last, line)| *last > at && !own(line)).map(|(_, line)| line.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_what_it_failed_of() {
        let words = |said: &str| {
            let said = last_words(said);
            (said.error.unwrap_or_default(), said.last.unwrap_or_default())
        };
        let only = |error: &str| (error.to_owned(), String::new());
        assert_eq!(words("building\n\u{1b}[31merror: no space\u{1b}[0m\n\n"), only("no space"));
        assert_eq!(words("error: one\nerror: two\n       at /nix/store/x.nix:1:2\n"), only("two"));
        assert_eq!(
            words("error:\n       … while evaluating\n\n       error: attribute 'x' missing\n"),
            only("attribute 'x' missing")
        );
        let failed = "error: builder for '/nix/store/a.drv' failed with exit code 1;\n       last 10 log lines:\n\
                      error: 1 dependencies of derivation '/nix/store/b.drv' failed to build\n";
        assert_eq!(words(failed), only("builder for '/nix/store/a.drv' failed with exit code 1;"));
        assert_eq!(words("### x ###\naborted: no SSH key\n"), only("no SSH key"));
        assert_eq!(
            words("error: one\numount: /mnt: target is busy\n"),
            ("one".to_owned(), "umount: /mnt: target is busy".to_owned())
        );
        assert_eq!(words("ssh: lost\n \n"), only("ssh: lost"));
        assert_eq!(last_words("\n"), LastWords::default());
    }
}
