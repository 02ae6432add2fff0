//! Command lines that are none, told as every other failure is.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use clap::{Command, Parser};

use crate::{
    Error,
    ui::{ColorChoice, Ui},
};

/// Reads this process's command line; else gives the exit code with which it is over: help and version were printed,
/// or what is wrong was told on standard error, and with `--json`, wherever it stands, as an object on standard output.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    C::try_parse_from(&args).map_err(|wrong| {
        // A closed output must not hide the exit code.
        let _ = wrong.print();
        if wrong.use_stderr() && asks_for_json(&args) {
            let answer = serde_json::json!({ "error": error(&wrong.to_string(), &help(&C::command(), &args)).report() });
            let _ = Ui::new(ColorChoice::Never, true, false, true).json_line(&answer);
        }
        u8::try_from(wrong.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
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

    #[test]
    fn json_is_asked_for_before_what_is_somebody_else_s() {
        let asks = |args: &[&str]| asks_for_json(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(asks(&["tool", "--json", "x"]) && asks(&["tool", "x", "--json"]));
        assert!(!asks(&["tool", "exec", "110", "--", "ip", "--json"]) && !asks(&["--json"]));
    }
}
