//! Ctrl-C and its kin: the first asks the work to stop at the next safe point, the second leaves at once.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    Error, Result,
    ui::{self, Ui},
};

/// Exit code of who is told to leave at once: 128 and the number of SIGINT.
const LEFT: i32 = 130;

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the first SIGINT, SIGTERM or SIGHUP only sets a flag that [`check`] reads; the second ends the
/// process with exit code 130.
pub fn install() -> Result<()> {
    let flag = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the shutdown looks at the flag before this signal sets it.
        signal_hook::flag::register_conditional_shutdown(signal, LEFT, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .map_err(|e| Error::failed("can not listen for signals").caused_by(e))?;
    }
    Ok(())
}

/// As [`install`], and says so when the first signal comes: the work goes on to the next safe point, which may take a
/// while. At the second one `leaving` is said, what is true then and what to run next; a third is not kept waiting for
/// that.
pub fn announce(ui: Ui, leaving: &'static str) -> Result<()> {
    let (flag, twice) = (ASKED.get_or_init(Arc::default), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, LEFT, Arc::clone(&twice))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .map_err(|e| Error::failed("can not listen for signals").caused_by(e))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::failed("can not listen for signals").caused_by(e))?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() && !ui::asking() {
            ui.warn("stopping at the next safe point; once more leaves at once");
        }
        if signals.next().is_some() {
            twice.store(true, Ordering::Relaxed);
            ui.lanes_end();
            ui.warn(leaving);
            signal_hook::low_level::exit(LEFT);
        }
    });
    Ok(())
}

/// Asks this process to stop at the next safe point, as a first signal does.
pub fn ask() {
    ASKED.get_or_init(Arc::default).store(true, Ordering::Relaxed);
}

/// Whether somebody asked this process to stop.
pub fn asked() -> bool {
    ASKED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error of kind interrupted if somebody asked this process to stop.
pub fn check() -> Result<()> {
    if asked() { Err(Error::interrupted("stopped by the user")) } else { Ok(()) }
}
