//! Who we are to the daemon: a ticket minted over the SSH session, or an API token. Kept in memory only.

use std::time::{Duration, Instant};

use fleet_core::{
    Error, Result,
    child::quote,
    deadline::Deadline,
    ssh::{ExecStatus, Transport},
};

/// A ticket is good for two hours; one of this age is replaced before it is used again.
const RENEW_AFTER: Duration = Duration::from_secs(100 * 60);

/// Root's own ticket and its CSRF token, one a line (`PVE::AccessControl` of pve-access-control). Without quotes
/// and blanks that a shell would have to be told about: `$/` is the end of a line.
const MINT: &str = "my $user = q(root@pam); \
    print PVE::AccessControl::assemble_ticket($user), $/, \
    PVE::AccessControl::assemble_csrf_prevention_token($user), $/";

/// How a request proves who sends it.
pub enum Auth {
    /// A ticket of root, minted when first needed.
    Ticket(Option<Ticket>),
    /// An API token, `USER@REALM!ID=SECRET`.
    Token(String),
}

/// A ticket and what goes with it.
pub struct Ticket {
    cookie: String,
    csrf: String,
    minted: Instant,
}

impl std::fmt::Debug for Auth {
    /// Never shows a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::Ticket(_) => "Auth::Ticket(…)",
            Auth::Token(_) => "Auth::Token(…)",
        })
    }
}

impl Auth {
    /// From the environment's token, if there is one; else root's ticket, which only root can mint.
    pub fn from_env(user: &str) -> Result<Auth> {
        if let Ok(token) = std::env::var("PROXMOX_TOKEN")
            && !token.is_empty()
        {
            return Auth::token(token.trim(), "PROXMOX_TOKEN");
        }
        if let Some(path) = std::env::var_os("PROXMOX_TOKEN_FILE").filter(|path| !path.is_empty()) {
            let path = std::path::PathBuf::from(path);
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
            return Auth::token(text.trim(), "PROXMOX_TOKEN_FILE");
        }
        if user == "root" {
            return Ok(Auth::Ticket(None));
        }
        Err(Error::new(
            fleet_core::Kind::Unreachable,
            format!("the login '{user}' can not make a ticket of Proxmox VE: only root can"),
        )
        .now("nothing was sent to the node")
        .hint(
            "log in as root, or give an API token in PROXMOX_TOKEN or PROXMOX_TOKEN_FILE (USER@REALM!ID=SECRET)",
        )
        .hint("make one on the node: pveum user token add USER@REALM fleet --privsep 0"))
    }

    fn token(text: &str, from: &str) -> Result<Auth> {
        let well_formed = text
            .split_once('!')
            .and_then(|(user, rest)| Some((user, rest.split_once('=')?)))
            .is_some_and(|(user, (id, secret))| {
                user.contains('@')
                    && !id.is_empty()
                    && !secret.is_empty()
                    && text.bytes().all(|b| b.is_ascii_graphic())
            });
        if well_formed {
            return Ok(Auth::Token(text.to_owned()));
        }
        // The text itself may be a secret: it is not shown.
        Err(Error::usage(format!("{from} does not hold an API token"))
            .hint("its form is USER@REALM!ID=SECRET"))
    }

    /// Headers that prove who we are; mints a ticket first where there is none or it is old.
    pub fn headers(
        &mut self,
        transport: &dyn Transport,
        deadline: Deadline,
    ) -> Result<Vec<(&'static str, String)>> {
        match self {
            Auth::Token(token) => Ok(vec![("Authorization", format!("PVEAPIToken={token}"))]),
            Auth::Ticket(slot) => {
                let ticket = match slot {
                    Some(ticket) if ticket.minted.elapsed() < RENEW_AFTER => ticket,
                    _ => slot.insert(mint(transport, deadline)?),
                };
                Ok(vec![
                    ("Cookie", format!("PVEAuthCookie={}", super::encode::percent(&ticket.cookie))),
                    ("CSRFPreventionToken", ticket.csrf.clone()),
                ])
            }
        }
    }

    /// Forgets a ticket that the daemon refused. Whether there was one to forget: a token can not be renewed.
    pub fn forget(&mut self) -> bool {
        match self {
            Auth::Ticket(slot) => slot.take().is_some(),
            Auth::Token(_) => false,
        }
    }
}

/// The command line that mints a ticket on the node.
pub fn mint_command() -> String {
    format!("perl -MPVE::AccessControl -e {}", quote(MINT))
}

fn mint(transport: &dyn Transport, deadline: Deadline) -> Result<Ticket> {
    let output = transport.exec(&mint_command(), b"", deadline.at_most(Duration::from_secs(20)))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = |why: String| {
        Error::new(fleet_core::Kind::Unreachable, format!("can not make a ticket on the node: {why}"))
            .now("logged in over SSH, but nothing was asked of the Proxmox API")
    };
    if output.status != ExecStatus::Code(0) {
        let last = stderr.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("perl said nothing");
        let error = failed(last.to_owned());
        return Err(if stderr.contains("Can't locate PVE/") || output.status == ExecStatus::Code(127) {
            error.hint("is it a Proxmox VE node? `pveversion` on it tells; choose another with --host HOST")
        } else {
            error.hint("look on the node: `pvecm status` (no quorum keeps keys unreadable), `systemctl status pve-cluster`")
        });
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut lines = stdout.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(cookie), Some(csrf)) if cookie.starts_with("PVE:") => {
            Ok(Ticket { cookie: cookie.to_owned(), csrf: csrf.to_owned(), minted: Instant::now() })
        }
        // What it printed may be a secret.
        _ => Err(failed("perl printed something that is no ticket".to_owned())
            .hint("does the login shell of root print anything? `ssh HOST true` must print nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_checked_and_never_shown() {
        assert!(Auth::token("fleet@pve!ops=12345678-aaaa", "PROXMOX_TOKEN").is_ok());
        for bad in
            ["", "secret", "user!id=s", "user@pve!=s", "user@pve!id=", "user@pve!id=a b", "u@p!i=s\nX: y"]
        {
            let error = Auth::token(bad, "PROXMOX_TOKEN").unwrap_err();
            assert_eq!(error.message(), "PROXMOX_TOKEN does not hold an API token");
        }
        let shown = format!("{:?}", Auth::Token("u@p!i=verysecret".into()));
        assert!(!shown.contains("verysecret"));
    }

    #[test]
    fn the_minting_line_is_one_shell_word_of_perl() {
        let line = mint_command();
        let words = shlex_split(&line);
        assert_eq!(words[..3], ["perl", "-MPVE::AccessControl", "-e"]);
        assert_eq!(words[3], MINT);
        assert_eq!(words.len(), 4);
    }

    /// What a POSIX shell makes of quotes, enough for the line above.
    fn shlex_split(line: &str) -> Vec<String> {
        let output = fleet_core::child::Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\0' {line}"))
            .output(Deadline::secs(10))
            .unwrap();
        output.stdout_text().split_terminator('\0').map(str::to_owned).collect()
    }
}
