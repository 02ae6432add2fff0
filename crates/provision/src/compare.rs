//! `provision-vm plan`: the definitions against the cluster. Reads only, and asks the node as much for one VM as for
//! a hundred.

use fleet_core::{
    Kind, Result,
    cli::silent_exit,
    deadline::Deadline,
    definitions::{Definitions, ManagedVm},
    protocol::{ClusterConfig, Op, Resource, Session, VmConfig, VmStatus},
};
use serde::Serialize;

use crate::{
    cli::{Cli, PlanArgs},
    differences::{self, Difference, differences},
    plan::{self, Standing},
    tools::Tools,
    world::World,
};

/// How a definition and the cluster compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Comparison {
    /// It does not exist yet.
    Create,
    /// It exists and says what the definition says.
    Same {
        /// Settings that hold only after it is stopped and started.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pending: Vec<String>,
    },
    /// It exists and differs in these fields.
    Change {
        /// The fields.
        fields: Vec<Difference>,
        /// Settings that hold only after it is stopped and started.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pending: Vec<String>,
    },
    /// Somebody else's VM or container holds its VMID or name.
    Foreign {
        /// Who.
        reason: String,
    },
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
    let vms = named(&definitions, &args.names)?;
    let mut world = survey(&mut tools.session()?)?;
    let mut lines = Vec::new();
    for vm in vms {
        world.existing = existing(&world, vm);
        lines.push(Line { name: vm.name.as_str(), vmid: vm.vmid.get(), comparison: compare(vm, &world) });
    }
    if lines.is_empty() {
        ui.done("No managed VM is defined: there is nothing to compare");
    }
    ui.answer(&lines, || lines.iter().map(print).collect())?;
    let equal = lines.iter().all(|line| matches!(line.comparison, Comparison::Same { .. }));
    if equal { Ok(()) } else { Err(silent_exit(Kind::Usage)) }
}

/// The managed VMs of these names; all of them when there is none.
pub fn named<'a>(definitions: &'a Definitions, names: &[String]) -> Result<Vec<&'a ManagedVm>> {
    if names.is_empty() {
        return Ok(definitions.managed.iter().collect());
    }
    names.iter().map(|name| definitions.managed(name)).collect()
}

/// The cluster, read with three requests.
pub fn survey(session: &mut Session) -> Result<World> {
    let limit = || Deadline::secs(60);
    let node = session.ask(Op::Node, limit(), |_| {})?;
    let resources = session.ask(Op::Resources, limit(), |_| {})?;
    Ok(World::of(node, resources, session.ask(Op::Configs, limit(), |_| {})?))
}

/// The VM's configuration and state, on whatever node, from what was read of all.
pub fn existing(world: &World, vm: &ManagedVm) -> Option<(VmConfig, VmStatus)> {
    let resource = world.resources.iter().find(|resource| resource.vmid == vm.vmid)?;
    let config = config_of(world, vm)?;
    Some((VmConfig::from(config.clone()), status(resource, config)))
}

fn config_of<'a>(world: &'a World, vm: &ManagedVm) -> Option<&'a ClusterConfig> {
    let qemu = fleet_core::protocol::ResourceKind::Qemu;
    world.configs.iter().find(|config| config.vmid == vm.vmid && config.kind == qemu)
}

fn status(resource: &Resource, config: &ClusterConfig) -> VmStatus {
    VmStatus {
        vmid: resource.vmid,
        node: resource.node.clone(),
        status: resource.status.clone(),
        lock: config.settings.get("lock").cloned(),
        other: serde_json::Map::new(),
    }
}

/// The comparison for one VM.
pub fn compare(vm: &ManagedVm, world: &World) -> Comparison {
    match plan::standing(vm, world) {
        Err(conflict) => Comparison::Foreign { reason: conflict.message().to_owned() },
        Ok(Standing::Free | Standing::BeingCloned) => Comparison::Create,
        Ok(Standing::Ours(_)) => {
            let now = world.existing.as_ref().map(|(config, _)| config.settings.clone()).unwrap_or_default();
            let coming = config_of(world, vm).map(|config| config.pending.clone()).unwrap_or_default();
            let (fields, pending) = differences(vm, &now, &coming);
            if fields.is_empty() {
                Comparison::Same { pending }
            } else {
                Comparison::Change { fields, pending }
            }
        }
    }
}

fn print(line: &Line<'_>) -> String {
    let head = |state: &str| format!("{state:<8} {} (VMID {})", line.name, line.vmid);
    let waiting = |pending: &[String]| match pending {
        [] => String::new(),
        pending => format!("           pending until it is rebooted: {}\n", pending.join(", ")),
    };
    match &line.comparison {
        Comparison::Create => format!("{}\n", head("create")),
        Comparison::Same { pending } => format!("{}\n{}", head("same"), waiting(pending)),
        Comparison::Foreign { reason } => format!("{}: {reason}\n", head("foreign")),
        Comparison::Change { fields, pending } => {
            let fields: String =
                differences::lines(fields).iter().map(|line| format!("           {line}\n")).collect();
            format!("{}\n{fields}{}", head("change"), waiting(pending))
        }
    }
}
