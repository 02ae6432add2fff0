//! A stand-in for `nix`: it "builds" a host's disko script and system in an instant and without any package, and
//! leaves everything else to the genuine nix, where there is one.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use fleet_core::{
    child::{Command, quote},
    ui::{ColorChoice, Ui},
};

use crate::anywhere::{System, evaluate};

/// What can be built: attributes of `config.system.build`.
const SYSTEM: &str = "toplevel";
const DISKO: &str = "diskoScript";
const IMAGE: &str = "diskoImagesScript";

/// Runs the stand-in with these arguments.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let ui = Ui::new(ColorChoice::Never, false, false, false);
    let arguments: Vec<String> = arguments.collect();
    let wanted: Vec<Installable> = arguments.iter().filter_map(|word| Installable::read(word)).collect();
    if wanted.is_empty() || !arguments.iter().any(|word| word == "build") {
        return genuine(ui, &arguments);
    }
    match build(&wanted) {
        Ok(answer) => {
            // Who does not want to hear it may leave.
            let _ = ui.data(format!("{answer}\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            ui.say(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// `DIR#nixosConfigurations."NAME".config.system.build.WHAT`.
struct Installable {
    dir: String,
    name: String,
    what: &'static str,
}

impl Installable {
    fn read(word: &str) -> Option<Installable> {
        let (dir, attribute) = word.split_once("#nixosConfigurations.")?;
        let (name, what) = attribute.split_once(".config.system.build.")?;
        let what = [SYSTEM, DISKO, IMAGE].into_iter().find(|known| *known == what)?;
        Some(Installable { dir: dir.to_owned(), name: name.trim_matches('"').to_owned(), what })
    }
}

fn build(wanted: &[Installable]) -> Result<serde_json::Value> {
    let mut rows = Vec::new();
    for installable in wanted {
        let System { path, closure } = evaluate(&installable.dir, &installable.name)?;
        let name = Path::new(&path).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let out = match installable.what {
            SYSTEM => {
                let out = store().join(name);
                let etc = out.join("etc");
                std::fs::create_dir_all(&etc).with_context(|| format!("can not create {}", etc.display()))?;
                write(&etc.join("hostname"), format!("{}\n", closure.hostname).as_bytes())?;
                write(&out.join("simulated.json"), &serde_json::to_vec(&closure)?)?;
                out
            }
            IMAGE => {
                let out = store().join(name.replace("-nixos-system-", "-disko-images-"));
                write(&out, image_script(&serde_json::to_string(&closure)?).as_bytes())?;
                out
            }
            _ => {
                let out = store().join(name.replace("-nixos-system-", "-disko-"));
                write(&out, b"#!/bin/sh\n")?;
                out
            }
        };
        rows.push(
            serde_json::json!({ "drvPath": format!("{}.drv", out.display()), "outputs": { "out": out } }),
        );
    }
    // Nix sorts them by their hashes.
    rows.reverse();
    Ok(rows.into())
}

/// Makes an "image" in the directory where it is run: a boot sector, and behind it who the system will be and the host
/// key that it is given.
fn image_script(about: &str) -> String {
    format!(
        r#"#!/bin/sh
set -eu
key=/dev/null
while [ $# -gt 0 ]; do
  case "$1" in
  --post-format-files)
    case "$3" in etc/ssh/ssh_host_ed25519_key) key=$2 ;; esac
    shift 3
    ;;
  --build-memory) shift 2 ;;
  *) exit 1 ;;
  esac
done
{{ head -c 510 /dev/zero; printf '\125\252%s
' {}; cat "$key"; }} > main.raw
truncate -s %512 main.raw
"#,
        quote(about)
    )
}

/// Gone with the temporary directory of whoever asked.
fn store() -> PathBuf {
    std::env::temp_dir().join("simulated-store")
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        std::fs::write(path, content)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("can not write {}", path.display()))
}

fn genuine(ui: Ui, arguments: &[String]) -> ExitCode {
    let outcome = find().and_then(|nix| Ok(Command::new(nix).args(arguments).foreground().interactive()?));
    match outcome {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            ui.say(format!("{error:#}"));
            ExitCode::from(127)
        }
    }
}

/// The next `nix` on PATH that is not this program.
fn find() -> Result<PathBuf> {
    let me =
        std::env::current_exe().and_then(|path| path.canonicalize()).context("can not find this program")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|dir| dir.join("nix"));
    match places.filter_map(|nix| nix.canonicalize().ok()).find(|nix| nix.is_file() && *nix != me) {
        Some(nix) => Ok(nix),
        None => bail!("nix: not installed; this stand-in only builds what provision-vm asks for"),
    }
}
