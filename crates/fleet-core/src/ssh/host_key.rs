//! Is this the host we mean? The one place where a host's key is believed or not.

use std::path::Path;

use serde_json::json;

use super::{
    HostKeyPolicy, Vouched,
    keys::PublicKey,
    known_hosts::{self, KnownHosts, Verdict},
    settings::Settings,
};
use crate::{
    Error, Kind, Result,
    child::Command,
    deadline::Deadline,
    ui::{self, Ui},
};

/// How a key revocation list of OpenSSH's own format begins (PROTOCOL.krl in its sources); `ssh-keygen` reads those.
const KRL: &[u8] = b"SSHKRL\n\0";

/// What the host's key will be compared with; made before the connection, so that the key types on record are
/// asked for first.
#[derive(Debug)]
pub(super) enum Expected {
    Pinned(PublicKey),
    Recorded(KnownHosts),
    /// The user's records first, then what a proven host says, with where that stands.
    Vouched(KnownHosts, KnownHosts, String),
}

/// Signature algorithms for a host key type.
fn algorithms(key_type: &str) -> &[&str] {
    match key_type {
        "ssh-ed25519" => &["ssh-ed25519"],
        "ecdsa-sha2-nistp256" => &["ecdsa-sha2-nistp256"],
        "ecdsa-sha2-nistp384" => &["ecdsa-sha2-nistp384"],
        "ecdsa-sha2-nistp521" => &["ecdsa-sha2-nistp521"],
        "ssh-rsa" => &["rsa-sha2-512", "rsa-sha2-256"],
        _ => &[],
    }
}

const ALL_TYPES: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

impl Expected {
    pub(super) fn prepare(policy: &HostKeyPolicy, settings: &Settings, ui: Ui) -> Result<Expected> {
        match policy {
            HostKeyPolicy::Pinned(line) => {
                PublicKey::parse(line).map(Expected::Pinned).map_err(|e| e.context("the expected host key"))
            }
            HostKeyPolicy::KnownHosts => recorded(settings, ui).map(Expected::Recorded),
            HostKeyPolicy::Vouched(Vouched { lines, source }) => {
                let mut vouched = KnownHosts::default();
                vouched.parse(Path::new(source), lines);
                Ok(Expected::Vouched(recorded(settings, ui)?, vouched, source.clone()))
            }
        }
    }

    /// Host key algorithms in the order in which we want them: those on record first.
    pub(super) fn preference(&self, names: &[String]) -> String {
        let first = match self {
            Expected::Pinned(key) => vec![key.key_type().to_owned()],
            Expected::Recorded(known) => names.iter().flat_map(|name| known.types(name)).collect(),
            Expected::Vouched(known, vouched, _) => {
                [known, vouched].iter().flat_map(|by| names.iter().flat_map(|name| by.types(name))).collect()
            }
        };
        let mut order: Vec<&str> = Vec::new();
        for key_type in first.iter().map(String::as_str).chain(ALL_TYPES) {
            for algorithm in algorithms(key_type) {
                if !order.contains(algorithm) {
                    order.push(algorithm);
                }
            }
        }
        order.join(",")
    }

    /// Believes the key or says why not. Asks about an unknown one where there is somebody to ask.
    pub(super) fn check(&self, key: &PublicKey, settings: &Settings, ui: Ui) -> Result<()> {
        for file in &settings.revoked_host_keys {
            if is_revoked(file, key)? {
                return Err(revoked(key, settings, &file.display()));
            }
        }
        match self {
            Expected::Pinned(expected) if expected == key => Ok(()),
            Expected::Pinned(expected) => Err(mismatch(expected, key, settings)),
            Expected::Recorded(known) => {
                judged(verdict(known, &settings.known_names(), key), key, settings, None, ui)
            }
            Expected::Vouched(known, vouched, source) => {
                let names = settings.known_names();
                match (verdict(known, &names, key), vouched_verdict(vouched, &names, key)) {
                    (Verdict::Unknown { .. }, Verdict::Known) => Ok(()),
                    (Verdict::Unknown { .. }, Verdict::Changed(of)) => {
                        Err(changed(&of, key, settings, Some(source)))
                    }
                    (by_user, _) => judged(by_user, key, settings, Some(source), ui),
                }
            }
        }
    }
}

