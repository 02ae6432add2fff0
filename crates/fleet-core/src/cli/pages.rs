//! The verbs `completions` and `man` that every tool has: what a shell and `man` know of it, made from its command
//! line, so that they can not say anything else than `--help` does.

use std::{fs, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::{Error, Result, ui::Ui};

/// Print the completions of a shell for this program
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints them for the program whose command line `command` is.
    pub fn run(&self, ui: Ui, mut command: Command) -> Result<()> {
        let mut text = Vec::new();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name.clone(), &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        ui.data(match self.shell {
            // clap_complete 4.6 writes a hyphen of the program's own name in two ways, and finds no verb then.
            Shell::Bash => text.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")),
            Shell::Zsh => verb_first(&text, &command),
            _ => text,
        })
    }
}

/// clap_complete 4.6 lets the words of a program that has verbs as well come before them: zsh then takes the verb for
/// such a word, and completes none of its options. As everywhere else, a verb comes first.
fn verb_first(text: &str, command: &Command) -> String {
    let verbs = format!("\":: :_{}_commands\"", command.get_name());
    let (words, Some((before, after))) = (command.get_positionals().count(), text.split_once(&verbs)) else {
        return text.to_owned();
    };
    let lines: Vec<&str> = before.split_inclusive('\n').collect();
    let before = lines[..lines.len().saturating_sub(words)].concat();
    format!("{before}{verbs}{}", after.replace(&format!("$line[{}]", words + 1), "$line[1]"))
}

/// Print the manual page of this program or of one of its verbs, in roff, or write them all
#[derive(Debug, Args)]
pub struct Man {
    /// A verb
    #[arg(conflicts_with = "output_dir")]
    verb: Option<String>,
    /// Write the pages of the program and of every verb into this directory, as PROGRAM.1 and PROGRAM-VERB.1
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

impl Man {
    /// Prints or writes them for the program whose command line `command` is.
    pub fn run(&self, ui: Ui, command: Command) -> Result<()> {
        let program = command.get_name().to_owned();
        let mut pages = pages(command)?;
        if let Some(dir) = &self.output_dir {
            fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
            for (name, text) in &pages {
                let file = dir.join(format!("{name}.1"));
                fs::write(&file, text).map_err(|e| Error::io("write", &file, e))?;
            }
            ui.done(format!("{} manual pages are in {}", pages.len(), dir.display()));
            return Ok(());
        }
        let wanted = match &self.verb {
            Some(verb) => format!("{program}-{verb}"),
            None => program.clone(),
        };
        let found = pages.iter().position(|(name, _)| *name == wanted).ok_or_else(|| {
            Error::usage(format!("there is no verb '{}'", wanted[program.len() + 1..].escape_debug()))
                .hint(format!("{program} --help lists them"))
        })?;
        ui.data(pages.swap_remove(found).1)
    }
}

/// Each page's name and its text: the program's, then one for every verb.
fn pages(command: Command) -> Result<Vec<(String, String)>> {
    let source = format!("{} {}", command.get_name(), command.get_version().unwrap_or_default());
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let verbs: Vec<Command> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    let page = |command: Command| {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let mut text = Vec::new();
        Page::new(command)
            .source(&source)
            .manual("Fleet tools")
            .render(&mut text)
            .map_err(|e| Error::failed("can not make the manual page").caused_by(e))?;
        Ok((name, String::from_utf8_lossy(&text).into_owned()))
    };
    std::iter::once(command).chain(verbs).map(page).collect()
}
