//! From a definition to a running NixOS VM in the fleet, in one command.
