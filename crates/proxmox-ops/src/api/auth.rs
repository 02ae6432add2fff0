//! Who we are to the daemon: a ticket minted over the SSH session, or an API token. Kept in memory only.

use std::time::{Duration, Instant};

use fleet_core::{
    Error, Kind, Result,
    child::quote,
    deadline::Deadline,
    ssh::{ExecStatus, Transport},
};

/// A ticket is good for two hours; one of this age is replaced before it is used again.
const RENEW_AFTER: Duration = Duration::from_secs(100 * 60);

/// The program that mints: signs with the node's own key, as `PVE::AccessControl` of pve-access-control does but
/// without loading it, and has it do so where anything is not as expected (see docs/architecture.md).
const MINT: &str = include_str!("mint.pl");
/// Where a node keeps the cluster's files.
const ETC: &str = "/etc/pve";

/// How a request proves who sends it.
pub enum Auth {
    /// A ticket of root, minted when first needed.
    Ticket(Minter),
    /// An API token, `USER@REALM!ID=SECRET`.
    Token(String),
}

/// Root's ticket, and how the next one is made.
#[derive(Default)]
pub struct Minter {
    ticket: Option<Ticket>,
    /// A ticket was refused: the next ones are made by `PVE::AccessControl` itself. A 401 costs three seconds, so
    /// the short way is not tried twice.
    full: bool,
}

