//! `provision-vm plan`: the definitions against the cluster. Reads only.

use fleet_core::{
    Kind, Result,
    cli::silent_exit,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    protocol::{Op, Resource, Session, VmConfig},
};
use serde::Serialize;

use crate::{
    cli::{Cli, PlanArgs},
    plan::{self, Standing},
    settings::{self, Settings},
    tools::Tools,
    world::{self, World},
};

/// How a definition and the cluster compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Comparison {
    /// It does not exist yet.
    Create,
    /// It exists and says what the definition says.
    Same,
    /// It exists and differs in these fields.
    Change {
        /// The fields.
        fields: Vec<Difference>,
    },
    /// Somebody else's VM or container holds its VMID or name.
    Foreign {
        /// Who.
        reason: String,
    },
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The setting, as in qm.conf(5), or `disk`.
    pub field: String,
    /// What the VM has; empty when it has nothing.
    pub is: String,
    /// What the definition says.
    pub defined: String,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'a str,
    vmid: u32,
    #[serde(flatten)]
    comparison: Comparison,
}

/// Runs the verb.
pub fn run(cli: &Cli, args: &PlanArgs) -> Result<()> {
    let ui = cli.common.ui();
    let repo = cli.common.repo("provision-vm --repo DIR plan")?;
    let definitions = Definitions::load(&repo, cli.common.nix)?;
    let tools = Tools::find(cli, &repo)?;
    let vms: Vec<&ManagedVm> = if args.names.is_empty() {
        definitions.managed.iter().collect()
    } else {
        args.names.iter().map(|name| definitions.managed(name)).collect::<Result<_>>()?
    };
    let mut session = tools.session()?;
    let limit = || Deadline::secs(60);
    let node = session.ask(Op::Node, limit(), |_| {})?;
    let resources: Vec<Resource> = session.ask(Op::Resources, limit(), |_| {})?;
    let mut world =
        World { node, resources, storages: Vec::new(), bridges: None, template: None, existing: None };
    let mut lines = Vec::new();
    for vm in vms {
        world.existing = existing(&mut session, &world, vm)?;
        lines.push(Line { name: vm.name.as_str(), vmid: vm.vmid.get(), comparison: compare(vm, &world) });
    }
    ui.answer(&lines, || lines.iter().map(print).collect())?;
    let equal = lines.iter().all(|line| line.comparison == Comparison::Same);
    if equal { Ok(()) } else { Err(silent_exit(Kind::Usage)) }
}

fn existing(
    session: &mut Session,
    world: &World,
    vm: &ManagedVm,
) -> Result<Option<(VmConfig, fleet_core::protocol::VmStatus)>> {
    if world.holds(vm.vmid) { world::existing(session, vm.vmid) } else { Ok(None) }
}

/// The comparison for one VM.
pub fn compare(vm: &ManagedVm, world: &World) -> Comparison {
    match plan::standing(vm, world) {
        Err(conflict) => Comparison::Foreign { reason: conflict.message().to_owned() },
        Ok(Standing::Free | Standing::BeingCloned) => Comparison::Create,
        Ok(Standing::Ours(_)) => {
            let current =
                world.existing.as_ref().map(|(config, _)| config.settings.clone()).unwrap_or_default();
            let fields = differences(vm, &current);
            if fields.is_empty() { Comparison::Same } else { Comparison::Change { fields } }
        }
    }
}

/// Differences in the fields that stay ours for the VM's whole life: what cloud-init reads only matters before
/// the installation.
fn differences(vm: &ManagedVm, current: &Settings) -> Vec<Difference> {
    const OURS: [&str; 6] = ["cores", "memory", "net0", "cpu", "onboot", "tags"];
    let mut fields: Vec<Difference> = settings::changes(vm, &[], current)
        .into_iter()
        .filter(|(name, _)| OURS.contains(&name.as_str()))
        .map(|(field, defined)| Difference {
            is: current.get(&field).cloned().unwrap_or_default(),
            field,
            defined,
        })
        .collect();
    if let Some((slot, size)) = settings::boot_disk(current).filter(|(_, size)| *size != vm.disk) {
        fields.push(Difference {
            field: slot.to_string(),
            is: size.to_string(),
            defined: vm.disk.to_string(),
        });
    }
    fields
}

fn print(line: &Line<'_>) -> String {
    let head = |state: &str| format!("{state:<8} {} (VMID {})", line.name, line.vmid);
    match &line.comparison {
        Comparison::Create => format!("{}\n", head("create")),
        Comparison::Same => format!("{}\n", head("same")),
        Comparison::Foreign { reason } => format!("{}: {reason}\n", head("foreign")),
        Comparison::Change { fields } => {
            let fields = fields
                .iter()
                .map(|f| format!("           {}: {} -> {}\n", f.field, or_none(&f.is), f.defined));
            format!("{}\n{}", head("change"), fields.collect::<String>())
        }
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "(not set)" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{ours, vm, world};

    #[test]
    fn sizes_tags_and_booleans_are_compared_by_meaning() {
        let mut vm = vm();
        vm.tags = ["b".parse().unwrap(), "a".parse().unwrap()].to_vec();
        vm.on_boot = Some(false);
        let same = [
            ("cores", "2"),
            ("memory", "4096"),
            ("scsi0", "nvmeprom:110/vm-110-disk-0.qcow2,size=20480M"),
            ("tags", "a;b"),
            ("sshkeys", "whatever cloud-init was told then"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
        ];
        assert_eq!(compare(&vm, &ours(&same)), Comparison::Same);
        vm.cores = 4;
        vm.disk = "32G".parse().unwrap();
        let difference = |field: &str, is: &str, defined: &str| Difference {
            field: field.into(),
            is: is.into(),
            defined: defined.into(),
        };
        let fields = vec![difference("cores", "2", "4"), difference("scsi0", "20G", "32G")];
        assert_eq!(compare(&vm, &ours(&same)), Comparison::Change { fields });
        assert_eq!(compare(&vm, &world()), Comparison::Create);
    }
}
