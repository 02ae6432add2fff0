//! The commands that hints name: a run's own once more, and others about the same fleet and the same node.

use std::path::Path;

use clap::ValueEnum;
pub(crate) use fleet_core::again::{post_provision_vm, provision_vm, proxmox_ops};
use fleet_core::{again::valued, child::Command, nix::NixMode, repo::Repo};

use crate::cli::Cli;

/// Notes what the command line says of the fleet and the node: every command that is told from now on says it too.
pub(crate) fn remember(cli: &Cli) {
    fleet_core::again::remember(&cli.common, &cli.connection);
}

/// `git WORDS`, as it works from the working directory: the words have paths from the repository's root on.
pub(crate) fn git(repo: &Repo, words: &[&str]) -> String {
    let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).ok();
    let git = Command::new("git");
    let git = match here.is_some() && here == repo.root().canonicalize().ok() {
        true => git,
        false => git.arg("-C").arg(repo.root()),
    };
    git.args(words).to_string()
}

impl Cli {
    /// The command of this run for these VMs, as one would type it: with all that decides what is done, without what
    /// decides whether it is asked about and how it is shown.
    pub(crate) fn again(&self, names: &[&str]) -> String {
        let identity = std::env::var_os("FLEET_IDENTITY");
        let flags = self.flags(identity.as_deref().map(Path::new));
        let words: Vec<&str> = names.iter().copied().chain(flags.iter().map(String::as_str)).collect();
        provision_vm(&words)
    }

    /// All of them, so that no option is forgotten. `identity` is the one that is used when none is given.
    fn flags(&self, identity: Option<&Path>) -> Vec<String> {
        let Cli {
            verb: _,
            names: _,
            all: _,
            // How long is waited, and for how many at once, decides nothing of what is done.
            jobs: _,
            stall_limit: _,
            boot_limit: _,
            no_install,
            integrate: _,
            no_integrate: _,
            identity: given,
            // What was begun is gone on with anyway.
            resume: _,
            on_failure,
            build_on,
            kexec,
            change: _,
            connection: _,
            common,
        } = self;
        let integrate = self.integrate();
        let identity = given.as_deref().filter(|given| Some(*given) != identity);
        [
            no_install.then(|| "--no-install".to_owned()).into_iter().collect(),
            valued("--integrate", chosen(&integrate)),
            valued("--identity", identity.map(|path| path.to_string_lossy())),
            valued("--on-failure", chosen(on_failure)),
            valued("--build-on", chosen(build_on)),
            valued("--kexec", kexec.as_deref()),
            valued("--nix", (common.nix != NixMode::Auto).then(|| name_of(&common.nix)).flatten()),
        ]
        .concat()
    }
}

/// What was chosen, unless it is what is done without a choice.
fn chosen<T: ValueEnum + Default + PartialEq>(value: &T) -> Option<String> {
    (*value != T::default()).then(|| name_of(value)).flatten()
}

fn name_of(value: &impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_run_is_told_as_it_was_typed_but_for_what_asks_and_shows() {
        let again = |line: &str| {
            let cli = Cli::parse_from(line.split(' '));
            let names: Vec<&str> = cli.names.iter().map(String::as_str).collect();
            cli.again(&names)
        };
        assert_eq!(again("provision-vm web -y --quiet --json --resume"), "provision-vm web");
        assert_eq!(
            again(
                "provision-vm --no-install web --kexec it's.tar -i /k/id --build-on remote --jobs 2 --stall-limit 300"
            ),
            "provision-vm web --no-install --identity /k/id --build-on remote --kexec \"it's.tar\""
        );
        assert_eq!(
            again(
                "provision-vm --no-integrate web --boot-limit 9 --nix nix --on-failure destroy --stall-limit 3"
            ),
            "provision-vm web --integrate never --on-failure destroy --nix nix"
        );
    }
}
