# One disk, GPT: an ESP for systemd-boot, the rest ext4. The VM must boot by UEFI.
{
  disko.devices.disk.main = {
    type = "disk";
    device = "/dev/sda"; # scsi0 of the VM
    content = {
      type = "gpt";
      partitions = {
        ESP = {
          size = "512M";
          type = "EF00";
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = "/boot";
            mountOptions = [ "umask=0077" ];
          };
        };
        root = {
          size = "100%";
          content = {
            type = "filesystem";
            format = "ext4";
            mountpoint = "/";
          };
        };
      };
    };
  };
}
