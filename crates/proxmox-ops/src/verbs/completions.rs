//! `proxmox-ops completions` and `proxmox-ops man`

use clap::{Args, Command};
use clap_complete::Shell;
use fleet_core::{Error, Result, ui::Ui};

/// Print the completions of a shell for this program
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Runs it.
    pub fn run(&self, ui: Ui, mut command: Command) -> Result<()> {
        let mut text = Vec::new();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name.clone(), &mut text);
        let mut text = String::from_utf8_lossy(&text).into_owned();
        if self.shell == Shell::Bash {
            // clap_complete 4.6 writes a hyphen of the program's own name in two ways, and finds no verb then.
            text = text.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
        }
        ui.data(text)
    }
}

/// Print the manual page of this program, or of one of its verbs, in roff
#[derive(Debug, Args)]
pub struct Man {
    /// A verb
    verb: Option<String>,
}

impl Man {
    /// Runs it.
    pub fn run(&self, ui: Ui, mut command: Command) -> Result<()> {
        command.build();
        let page = match &self.verb {
            None => clap_mangen::Man::new(command),
            Some(verb) => {
                let name = format!("{}-{verb}", command.get_name());
                let found = command.find_subcommand(verb).cloned().ok_or_else(|| {
                    Error::usage(format!("there is no verb '{}'", verb.escape_debug()))
                        .hint("proxmox-ops --help lists them")
                })?;
                clap_mangen::Man::new(found.display_name(name.clone())).title(name)
            }
        };
        let mut text = Vec::new();
        page.render(&mut text).map_err(|e| Error::failed("can not write the manual page").caused_by(e))?;
        ui.data(String::from_utf8_lossy(&text))
    }
}
