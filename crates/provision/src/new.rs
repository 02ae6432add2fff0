//! `provision-vm new`: a definition and a host directory for a VM that does not exist yet.

mod answers;
mod files;
mod questions;
mod there;

use std::{
    collections::BTreeSet,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fleet_core::{
    Error, Kind, Result,
    child::{self, Command},
    deadline::Deadline,
    definitions::{Definitions, Entry, Install, ManagedVm, VERBS},
    disk_layout,
    faults::{self, Fault},
    hosts::Hosts,
    nix::{NixMode, edit},
    protocol::Resource,
    repo::Repo,
    types::{VmName, Vmid},
    ui::Ui,
    validate,
};

pub use self::answers::NewArgs;
use self::{
    answers::{Attr, Ground},
    there::Cluster,
};
use crate::{again, cli::Cli, tools::Tools};

/// What becomes of the inventory.
const INVENTORY: &str = "the generated part is brought up to date";

/// A file that is written.
struct Written {
    path: PathBuf,
    /// What stood there before; nothing when it is new.
    before: Option<String>,
    text: String,
}

/// Runs the verb.
pub fn run(cli: &Cli, args: &NewArgs) -> Result<()> {
    let ui = cli.common.ui();
    let repo = cli.common.repo("provision-vm --repo DIR new NAME")?;
    let definitions = Definitions::load(&repo, cli.common.nix)?;
    let name = &args.name;
    let mut defined = free(&definitions, name)?.cloned();
    let known = defined.is_some();
    let mut written = Vec::new();
    let purpose = if !known {
        let mut cluster = cluster(cli, ui, &repo);
        let taken = cluster.as_ref().map(|cluster| cluster.resources.clone());
        let file = repo.definitions();
        let before = read(&file)?;
        let valid = |attrs: &[Attr]| {
            would_be_valid(&repo, &before, name, attrs, &definitions, taken.as_ref(), cli.common.nix)
        };
        let ground = Ground { definitions: &definitions, cluster: taken.as_ref(), valid: &valid };
        let answers = questions::complete(ui, args, &ground)?;
        // What is wrong is told by its name: the text that it would stand in is nowhere yet.
        valid(&answers.attrs())?;
        let text =
            edit::insert_entry(&before, &file, "managed", name.as_str(), &answers.attrs(), cli.common.nix)?;
        let after = Definitions::of_text(&text, &repo, cli.common.nix)
            .map_err(|error| error.now("nothing was changed"))?;
        defined = after.managed.iter().find(|vm| vm.name == *name).cloned();
        if let Some(vm) = &defined {
            let lacks = cluster.as_mut().map(|cluster| cluster.lacks(vm)).unwrap_or_default();
            lacks.iter().for_each(|what| ui.warn(what));
            let hosts = Hosts::load(&repo, cli.common.nix)?;
            there::shared(vm, &definitions, &hosts).iter().for_each(|whose| ui.warn(whose));
        }
        written.push(Written { path: file, before: Some(before), text });
        answers.purpose
    } else {
        ui.done(format!("'{name}' is defined already"));
        args.purpose.clone()
    };
    let image = match &defined {
        Some(vm) => (vm.install == Install::Image).then_some(vm.disk),
        None => None,
    };
    let (host, hostname) = match &defined {
        Some(vm) => (vm.nixos_config.clone(), vm.hostname.to_string()),
        None => (name.to_string(), name.to_string()),
    };
    let dir = repo.host_dir(&host);
    let configured = dir.join("configuration.nix").exists();
    // As a run looks for them: a layout may be one that the configuration imports.
    if configured && disk_layout::of_host(repo.root(), &dir).is_some() {
        ui.done(format!("hosts/{host}/ is there already"));
    } else {
        let hosts = Hosts::load(&repo, cli.common.nix)?;
        let model = files::model(&repo, &definitions, &hosts, args.like.as_deref())?;
        let user = args.login.as_ref().map(ToString::to_string);
        let user = user.or_else(|| hosts.common_user().map(str::to_owned));
        let user = user.as_deref().unwrap_or("fleet");
        let new = files::New { name: name.as_str(), config: &host, hostname: &hostname, image };
        let texts = files::texts(new, user, purpose.as_deref(), model.as_ref());
        if let Some(model) = &model {
            ui.say(format!("  in the style of hosts/{}/", model.name));
        }
        for (file, text) in texts {
            let path = dir.join(file);
            if !path.exists() && (!configured || file == "disko.nix") {
                written.push(Written { path, before: None, text });
            }
        }
    }
    if written.is_empty() {
        return Err(Error::conflict(format!("'{name}' is defined already, and hosts/{host}/ is there"))
            .now("nothing was changed")
            .hint(again::provision_vm(&[name.as_str()])));
    }
    let told = ui.before_question(!args.change.yes && !args.change.dry_run);
    show(told, &repo, &written);
    let inventory = repo.inventory();
    let inventory = inventory.exists().then(|| relative(&repo, &inventory));
    if let Some(inventory) = &inventory {
        told.step(format!("{inventory} ({INVENTORY})"));
    }
    let mut paths: Vec<String> = written.iter().map(|file| relative(&repo, &file.path)).collect();
    if args.change.dry_run {
        ui.step("Dry run: nothing is written.");
        let mut files = texts_of(&repo, &written);
        files.extend(inventory.map(|inventory| (inventory, INVENTORY.into())));
        let value = serde_json::json!({ "name": name, "dry_run": true, "files": files });
        return ui.answer(&value, String::new);
    }
    if !args.change.yes {
        ui.agree("Write this?", "nothing was changed", None)?;
    }
    write(&repo, cli, &written)?;
    introduce(&repo, &written)?;
    paths.extend(inventory.filter(|_| bring_inventory(cli, ui, &repo)));
    ui.done(format!("Written: {}", paths.join(", ")));
    check(ui, &repo, cli, name);
    ui.say("Then:");
    let add: Vec<&str> = ["add"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    ui.say(format!("  {} && {}", again::git(&repo, &add), again::git(&repo, &["commit"])));
    ui.say(format!("  {}", again::provision_vm(&[name.as_str()])));
    if ui.json() {
        ui.json_line(&serde_json::json!({ "name": name, "files": paths }))?;
    }
    Ok(())
}

/// What would be wrong with a VM of these attributes, the others as usual; the first fault, as an answer to a question.
fn would_be_valid(
    repo: &Repo,
    before: &str,
    name: &VmName,
    attrs: &[Attr],
    definitions: &Definitions,
    cluster: Option<&Vec<Resource>>,
    nix: NixMode,
) -> Result<()> {
    let usual =
        [("vmid", "100"), ("cores", "1"), ("memory", "512"), ("disk", "\"1G\""), ("storage", "\"local\"")];
    let mut all: Vec<Attr> = attrs.to_vec();
    for (usual, value) in usual {
        if attrs.iter().all(|(given, _)| *given != usual) {
            let value = match usual {
                "vmid" => offered(definitions, None, cluster)?.to_string(),
                _ => value.to_owned(),
            };
            all.push((usual, value));
        }
    }
    // A file that can not be edited is told when it is to be.
    let Ok(text) = edit::insert_entry(before, &repo.definitions(), "managed", name.as_str(), &all, nix)
    else {
        return Ok(());
    };
    let Err(error) = Definitions::of_text(&text, repo, nix) else { return Ok(()) };
    let found = faults::of(&error);
    // One of the whole file is told with its place.
    if found.is_empty() || found.iter().any(|fault| fault.path.is_empty()) {
        return Err(error);
    }
    let kind = if found.iter().all(|fault| fault.conflict) { Kind::Conflict } else { Kind::Failed };
    let said = |fault: &Fault| match attrs {
        // The one that was asked for just now needs no name.
        [_] => fault.message.clone(),
        _ => format!("{}: {}", fault.path, fault.message),
    };
    let text = found.iter().map(said).collect::<Vec<_>>().join("; ");
    let error = Error::new(kind, text).now("nothing was changed");
    Err(found.into_iter().filter_map(|fault| fault.help).fold(error, Error::hint))
}

/// Whether the name may be used: nothing when it is free, the definition when a managed VM has it.
fn free<'a>(definitions: &'a Definitions, name: &VmName) -> Result<Option<&'a ManagedVm>> {
    if VERBS.contains(&name.as_str()) {
        return Err(Error::usage(format!("a VM can not be called '{name}'"))
            .hint(format!("`provision-vm {name}` means something else: give the VM another name")));
    }
    if name.as_str().bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::usage(format!("a VM can not be called '{name}'"))
            .hint("a number on the command line is a VMID: give the VM a name with a letter"));
    }
    match definitions.by_name(name.as_str()) {
        None => Ok(None),
        Some(Entry::Managed(vm)) => Ok(Some(vm)),
        Some(Entry::Imported(_)) => {
            Err(Error::conflict(format!("an imported VM is called '{name}' already"))
                .now("nothing was changed"))
        }
        Some(Entry::Template(_)) => {
            Err(Error::conflict(format!("the template is called '{name}' already"))
                .now("nothing was changed"))
        }
    }
}

