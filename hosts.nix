# Every host of the fleet: who it is, the key it proves itself with, and who may log in.
#
# The keys in this file belong to the demo. The private half of `master-fleet-identity` is public, in
# crates/pve-sim/fixtures/: replace both master keys with your own before you point anything at a real machine.
let
  # May log in everywhere.
  masterKeys = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMhYXQSOgHE+oBScuahDN238BE0yAfY11SzzS2QJOHE6 master-fleet-identity"
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBc5stXEZlclS40+LX5q6yryvBRdwNJjbj3DTH8nwttA fleet@thinkpad" # the laptop below, when the operator is on the road
  ];
in
{
  # --- virtual machines -------------------------------------------------------------------------------------

  doc1 = {
    configurationFile = ./hosts/doc1/configuration.nix;
    homeFile = ./hosts/doc1/home.nix;
    user = "fleet";
    homeDirectory = "/home/fleet";
    hostname = "proxmox-vm";
    sshAlias = "doc1";
    sshKeyName = "id_ed25519";
    publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFgJbGZrsBEeRIA6LPuES08tiHfwujHsftm+n3YYE4pw root@doc1";
    authorizedKeys = masterKeys;
  };

  igp = {
    configurationFile = ./hosts/igp/configuration.nix;
    homeFile = ./hosts/igp/home.nix;
    user = "fleet";
    homeDirectory = "/home/fleet";
    hostname = "igpu";
    sshAlias = "igp";
    sshKeyName = "id_ed25519";
    publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpqqbAlm7gbQP0gWvxD3B0v9r1opv8K3S+WIul5JR3e root@igp";
    authorizedKeys = masterKeys;
  };

  # --- everything else --------------------------------------------------------------------------------------

  # Not NixOS: no configurationFile. Nobody logs in there either.
  thinkpad = {
    user = "operator";
    homeDirectory = "/home/operator";
    hostname = "thinkpad";
    sshAlias = "thinkpad";
    sshKeyName = "id_ed25519";
    publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqmBvY8g+/GV17q56UYCmD9jOxIDq0TmSc7K+u4wB7L root@thinkpad"; # of its sshd, which runs at home only
  };
}
