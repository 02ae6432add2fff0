//! What is asked on a terminal, and only there: unknown host keys and passphrases. The person's side is this
//! same program, run again under a pseudo-terminal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]
#![allow(clippy::disallowed_methods, reason = "the program under test is this one")]

mod ssh_support;

use std::{fs, path::Path, process::Command};

use fleet_core::{
    deadline::Deadline,
    ssh::{HostKeyPolicy, Session, Target, Transport, keys::PublicKey},
    ui::{ColorChoice, Ui},
};
use rexpect::session::{PtySession, spawn_command};
use ssh_support::{Sshd, keygen, me, public};

/// Connects as its environment says; does nothing in a usual run of the tests.
#[test]
fn person() {
    let Some(host) = std::env::var_os("TEST_PERSON_HOST") else { return };
    let target = Target {
        host: host.into_string().unwrap(),
        user: Some(me()),
        host_key: match std::env::var("TEST_PERSON_PIN") {
            Ok(line) => HostKeyPolicy::Pinned(line),
            Err(_) => HostKeyPolicy::KnownHosts,
        },
        identities: vec![],
        proxy: None,
    };
    let ui = Ui::new(ColorChoice::Never, false, false, false);
    match Session::connect(&target, ui, Deadline::secs(30)) {
        Ok(session) => {
            let out = session.exec("echo it works", b"", Deadline::secs(30)).unwrap();
            ui.say(out.stdout_text().trim());
        }
        Err(e) => ui.error(&e),
    }
}

fn sit_down(sshd: &Sshd, identity: &Path, pin: bool) -> PtySession {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "person", "--nocapture", "--test-threads=1"]);
    command.env("TEST_PERSON_HOST", sshd.address.to_string());
    if pin {
        command.env("TEST_PERSON_PIN", sshd.host_key());
    }
    command.env("FLEET_SSH_CONFIG", "none");
    command.env("FLEET_KNOWN_HOSTS", sshd.path("dot-ssh/known_hosts"));
    command.env("FLEET_IDENTITY", identity);
    command.env_remove("SSH_AUTH_SOCK");
    spawn_command(command, Some(20_000)).unwrap()
}

#[test]
fn an_unknown_host_is_asked_about_and_written_down_after_a_yes() {
    let Some(sshd) = Sshd::start("") else { return };
    let file = sshd.path("dot-ssh/known_hosts");
    let fingerprint = PublicKey::parse(&sshd.host_key()).unwrap().fingerprint();

    let mut no = sit_down(&sshd, &sshd.path("user"), false);
    no.exp_string(&format!("its key: ED25519 {fingerprint}")).unwrap();
    no.exp_string("(y/N)").unwrap();
    no.send_line("").unwrap();
    no.exp_string("the host key of 127.0.0.1 is not known").unwrap();
    no.exp_eof().unwrap();
    assert!(!file.exists());

    let mut yes = sit_down(&sshd, &sshd.path("user"), false);
    yes.exp_string("(y/N)").unwrap();
    yes.send_line("y").unwrap();
    yes.exp_string("it works").unwrap();
    yes.exp_eof().unwrap();
    let line =
        format!("[127.0.0.1]:{} {}\n", sshd.address.port(), sshd.host_key().rsplit_once(' ').unwrap().0);
    assert_eq!(fs::read_to_string(&file).unwrap(), line);

    let mut again = sit_down(&sshd, &sshd.path("user"), false);
    let seen = again.exp_string("it works").unwrap();
    assert!(!seen.contains("(y/N)"), "{seen}");
    again.exp_eof().unwrap();
}

#[test]
fn a_changed_host_key_is_not_asked_about() {
    let Some(sshd) = Sshd::start("") else { return };
    fs::create_dir(sshd.path("dot-ssh")).unwrap();
    let old = keygen(sshd.dir.path(), "old", "ed25519", "");
    let line = format!("[127.0.0.1]:{} {}\n", sshd.address.port(), public(&old));
    fs::write(sshd.path("dot-ssh/known_hosts"), &line).unwrap();
    let mut person = sit_down(&sshd, &sshd.path("user"), false);
    let seen = person.exp_eof().unwrap();
    assert!(seen.contains("the host key of 127.0.0.1 has changed") && !seen.contains("(y/N)"), "{seen}");
    assert_eq!(fs::read_to_string(sshd.path("dot-ssh/known_hosts")).unwrap(), line);
}

#[test]
fn a_passphrase_is_asked_for_and_a_wrong_one_again() {
    let Some(sshd) = Sshd::start("") else { return };
    let locked = keygen(sshd.dir.path(), "locked", "ed25519", "open sesame");
    fs::copy(locked.with_extension("pub"), sshd.path("authorized")).unwrap();
    let mut person = sit_down(&sshd, &locked, true);
    person.exp_string(&format!("Passphrase for {}: ", locked.display())).unwrap();
    person.send_line("wrong").unwrap();
    person.exp_string("the passphrase is wrong").unwrap();
    person.exp_string("Passphrase for").unwrap();
    person.send_line("open sesame").unwrap();
    let seen = person.exp_string("it works").unwrap();
    assert!(!seen.contains("sesame"), "the terminal showed it: {seen}");
    person.exp_eof().unwrap();

    let mut person = sit_down(&sshd, &locked, true);
    person.exp_string("Passphrase for").unwrap();
    person.send_line("").unwrap();
    person.exp_string("no passphrase was given").unwrap();
    person.exp_eof().unwrap();
}

#[test]
fn a_passphrase_opens_keys_of_every_usual_type_and_format() {
    let Some(sshd) = Sshd::start("") else { return };
    let mut known = String::new();
    // OpenSSL writes no ed25519 key in PEM's old form, and ssh-keygen none in PKCS8.
    for (key_type, formats) in [
        ("ed25519", &["RFC4716"][..]),
        ("ecdsa", &["RFC4716", "PEM", "PKCS8"]),
        ("rsa", &["RFC4716", "PEM", "PKCS8"]),
    ] {
        for format in formats {
            let key = keygen(sshd.dir.path(), &format!("{key_type}-{format}"), key_type, "");
            let locked = Command::new("ssh-keygen")
                .args(["-q", "-p", "-m", format, "-N", "open sesame", "-f"])
                .arg(&key)
                .output()
                .unwrap();
            assert!(locked.status.success(), "{locked:?}");
            known.push_str(&(public(&key) + "\n"));
            fs::write(sshd.path("authorized"), &known).unwrap();
            let mut person = sit_down(&sshd, &key, true);
            person.exp_string("Passphrase for").unwrap();
            person.send_line("open sesame").unwrap();
            person.exp_string("it works").unwrap_or_else(|e| panic!("{key_type} {format}: {e}"));
            person.exp_eof().unwrap();
        }
    }
}
