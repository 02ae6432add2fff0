#!/usr/bin/env bash
# How a VM came to be before these tools: a faithful transcription of the shell scripts' way, for `cargo bench -p
# provision` to measure them against. Nothing is slower here than what is known of it; what is not known (the fixed
# sleeps that it had here and there) is left out, and so is every look at storages, bridges and definitions.
#
# Given by the benchmark: NODE_PORT, VM_PORT (leads straight to the VM at whatever address it has, which the scripts
# had to find out anew), NAME, VMID, CORES, MEMORY, DISK, STORAGE, TEMPLATE, FLEET_USER, KEYS (a file), FLEET_IDENTITY,
# FLEET_KNOWN_HOSTS, BENCH (a program that does what ssh-to-age does). Runs in the fleet's repository.
set -euo pipefail

none=(-F none -o BatchMode=yes -o LogLevel=ERROR -i "$FLEET_IDENTITY")
# Every operation was a program of its own, with an `ssh` of its own: no connection was kept.
node() { ssh "${none[@]}" -o UserKnownHostsFile="$FLEET_KNOWN_HOSTS" -p "$NODE_PORT" root@127.0.0.1 "$@"; }
# A machine that is made anew has another key each time: it was not checked.
machine() {
  local user=$1
  shift
  ssh "${none[@]}" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 -p "$VM_PORT" \
    "$user@127.0.0.1" "$@"
}
step() { printf '%s %s\n' "$(date +%s.%N)" "$*" >&2; }

step 'prerequisites and conflicts'
node true
node "qm status $TEMPLATE" >/dev/null
if node "qm status $VMID" >/dev/null 2>&1; then
  echo "VM $VMID exists" >&2
  exit 1
fi

step 'clone'
node "qm clone $TEMPLATE $VMID --name $NAME --full 1 --storage $STORAGE"
step 'configure'
node "qm set $VMID --cores $CORES --memory $MEMORY"
node "qm resize $VMID scsi0 $DISK"
# Three calls for cloud-init: the drive, the keys, user and network.
node "qm set $VMID --ide2 $STORAGE:cloudinit"
node "qm set $VMID --sshkeys /dev/stdin" <"$KEYS"
node "qm set $VMID --ciuser root --ipconfig0 ip=dhcp"
step 'start'
node "qm start $VMID"

# Every five seconds, as all its polls. It also sent 254 pings at each look, which are left out.
step 'address'
until node "qm guest cmd $VMID network-get-interfaces" 2>/dev/null | grep -q '"ip-address": "192'; do sleep 5; done
step 'ssh'
until machine root true 2>/dev/null; do sleep 5; done

# All phases in one, with nothing built before. It unpacks on the machine in what is `HOME` here.
step 'nixos-anywhere'
HOME=/root nixos-anywhere --flake ".#$NAME" -i "$FLEET_IDENTITY" --ssh-port "$VM_PORT" --target-host root@127.0.0.1

step 'nixos'
until machine "$FLEET_USER" true 2>/dev/null; do sleep 5; done

# What post-provision was: the key that the network shows, and text tools.
step 'integrate'
key=$(ssh-keyscan -t ed25519 -p "$VM_PORT" 127.0.0.1 2>/dev/null | awk '{ print $2, $3 }')
age=$(printf '%s\n' "$key" | "$BENCH" --ssh-to-age)
sed -i "s|^}\$|  $NAME = { hostname = \"$NAME\"; sshAlias = \"$NAME\"; user = \"$FLEET_USER\"; homeDirectory = \"/home/$FLEET_USER\"; publicKey = \"$key\"; authorizedKeys = masterKeys; };\n}|" hosts.nix
sed -i -e "s|^creation_rules:|  - \&$NAME $age\n\ncreation_rules:|" -e "\$a\\          - *$NAME" secrets/.sops.yaml
if command -v sops >/dev/null; then
  for file in secrets/common.yaml secrets/tailscale.env; do
    # One at a time, as `find -exec` did. Asking for its own newest version is no part of it.
    SOPS_DISABLE_VERSION_CHECK=1 sops --config secrets/.sops.yaml updatekeys --yes "$file" >/dev/null 2>&1
  done
fi
git add --all
git commit --quiet --message "Add $NAME"
step 'done'
