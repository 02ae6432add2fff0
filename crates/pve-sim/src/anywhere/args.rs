//! The command line of nixos-anywhere, as the genuine script reads it.

use std::path::PathBuf;

/// What is printed for `--help` and for a command line that can not be read.
pub(super) const USAGE: &str = "Usage: nixos-anywhere [options] [<ssh-host>]

This is a stand-in for simulated machines. It reads the genuine command line:
  -f, --flake URI#ATTR          --target-host HOST            -i FILE
  -p, --ssh-port PORT           --ssh-option KEY=VALUE        -L, --print-build-logs
  -s, --store-paths DISKO SYS   --extra-files DIR             --copy-host-keys
  --phases LIST                 --build-on auto|local|remote  --option KEY VALUE
  --disko-mode MODE             --no-disko-deps               --debug
  --generate-hardware-config BACKEND PATH, --kexec …, --force-kexec, --kexec-extract-path DIR,
  --kexec-launch-path PATH,
  --chown PATH OWNER, --disk-encryption-keys REMOTE LOCAL,
  --ssh-store-setting KEY VALUE, --post-kexec-ssh-port PORT, --from URI, --env-password, --show-trace,
  --no-substitute-on-destination, --no-use-machine-substituters, --build-on-remote, --vm-test
";

/// A phase of the installation.
pub(super) const PHASES: [&str; 4] = ["kexec", "disko", "install", "reboot"];

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) flake: Option<(String, String)>,
    pub(super) store_paths: Option<(PathBuf, PathBuf)>,
    pub(super) host: String,
    pub(super) identity: Option<PathBuf>,
    pub(super) port: Option<u16>,
    pub(super) ssh_options: Vec<String>,
    pub(super) phases: Vec<String>,
    pub(super) extra_files: Option<PathBuf>,
    pub(super) copy_host_keys: bool,
    pub(super) debug: bool,
    /// What starts the installer on the machine: by default below the home directory of whoever runs the script, as
    /// the genuine one has it.
    pub(super) kexec: (Option<String>, Option<String>),
}

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// `--help`.
    Help,
    /// The command line can not be read: usage, exit code 1.
    Usage,
    /// `aborted: …`, exit code 1.
    Abort(String),
    /// Text as it is, exit code 1.
    Text(String),
}

/// Reads the command line.
pub(super) fn parse(args: impl Iterator<Item = String>) -> Result<Args, Stop> {
    let mut found = Args { phases: PHASES.map(str::to_owned).to_vec(), ..Args::default() };
    let mut flake = None;
    let mut args = args;
    while let Some(arg) = args.next() {
        // The script runs with `set -u`: a missing value ends it.
        let mut value = || args.next().ok_or_else(|| Stop::Text(format!("{arg}: $2: unbound variable")));
        match arg.as_str() {
            "-f" | "--flake" => flake = Some(value()?),
            "--target-host" => found.host = value()?,
            "-i" => found.identity = Some(value()?.into()),
            "-p" | "--ssh-port" => found.port = value()?.parse().ok(),
            "--ssh-option" => found.ssh_options.push(value()?),
            "-s" | "--store-paths" => found.store_paths = Some((value()?.into(), value()?.into())),
            "--extra-files" => found.extra_files = Some(value()?.into()),
            "--copy-host-keys" => found.copy_host_keys = true,
            "--debug" => found.debug = true,
            "--phases" => found.phases = phases(&value()?)?,
            "--build-on" => check("--build-on", &value()?, &["auto", "local", "remote"])?,
            "--disko-mode" => check("--disko-mode", &value()?, &["format", "mount", "disko"])?,
            "--no-reboot" => found.phases.retain(|p| p != "reboot"),
            "--stop-after-disko" => found.phases.retain(|p| p == "kexec" || p == "disko"),
            "-L"
            | "--print-build-logs"
            | "-t"
            | "--tty"
            | "--show-trace"
            | "--no-disko-deps"
            | "--env-password"
            | "--no-substitute-on-destination"
            | "--no-use-machine-substituters"
            | "--build-on-remote"
            | "--vm-test" => {}
            // The genuine script moves on by two here.
            "--force-kexec" => drop(args.next()),
            "--kexec-extract-path" => found.kexec.0 = Some(value()?),
            "--kexec-launch-path" => found.kexec.1 = Some(value()?),
            "--kexec" | "--kexec-extra-flags" | "--post-kexec-ssh-port" | "--from" => drop(value()?),
            "--option"
            | "--chown"
            | "--disk-encryption-keys"
            | "--ssh-store-setting"
            | "--generate-hardware-config" => {
                value()?;
                value()?;
            }
            "--help" => return Err(Stop::Help),
            // Whatever is no option is the host, also if it looks like one: the genuine script's way.
            host if found.host.is_empty() => host.clone_into(&mut found.host),
            _ => return Err(Stop::Usage),
        }
    }
    if found.host.is_empty() {
        return Err(Stop::Abort("ssh-host must be set".to_owned()));
    }
    if let Some(flake) = flake {
        let split = flake.rsplit_once('#').filter(|(_, attr)| !attr.is_empty());
        let (uri, attr) = split.ok_or_else(|| {
            Stop::Text(
                "Please specify the name of the NixOS configuration to be installed, as a URI fragment in the flake-uri."
                    .to_owned(),
            )
        })?;
        let attr = attr.trim_start_matches("nixosConfigurations.").split('.').next().unwrap_or(attr);
        found.flake = Some((uri.to_owned(), attr.trim_matches('"').to_owned()));
    } else if found.store_paths.is_none() {
        return Err(Stop::Abort("--flake or --store-paths must be set".to_owned()));
    }
    Ok(found)
}

fn phases(list: &str) -> Result<Vec<String>, Stop> {
    let mut asked = Vec::new();
    for phase in list.split(',') {
        if !PHASES.contains(&phase) {
            return Err(Stop::Abort(format!("Unknown phase: {phase}")));
        }
        asked.push(phase.to_owned());
    }
    Ok(asked)
}

fn check(option: &str, value: &str, words: &[&str]) -> Result<(), Stop> {
    if words.contains(&value) {
        return Ok(());
    }
    Err(Stop::Abort(format!(
        "Supported values for {option} are {}. Unknown mode : {value}",
        words.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, Stop> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_that_provision_gives() {
        let args = read(
            "--phases disko,install --flake /fleet#web -i /key --ssh-option ProxyCommand=/x/connect --ssh-option \
             ControlMaster=no --extra-files /x/extra --target-host root@web.fleet.invalid",
        )
        .unwrap();
        assert_eq!(args.flake, Some(("/fleet".to_owned(), "web".to_owned())));
        assert_eq!(args.phases, ["disko", "install"]);
        assert_eq!(args.ssh_options, ["ProxyCommand=/x/connect", "ControlMaster=no"]);
        assert_eq!(args.host, "root@web.fleet.invalid");
    }

    #[test]
    fn what_can_not_be_read() {
        assert_eq!(read("--flake .#a h --bogus"), Err(Stop::Usage));
        assert_eq!(read("--flake .#a"), Err(Stop::Abort("ssh-host must be set".to_owned())));
        assert_eq!(read("h --flake .#a --phases x"), Err(Stop::Abort("Unknown phase: x".to_owned())));
        assert_eq!(read("h"), Err(Stop::Abort("--flake or --store-paths must be set".to_owned())));
        assert!(matches!(read("h --flake ."), Err(Stop::Text(_))));
        assert_eq!(read("--flake .#nixosConfigurations.a.config h").unwrap().flake.unwrap().1, "a");
    }
}
