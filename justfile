# What one types here, in one place. `just` lists it.

set positional-arguments

# Tools run from the source tree; `cargo build --workspace` first makes siblings find each other.
export FLEET_REPO := justfile_directory()

[private]
default:
    @just --list --unsorted

# The whole way once, against a simulated node
demo *ARGS:
    env -u FLEET_REPO cargo demo "$@"

# Create (or finish creating) VMs from their definitions
provision *NAMES: build
    target/debug/provision-vm "$@"

# What `provision` would do, nothing changed
dry-run *NAMES: build
    target/debug/provision-vm --dry-run "$@"

# Compare the definitions with the cluster; exit code 2 when they differ
plan *NAMES: build
    target/debug/provision-vm plan "$@"

# Operations on the Proxmox host, such as `just ops list`
ops *ARGS: build
    target/debug/proxmox-ops "$@"

# cloud-init documents of a VM, such as `just cloud-init user-data test-automation`
cloud-init *ARGS: build
    target/debug/cloudinit-gen "$@"

# Take a VM that exists into the fleet
integrate *ARGS: build
    target/debug/post-provision-vm "$@"

# Everything that the tools need to find each other
build:
    cargo build --quiet --workspace --bins

# The fleet's files, checked without a connection
check: build
    target/debug/provision-vm check

# All tests
test *ARGS:
    cargo test --workspace "$@"

# Format the Rust sources
fmt:
    cargo fmt --all

# Lints as in CI
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, bans and sources of dependencies; advisories need the network
deny:
    cargo deny check --allow duplicate bans licenses sources

# API documentation
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

# The whole gate, as CI runs it
ci:
    .ci/run

# Known vulnerabilities in the dependencies; fetches the advisory database.
advisories:
    cargo deny check advisories
