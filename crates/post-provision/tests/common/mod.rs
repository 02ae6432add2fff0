//! What the tests share.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use post_provision::identity::Identity;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join("secrets").join(name)).unwrap()
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity::from_file(&fixtures().join(format!("identity-{name}-TEST-FIXTURE.txt"))).unwrap()
}
