//! What was recorded of the genuine API, where it is at hand.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// The directory with the recordings and the schema: `FLEET_SHARED/pve-api`, else `../shared/pve-api` beside this
/// repository. Without it the test is skipped, which is said past the test harness; it fails instead where something asks
/// for it.
pub(crate) fn pve_api() -> Option<PathBuf> {
    let named = std::env::var_os("FLEET_SHARED").map(PathBuf::from);
    let asked = named.is_some()
        || (std::env::var_os("FLEET_REQUIRE_ORACLES").is_some()
            && std::env::var_os("FLEET_WITHOUT_RECORDINGS").is_none());
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let dir = named.unwrap_or_else(beside).join("pve-api");
    if dir.join("schema.json").is_file() {
        return Some(dir);
    }
    assert!(!asked, "there is no {}/schema.json", dir.display());
    #[allow(clippy::explicit_write, reason = "the test harness keeps what the macros print")]
    writeln!(std::io::stderr(), "skipped: no {} with recordings of the genuine API", dir.display()).unwrap();
    None
}
