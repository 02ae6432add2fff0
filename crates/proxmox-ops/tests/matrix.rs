//! The link to the node cut at each request of each verb, with the request done and not done: the verb ends, says
//! what is true, and run again ends well.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can not go on must stop")]

mod common;

use common::{Bench, KEY};
use pve_sim::faults::Fault;

#[test]
fn every_verb_with_the_link_cut_anywhere() {
    let bench = &Bench::new();
    bench.clone_110();
    // Before each run; the run; whether a lost answer may be all that is known.
    let verbs: &[(&[&str], &[&str], bool)] = &[
        (&[], &["list"], false),
        (&[], &["status", "110"], false),
        (&[], &["config", "110"], false),
        (&[], &["storage"], false),
        (&[], &["next-vmid"], false),
        (&[], &["snapshots", "110"], false),
        (&["configure", "110", "1", "1024"], &["configure", "110", "2", "2048"], true),
        (&[], &["cloudinit-config", "110", KEY], true),
        (&["destroy", "110", "yes"], &["clone", "9002", "110", "test-automation"], true),
        (&[], &["cloudinit-drive", "110"], true),
        (&[], &["resize", "110", "scsi0", "20G"], true),
        (&["stop", "110"], &["start", "110"], true),
        (&["start", "110"], &["stop", "110"], true),
    ];
    for (before, args, writes) in verbs {
        for after in 0..3 {
            // To a read it is all one whether the node had done it.
            for done in if *writes { &[true, false][..] } else { &[true] } {
                let done = *done;
                let case = format!("{args:?} after {after} done {done}");
                if !before.is_empty() {
                    bench.ok(before);
                }
                bench.sim.inject(Fault::DropLink { after, done });
                let ran = bench.run(args);
                bench.sim.clear_faults();
                let fine = ran.code == 0 || *writes && ran.code == 7;
                assert!(fine, "{case}: {} {}", ran.code, ran.err);
                if ran.code == 7 {
                    assert!(ran.err.contains("\n  "), "{case} does not say what is true: {}", ran.err);
                }
                // A clone that is there is a conflict: these verbs adopt nothing.
                let again = bench.run(args);
                let well = if args[0] == "clone" && ran.code == 0 { 4 } else { 0 };
                assert_eq!(again.code, well, "{case}, again: {}", again.err);
            }
        }
    }
}