/// Whether a file of RevokedHostKeys has the key: a key a line, or a key revocation list. One that can not be read lets
/// nobody be believed, as with ssh.
fn is_revoked(file: &Path, key: &PublicKey) -> Result<bool> {
    let unread = |e: Error| e.with_kind(Kind::Unreachable).now("no host is believed while it is so");
    let bytes =
        std::fs::read(file).map_err(|e| unread(Error::io("read the revoked host keys in", file, e)))?;
    if !bytes.starts_with(KRL) {
        let text = String::from_utf8_lossy(&bytes);
        return Ok(text.lines().any(|line| PublicKey::parse(line).is_ok_and(|one| one == *key)));
    }
    let asking = Command::new("ssh-keygen").arg("-Qf").arg(file).arg("/dev/stdin").stdin(key.line());
    let asked = asking.output(Deadline::secs(15)).map_err(unread)?;
    match asked.success() {
        true => Ok(false),
        false if asked.stdout_text().contains("REVOKED") => Ok(true),
        false => asked
            .checked()
            .map(|_| false)
            .map_err(|e| unread(e.context("the revoked host keys can not be read"))),
    }
}

fn revoked(key: &PublicKey, settings: &Settings, by: &dyn std::fmt::Display) -> Error {
    Error::unreachable(format!("the host key that {} shows is marked as revoked", settings.alias))
        .now(format!("its key: {}", describe(key)))
        .now(format!("revoked by {by}"))
        .hint("give the host a new key; a revoked one is never accepted")
        .details(json!({ "ssh": "host-key-revoked", "fingerprint": key.fingerprint() }))
}

/// What the user's files say.
fn recorded(settings: &Settings, ui: Ui) -> Result<KnownHosts> {
    let known = KnownHosts::read(settings.user_known_hosts.iter().chain(&settings.global_known_hosts))?;
    for (at, why) in &known.odd {
        ui.detail(format!("{at} is passed over: {why}"));
    }
    Ok(known)
}

fn judged(
    verdict: Verdict,
    key: &PublicKey,
    settings: &Settings,
    vouching: Option<&String>,
    ui: Ui,
) -> Result<()> {
    match verdict {
        Verdict::Known => Ok(()),
        Verdict::Revoked(at) => Err(revoked(key, settings, &at)),
        Verdict::Changed(of) => Err(changed(&of, key, settings, None)),
        Verdict::Unknown { others, authorities } => {
            let mut notes: Vec<String> = others
                .iter()
                .map(|(at, other)| format!("another of its keys is on record: {} ({at})", describe(other)))
                .collect();
            notes.extend(
                authorities
                    .iter()
                    .map(|at| format!("{at} names a certificate authority for it: these are not supported")),
            );
            notes.extend(vouching.map(|source| format!("{source} has no such key for it either")));
            ask(key, &notes, settings, ui)
        }
    }
}

/// The verdict under the first name, unless it is unknown there and known, or revoked, under another.
fn verdict(known: &KnownHosts, names: &[String], key: &PublicKey) -> Verdict {
    let mut verdicts = names.iter().map(|name| known.check(name, key));
    let first = verdicts.next().unwrap_or(Verdict::Unknown { others: Vec::new(), authorities: Vec::new() });
    match first {
        Verdict::Unknown { .. } => {
            verdicts.find(|v| matches!(v, Verdict::Known | Verdict::Revoked(_))).unwrap_or(first)
        }
        decided => decided,
    }
}

/// What a proven host says counts under every name that it may use.
fn vouched_verdict(vouched: &KnownHosts, names: &[String], key: &PublicKey) -> Verdict {
    let mut verdicts: Vec<Verdict> = names.iter().map(|name| vouched.check(name, key)).collect();
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Revoked(_) => 0,
        Verdict::Known => 1,
        Verdict::Changed(_) => 2,
        Verdict::Unknown { .. } => 3,
    };
    verdicts.sort_by_key(rank);
    let unknown = Verdict::Unknown { others: Vec::new(), authorities: Vec::new() };
    verdicts.into_iter().next().unwrap_or(unknown)
}

fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.short_type(), key.fingerprint())
}

fn mismatch(expected: &PublicKey, key: &PublicKey, settings: &Settings) -> Error {
    Error::unreachable(format!("{} shows another host key than the expected one", settings.alias))
        .now(format!("expected: {}", describe(expected)))
        .now(format!("it shows: {}", describe(key)))
        .now("nothing was sent to it")
        .hint("another machine may have its address: find out which before going on")
        .details(json!({
            "ssh": "host-key-mismatch",
            "expected": expected.fingerprint(),
            "fingerprint": key.fingerprint(),
            "key": key.line(),
        }))
}

/// `vouched` is where the key on record stands if it is not in a file of the user's.
fn changed(
    recorded: &[(known_hosts::At, PublicKey)],
    key: &PublicKey,
    settings: &Settings,
    vouched: Option<&String>,
) -> Error {
    let mut error = Error::unreachable(format!(
        "the host key of {} has changed: it may be another machine, or somebody is in between",
        settings.alias
    ));
    for (at, old) in recorded {
        error = error.now(format!("on record: {} ({at})", describe(old)));
    }
    error = error.now(format!("it shows:  {}", describe(key))).now("nothing was sent to it");
    if let Some((at, old)) = recorded.first() {
        error = error.hint(match vouched {
            None => format!(
                "only if you know why it changed, remove the old key: ssh-keygen -R {} -f {}",
                crate::child::quote(&settings.known_as()),
                crate::child::quote(&at.file.to_string_lossy()),
            ),
            Some(_) => format!(
                "only if you know why it changed: `pvecm updatecerts` on {} tells the cluster its new key",
                settings.alias
            ),
        });
        error = error.details(json!({
            "ssh": "host-key-changed",
            "expected": old.fingerprint(),
            "fingerprint": key.fingerprint(),
            "at": at.to_string(),
        }));
    }
    error
}

