//! cloud-init documents from a fleet definition.

fn main() {}
