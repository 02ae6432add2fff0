//! The commands that hints name: about the same fleet and the same node as the run that names them.

use std::{fmt::Display, path::Path, sync::OnceLock};

use crate::{
    child::Command,
    cli::{CommonArgs, ConnectionArgs},
    repo::Repo,
    types::VmRef,
};

/// Where this process found its fleet and its node; the same for all that it does.
static PLACE: OnceLock<Place> = OnceLock::new();

/// Whether these tools may change the VM that this run is about.
#[derive(Debug, Clone)]
pub enum Leave {
    /// Only when it is named with `--unmanaged`, by this.
    Unmanaged(VmRef),
    /// Never.
    None,
}

/// Of the VM that this run is about, where it is not simply one of ours.
static LEAVE: OnceLock<Leave> = OnceLock::new();

/// What leads a command to the same fleet and node, where it would not find them by itself.
#[derive(Debug, Default)]
struct Place {
    repo: Vec<String>,
    connection: Vec<String>,
}

/// Notes what the command line says of the fleet and the node: every command that is told from now on says it too.
pub fn remember(common: &CommonArgs, connection: &ConnectionArgs) {
    let of_itself = std::env::var_os("FLEET_REPO");
    let of_itself = Repo::find(of_itself.as_ref().map(Path::new), "").ok();
    PLACE.get_or_init(|| Place::of(common, connection, of_itself.as_ref()));
}

/// Notes what these tools may do with the VM that this run is about: [`change`] says it too.
pub fn remember_leave(leave: Leave) {
    LEAVE.get_or_init(|| leave);
}

impl Place {
    /// `of_itself` is the repository that a command finds which names none.
    fn of(common: &CommonArgs, connection: &ConnectionArgs, of_itself: Option<&Repo>) -> Place {
        let root = common.repo.as_deref().map(|given| std::path::absolute(given).unwrap_or(given.into()));
        let same = |root: &Path| {
            let found = of_itself.and_then(|repo| repo.root().canonicalize().ok());
            found.is_some() && found == root.canonicalize().ok()
        };
        let root = root.filter(|root| !same(root)).map(|root| root.to_string_lossy().into_owned());
        let ConnectionArgs { host, user, node } = connection.clone();
        Place {
            repo: valued("--repo", root),
            connection: [valued("--host", host), valued("--user", user), valued("--node", node)].concat(),
        }
    }

    /// A command with what leads there: behind its own words, and before those that are another program's. What a word
    /// says already is not said once more.
    fn command(&self, program: &str, words: &[&str], connects: bool) -> Command {
        let (own, others) =
            words.split_at(words.iter().position(|word| *word == "--").unwrap_or(words.len()));
        let connection = if connects { self.connection.as_slice() } else { &[] };
        let there = [&*self.repo, connection].concat();
        let there = there.chunks(2).filter(|pair| !own.contains(&pair[0].as_str())).flatten();
        Command::new(program).args(own).args(there).args(others)
    }
}

/// An option with its value, if there is one.
pub fn valued(flag: &str, value: Option<impl Into<String>>) -> Vec<String> {
    value.map(|value| vec![flag.to_owned(), value.into()]).unwrap_or_default()
}

fn tool(program: &str, words: &[&str], connects: bool) -> String {
    match PLACE.get() {
        Some(place) => place.command(program, words, connects),
        None => Command::new(program).args(words),
    }
    .to_string()
}

/// `provision-vm WORDS`, quoted for a shell: the fleet and the node are this run's.
pub fn provision_vm(words: &[&str]) -> String {
    tool("provision-vm", words, true)
}

/// `proxmox-ops WORDS`, likewise.
pub fn proxmox_ops(words: &[&str]) -> String {
    tool("proxmox-ops", words, true)
}

/// The same of a line whose words have no blanks in them.
pub fn ops(line: impl Display) -> String {
    proxmox_ops(&line.to_string().split_whitespace().collect::<Vec<_>>())
}

/// The same of a line that changes the VM that this run is about: with `--unmanaged` where it needs that, and by the
/// node's own program where these tools would refuse it.
pub fn change(line: impl Display) -> String {
    let line = line.to_string();
    let words: Vec<&str> = line.split_whitespace().collect();
    let (own, others) = words.split_at(words.iter().position(|word| *word == "--").unwrap_or(words.len()));
    match LEAVE.get() {
        None => proxmox_ops(&words),
        Some(Leave::Unmanaged(vm)) => proxmox_ops(&[own, &["--unmanaged", &vm.to_string()], others].concat()),
        Some(Leave::None) => format!("on the node: qm {line}   # these tools never change it"),
    }
}

/// `post-provision-vm WORDS`, likewise; it knows no node.
pub fn post_provision_vm(words: &[&str]) -> String {
    tool("post-provision-vm", words, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_is_named_where_it_would_not_be_found() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a b", "other"] {
            std::fs::create_dir_all(root.path().join(name).join("vms")).unwrap();
            for file in ["hosts.nix", "vms/definitions.nix"] {
                std::fs::write(root.path().join(name).join(file), "{ }").unwrap();
            }
        }
        let (ours, other) = (root.path().join("a b"), Repo::at(&root.path().join("other")).unwrap());
        let given = ours.display().to_string();
        let common = CommonArgs {
            repo: Some(ours.clone()),
            json: false,
            quiet: false,
            verbose: false,
            color: Default::default(),
            nix: Default::default(),
        };
        let connection = ConnectionArgs { host: Some("prom".to_owned()), ..ConnectionArgs::default() };
        let place = |found: Option<&Repo>| Place::of(&common, &connection, found);
        let repo = ["--repo".to_owned(), given];
        assert_eq!(place(None).repo, repo);
        assert_eq!(place(Some(&other)).repo, repo);
        assert_eq!(place(Some(&Repo::at(&ours).unwrap())).repo, [] as [&str; 0]);
        assert_eq!(place(None).connection, ["--host", "prom"]);
    }

    #[test]
    fn it_is_said_once_and_not_to_another_program() {
        let connection = ["--host", "prom", "--node", "a"].map(str::to_owned).to_vec();
        let place = Place { repo: vec!["--repo".to_owned(), "/it's".to_owned()], connection };
        let command = |words: &[&str]| place.command("proxmox-ops", words, true).to_string();
        assert_eq!(
            command(&["exec", "110", "--", "ls", "/bin"]),
            "proxmox-ops exec 110 --repo \"/it's\" --host prom --node a -- ls /bin"
        );
        assert_eq!(
            command(&["create-template", "--node", "b", "VMID"]),
            "proxmox-ops create-template --node b VMID --repo \"/it's\" --host prom"
        );
        assert_eq!(
            place.command("post-provision-vm", &["inventory"], false).to_string(),
            "post-provision-vm inventory --repo \"/it's\""
        );
    }
}