/// An unknown key: a person may say yes; without one it is refused.
fn ask(key: &PublicKey, notes: &[String], settings: &Settings, ui: Ui) -> Result<()> {
    let file = settings.record();
    if ui::can_ask() && file.is_some() {
        ui.warn(format!("the host {} is not known", super::address::show(&settings.hostname, settings.port)));
        ui.warn(format!("its key: {}", describe(key)));
        for note in notes {
            ui.warn(note);
        }
        if ui.confirm("Is this fingerprint the one that the host's own console shows?")? {
            if let Some(file) = file {
                let line = known_hosts::line_for(&settings.known_as(), key, settings.hash_known_hosts)?;
                known_hosts::append(file, &line)?;
                ui.done(format!("{} is known now ({})", settings.alias, file.display()));
            }
            return Ok(());
        }
        return Err(unknown(key, notes, settings).now("you did not say yes"));
    }
    Err(unknown(key, notes, settings))
}

fn unknown(key: &PublicKey, notes: &[String], settings: &Settings) -> Error {
    let mut error = Error::unreachable(format!("the host key of {} is not known", settings.alias))
        .now(format!("it shows: {}", describe(key)))
        .now("nothing was sent to it");
    for note in notes {
        error = error.now(note);
    }
    let type_name = match key.short_type() {
        "ED25519" => "ed25519",
        "RSA" => "rsa",
        _ => "ecdsa",
    };
    error = error.hint(format!(
        "compare the fingerprint on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_{type_name}_key.pub"
    ));
    let through = settings.proxy_jump.is_some()
        || settings.proxy_command.is_some()
        || settings.via.is_some()
        || settings.carried_by.is_some();
    let error = match settings.record() {
        Some(file) if !through && settings.host_key_alias.is_none() => {
            let quoted = |path: &Path| crate::child::quote(&path.to_string_lossy());
            let missing = file.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists());
            let make = missing.map_or_else(String::new, |dir| format!("mkdir -p -m 700 {} && ", quoted(dir)));
            error.hint(format!(
                "if it is the same, add it: {make}ssh-keyscan -t {type_name} -p {} {} >> {}",
                settings.port,
                crate::child::quote(&settings.hostname),
                quoted(file),
            ))
        }
        Some(_) => error.hint(format!("if it is the same, add it: {}", settings.ssh_command(""))),
        None => error
            .now("there is no file where its key could be kept (UserKnownHostsFile is none or /dev/null)")
            .hint("name a file: FLEET_KNOWN_HOSTS=FILE, or UserKnownHostsFile in the ssh_config"),
    };
    error.details(json!({
        "ssh": "host-key-unknown",
        "fingerprint": key.fingerprint(),
        "known_as": settings.known_as(),
        "key": key.line(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";
    const ED2: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC";

    fn judged(file: &str) -> Verdict {
        let mut known = KnownHosts::default();
        known.parse(Path::new("kh"), file);
        let names = ["[prom]:2222".to_owned(), "prom".to_owned()];
        verdict(&known, &names, &PublicKey::parse(ED).unwrap())
    }

    #[test]
    fn a_host_recorded_without_its_port_is_known_unless_its_port_says_otherwise() {
        assert_eq!(judged(&format!("prom {ED}\n")), Verdict::Known);
        assert!(matches!(judged(&format!("[prom]:2222 {ED2}\nprom {ED}\n")), Verdict::Changed(_)));
        assert!(matches!(judged(&format!("prom {ED2}\n")), Verdict::Unknown { .. }));
        assert!(matches!(judged(&format!("@revoked prom {ED}\n")), Verdict::Revoked(_)));
    }

    #[test]
    fn types_on_record_are_asked_for_first() {
        let mut known = KnownHosts::default();
        known.parse(Path::new("kh"), "prom ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQE=\n");
        let order = Expected::Recorded(known).preference(&["prom".to_owned()]);
        assert!(order.starts_with("rsa-sha2-512,rsa-sha2-256,ssh-ed25519,"), "{order}");
        let order = Expected::Recorded(KnownHosts::default()).preference(&["prom".to_owned()]);
        assert!(order.starts_with("ssh-ed25519,ecdsa-sha2-nistp256,"), "{order}");
    }
}
