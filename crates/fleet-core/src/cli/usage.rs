//! Command lines that are none, told as every other failure is.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches, Command, Parser, error::ErrorKind, parser::ValueSource};

use crate::{
    Error,
    ui::{ColorChoice, Ui},
};

/// The command line of a program with verbs, and perhaps with options of its own that stand before them.
pub trait Line: Parser {
    /// Its own options that mean the same before a verb that has them, too: [`Line::joined`] hands them on. All others
    /// are for the program without a verb, and refused before one.
    const BEFORE_A_VERB: &'static [&'static str] = &[];

    /// The same with these options where they are looked for: at the verb.
    #[must_use]
    fn joined(self) -> Self {
        self
    }
}

/// Reads this process's command line; else gives the exit code with which it is over: help and version were printed,
/// or what is wrong was told on standard error, and with `--json`, wherever it stands, as an object on standard output.
pub fn parse<C: Line>() -> Result<C, ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    read::<C>(&args).map_err(|wrong| {
        // A closed output must not hide the exit code.
        let _ = wrong.print();
        if wrong.use_stderr() && asks_for_json(&args) {
            let answer = serde_json::json!({ "error": error(&wrong.to_string(), &help(&C::command(), &args)).report() });
            let _ = Ui::new(ColorChoice::Never, true, false, true).json_line(&answer);
        }
        u8::try_from(wrong.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// Reads a command line. Nothing that is accepted is passed over: what stands before a verb is the verb's as well, or
/// refused, and so is what was given once before it and once after it.
pub fn read<C: Line>(args: &[OsString]) -> Result<C, clap::Error> {
    let mut command = C::command();
    let mut matches = command.try_get_matches_from_mut(args)?;
    if let Some(verb) = matches.subcommand_name() {
        before_verb(&command, &matches, verb, C::BEFORE_A_VERB)
            .or_else(|| twice(&command, args))
            .map_or(Ok(()), |said| Err(at_verb(&mut command, verb, said)))?;
    }
    C::from_arg_matches_mut(&mut matches).map(C::joined).map_err(|wrong| wrong.format(&mut command))
}

/// An argument that was given before a verb that does not get it: clap keeps it where nobody looks.
fn before_verb(command: &Command, matches: &ArgMatches, verb: &str, heard: &[&str]) -> Option<String> {
    let program = command.get_name();
    let verbs_own = command.find_subcommand(verb)?;
    let given = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    command.get_arguments().filter(|arg| !arg.is_global_set()).filter(given).find_map(|arg| {
        let known = verbs_own.get_arguments().any(|own| own.get_id() == arg.get_id());
        if known && heard.contains(&arg.get_id().as_str()) {
            return None;
        }
        let (option, said) = match shown(arg) {
            Some(option) => {
                (option.clone(), format!("the argument '{option}' can not stand before '{verb}'"))
            }
            None => {
                let word = matches.get_raw(arg.get_id().as_str()).and_then(|mut words| words.next());
                let word = word.unwrap_or_default().to_string_lossy();
                return Some(format!("'{word}' can not stand before '{verb}': a verb comes first"));
            }
        };
        Some(match known {
            true => format!("{said}\n\n  tip: put it after the verb: '{program} {verb} {option}'"),
            false => format!("{said}: it is for '{program}' without a verb"),
        })
    })
}

/// An option with a value that counts anywhere and was given twice: of two values neither is chosen in silence.
fn twice(command: &Command, args: &[OsString]) -> Option<String> {
    let words: Vec<_> = args
        .iter()
        .skip(1)
        .take_while(|arg| *arg != OsStr::new("--"))
        .map(|arg| arg.to_string_lossy())
        .collect();
    let valued = command
        .get_arguments()
        .filter(|arg| arg.is_global_set() && matches!(arg.get_action(), ArgAction::Set));
    valued.filter_map(Arg::get_long).find_map(|long| {
        let is_it = |word: &str| {
            word.strip_prefix("--")
                .and_then(|word| word.strip_prefix(long))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let given = words.iter().filter(|word| is_it(word)).count();
        (given > 1).then(|| format!("the argument '--{long}' cannot be used multiple times"))
    })
}

fn at_verb(command: &mut Command, verb: &str, said: String) -> clap::Error {
    command.build();
    match command.find_subcommand_mut(verb) {
        Some(verb) => verb.error(ErrorKind::ArgumentConflict, said),
        None => command.error(ErrorKind::ArgumentConflict, said),
    }
}

/// An option as it is typed.
fn shown(arg: &Arg) -> Option<String> {
    arg.get_long()
        .map(|long| format!("--{long}"))
        .or_else(|| arg.get_short().map(|short| format!("-{short}")))
}

/// Whether `--json` is among the arguments; words after `--` are somebody else's.
fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != OsStr::new("--")).any(|arg| arg == OsStr::new("--json"))
}

/// What clap says, as an error of ours: its first paragraph is the message, tips, usage and help are what to do next.
fn error(said: &str, help: &str) -> Error {
    let message: Vec<&str> = said.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let message = message.join(" ");
    let error = Error::usage(message.trim_start_matches("error: "));
    let hints = said.lines().map(str::trim).filter_map(|line| {
        line.strip_prefix("tip: ").map(str::to_owned).or_else(|| {
            let usage = line.strip_prefix("Usage: ")?;
            Some(format!("usage: {usage}"))
        })
    });
    hints.fold(error, Error::hint).hint(help)
}

/// The command that says what can be given: the program's help, or its verb's.
fn help(program: &Command, args: &[OsString]) -> String {
    let mut words = args.iter().skip(1).filter_map(|arg| arg.to_str());
    let verb = words.find_map(|word| program.find_subcommand(word));
    let verb = verb.map_or_else(String::new, |verb| format!("{} ", verb.get_name()));
    format!("{} {verb}--help", program.get_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::CommandFactory;

    #[derive(Debug, Parser)]
    #[command(name = "tool", version)]
    struct Tool {
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Verb {
        Configure { vmid: u32, cores: u32 },
    }

    fn told(args: &[&str]) -> (String, Vec<String>) {
        let wrong = Tool::try_parse_from(args).unwrap_err();
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let report = error(&wrong.to_string(), &help(&Tool::command(), &args)).report();
        assert_eq!(report.exit_code, 2);
        assert_eq!(i32::from(report.exit_code), wrong.exit_code());
        (report.message, report.hints)
    }

    #[test]
    fn what_clap_says_is_told_in_parts() {
        let (message, hints) = told(&["tool", "configure", "110"]);
        assert_eq!(message, "the following required arguments were not provided: <CORES>");
        assert_eq!(hints, ["usage: tool configure <VMID> <CORES>", "tool configure --help"]);
        let (message, hints) = told(&["tool", "configure", "110", "x"]);
        assert_eq!(message, "invalid value 'x' for '<CORES>': invalid digit found in string");
        assert_eq!(hints, ["tool configure --help"]);
        let (message, hints) = told(&["tool", "configur"]);
        assert_eq!(message, "unrecognized subcommand 'configur'");
        assert_eq!(
            hints,
            ["a similar subcommand exists: 'configure'", "usage: tool <COMMAND>", "tool --help"]
        );
    }

    #[derive(Debug, Parser)]
    #[command(name = "tool", subcommand_negates_reqs = true)]
    struct Both {
        #[command(subcommand)]
        verb: Option<Verb>,
        name: Option<String>,
        #[arg(long)]
        all: bool,
        #[arg(long, global = true)]
        host: Option<String>,
    }

    impl Line for Both {}

    #[test]
    fn what_stands_before_a_verb_is_not_passed_over() {
        let told = |args: &str| {
            let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
            let wrong = read::<Both>(&args).map(drop).err()?;
            assert_eq!(wrong.exit_code(), 2);
            Some(error(&wrong.to_string(), "").report().message)
        };
        let refused = |args: &str, message: &str| assert_eq!(told(args).as_deref(), Some(message), "{args}");
        let all = "the argument '--all' can not stand before 'configure': it is for 'tool' without a verb";
        refused("tool --all configure 110 2", all);
        refused("tool web configure 110 2", "'web' can not stand before 'configure': a verb comes first");
        let twice = "the argument '--host' cannot be used multiple times";
        refused("tool --host a configure 110 2 --host=b", twice);
        for fine in
            ["tool --all", "tool web", "tool --host a configure 110 2", "tool configure 110 2 --host b"]
        {
            assert_eq!(told(fine), None, "{fine}");
        }
    }

    #[test]
    fn json_is_asked_for_before_what_is_somebody_else_s() {
        let asks = |args: &[&str]| asks_for_json(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(asks(&["tool", "--json", "x"]) && asks(&["tool", "x", "--json"]));
        assert!(!asks(&["tool", "exec", "110", "--", "ip", "--json"]) && !asks(&["--json"]));
    }
}
