//! What every verb starts from: definitions, settings, the guard, and the way to the node.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use fleet_core::{
    Error, Result,
    again::{self, Leave},
    cli::{ChangeArgs, CommonArgs, ConnectionArgs},
    deadline::Deadline,
    definitions::{Definitions, Entry},
    guard::{Guard, Operation, Permit},
    types::{NodeName, VmName, VmRef, Vmid},
    ui::Ui,
};

use crate::{
    api::call::Call, cluster::Cluster, links::Links, node::Node, settings::Settings, tasks::Thinned,
};

/// Definitions and settings, loaded before anything is sent anywhere.
pub struct Context {
    /// Where messages go.
    pub ui: Ui,
    /// The fleet's VMs.
    pub definitions: Definitions,
    /// How to reach the node.
    pub settings: Settings,
    asked: Mutex<Option<Asked>>,
}

/// What had to be asked before a change could be allowed: which VM has a name that no definition has.
struct Asked {
    links: Arc<Links>,
    name: VmName,
    vmid: Vmid,
}

/// Options of every verb that changes a VM: whether it may, and whether it does.
#[derive(Debug, Clone, Args)]
pub struct LeaveOptions {
    /// `--dry-run`, `--yes`.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Change this VM although no definition has it: its VMID, or its name if no other VM of the cluster has that
    #[arg(long, value_name = "VMID")]
    pub unmanaged: Option<VmRef>,
}

/// The same of those for which the node has work to do, and may take its time.
#[derive(Debug, Clone, Args)]
pub struct ChangeOptions {
    /// Whether it may, and whether it does.
    #[command(flatten)]
    pub leave: LeaveOptions,
    /// Seconds to wait for the node to finish [default: 900, and 6 hours for a backup or a restore]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait: Option<u64>,
}

impl std::ops::Deref for ChangeOptions {
    type Target = LeaveOptions;
    fn deref(&self) -> &LeaveOptions {
        &self.leave
    }
}

impl ChangeOptions {
    /// Until when the node may take.
    pub fn deadline(&self) -> Deadline {
        Deadline::secs(self.wait.unwrap_or(900))
    }

    /// The same where the guest gets so many seconds of it: these and two minutes for the node, unless something is given.
    pub fn deadline_of_guest(&self, timeout: u64) -> Deadline {
        Deadline::secs(self.wait.unwrap_or_else(|| 900.max(timeout.saturating_add(120))))
    }

    /// The same for what reads and writes whole disks.
    pub fn long_deadline(&self) -> Deadline {
        Deadline::secs(self.wait.unwrap_or(fleet_core::protocol::six_hours()))
    }
}

/// How long a read may take in all.
pub fn read_deadline() -> Deadline {
    Deadline::secs(60)
}

impl Context {
    /// Loads the definitions of the fleet repository and decides the settings. Sends nothing.
    pub fn load(common: &CommonArgs, connection: &ConnectionArgs) -> Result<Context> {
        let repo = common.repo("proxmox-ops --repo DIR list")?;
        let definitions = Definitions::load(&repo, common.nix)?;
        let settings = Settings::resolve(connection, |name| std::env::var(name).ok(), &definitions)?;
        Ok(Context { ui: common.ui(), definitions, settings, asked: Mutex::default() })
    }

