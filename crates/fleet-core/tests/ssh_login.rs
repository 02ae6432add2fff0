//! Logging in to OpenSSH's own sshd: keys of all kinds, agents, host keys known, unknown, changed and revoked.
#![allow(clippy::disallowed_methods, reason = "the agent under test is no child of the tools")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ssh_support;

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use fleet_core::{
    Error, Kind,
    deadline::Deadline,
    ssh::{Environment, HostKeyPolicy, Session, Target, Transport},
    ui::Ui,
};
use ssh_support::{Sshd, keygen, me, public};

fn limit() -> Deadline {
    Deadline::secs(30)
}

fn connect(target: &Target, env: &Environment) -> Result<Session, Error> {
    Session::connect_in(target, env, Ui::silent(), limit())
}

fn authorize(sshd: &Sshd, key: &Path) {
    let mut all = fs::read_to_string(sshd.path("authorized")).unwrap();
    all.push_str(&public(key));
    all.push('\n');
    fs::write(sshd.path("authorized"), all).unwrap();
}

/// An ssh-agent that ends with the test.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(dir: &Path, keys: &[PathBuf]) -> Agent {
        let socket = dir.join("agent");
        let (null, none) = (Stdio::null(), Stdio::null());
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(null)
            .stderr(none)
            .spawn()
            .unwrap();
        // Whatever happens from here on, the agent ends with the test.
        let agent = Agent { child, socket };
        // Its socket has a name before it takes connections.
        let patience = Deadline::secs(30);
        while UnixStream::connect(&agent.socket).is_err() {
            assert!(!patience.passed(), "the agent never listened");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for key in keys {
            let added = Command::new("ssh-add")
                .arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", &agent.socket)
                .output()
                .unwrap();
            assert!(added.status.success(), "{added:?}");
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn key_files_of_every_usual_type_and_format_log_in() {
    let Some(sshd) = Sshd::start("") else { return };
    for key_type in ["ed25519", "ecdsa", "rsa"] {
        let key = keygen(sshd.dir.path(), key_type, key_type, "");
        authorize(&sshd, &key);
        let target = Target { identities: vec![key], ..sshd.target() };
        let session = connect(&target, &sshd.env()).unwrap();
        assert_eq!(session.exec("echo in", b"", limit()).unwrap().stdout, b"in\n", "{key_type}");
    }
    for (name, format, begin) in [
        ("rsa", "PEM", "-----BEGIN RSA PRIVATE KEY-----"),
        ("ecdsa", "PEM", "-----BEGIN EC PRIVATE KEY-----"),
        ("rsa", "PKCS8", "-----BEGIN PRIVATE KEY-----"),
        ("ecdsa", "PKCS8", "-----BEGIN PRIVATE KEY-----"),
    ] {
        let key = sshd.path(name);
        let converted = Command::new("ssh-keygen")
            .args(["-q", "-p", "-m", format, "-N", "", "-f"])
            .arg(&key)
            .output()
            .unwrap();
        assert!(converted.status.success());
        assert!(fs::read_to_string(&key).unwrap().starts_with(begin), "{name} {format}");
        // The public half is not in the open there, and not needed beside it.
        fs::rename(sshd.path(&format!("{name}.pub")), sshd.path("aside.pub")).unwrap();
        let connected = connect(&Target { identities: vec![key], ..sshd.target() }, &sshd.env());
        connected.unwrap_or_else(|e| panic!("{name} as {format}: {e:?}"));
        fs::rename(sshd.path("aside.pub"), sshd.path(&format!("{name}.pub"))).unwrap();
    }
}

#[test]
fn a_passphrase_is_asked_for_on_a_terminal_only() {
    let Some(sshd) = Sshd::start("") else { return };
    for (name, format) in [("new", "RFC4716"), ("old", "PEM")] {
        let key = keygen(sshd.dir.path(), name, "rsa", "");
        let locked = Command::new("ssh-keygen")
            .args(["-q", "-p", "-m", format, "-N", "secret", "-f"])
            .arg(&key)
            .output()
            .unwrap();
        assert!(locked.status.success());
        authorize(&sshd, &key);
        let error =
            connect(&Target { identities: vec![key.clone()], ..sshd.target() }, &sshd.env()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        let wanted = format!(
            "{0}: it needs a passphrase, and there is no terminal to ask on here: `ssh-add {0}` puts it into the agent",
            key.display()
        );
        assert!(error.facts().contains(&wanted), "{error:?}");
    }
}

#[test]
fn host_keys_of_every_usual_type_are_checked() {
    for key_type in ["ecdsa", "rsa"] {
        let Some(sshd) = Sshd::start_with("", key_type) else { return };
        let session = sshd.connect();
        assert!(sshd.host_key().starts_with(session.host_key()));
    }
}

#[test]
fn a_login_that_is_refused_names_what_was_tried() {
    let Some(sshd) = Sshd::start("") else { return };
    let stranger = keygen(sshd.dir.path(), "stranger", "ed25519", "");
    let locked = keygen(sshd.dir.path(), "locked", "ed25519", "secret");
    // Where no key was offered none was refused.
    let target = Target { identities: vec![locked.clone()], ..sshd.target() };
    let error = connect(&target, &sshd.env()).unwrap_err();
    assert!(error.facts().iter().any(|fact| fact == "no key was offered to it"), "{error:?}");
    assert!(!error.is_login_refused(), "{error:?}");
    let target = Target { identities: vec![stranger.clone(), locked], ..sshd.target() };
    let error = connect(&target, &sshd.env()).unwrap_err();
    assert!(error.is_login_refused(), "{error:?}");
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(error.message(), format!("127.0.0.1 refused to let {} log in", me()));
    let facts = error.facts().join("\n");
    assert!(
        facts.contains(&format!("{} (SHA256:", stranger.display())) && facts.contains(": refused"),
        "{facts}"
    );
    assert!(facts.contains("locked: it needs a passphrase, and there is no terminal to ask on"), "{facts}");
    assert!(facts.contains("the server takes: publickey"), "{facts}");
    assert!(error.hints().iter().any(|h| h.contains("ssh -v")), "{error:?}");
}

#[test]
fn a_chosen_key_that_is_missing_or_no_key_is_said_so() {
    let Some(sshd) = Sshd::start("") else { return };
    let target = Target { identities: vec![sshd.path("missing")], ..sshd.target() };
    assert_eq!(connect(&target, &sshd.env()).unwrap_err().kind(), Kind::NotFound);
    let target = Target { identities: vec![sshd.path("user.pub")], ..sshd.target() };
    let error = connect(&target, &sshd.env()).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.message().contains("user.pub is not a private key"), "{error:?}");
}

#[test]
fn the_environment_s_identity_and_the_usual_files_are_found() {
    let Some(sshd) = Sshd::start("") else { return };
    let target = Target { identities: vec![], ..sshd.target() };
    let chosen = Environment { identity: Some(sshd.path("user")), ..sshd.env() };
    connect(&target, &chosen).unwrap();
    let home = sshd.path("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::copy(sshd.path("user"), home.join(".ssh/id_ed25519")).unwrap();
    connect(&target, &Environment { home: Some(home), ..sshd.env() }).unwrap();
}

#[test]
fn an_agent_with_twenty_keys_is_asked_for_the_configured_one() {
    let Some(sshd) = Sshd::start("MaxAuthTries 3") else { return };
    let mut keys: Vec<PathBuf> =
        (0..19).map(|i| keygen(sshd.dir.path(), &format!("other{i}"), "ed25519", "")).collect();
    keys.push(sshd.path("user"));
    let agent = Agent::start(sshd.dir.path(), &keys);
    let target = Target { identities: vec![], ..sshd.target() };
    let config = sshd.path("config");
    // Only the public half is a file: the private key is the agent's alone.
    fs::copy(sshd.path("user.pub"), sshd.path("picked.pub")).unwrap();
    let line = format!("Host *\n IdentityFile {}\n", sshd.path("picked.pub").display());
    fs::write(&config, line).unwrap();
    let with_agent = Environment { agent: Some(agent.socket.clone()), ..sshd.env() };
    let configured = Environment { ssh_config: Some(config.clone().into()), ..with_agent.clone() };
    connect(&target, &configured).unwrap();
    // By the ssh_config's own word for the agent.
    let line = format!(
        "Host *\n IdentityFile {}\n IdentityAgent {}\n",
        sshd.path("picked.pub").display(),
        agent.socket.display()
    );
    fs::write(&config, line).unwrap();
    connect(&target, &Environment { agent: None, ..configured.clone() }).unwrap();
    // With IdentitiesOnly no other key of the agent's is offered, not one.
    let stranger = keygen(sshd.dir.path(), "stranger", "ed25519", "");
    let line = format!("Host *\n IdentityFile {}\n IdentitiesOnly yes\n", stranger.display());
    fs::write(&config, line).unwrap();
    let error = connect(&target, &configured).unwrap_err();
    let offered: Vec<_> = error.facts().iter().filter(|f| f.ends_with("refused")).collect();
    assert!(offered.len() == 1 && offered[0].contains("stranger"), "{error:?}");
    // And none is asked where the ssh_config says so.
    fs::write(&config, "Host *\n IdentityAgent none\n").unwrap();
    let error = connect(&target, &configured).unwrap_err();
    assert!(!error.facts().iter().any(|f| f.contains("agent")), "{error:?}");
    // Without a configured one it is not among the few that are tried.
    let error = connect(&target, &with_agent).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(
        error.facts().iter().any(|f| f == "the agent has 20 keys: only the first 5 were tried"),
        "{error:?}"
    );
}

/// Signs a key for a login name with an authority's key; the certificate lies beside the key.
fn certify(authority: &Path, key: &Path) -> PathBuf {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-I", "test", "-n", &me(), "-s"])
        .arg(authority)
        .arg(key.with_extension("pub"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let name = format!("{}-cert.pub", key.file_name().unwrap().to_str().unwrap());
    key.with_file_name(name)
}

#[test]
fn a_certificate_logs_in_from_the_agent_and_from_a_file() {
    let authority_dir = tempfile::tempdir().unwrap();
    let authority = keygen(authority_dir.path(), "authority", "ed25519", "");
    let trusted = authority.with_extension("pub");
    let Some(sshd) = Sshd::start(&format!("TrustedUserCAKeys {}", trusted.display())) else { return };
    let target = Target { identities: vec![], ..sshd.target() };
    let config = sshd.path("config");
    let env = Environment { ssh_config: Some(config.clone().into()), ..sshd.env() };
    for key_type in ["ed25519", "ecdsa", "rsa"] {
        let key = keygen(sshd.dir.path(), key_type, key_type, "");
        let line = format!("Host *\n IdentityFile {}\n IdentitiesOnly yes\n", key.display());
        fs::write(&config, &line).unwrap();
        assert!(connect(&target, &env).is_err(), "{key_type}: the key alone lets nobody in");
        let certificate = certify(&authority, &key);
        connect(&target, &env).unwrap_or_else(|e| panic!("{key_type}, beside the key: {e:?}"));
        // Somewhere else, and named.
        let elsewhere = sshd.path(&format!("{key_type}.elsewhere"));
        fs::rename(&certificate, &elsewhere).unwrap();
        fs::write(&config, format!("{line} CertificateFile {}\n", elsewhere.display())).unwrap();
        connect(&target, &env).unwrap_or_else(|e| panic!("{key_type}, by CertificateFile: {e:?}"));
        // The agent has key and certificate; only its public half is named here.
        fs::rename(&elsewhere, &certificate).unwrap();
        fs::create_dir(sshd.path(&format!("{key_type}.agent"))).unwrap();
        let agent = Agent::start(&sshd.path(&format!("{key_type}.agent")), std::slice::from_ref(&key));
        fs::remove_file(&certificate).unwrap();
        fs::remove_file(&key).unwrap();
        let with_agent = Environment { agent: Some(agent.socket.clone()), ..env.clone() };
        fs::write(&config, &line).unwrap();
        let connected = connect(&target, &with_agent);
        if key_type == "rsa" {
            let error = connected.unwrap_err();
            assert!(error.facts().iter().any(|fact| fact.contains("RSA certificate")), "{error:?}");
            continue;
        }
        connected.unwrap_or_else(|e| panic!("{key_type}, from the agent: {e:?}"));
        fs::write(&config, "").unwrap();
        connect(&target, &with_agent).unwrap_or_else(|e| panic!("{key_type}, unasked: {e:?}"));
    }
}

#[test]
fn an_rsa_key_signs_with_sha_2_from_its_file_and_from_the_agent() {
    // What OpenSSH's own client uses, too; SHA-1 (`ssh-rsa`) is refused by every sshd of today.
    let Some(sshd) = Sshd::start("PubkeyAcceptedAlgorithms rsa-sha2-512") else { return };
    let key = keygen(sshd.dir.path(), "rsa", "rsa", "");
    authorize(&sshd, &key);
    let target = Target { identities: vec![], ..sshd.target() };
    let chosen = Target { identities: vec![key.clone()], ..sshd.target() };
    connect(&chosen, &sshd.env()).unwrap_or_else(|e| panic!("from its file: {e:?}"));
    let agent = Agent::start(sshd.dir.path(), &[key]);
    let env = Environment { agent: Some(agent.socket.clone()), ..sshd.env() };
    connect(&target, &env).unwrap_or_else(|e| panic!("from the agent: {e:?}"));
}

#[test]
fn rsa_certificates_in_the_agent_take_no_other_key_s_turn() {
    let Some(sshd) = Sshd::start("MaxAuthTries 2") else { return };
    let authority = keygen(sshd.dir.path(), "authority", "ed25519", "");
    // One key, many certificates for it.
    let key = keygen(sshd.dir.path(), "rsa", "rsa", "");
    let agent = Agent::start(sshd.dir.path(), &[]);
    let add = |key: &Path| {
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).output();
        assert!(added.unwrap().status.success());
    };
    for _ in 0..8 {
        certify(&authority, &key);
        add(&key);
    }
    add(&sshd.path("user"));
    let env = Environment { agent: Some(agent.socket.clone()), ..sshd.env() };
    let target = Target { identities: vec![], ..sshd.target() };
    connect(&target, &env).unwrap();
}

/// sshd counts the question what it would take, too, and closes the connection after the sixth try.
#[test]
fn an_agent_whose_first_keys_are_all_refused_is_a_refusal_and_no_lost_connection() {
    let Some(sshd) = Sshd::start("") else { return };
    let keys: Vec<PathBuf> =
        (0..6).map(|n| keygen(sshd.dir.path(), &format!("k{n}"), "ed25519", "")).collect();
    let agent = Agent::start(sshd.dir.path(), &keys);
    let env = Environment { agent: Some(agent.socket.clone()), ..sshd.env() };
    let error = connect(&Target { identities: vec![], ..sshd.target() }, &env).unwrap_err();
    assert!(error.is_login_refused(), "{error:?}");
    assert!(error.facts().iter().any(|fact| fact.contains("only the first 5")), "{error:?}");
}

#[test]
fn an_agent_is_not_asked_when_a_key_was_chosen() {
    let Some(sshd) = Sshd::start("") else { return };
    let agent = Agent::start(sshd.dir.path(), &[sshd.path("user")]);
    let env = Environment { agent: Some(agent.socket.clone()), ..sshd.env() };
    connect(&Target { identities: vec![], ..sshd.target() }, &env).unwrap();
    let stranger = keygen(sshd.dir.path(), "stranger", "ed25519", "");
    let error = connect(&Target { identities: vec![stranger], ..sshd.target() }, &env).unwrap_err();
    assert!(!error.facts().iter().any(|f| f.contains("agent")), "{error:?}");
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    let Some(sshd) = Sshd::start("") else { return };
    let socket = sshd.path("dead-agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let env = Environment { agent: Some(socket), ..sshd.env() };
    let target = Target { identities: vec![], ..sshd.target() };
    let soon = Deadline::after(std::time::Duration::from_secs(3));
    let error = Session::connect_in(&target, &env, Ui::silent(), soon).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.message().contains("the SSH agent at"), "{error:?}");
    assert_eq!(error.hints(), ["see whether it answers: ssh-add -l"]);
}

fn known_hosts(sshd: &Sshd, text: &str) -> Target {
    fs::write(sshd.path("known_hosts"), text).unwrap();
    Target { host_key: HostKeyPolicy::KnownHosts, ..sshd.target() }
}

fn details(error: &Error) -> String {
    error.report().details.unwrap_or_default()["ssh"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_known_host_is_let_in_plain_and_hashed() {
    let Some(sshd) = Sshd::start("") else { return };
    let line = format!("[127.0.0.1]:{} {}\n", sshd.address.port(), sshd.host_key());
    let target = known_hosts(&sshd, &line);
    connect(&target, &sshd.env()).unwrap();
    let hashed =
        Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(sshd.path("known_hosts")).output().unwrap();
    assert!(hashed.status.success());
    assert!(fs::read_to_string(sshd.path("known_hosts")).unwrap().starts_with("|1|"));
    connect(&target, &sshd.env()).unwrap();
}

#[test]
fn the_type_on_record_is_asked_for_although_another_is_preferred() {
    let Some(sshd) = Sshd::start("") else { return };
    let second = keygen(sshd.dir.path(), "host2", "ecdsa", "");
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    fs::write(sshd.path("sshd_config"), format!("HostKey {}\n{config}", second.display())).unwrap();
    let line = format!("[127.0.0.1]:{} {}\n", sshd.address.port(), public(&second));
    let session = connect(&known_hosts(&sshd, &line), &sshd.env()).unwrap();
    assert!(session.host_key().starts_with("ecdsa-sha2-nistp256 "));
}

#[test]
fn where_no_file_keeps_a_key_nobody_is_told_to_add_it_and_a_missing_directory_is_made() {
    let Some(sshd) = Sshd::start("") else { return };
    let target = known_hosts(&sshd, "");
    let hints = |file: &Path| {
        let env = Environment { known_hosts: Some(file.to_owned()), ..sshd.env() };
        connect(&target, &env).unwrap_err().hints().join("\n")
    };
    let none = hints(Path::new("/dev/null"));
    assert!(none.contains("name a file: FLEET_KNOWN_HOSTS=FILE") && !none.contains("keyscan"), "{none}");
    let missing = sshd.path("not yet/known_hosts");
    let add = hints(&missing);
    let add = add.split_once("add it: ").unwrap().1;
    assert!(add.starts_with("mkdir -p -m 700 "), "{add}");
    assert!(Command::new("sh").arg("-c").arg(add).output().unwrap().status.success(), "{add}");
    connect(&target, &Environment { known_hosts: Some(missing), ..sshd.env() }).unwrap();
}

#[test]
fn an_unknown_host_is_refused_and_nothing_is_written() {
    let Some(sshd) = Sshd::start("") else { return };
    let error = connect(&known_hosts(&sshd, ""), &sshd.env()).unwrap_err();
    let port = sshd.address.port();
    assert_eq!(
        (error.kind(), error.message()),
        (Kind::Unreachable, "the host key of 127.0.0.1 is not known")
    );
    assert_eq!(details(&error), "host-key-unknown");
    let fingerprint = fleet_core::ssh::keys::PublicKey::parse(&sshd.host_key()).unwrap().fingerprint();
    assert_eq!(error.facts()[0], format!("it shows: ED25519 {fingerprint}"));
    let add = format!(
        "if it is the same, add it: ssh-keyscan -t ed25519 -p {port} 127.0.0.1 >> {}",
        sshd.path("known_hosts").display()
    );
    assert_eq!(error.hints()[1], add);
    assert_eq!(fs::read_to_string(sshd.path("known_hosts")).unwrap(), "");
    // The command that was shown does add it.
    let added = Command::new("sh").arg("-c").arg(add.split_once(": ").unwrap().1).output().unwrap();
    assert!(added.status.success(), "{added:?}");
    let target = Target { host_key: HostKeyPolicy::KnownHosts, ..sshd.target() };
    connect(&target, &sshd.env()).unwrap();
}

#[test]
fn a_changed_host_key_is_refused_with_both_fingerprints_and_the_line() {
    let Some(sshd) = Sshd::start("") else { return };
    let old = keygen(sshd.dir.path(), "old", "ed25519", "");
    let line = format!("# first\n[127.0.0.1]:{} {}\n", sshd.address.port(), public(&old));
    let error = connect(&known_hosts(&sshd, &line), &sshd.env()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(details(&error), "host-key-changed");
    let print = |line: &str| fleet_core::ssh::keys::PublicKey::parse(line).unwrap().fingerprint();
    let file = sshd.path("known_hosts").display().to_string();
    assert_eq!(error.facts()[0], format!("on record: ED25519 {} ({file}:2)", print(&public(&old))));
    assert_eq!(error.facts()[1], format!("it shows:  ED25519 {}", print(&sshd.host_key())));
    assert!(error.hints()[0].contains("ssh-keygen -R"), "{error:?}");
}

#[test]
fn a_revoked_key_and_a_certificate_authority_let_nobody_in() {
    let Some(sshd) = Sshd::start("") else { return };
    let (port, key) = (sshd.address.port(), sshd.host_key());
    let target = known_hosts(&sshd, &format!("[127.0.0.1]:{port} {key}\n@revoked * {key}\n"));
    assert_eq!(details(&connect(&target, &sshd.env()).unwrap_err()), "host-key-revoked");
    let target = known_hosts(&sshd, &format!("@cert-authority * {key}\n"));
    let error = connect(&target, &sshd.env()).unwrap_err();
    assert!(error.facts().iter().any(|f| f.contains("certificate authority")), "{error:?}");
}

#[test]
fn keys_that_the_ssh_config_revokes_are_believed_of_nobody() {
    let Some(sshd) = Sshd::start("") else { return };
    let target = known_hosts(&sshd, &format!("[127.0.0.1]:{} {}\n", sshd.address.port(), sshd.host_key()));
    let (config, list) = (sshd.path("config"), sshd.path("revoked"));
    fs::write(&config, format!("Host *\n RevokedHostKeys {}\n", list.display())).unwrap();
    let env = Environment { ssh_config: Some(config.into()), ..sshd.env() };
    let revoked = || connect(&target, &env).map(drop);
    // As with ssh, a list that is not there lets nobody in.
    assert_eq!(revoked().unwrap_err().kind(), Kind::Unreachable);
    let other = keygen(sshd.dir.path(), "other", "ed25519", "");
    for (key, known) in [(other, true), (sshd.path("host"), false)] {
        fs::write(&list, format!("# keys\n{}\n", public(&key))).unwrap();
        let as_lines = revoked();
        let mut making = Command::new("ssh-keygen");
        making.args(["-q", "-k", "-f"]).arg(&list).arg(key.with_extension("pub"));
        assert!(making.status().unwrap().success());
        for outcome in [as_lines, revoked()] {
            match known {
                true => outcome.unwrap(),
                false => assert_eq!(details(&outcome.unwrap_err()), "host-key-revoked"),
            }
        }
    }
}

#[test]
fn a_pinned_key_is_the_only_one_that_counts() {
    let Some(sshd) = Sshd::start("") else { return };
    let other = keygen(sshd.dir.path(), "other", "rsa", "");
    let line = format!("[127.0.0.1]:{} {}\n", sshd.address.port(), sshd.host_key());
    fs::write(sshd.path("known_hosts"), line).unwrap();
    let target = Target { host_key: HostKeyPolicy::Pinned(public(&other)), ..sshd.target() };
    let error = connect(&target, &sshd.env()).unwrap_err();
    assert_eq!((error.kind(), details(&error).as_str()), (Kind::Unreachable, "host-key-mismatch"));
    let bad = Target { host_key: HostKeyPolicy::Pinned("nonsense".into()), ..sshd.target() };
    assert_eq!(connect(&bad, &sshd.env()).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_host_key_alias_is_looked_up_instead_of_the_address() {
    let Some(sshd) = Sshd::start("") else { return };
    let config = sshd.path("config");
    fs::write(
        &config,
        format!(
            "Host prom\n HostName 127.0.0.1\n Port {}\n User {}\n HostKeyAlias the-node\n IdentityFile {}\n",
            sshd.address.port(),
            me(),
            sshd.path("user").display()
        ),
    )
    .unwrap();
    let env = Environment { ssh_config: Some(config.into()), ..sshd.env() };
    fs::write(sshd.path("known_hosts"), format!("the-node {}\n", sshd.host_key())).unwrap();
    let target = Target {
        host: "prom".into(),
        user: None,
        host_key: HostKeyPolicy::KnownHosts,
        identities: vec![],
        proxy: None,
    };
    connect(&target, &env).unwrap();
}
