# A machine that is there to be made again and again.
{ ... }:
{
  imports = [
    (import ../common.nix "test-automation")
    ./hardware-configuration.nix
    ./disko.nix
  ];

  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = true;
  # The Proxmox console shows the serial port, like the cloud image's before it.
  boot.kernelParams = [
    "console=tty0"
    "console=ttyS0,115200"
  ];

  time.timeZone = "Etc/UTC";
  system.stateVersion = "25.05";
}
