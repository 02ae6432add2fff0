# Imported: these tools document the machine and never change it, and this repository does not build it either.
# Its owner adds its hardware-configuration.nix here and the machine to flake.nix to have it built from here.
{ ... }:
{
  imports = [ (import ../common.nix "doc1") ];

  # The uplink is a tunnel.
  systemd.network.networks."10-uplink".linkConfig.MTUBytes = "1400";

  system.stateVersion = "24.11";
}
