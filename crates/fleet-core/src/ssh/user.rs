//! Who logs in on a host as far as the user's ssh_config says so.
//!
//! `ssh -G` prints the local user's name where nothing is configured, and does not tell that from a name that is. So a
//! name is asked for a second time, by a configuration that reads the user's and ends with a name of its own for whoever
//! has none yet: of several values ssh takes the first.

use std::{path::Path, time::Duration};

use super::{
    address::HostPort,
    settings::{Environment, printed},
};
use crate::{
    Result,
    child::{Command, find_program},
    deadline::Deadline,
};

/// No login is called so: it is longer than Linux allows.
const NOBODY: &str = "fleet-tools.no-user-is-configured";

/// The `User` that the ssh_config has for this host; none where it has none, or where there is no `ssh`. Neither is
/// told from `root` where that is the local user's name too.
pub fn configured_user(host: &str, env: &Environment, deadline: Deadline) -> Result<Option<String>> {
    let address = HostPort::parse(host)?;
    let Some(printed) = printed(&address, None, env, deadline)? else { return Ok(None) };
    let Some(user) = user_in(&printed).filter(|user| *user != "root") else {
        return Ok(user_in(&printed).map(str::to_owned));
    };
    Ok(is_set(&address, env, deadline)?.then(|| user.to_owned()))
}

/// Whether the configuration has a `User` for the host.
fn is_set(address: &HostPort, env: &Environment, deadline: Deadline) -> Result<bool> {
    let Some(ssh) = find_program("ssh") else { return Ok(false) };
    let files = match &env.ssh_config {
        Some(file) if file.eq_ignore_ascii_case("none") => return Ok(false),
        // ssh takes it from where it is run, and an `Include` from its own directory.
        Some(file) => {
            vec![std::path::absolute(Path::new(file)).unwrap_or_else(|_| file.into()).display().to_string()]
        }
        None => ["~/.ssh/config", "/etc/ssh/ssh_config"].map(str::to_owned).to_vec(),
    };
    let mut config = String::new();
    for file in files {
        config.push_str(&format!("Match all\n Include \"{file}\"\n"));
    }
    config.push_str(&format!("Match all\n User {NOBODY}\n"));
    let mut command = Command::new(ssh).args(["-G", "-F", "/dev/stdin"]);
    if let Some(port) = address.port {
        command = command.arg("-p").arg(port.to_string());
    }
    let asked = command.arg("--").arg(&address.host).stdin(config.as_bytes());
    let output = asked.output(deadline.at_most(Duration::from_secs(15)))?;
    // What it can not read in this way it has read in the other.
    Ok(output.success() && user_in(&output.stdout_text()).is_some_and(|user| user != NOBODY))
}

fn user_in(printed: &str) -> Option<&str> {
    printed.lines().find_map(|line| line.strip_prefix("user ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(config: &str) -> (tempfile::TempDir, Environment) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("the config");
        std::fs::write(&file, config).unwrap();
        let env = Environment { ssh_config: Some(file.into()), ..Environment::default() };
        (dir, env)
    }

    #[test]
    fn a_user_of_the_configuration_is_told_from_the_local_one() {
        if find_program("ssh").is_none() {
            assert!(
                std::env::var_os("FLEET_REQUIRE_ORACLES").is_none_or(|v| v != "1"),
                "ssh is not installed, and FLEET_REQUIRE_ORACLES=1 asks for it"
            );
            return;
        }
        let limit = || Deadline::secs(20);
        let local = Environment { ssh_config: Some("none".into()), ..Environment::default() };
        let prom = HostPort::parse("prom").unwrap();
        let local = printed(&prom, None, &local, limit()).unwrap().unwrap();
        let local = user_in(&local).unwrap();
        for (config, set) in [
            ("", false),
            ("Host prom\n HostName 127.0.0.1\n", false),
            ("Host other\n User ops\n", false),
            ("Host prom other\n User ops\n", true),
            ("Host *\n User ops\n", true),
            ("Host !prom *\n User ops\n", false),
            ("User ops\nHost other\n Port 23\n", true),
            ("Match host prom exec \"true\"\n User ops\n", true),
            ("Match host prom exec \"false\"\n User ops\n", false),
        ] {
            let (_dir, env) = env(config);
            assert_eq!(is_set(&prom, &env, limit()).unwrap(), set, "{config}");
            let ops = configured_user("prom:2222", &env, limit()).unwrap();
            assert_eq!(ops.as_deref().unwrap_or(local), if set { "ops" } else { local }, "{config}");
            // Called as the local user is: it is set all the same.
            let (_dir, env) = self::env(&config.replace("ops", local));
            assert_eq!(is_set(&prom, &env, limit()).unwrap(), set, "{config}");
        }
        let none = Environment { ssh_config: Some("none".into()), ..Environment::default() };
        assert!(!is_set(&prom, &none, limit()).unwrap());
    }
}
