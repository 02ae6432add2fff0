//! Directories of the user who runs a tool.

use std::path::PathBuf;

/// The home directory: `$HOME`, or the one that the system has for the user where that is not set (cron, systemd).
/// `None` for somebody without one.
pub fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// `$XDG_STATE_HOME/fleet`, by default below `~/.local/state` (XDG Base Directory Specification, which lets only absolute
/// paths count). `None` for somebody without a home.
pub fn state() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Some(state.or_else(|| Some(home()?.join(".local/state")))?.join("fleet"))
}
