//! `proxmox-ops exec`

use clap::Args;
use fleet_core::{
    Error, Kind, Result, child::quote, cli::silent_exit, deadline::Deadline, guard::Operation, types::VmRef,
};

use crate::{
    api::call::Call,
    context::{Context, LeaveOptions},
    ops::agent,
};

/// Run a command in a VM through its guest agent, as root, without a network
///
/// No shell is in between: words after -- are the program and its arguments. Its output comes when it has ended, byte
/// by byte, and up to 16 MiB of each kind; it gets no standard input. Ends with 0 when the command did, else with 1;
/// --json tells its own exit code.
#[derive(Debug, Args)]
pub struct Exec {
    /// VMID or name
    #[arg(value_name = "VMID")]
    vm: VmRef,
    /// Seconds that the command may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    words: Vec<String>,
    #[command(flatten)]
    options: LeaveOptions,
}

impl Exec {
    /// Runs it.
    pub fn run(&self, cx: &Context) -> Result<()> {
        let permit = cx.permit(&self.vm, &self.options, Operation::Change, "run a command in")?;
        agent::check_words(&self.words)?;
        if self.options.change.dry_run {
            return cx.show(&[Call::guest_exec(&permit, &cx.node_name()?, &self.words)]);
        }
        let vmid = permit.vmid();
        let cluster = cx.connect()?;
        let deadline = Deadline::secs(self.timeout);
        let ended = agent::run(&cluster, &permit, &self.words, deadline)?;
        if cx.ui.json() {
            cx.ui.json_line(&ended)?;
        } else {
            cx.ui.bytes(&ended.out)?;
            cx.ui.foreign(&ended.err, ended.how().is_some() || ended.truncated().next().is_some());
        }
        for output in ended.truncated() {
            cx.ui.warn(format!(
                "its {output} was longer than the 16 MiB that the guest agent keeps: its end is missing"
            ));
        }
        match ended.how() {
            None => Ok(()),
            Some(how) => {
                let words: Vec<String> = self.words.iter().map(|word| quote(word)).collect();
                let failed = Error::new(Kind::Failed, format!("`{}` {how} in VM {vmid}", words.join(" ")));
                if !cx.ui.json() {
                    return Err(failed);
                }
                // What was printed says it: a second document beside it would be none to parse.
                cx.ui.warn(failed.message());
                Err(silent_exit(Kind::Failed))
            }
        }
    }
}
