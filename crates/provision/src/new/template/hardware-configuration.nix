# A QEMU machine with virtio-scsi disks, as Proxmox makes it. File systems come from disko.nix.
{ lib, modulesPath, ... }:
{
  imports = [ (modulesPath + "/profiles/qemu-guest.nix") ];

  boot.initrd.availableKernelModules = [
    "ahci"
    "sd_mod"
    "sr_mod"
    "virtio_pci"
    "virtio_scsi"
    "xhci_pci"
  ];

  nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux";
}
