# The virtual machines of the fleet: what exists, what should exist, and which VMIDs are for what.
#
# This file is the source of truth. `provision-vm NAME` makes what stands under `managed`; what stands under
# `imported` is only documented and never touched by any of the tools.
# Every field is described in README.md and docs/; a field that is not known is an error that names the nearest one.
{
  # How to reach Proxmox. `host` is an ssh_config alias, a DNS name or an address; flags and the environment
  # (PROXMOX_HOST, PROXMOX_USER, PROXMOX_NODE) go before what stands here.
  proxmox = {
    host = "prom";
    node = "prom";
    user = "root";
    defaultStorage = "nvmeprom"; # for VMs that name no storage
  };

  # Exist already. Documented so that their names, VMIDs and addresses are known to be taken.
  imported = {
    doc1 = {
      vmid = 104;
      hostname = "proxmox-vm";
      sshAlias = "doc1";
      status = "running";
      specs = {
        cores = 8;
        memory = 32768; # MiB, here and everywhere
        disk = "250G";
        storage = "nvmeprom";
      };
      purpose = "Main services VM";
      services = [ "Immich" ];
      notes = [ "MTU 1400" ];
      readonly = true;
    };

    igp = {
      vmid = 109;
      hostname = "igpu";
      sshAlias = "igp";
      specs = {
        cores = 8;
        memory = 8096;
        disk = "passthrough"; # a whole disk of the node
      };
      readonly = true;
    };
  };

  # Created and owned by these tools.
  managed = {
    test-automation = {
      vmid = 110;
      cores = 2;
      memory = 4096;
      disk = "20G";
      storage = "nvmeprom";
      nixosConfig = "test-automation"; # nixosConfigurations.NAME in flake.nix, and hosts/NAME/
      purpose = "Testing automated provisioning";
      services = [ "Testing" ];
    };
  };

  # What new VMs are cloned from. It must boot by UEFI: the disk layouts under hosts/ have an ESP.
  template = {
    vmid = 9002;
    name = "ubuntu-cloud-template";
    description = "Ubuntu cloud image with cloud-init and the QEMU guest agent, UEFI without Secure Boot";
  };

  # A managed VM may not take a VMID out of a range that is for something else.
  vmidRanges = {
    production = {
      start = 100;
      end = 199;
      description = "Production VMs and services";
    };
    containers = {
      start = 200;
      end = 299;
      description = "LXC containers";
    };
    templates = {
      start = 9000;
      end = 9999;
      description = "VM templates for cloning";
    };
  };
}
