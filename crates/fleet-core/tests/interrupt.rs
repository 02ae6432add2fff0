//! A wait ends when the user asks for it. In a process of its own: who asks, asks the whole process.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use fleet_core::{Kind, deadline::Deadline, interrupt};

#[test]
fn a_long_pause_hears_the_first_signal() {
    let hour = Duration::from_secs(3600);
    let paused = std::thread::spawn(move || Deadline::after(hour).pause(hour));
    interrupt::ask();
    assert_eq!(paused.join().unwrap().unwrap_err().kind(), Kind::Interrupted);
}
