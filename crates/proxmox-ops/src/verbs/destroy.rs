//! `proxmox-ops destroy`

use clap::Args;
use fleet_core::{
    Error, Result, again,
    definitions::Entry,
    guard::Operation,
    protocol::VmConfig,
    types::VmRef,
    ui::{Ui, can_ask},
};

use crate::{
    api::call::Call,
    context::{ChangeOptions, Context},
    ops::{
        config,
        destroy::{self, Ownership},
        snippet,
    },
};

/// Remove a VM and its disks for ever; needs the word `yes`
///
/// The VM must be ours: its description carries the marker that its creation wrote. A managed VM that has its
/// definition's name and no marker, and one with a marker that no definition has (named with --unmanaged), are removed
/// only after their name was typed on a terminal; any other is refused. So is a template, unless it carries the marker
/// and the storages of its disks tell that no linked clone shares them.
#[derive(Debug, Args)]
pub struct Destroy {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// The word `yes`
    #[arg(value_name = "yes")]
    word: Option<String>,
    /// Power it off first when it runs
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

impl Destroy {
    /// What the arguments alone decide: the word is there, or its stead can be asked for.
    fn check(&self) -> Result<()> {
        match self.word.as_deref() {
            Some("yes") => Ok(()),
            None if self.options.change.dry_run || can_ask() => Ok(()),
            _ => Err(Error::refused(format!("refused to destroy VM {}: the word 'yes' is missing", self.vm))
                .now("nothing was changed")
                .hint(format!(
                    "{}   # removes it and its disks for ever",
                    again::change(format_args!("destroy {} yes", self.vm))
                ))),
        }
    }

    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        // Who may not be destroyed at all is not told how.
        let permit = cx.permit(&self.vm, &self.options, Operation::Destroy, "destroy")?;
        self.check()?;
        let vmid = permit.vmid();
        if self.options.change.dry_run {
            cx.show(&[Call::destroy(&permit, &cx.node_name()?, true)])?;
            cx.ui.say(format!(
                "  then cloud-init documents of ours, those that there are: what its `cicustom` names, and on the node's own \
                 storages {}",
                snippet::names(vmid)
            ));
            return Ok(());
        }
        let (cluster, deadline) = (cx.connect()?, self.options.deadline());
        let config = cluster.on(vmid, |node| config::read(node, vmid, deadline))?;
        let down = || cluster.on(vmid, |node| destroy::is_up(node, vmid, self.stop, deadline)).map(drop);
        let defined = match cx.definitions.by_vmid(vmid) {
            Some(Entry::Managed(vm)) => Some(&vm.name),
            _ => None,
        };
        let name = config.settings.get("name").map_or("", String::as_str);
        let whose = destroy::ownership(&config, defined);
        if matches!(whose, Ownership::Proven | Ownership::Named) {
            // Nobody is asked about what can not be.
            cluster.on(vmid, |node| destroy::is_free(node, &config, deadline))?;
        }
        match whose {
            Ownership::Proven if defined.is_none() => {
                typed(cx.ui, &config, "these tools made it, and no definition has it", &down)?;
            }
            Ownership::Proven if self.word.is_some() => {}
            Ownership::Proven => typed(cx.ui, &config, "", &down)?,
            Ownership::Others(marker) => {
                return Err(Error::refused(format!(
                    "refused to destroy VM {vmid}: it was made as '{}', not as what the definitions call {vmid}",
                    marker.name
                ))
                .now("nothing was changed")
                .hint(format!("look at it: {}", again::ops(format_args!("config {vmid}")))));
            }
            Ownership::Named => {
                let why = "it does not carry the marker of these tools: these tools did not make it";
                typed(cx.ui, &config, why, &down)?;
            }
            Ownership::Unknown => {
                let called = match defined {
                    Some(defined) => {
                        format!("it is called '{name}', and not '{defined}' as in the definitions")
                    }
                    None => format!("it is called '{name}', and no definition has it"),
                };
                return Err(Error::refused(format!(
                    "refused to destroy VM {vmid} '{name}': nothing proves that it is ours"
                ))
                .now("its description does not carry the marker that these tools write into every VM they make")
                .now(called)
                .now("nothing was changed")
                .hint(format!("look at it: {}", again::ops(format_args!("config {vmid}"))))
                .hint(format!("if it is yours, on the node '{}': qm destroy {vmid}", config.node)));
            }
        }
        cx.ui.step(format!("Destroying VM {vmid} '{name}'..."));
        let kept = destroy::destroy(&cluster, &permit, &config, self.stop, deadline, &mut cx.progress())?;
        let what = if kept.is_empty() { "and its disks are" } else { "is" };
        let but = if kept.is_empty() { "" } else { ", but not all of its disks" };
        cx.changed(vmid, true, &format!("VM {vmid} '{name}' {what} gone{but}"), "")
    }
}

/// Asks for the VM's name to be typed, on a terminal, once nothing else (`ready`) stands against it.
fn typed(ui: Ui, config: &VmConfig, why: &str, ready: &dyn Fn() -> Result<()>) -> Result<()> {
    let vmid = config.vmid;
    let name = config.settings.get("name").map_or("", String::as_str);
    if !can_ask() || name.is_empty() {
        return Err(Error::refused(format!(
            "refused to destroy VM {vmid} '{name}': its name has to be typed, on a terminal"
        ))
        .now(why)
        .now("nothing was changed")
        .hint(format!("look at it: {}", again::ops(format_args!("config {vmid}")))));
    }
    ready()?;
    let because = if why.is_empty() { String::new() } else { format!("VM {vmid}: {why}. ") };
    let answer = ui.ask_line(&format!(
        "{because}VM {vmid} and its disks will be gone for ever. Type its name to destroy it: "
    ))?;
    match answer.trim() {
        "" | "n" | "no" => return Err(ui.declined("nothing was changed")),
        answer if answer == name => return Ok(()),
        _ => {}
    }
    Err(Error::refused(format!(
        "refused to destroy VM {vmid}: '{}' is not its name",
        answer.trim().escape_debug()
    ))
    .now("nothing was changed"))
}