/// A ticket and what goes with it.
struct Ticket {
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
            return Ok(Auth::Ticket(Minter::default()));
        }
        Err(Error::new(
            Kind::Unreachable,
            format!("the login '{user}' can not make a ticket of Proxmox VE: only root can"),
        )
        .now("nothing was sent to the node")
        .hint(
            "log in as root (--user root, where the ssh_config has another User for it), or give an API token in PROXMOX_TOKEN or PROXMOX_TOKEN_FILE (USER@REALM!ID=SECRET)",
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
            Auth::Ticket(Minter { ticket, full }) => {
                let ticket = match ticket {
                    Some(ticket) if ticket.minted.elapsed() < RENEW_AFTER => ticket,
                    _ => ticket.insert(mint(transport, *full, deadline)?),
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
            Auth::Ticket(minter) => {
                minter.full = true;
                minter.ticket.take().is_some()
            }
            Auth::Token(_) => false,
        }
    }
}

/// The command line that mints a ticket on the node, from the files below `etc`; `full`: by `PVE::AccessControl`.
fn mint_command(etc: &str, full: bool) -> String {
    let line = format!("perl -e {} {}", quote(MINT), quote(etc));
    if full { line + " full" } else { line }
}

fn mint(transport: &dyn Transport, full: bool, deadline: Deadline) -> Result<Ticket> {
    let run = transport.exec(&mint_command(ETC, full), b"", deadline.at_most(Duration::from_secs(20)));
    let output = run.map_err(not_made)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = |why: String| {
        Error::new(Kind::Unreachable, format!("can not make a ticket on the node: {why}"))
            .now("logged in over SSH, but nothing was asked of the Proxmox API")
    };
    const LOGIN: &str =
        "does root's login run something else than what it is told? `ssh HOST echo it` must print `it`";
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status != ExecStatus::Code(0) {
        let last_of = |text: &str| text.lines().map(str::trim).rfind(|l| !l.is_empty()).map(str::to_owned);
        let Some(last) = last_of(&stderr) else {
            // Not perl's words, then: it ends with its tickets, or says why not.
            let said = last_of(&stdout).filter(|_| !stdout.contains("PVE:"));
            let said = said.map_or_else(String::new, |line| format!(" and said '{}'", line.escape_debug()));
            return Err(failed(format!("what makes it {}{said}", output.status)).hint(LOGIN));
        };
        // Where else it was looked for is of no use to anybody.
        let error = failed(last.split(" in @INC").next().unwrap_or(&last).to_owned());
        return Err(if stderr.contains("Can't locate PVE/") || output.status == ExecStatus::Code(127) {
            error.hint("is it a Proxmox VE node? `pveversion` on it tells; choose another with --host HOST")
        } else {
            error.hint("look on the node: `pvecm status` (no quorum keeps keys unreadable), `systemctl status pve-cluster`")
        });
    }
    let mut lines = stdout.lines().map(str::trim).filter(|line| !line.is_empty());
    // What a login shell's start-up files print comes before it.
    match (lines.find(|line| line.starts_with("PVE:")), lines.next()) {
        (Some(cookie), Some(csrf)) => {
            Ok(Ticket { cookie: cookie.to_owned(), csrf: csrf.to_owned(), minted: Instant::now() })
        }
        // What it printed may be a secret.
        _ => Err(failed("perl printed something that is no ticket".to_owned()).hint(LOGIN)),
    }
}

/// A ticket that was not had in the end: making one changes nothing, so that there is nothing that could be unknown.
/// The command that makes it says nothing to whoever reads the error.
fn not_made(error: Error) -> Error {
    let nothing = "nothing was asked of the Proxmox API";
    match error.kind() {
        Kind::OutcomeUnknown => {
            Error::new(Kind::Unreachable, "the connection to the node was lost while it made a ticket")
                .now(nothing)
        }
        Kind::DeadlinePassed => {
            Error::new(Kind::DeadlinePassed, "gave up waiting for the node to make a ticket")
                .now(nothing)
                .hint("look on the node: `pvecm status`, `systemctl status pve-cluster`")
        }
        Kind::Failed => {
            error.context("can not make a ticket on the node").with_kind(Kind::Unreachable).now(nothing)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::child::Command;

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

    /// The daemon on port 85 does not look at the CSRF token, and may one day. A ticket lasts two hours.
    #[test]
    fn every_request_has_both_tokens_and_an_old_ticket_is_renewed() {
        let fake = crate::testing::Fake::new();
        let mut auth = Auth::Ticket(Minter::default());
        let headers = |auth: &mut Auth| auth.headers(&fake, Deadline::secs(5)).unwrap();
        let names = headers(&mut auth).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names, ["Cookie", "CSRFPreventionToken"]);
        let first = headers(&mut auth);
        assert_eq!(fake.minted().0, 1);
        let Auth::Ticket(Minter { ticket: Some(ticket), .. }) = &mut auth else { panic!("no ticket") };
        let Some(earlier) = ticket.minted.checked_sub(RENEW_AFTER) else { return };
        ticket.minted = earlier;
        assert_ne!(headers(&mut auth), first);
        assert_eq!(fake.minted().0, 2);
    }

    /// What a program of these tests takes is up to what else the machine is at.
    fn patience() -> Deadline {
        Deadline::secs(300)
    }

    /// A node's files, and a `PVE::AccessControl` that says that it was asked.
    struct Etc(tempfile::TempDir);

    impl Etc {
        fn new() -> Etc {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("priv")).unwrap();
            std::fs::create_dir(dir.path().join("PVE")).unwrap();
            std::fs::write(dir.path().join("pve-www.key"), "www key\n").unwrap();
            let stub = "package PVE::AccessControl; \
                sub assemble_ticket { qq(PVE:$_[0]:FULL) } sub assemble_csrf_prevention_token { qq(FULL:csrf) } 1;";
            std::fs::write(dir.path().join("PVE/AccessControl.pm"), stub).unwrap();
            let etc = Etc(dir);
            etc.openssl("genrsa -traditional -out priv/authkey.key 2048");
            etc.openssl("rsa -in priv/authkey.key -pubout -out authkey.pub");
            etc
        }

        fn openssl(&self, line: &str) -> String {
            let mut command = Command::new("openssl");
            for word in line.split(' ') {
                let file = self.0.path().join(word);
                command = if word.contains('.') || word.contains('/') {
                    command.arg(file)
                } else {
                    command.arg(word)
                };
            }
            command.output(patience()).unwrap().checked().unwrap().stdout_text()
        }

        /// The two lines that it prints, through a shell.
        fn mint(&self, full: bool) -> (String, String) {
            let command = mint_command(&self.0.path().to_string_lossy(), full);
            let output = Command::new("sh").arg("-c").arg(command).env("PERL5LIB", self.0.path());
            let text = output.output(patience()).unwrap().checked().unwrap().stdout_text();
            let (ticket, csrf) = text.trim().split_once('\n').unwrap();
            (ticket.to_owned(), csrf.to_owned())
        }

        fn is_full(&self) -> bool {
            self.mint(false) == ("PVE:root@pam:FULL".to_owned(), "FULL:csrf".to_owned())
        }
    }

    /// What the short way needs on a node is not everywhere: Debian's libcrypt-openssl-rsa-perl.
    fn has_modules() -> bool {
        let perl = Command::new("perl").args(["-MCrypt::OpenSSL::RSA", "-MDigest::SHA", "-e1"]);
        let there = perl.output(patience()).is_ok_and(|output| output.success());
        assert!(
            there || std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
            "Crypt::OpenSSL::RSA is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
        );
        if !there {
            println!("skipped: no Crypt::OpenSSL::RSA");
        }
        there
    }

    #[test]
    fn a_shell_that_greets_hides_no_ticket() {
        let command = mint_command(ETC, false);
        let node = |said: &str| crate::testing::Fake::new().exec(&command, said, 0);
        let ticket =
            mint(&node("Welcome to prom\n\nPVE:root@pam:68::sig\n68:proof\n"), false, Deadline::secs(5));
        let ticket = ticket.unwrap();
        assert_eq!((ticket.cookie.as_str(), ticket.csrf.as_str()), ("PVE:root@pam:68::sig", "68:proof"));
        let error =
            mint(&node("This account is for transfers only\n"), false, Deadline::secs(5)).err().unwrap();
        assert!(error.message().contains("no ticket") && !error.chain().contains("transfers"), "{error:?}");
        // As nologin(8) does, which says so on its standard output.
        let node =
            crate::testing::Fake::new().exec(&command, "This account is currently not available.\n", 1);
        let error = mint(&node, false, Deadline::secs(5)).err().unwrap();
        let said = "what makes it exited with 1 and said 'This account is currently not available.'";
        assert!(
            error.message().ends_with(said) && error.hints()[0].contains("ssh HOST echo it"),
            "{error:?}"
        );
        let node = crate::testing::Fake::new().exec(&command, "PVE:root@pam:68::sig\n", 1);
        let error = mint(&node, false, Deadline::secs(5)).err().unwrap();
        assert!(error.message().ends_with("what makes it exited with 1"), "{error:?}");
    }

    #[test]
    fn a_ticket_is_a_line_of_its_own_whatever_was_printed_before() {
        if !has_modules() {
            return;
        }
        let etc = Etc::new();
        let command = mint_command(&etc.0.path().to_string_lossy(), false);
        let shell = format!("printf 'a title, no line'; {command}");
        let output = Command::new("sh").arg("-c").arg(shell).output(patience()).unwrap().checked().unwrap();
        assert!(output.stdout_text().starts_with("a title, no line\nPVE:root@pam:"));
    }

    #[test]
    fn the_short_way_signs_as_the_daemon_verifies() {
        if !has_modules() {
            return;
        }
        let etc = Etc::new();
        let (ticket, csrf) = etc.mint(false);
        let (plain, signature) = ticket.split_once("::").unwrap();
        let stamp = plain.strip_prefix("PVE:root@pam:").unwrap();
        assert!(stamp.len() == 8 && u32::from_str_radix(stamp, 16).is_ok(), "{ticket}");
        assert_eq!(stamp, stamp.to_uppercase());
        std::fs::write(etc.0.path().join("plain.txt"), plain).unwrap();
        std::fs::write(etc.0.path().join("sig.b64"), signature).unwrap();
        etc.openssl("base64 -d -A -in sig.b64 -out sig.bin");
        // The digest is the Perl module's own default, which the daemon verifies with; it is not ours to choose.
        let verified = ["-sha1", "-sha256"].into_iter().any(|digest| {
            let line = format!("dgst {digest} -verify authkey.pub -signature sig.bin plain.txt");
            let run = line.split(' ').fold(Command::new("openssl"), |command, word| {
                if word.contains('.') { command.arg(etc.0.path().join(word)) } else { command.arg(word) }
            });
            run.output(patience()).unwrap().success()
        });
        assert!(verified, "openssl does not verify {ticket}");
        let proof = Command::new("perl")
            .args(["-MDigest::SHA=hmac_sha256_base64", "-e"])
            .arg("print hmac_sha256_base64(qq($ARGV[0]:root\\@pam), hmac_sha256_base64(qq(www key\\n)))")
            .arg(stamp)
            .output(patience())
            .unwrap();
        assert_eq!(csrf, format!("{stamp}:{}", proof.stdout_text()));
    }

    #[test]
    fn whatever_is_not_as_expected_is_left_to_the_node_s_own_code() {
        let etc = Etc::new();
        let file = |name: &str| etc.0.path().join(name);
        let dated = |seconds: i64| {
            let now = std::time::SystemTime::now();
            let ago = Duration::from_secs(seconds.unsigned_abs());
            let then = if seconds < 0 { now + ago } else { now - ago };
            std::fs::File::options()
                .append(true)
                .open(file("authkey.pub"))
                .unwrap()
                .set_modified(then)
                .unwrap();
        };
        assert_eq!(etc.mint(true).0, "PVE:root@pam:FULL");
        if !has_modules() {
            assert!(etc.is_full());
            return;
        }
        assert!(!etc.is_full());
        // Due for rotation, or from a clock that is ahead.
        dated(86_390);
        assert!(etc.is_full());
        dated(-400);
        assert!(etc.is_full());
        dated(80_000);
        assert!(!etc.is_full());
        // Half of a rotation.
        std::fs::rename(file("priv/authkey.key"), file("kept.key")).unwrap();
        etc.openssl("genrsa -traditional -out priv/authkey.key 2048");
        assert!(etc.is_full());
        std::fs::rename(file("kept.key"), file("priv/authkey.key")).unwrap();
        assert!(!etc.is_full());
        std::fs::remove_file(file("pve-www.key")).unwrap();
        assert!(etc.is_full());
        std::fs::remove_file(file("authkey.pub")).unwrap();
        assert!(etc.is_full());
    }
}
