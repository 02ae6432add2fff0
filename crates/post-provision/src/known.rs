//! The VM's line in the fleet's known hosts. That file is no part of the repository: what goes wrong with it is told
//! and undoes nothing.

use fleet_core::{dirs, known_hosts, ui::Ui};

use crate::recipient::HostKey;

/// Records the VM's key under its name.
pub(crate) fn record(name: &str, key: &HostKey, ui: Ui) {
    let Some(file) = known_hosts::file() else { return };
    match known_hosts::record(&file, name, &key.line()) {
        Ok(true) => ui.detail(format!("recorded {name} in {}", file.display())),
        Ok(false) => {}
        Err(error) => ui.warn(error.chain()),
    }
}

/// Takes the VM out, and says where else its key is known: the user's own file is the user's.
pub(crate) fn forget(name: &str, key: Option<&HostKey>, ui: Ui) {
    let line = key.map(HostKey::line);
    if let Some(file) = known_hosts::file() {
        match known_hosts::forget(&file, name, line.as_deref()) {
            Ok(true) => ui.done(format!("'{name}' is out of the known hosts in {}", file.display())),
            Ok(false) => {}
            Err(error) => ui.warn(error.chain()),
        }
    }
    let own = dirs::home().map(|home| home.join(".ssh/known_hosts"));
    if let (Some(own), Some(line)) = (own, line) {
        let lines: Vec<String> = known_hosts::lines_with(&own, &line).iter().map(usize::to_string).collect();
        if !lines.is_empty() {
            ui.hint(format!("its key is in {} too, line {}", own.display(), lines.join(", ")));
        }
    }
}
