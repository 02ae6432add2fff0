//! What is told of a login that did not come about.

use serde_json::json;

use super::{link::Trouble, settings::Settings};
use crate::{
    Error,
    error::{LOGIN_REFUSED, LOGIN_UNTRIED},
};

/// A login that did not come about.
pub(super) struct Refusal<'a> {
    pub(super) settings: &'a Settings,
    /// What became of each key.
    pub(super) story: &'a [String],
    /// How many were offered.
    pub(super) tries: usize,
    /// One of them was an RSA key.
    pub(super) rsa: bool,
}

impl Refusal<'_> {
    /// The error: something was in the way, or else the server, whose first line is `banner`, said no.
    pub(super) fn error(&self, trouble: Option<&Trouble>, banner: Option<&str>) -> Error {
        let Settings { alias, user, .. } = self.settings;
        let mut error = match trouble {
            Some(trouble) => Error::unreachable(format!(
                "{alias} closed the connection while {user} was logging in: {trouble}"
            )),
            None => Error::unreachable(format!("{alias} refused to let {user} log in")),
        };
        for line in self.story {
            error = error.now(line);
        }
        if self.tries == 0 {
            error = error.now("no key was offered to it");
        }
        if trouble.is_none() {
            let how = if self.tries == 0 { LOGIN_UNTRIED } else { LOGIN_REFUSED };
            error = error.details(json!({ "ssh": how, "again_after": banner.map_or(0, penalty) }));
        }
        error = error
            .hint(format!("see what it says to ssh: {}", self.settings.ssh_command("-v")))
            .hint("name a key with FLEET_IDENTITY or IdentityFile in the ssh_config, or add one to the agent: ssh-add");
        if trouble.is_none() && self.rsa {
            // What it says that it takes (server-sig-algs) is all that it knows, in OpenSSH 9.2.
            error = error.hint(
                "a server that takes no rsa-sha2-512 (PubkeyAcceptedAlgorithms) refuses every RSA key: use an ed25519 key",
            );
        }
        error
    }
}

/// Seconds that a server, by its first line, counts against an address for a connection in which nobody was let in: who
/// has 15 of them, less those that have passed, is not answered at all (OpenSSH from 9.8 on: sshd_config's
/// PerSourcePenalties, authfail and min).
fn penalty(banner: &str) -> u64 {
    let version = banner.split_once("OpenSSH_").map_or("", |(_, version)| version);
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (9, 8) { 5 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_sshd_shuts_out_who_comes_again_too_soon() {
        for newer in ["SSH-2.0-OpenSSH_9.8", "SSH-2.0-OpenSSH_10.0p2 Debian-7", "SSH-2.0-OpenSSH_9.9p1"] {
            assert_eq!(penalty(newer), 5, "{newer}");
        }
        for other in [
            "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10",
            "SSH-2.0-OpenSSH_9.7",
            "SSH-2.0-OpenSSH_for_Windows_9.9",
            "SSH-2.0-dropbear_2024.85",
            "SSH-2.0-OpenSSH_",
            "",
        ] {
            assert_eq!(penalty(other), 0, "{other}");
        }
    }
}