    /// Connects to the node, and through it to its cluster.
    pub fn connect(&self) -> Result<Cluster> {
        match &*self.asked.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(asked) => Ok(Cluster::over(&asked.links, self.ui)),
            None => Cluster::connect(&self.settings, self.ui),
        }
    }

    /// The VMID of the one VM of the cluster that has this name; connects for it.
    fn asked(&self, name: &VmName, options: &LeaveOptions) -> Result<Vmid> {
        if options.change.dry_run {
            return Err(Error::usage(format!("which VM is called '{name}' only the node knows"))
                .now("a dry run asks the node nothing")
                .hint(format!(
                    "name the VM by its VMID, and with --unmanaged, too: `{}` shows it",
                    again::ops("list")
                )));
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = asked.as_ref().filter(|asked| asked.name == *name) {
            return Ok(asked.vmid);
        }
        let links = Arc::new(Links::connect(&self.settings, self.ui)?);
        let cluster = Cluster::over(&links, self.ui);
        let vmid = cluster.vmid(&VmRef::Name(name.clone())).map_err(|e| e.now("nothing was changed"))?;
        *asked = Some(Asked { links, name: name.clone(), vmid });
        Ok(vmid)
    }

    /// The node's name for a request that is only shown.
    pub fn node_name(&self) -> Result<NodeName> {
        match &self.settings.node {
            Some(node) => Ok(node.clone()),
            None => self.settings.host.parse().or_else(|_| "NODE".parse()),
        }
    }

    /// The VM that a change is for, and the guard's leave. Decided without the node, unless the VM, or what
    /// `--unmanaged` names, is a name: that is the cluster's to tell. What the definitions refuse they refuse before.
    pub fn permit(
        &self,
        vm: &VmRef,
        options: &LeaveOptions,
        operation: Operation,
        verb: &str,
    ) -> Result<Permit> {
        options.unmanaged.iter().cloned().map(Leave::Unmanaged).for_each(again::remember_leave);
        let named = match (vm, self.definitions.find(vm)) {
            (VmRef::Id(vmid), _) => Ok(*vmid),
            (VmRef::Name(_), Some(entry)) => Ok(vmid_of(&entry)),
            (VmRef::Name(name), None) => Err(name),
        };
        match (named, &options.unmanaged) {
            (Ok(vmid), given) => {
                if let Some(VmRef::Name(_)) = given {
                    // What would be refused whatever that name stands for.
                    Guard::new(&self.definitions, Some(vmid)).permit(vmid, operation, verb)?;
                }
                self.guard(options)?.permit(vmid, operation, verb)
            }
            (Err(name), None) => Err(self.unknown(name)),
            (Err(name), Some(VmRef::Name(other))) if name != other => Err(Error::refused(format!(
                "refused to {verb} VM '{name}': no definition has it, and --unmanaged names '{other}'"
            ))
            .now("nothing was sent to the node")),
            (Err(name), Some(VmRef::Name(_))) => {
                let vmid = self.asked(name, options)?;
                self.guard(options)?.permit(vmid, operation, verb)
            }
            (Err(name), Some(VmRef::Id(unmanaged))) => {
                let guard = Guard::new(&self.definitions, Some(*unmanaged));
                guard.permit(*unmanaged, operation, verb)?;
                guard.called(name).permit(self.asked(name, options)?, operation, verb)
            }
        }
    }

    /// The guard, with the VM that `--unmanaged` names; connects where that is a name.
    pub fn guard<'a>(&'a self, options: &'a LeaveOptions) -> Result<Guard<'a>> {
        Ok(match &options.unmanaged {
            None => Guard::new(&self.definitions, None),
            Some(VmRef::Id(vmid)) => Guard::new(&self.definitions, Some(*vmid)),
            Some(VmRef::Name(name)) => {
                Guard::new(&self.definitions, Some(self.asked(name, options)?)).called(name)
            }
        })
    }

    fn unknown(&self, name: &VmName) -> Error {
        let path = self.definitions.path.display();
        let error = Error::not_found(format!("no VM '{name}' in {path}")).now("nothing was sent to the node");
        match self.definitions.nearest(name.as_str()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint(format!(
                "a VM that no definition has is changed only if `--unmanaged {name}` names it as well"
            )),
        }
    }

    /// The VM that a read is for: by number, by name in the definitions, or by name in the cluster.
    pub fn vmid(&self, vm: &VmRef, cluster: &Cluster) -> Result<Vmid> {
        let vmid = match (vm, self.definitions.find(vm)) {
            (VmRef::Name(_), Some(entry)) => vmid_of(&entry),
            (other, _) => cluster.vmid(other)?,
        };
        // What changes it next, where that is told.
        match self.definitions.by_vmid(vmid) {
            Some(Entry::Managed(vm)) if !vm.readonly => {}
            Some(_) => again::remember_leave(Leave::None),
            None => again::remember_leave(Leave::Unmanaged(VmRef::Id(vmid))),
        }
        Ok(vmid)
    }

    /// The node where a new VM belongs: its definition's, else the one that the options, the environment or the
    /// definitions name for all; none where nobody says. With `node = "auto"` `provision-vm` chooses, and says so
    /// in its request.
    pub fn wanted_node(&self, vmid: Vmid) -> Option<NodeName> {
        match self.definitions.by_vmid(vmid) {
            Some(Entry::Managed(vm)) if vm.node.named().is_some() => vm.node.named().cloned(),
            _ => self.settings.node.clone(),
        }
    }

    /// Connects to where a new VM belongs.
    pub fn place(&self, cluster: &Cluster, vmid: Vmid) -> Result<Rc<Node>> {
        match self.wanted_node(vmid) {
            Some(name) => cluster.node(&name),
            None => Ok(Rc::clone(cluster.first())),
        }
    }

    /// Shows the requests that would be sent, for `--dry-run`.
    pub fn show(&self, calls: &[Call]) -> Result<()> {
        self.ui.step("Dry run: nothing is sent. These requests would be:");
        let json: Vec<serde_json::Value> = calls.iter().map(Call::to_json).collect();
        let text: String = calls.iter().map(|call| format!("{call}\n")).collect();
        self.ui.answer(&json, || text)
    }

    /// Tells of a change that is done, or that there was nothing to do.
    pub fn changed(&self, vmid: Vmid, changed: bool, done: &str, nothing: &str) -> Result<()> {
        self.ui.done(if changed { done } else { nothing });
        self.told(vmid, changed)
    }

    /// The same for programs: with `--json` alone.
    pub fn told(&self, vmid: Vmid, changed: bool) -> Result<()> {
        if self.ui.json() {
            return self.ui.json_line(&serde_json::json!({ "vmid": vmid, "changed": changed }));
        }
        Ok(())
    }

    /// Tells lines of what goes on: percentages now and then, the rest by its kind ([`Ui::tell`]).
    pub fn progress(&self) -> impl FnMut(&str) + use<> {
        let ui = self.ui;
        let mut thinned = Thinned::default();
        move |line: &str| {
            if crate::tasks::percent_of(line).is_none() {
                ui.tell(line);
            } else if thinned.shows(line) {
                ui.say(format!("  {line}"));
            }
        }
    }
}

/// The VMID of a definition.
pub fn vmid_of(entry: &Entry<'_>) -> Vmid {
    match entry {
        Entry::Imported(vm) => vm.vmid,
        Entry::Managed(vm) => vm.vmid,
        Entry::Template(template) => template.vmid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_guest_that_gets_long_is_waited_for() {
        let options = |wait| ChangeOptions {
            leave: LeaveOptions { change: ChangeArgs::default(), unmanaged: None },
            wait,
        };
        let left = |wait, timeout| options(wait).deadline_of_guest(timeout).left();
        assert!(left(None, 3600) > Duration::from_secs(3600));
        let usual = left(None, 180);
        assert!(usual > Duration::from_secs(800) && usual <= Duration::from_secs(900));
        assert!(left(Some(10), 3600) <= Duration::from_secs(10));
    }
}
