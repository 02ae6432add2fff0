//! cloud-init documents from a fleet definition.
