# Imported: these tools document the machine and never change it, and this repository does not build it either.
# Its owner adds its hardware-configuration.nix here and the machine to flake.nix to have it built from here.
{ ... }:
{
  imports = [ (import ../common.nix "igp") ];

  # The integrated GPU is passed through from the node.
  hardware.graphics.enable = true;

  system.stateVersion = "24.11";
}
