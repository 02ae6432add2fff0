# What every NixOS machine of the fleet has: the fleet's user, OpenSSH by key only, its uplink, the guest agent,
# Tailscale.
#
# `name` is the machine's attribute name in hosts.nix. A machine that is being made has no entry there yet: then
# the keys that all hosts share may log in, as the tools do it.
name:
{ lib, ... }:
let
  hosts = import ../hosts.nix;
  entry = hosts.${name} or { };
  keyLists = lib.catAttrs "authorizedKeys" (lib.attrValues hosts);
  sharedKeys = if keyLists == [ ] then [ ] else lib.foldl' lib.intersectLists (lib.head keyLists) keyLists;
  user = entry.user or "fleet";
in
{
  networking.hostName = lib.mkDefault (entry.hostname or name);

  users.users.${user} = {
    isNormalUser = true;
    home = entry.homeDirectory or "/home/${user}";
    extraGroups = [ "wheel" ];
    openssh.authorizedKeys.keys = entry.authorizedKeys or sharedKeys;
  };
  # There is no password to ask for: whoever holds a key of the fleet is root.
  security.sudo.wheelNeedsPassword = false;

  services.openssh = {
    enable = true;
    settings = {
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
      PermitRootLogin = "no";
    };
    # The key that is handed to the machine before its first boot; from it comes its age recipient.
    hostKeys = [
      {
        type = "ed25519";
        path = "/etc/ssh/ssh_host_ed25519_key";
      }
    ];
  };

  # The MAC address is the DHCP client's identity, as with the cloud image and the installer before: the machine
  # keeps its address through the installation.
  networking.useNetworkd = true;
  networking.useDHCP = false;
  systemd.network.networks."10-uplink" = {
    matchConfig = {
      Type = "ether";
      Kind = "!*"; # real interfaces only, no bridges or veths
    };
    networkConfig.DHCP = "yes";
    dhcpV4Config.ClientIdentifier = "mac";
  };

  services.qemuGuest.enable = true;
  services.tailscale.enable = true;

  nix.settings.experimental-features = [
    "nix-command"
    "flakes"
  ];
}