/// The cluster; nothing, and a word about it, when it can not be asked.
fn cluster(cli: &Cli, ui: Ui, repo: &Repo) -> Option<Cluster> {
    match Tools::find(cli, repo).and_then(|tools| Cluster::ask(tools.session()?)) {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            ui.warn(format!("the cluster could not be asked: {}", error.chain()));
            ui.say("  a VMID is offered that is free in the definitions; whether the cluster uses it is not known,");
            ui.say(
                "  nor whether the storage, node, bridge and template are there that the definition names",
            );
            None
        }
    }
}

/// A VMID that neither the definitions nor the cluster use, of this range or the first that VMs may use.
fn offered(definitions: &Definitions, range: Option<&str>, cluster: Option<&Vec<Resource>>) -> Result<Vmid> {
    let taken: BTreeSet<Vmid> = cluster.into_iter().flatten().map(|resource| resource.vmid).collect();
    definitions.suggest_vmid(range, &taken)
}

/// The next free VMID of each range that VMs may use, a line each; nothing where there is no choice.
fn ranges(definitions: &Definitions, cluster: Option<&Vec<Resource>>) -> Vec<String> {
    let lines: Vec<String> = definitions
        .ranges_for_vms()
        .map(|range| {
            let next = offered(definitions, Some(&range.name), cluster);
            let next = next.map_or_else(|_| "none".to_owned(), |vmid| vmid.to_string());
            let what = range.description.as_ref().map(|what| format!(": {what}")).unwrap_or_default();
            format!("{} ({} to {}), next free {next}{what}", range.name, range.start, range.end)
        })
        .collect();
    if lines.len() > 1 { lines } else { Vec::new() }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

fn relative(repo: &Repo, path: &Path) -> String {
    path.strip_prefix(repo.root()).unwrap_or(path).display().to_string()
}

/// What is added, file by file.
fn show(ui: Ui, repo: &Repo, written: &[Written]) {
    for file in written {
        ui.step(relative(repo, &file.path));
        added(file).lines().for_each(|line| ui.say(format!("  {line}").trim_end()));
    }
}

/// The lines that a file gets.
fn added(file: &Written) -> String {
    let Some(before) = &file.before else { return file.text.clone() };
    // One piece was inserted: what is left when the common beginning and end are taken away, in whole lines.
    let start = before.bytes().zip(file.text.bytes()).take_while(|(a, b)| a == b).count();
    let start = file.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = before[start..].len();
    file.text[start..file.text.len() - end].to_owned()
}

fn texts_of(repo: &Repo, written: &[Written]) -> serde_json::Map<String, serde_json::Value> {
    written.iter().map(|file| (relative(repo, &file.path), added(file).into())).collect()
}

/// Writes the files, and takes everything back when the definitions are not right then.
fn write(repo: &Repo, cli: &Cli, written: &[Written]) -> Result<()> {
    let put = |file: &Written| -> Result<()> {
        let dir = file.path.parent().unwrap_or(repo.root());
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        replace(&file.path, file.text.as_bytes())
    };
    let outcome =
        written.iter().try_for_each(put).and_then(|()| Definitions::load(repo, cli.common.nix).map(drop));
    let Err(error) = outcome else { return Ok(()) };
    for file in written {
        // What can not be taken back is said by git status.
        let _ = match &file.before {
            Some(text) => replace(&file.path, text.as_bytes()),
            None => std::fs::remove_file(&file.path).map_err(|e| Error::io("remove", &file.path, e)),
        };
    }
    Err(error.now("the files are as they were before"))
}

/// A flake in a git repository sees only files that git knows.
fn introduce(repo: &Repo, written: &[Written]) -> Result<()> {
    if !repo.root().join(".git").exists() || child::find_program("git").is_none() {
        return Ok(());
    }
    let new = written.iter().filter(|file| file.before.is_none()).map(|file| &file.path);
    let git = Command::new("git").dir(repo.root()).args(["add", "--intent-to-add", "--"]).args(new);
    git.output(Deadline::secs(30))?.checked().map(drop)
}

/// Has `post-provision-vm` bring the inventory up to date: `check` holds it against the definitions. Whether it did;
/// the commit is the user's, with the other files.
fn bring_inventory(cli: &Cli, ui: Ui, repo: &Repo) -> bool {
    let command = Tools::look(cli, repo).post_provision();
    let command = command.args(["inventory", "--yes", "--no-commit", "--allow-dirty"]);
    let outcome = command.run(Deadline::secs(60), |line| ui.detail(line)).and_then(child::Output::checked);
    if let Err(error) = &outcome {
        ui.warn(format!("the inventory is as it was: {}", error.chain()));
    }
    outcome.is_ok()
}

/// Says what the repository's own check finds about the new VM.
fn check(ui: Ui, repo: &Repo, cli: &Cli, name: &VmName) {
    let report = validate::repository(repo, cli.common.nix);
    match report.faults.len() {
        0 => {
            let vms = report.definitions.iter().flat_map(|definitions| &definitions.managed);
            let warnings = vms.filter(|vm| vm.name == *name).filter_map(validate::without_gateway);
            warnings.for_each(|warning| ui.warn(warning));
            ui.done(format!("'{name}' is valid"));
        }
        _ => report.faults.iter().for_each(|fault| ui.warn(fault.render())),
    }
}

/// Puts the text in the file's place, whole or not at all; the file keeps its mode.
fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let put = || {
        let mut staged = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        staged.write_all(text)?;
        let mode = std::fs::metadata(path).map(|facts| facts.permissions());
        staged.as_file().set_permissions(mode.unwrap_or_else(|_| std::fs::Permissions::from_mode(0o644)))?;
        staged.as_file().sync_all()?;
        staged.persist(path).map_err(|e| e.error)
    };
    put().map(drop).map_err(|e| Error::io("write", path, e))
}
