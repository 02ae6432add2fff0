# Pure helpers over the definitions, for people who use them from Nix.
#
#   let vms = import ./vms/lib.nix { }; in vms.managedVmids                  # without nixpkgs
#   let vms = import ./vms/lib.nix { inherit lib; }; in …                    # the same answers with it
#   let vms = import ./vms/lib.nix { definitions = import ./other.nix; }; in …
#
# Only builtins are used; `lib` is accepted so that a module's arguments can be handed on as they are.
{
  definitions ? import ./definitions.nix,
  lib ? null,
}:
let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatStringsSep
    elem
    filter
    foldl'
    genList
    head
    isInt
    isList
    isString
    length
    map
    mapAttrs
    match
    sort
    stringLength
    toString
    ;

  proxmox = definitions.proxmox or { };
  imported = definitions.imported or { };
  managed = definitions.managed or { };
  template = definitions.template or null;
  ranges = definitions.vmidRanges or { };

  ascending = sort (a: b: a < b);
  # Attribute names whose value satisfies `wanted`, in alphabetical order.
  namesWhere = wanted: set: filter (name: wanted set.${name}) (attrNames set);

  # --- VMIDs ---------------------------------------------------------------------------------------------------

  # VMIDs that no tool ever changes: every imported VM, and managed ones that say `readonly = true`.
  readonlyVmids = ascending (
    map (vm: vm.vmid) (attrValues imported ++ filter (vm: vm.readonly or false) (attrValues managed))
  );
  managedVmids = ascending (map (vm: vm.vmid) (attrValues managed));
  allVmids = ascending (
    map (vm: vm.vmid) (attrValues imported ++ attrValues managed)
    ++ (if template == null then [ ] else [ template.vmid ])
  );

  # First VMID from `start` to `end` that the definitions do not use, or null. The cluster may still use it:
  # `proxmox-ops next-vmid` asks both.
  nextVmid =
    start: end:
    let
      free = filter (vmid: !(elem vmid allVmids)) (genList (i: start + i) (if end < start then 0 else end - start + 1));
    in
    if free == [ ] then null else head free;

  nextVmidIn =
    range:
    if ranges ? ${range} then
      nextVmid ranges.${range}.start ranges.${range}.end
    else
      throw "no range '${range}' in vmidRanges (there are: ${concatStringsSep ", " (attrNames ranges)})";

  # What to give a new VM.
  suggestedVmid = if ranges ? production then nextVmidIn "production" else nextVmid 100 9999;

  # --- lookups -------------------------------------------------------------------------------------------------

  # A managed VM with its defaults filled in, as the tools see it.
  complete =
    name: vm:
    {
      inherit name;
      storage = proxmox.defaultStorage or null;
      nixosConfig = name;
      hostname = name;
      sshAlias = name;
      install = "nixos-anywhere";
      ip = "dhcp";
    }
    // vm;

  # { kind = "imported" | "managed" | "template"; name; vm; }, or null. Imported wins, as in the tools.
  find =
    name:
    if imported ? ${name} then
      {
        kind = "imported";
        inherit name;
        vm = imported.${name};
      }
    else if managed ? ${name} then
      {
        kind = "managed";
        inherit name;
        vm = complete name managed.${name};
      }
    else if template != null && (template.name or null) == name then
      {
        kind = "template";
        inherit name;
        vm = template;
      }
    else
      null;

  findByVmid =
    vmid:
    let
      names =
        namesWhere (vm: vm.vmid == vmid) imported
        ++ namesWhere (vm: vm.vmid == vmid) managed
        ++ (if template != null && template.vmid == vmid then [ template.name ] else [ ]);
    in
    if names == [ ] then null else find (head names);

  # --- safety --------------------------------------------------------------------------------------------------

  # The VMID itself when an operation that changes the VM is allowed; evaluation fails when it is not.
  assertVMOperationAllowed =
    vmid:
    let
      entry = findByVmid vmid;
    in
    if entry == null then
      throw "refused: VMID ${toString vmid} is defined nowhere"
    else if elem vmid readonlyVmids then
      throw "refused: '${entry.name}' (VMID ${toString vmid}) is ${entry.kind} and read-only"
    else if entry.kind == "template" then
      throw "refused: '${entry.name}' (VMID ${toString vmid}) is the template"
    else
      vmid;

  # --- validation ----------------------------------------------------------------------------------------------

  isDnsName =
    text:
    isString text
    && stringLength text <= 253
    && match "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*" text != null;
  isSize =
    value:
    isString value
    && match "[0-9]+([.][0-9]+)?[KMGT]" value != null
    && match "0+([.]0+)?[KMGT]" value == null;

  # Every field that a managed VM may have; anything else is a mistake in writing.
  knownFields = [
    "vmid"
    "cores"
    "memory"
    "disk"
    "storage"
    "nixosConfig"
    "hostname"
    "sshAlias"
    "user"
    "node"
    "template"
    "clone"
    "bridge"
    "vlan"
    "mac"
    "mtu"
    "ip"
    "gateway"
    "nameservers"
    "cpu"
    "onBoot"
    "tags"
    "disks"
    "timezone"
    "packages"
    "authorizedKeys"
    "install"
    "protection"
    "readonly"
    "purpose"
    "services"
    "notes"
    "secrets"
    "antiAffinity"
  ];
  # Names that mean something else to `provision-vm`.
  verbs = [
    "plan"
    "apply"
    "status"
    "new"
    "destroy"
    "log"
    "check"
    "completions"
    "man"
    "help"
  ];

  # Name of the range that a VMID lies in, or null.
  rangeOf =
    vmid:
    let
      names = namesWhere (range: range.start <= vmid && vmid <= range.end) ranges;
    in
    if names == [ ] then null else head names;

  # Faults of one managed VM, as a list of sentences; empty when it is right.
  validate =
    name:
    let
      vm = managed.${name};
      fault = wrong: text: if wrong then [ "managed.${name}: ${text}" ] else [ ];
      missing = field: fault (!(vm ? ${field})) "${field} is missing";
      number =
        field: least:
        fault (vm ? ${field} && !(isInt vm.${field} && vm.${field} >= least)) "${field} must be a number of at least ${toString least}";
      choice =
        field: choices: fault (vm ? ${field} && !(elem vm.${field} choices)) "${field} must be one of ${concatStringsSep ", " choices}";
      # Other managed VMs that say the same in a field.
      alsoWith =
        field: value: filter (other: other != name) (namesWhere (other: (other.${field} or null) == value) managed);
      vmidOk = vm ? vmid && isInt vm.vmid && vm.vmid >= 100 && vm.vmid <= 9999;
      range = if vmidOk then rangeOf vm.vmid else null;
      others =
        namesWhere (other: (other.vmid or null) == (vm.vmid or null)) imported
        ++ filter (other: other != name) (namesWhere (other: (other.vmid or null) == (vm.vmid or null)) managed)
        ++ (if template != null && template.vmid == (vm.vmid or null) then [ template.name ] else [ ]);
    in
    fault (!(isDnsName name)) "the name must be a DNS name"
    ++ fault (elem name verbs) "provision-vm has a command of this name"
    ++ fault (isDnsName name && match "[0-9]+" name != null) "a name of digits alone is read as a VMID"
    ++ map (field: "managed.${name}: ${field} is not a known field") (
      filter (field: !(elem field knownFields)) (attrNames vm)
    )
    ++ missing "vmid"
    ++ missing "cores"
    ++ missing "memory"
    ++ missing "disk"
    ++ fault (vm ? vmid && !vmidOk) "vmid must be a number from 100 to 9999"
    ++ fault (range == "templates" || range == "containers") "VMID ${toString vm.vmid} is in the range '${range}', which is for something else"
    ++ fault (vm ? vmid && others != [ ]) "VMID ${toString vm.vmid} is also that of ${concatStringsSep ", " others}"
    ++ fault (imported ? ${name}) "an imported VM has this name too"
    ++ fault (template != null && (template.name or null) == name) "the template has this name too"
    ++ fault (vm ? ip && vm.ip != "dhcp" && alsoWith "ip" vm.ip != [ ]) "address ${vm.ip} is also that of ${concatStringsSep ", " (alsoWith "ip" vm.ip)}"
    ++ fault (vm ? mac && alsoWith "mac" vm.mac != [ ]) "MAC address ${vm.mac} is also that of ${concatStringsSep ", " (alsoWith "mac" vm.mac)}"
    ++ choice "clone" [
      "full"
      "linked"
    ]
    ++ choice "install" [
      "nixos-anywhere"
      "image"
      "none"
    ]
    # "auto" too: the node with the most room.
    ++ fault (vm ? node && !(isString vm.node && match "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?" vm.node != null)) "node must be the name of a node, or \"auto\""
    ++ fault (vm ? antiAffinity && !(isString vm.antiAffinity || isList vm.antiAffinity && all isString vm.antiAffinity)) "antiAffinity must be a name or a list of names"
    ++ number "cores" 1
    ++ number "memory" 512
    ++ fault (vm ? disk && !(isSize vm.disk)) "disk must be a size such as 512M, 20G or 1T"
    ++ fault ((complete name vm).storage == null) "storage is missing, and so is proxmox.defaultStorage";

  # Faults of all managed VMs.
  faults = foldl' (found: name: found ++ validate name) [ ] (attrNames managed);

  # --- for people ----------------------------------------------------------------------------------------------

  # "2 cores, 4096 MiB, 20G on nvmeprom"; takes an imported or a managed VM.
  formatSpecs =
    vm:
    let
      specs = (vm.specs or { }) // vm;
      part = has: text: if has then [ text ] else [ ];
      storage = if specs ? storage && specs.storage != null then " on ${specs.storage}" else "";
    in
    concatStringsSep ", " (
      part (specs ? cores) "${toString specs.cores} ${if specs.cores == 1 then "core" else "cores"}"
      ++ part (specs ? memory) "${toString specs.memory} MiB"
      ++ part (specs ? disk) "${specs.disk}${storage}"
    );

  summary = {
    imported = length (attrNames imported);
    managed = length (attrNames managed);
    cores = foldl' (sum: vm: sum + (vm.cores or 0)) 0 (attrValues managed);
    memory = foldl' (sum: vm: sum + (vm.memory or 0)) 0 (attrValues managed);
    vms =
      mapAttrs (_: vm: "${toString vm.vmid}: ${formatSpecs vm}, imported") imported
      // mapAttrs (name: vm: "${toString vm.vmid}: ${formatSpecs (complete name vm)}") managed;
  };
in
{
  inherit
    readonlyVmids
    managedVmids
    allVmids
    nextVmid
    nextVmidIn
    suggestedVmid
    find
    findByVmid
    rangeOf
    assertVMOperationAllowed
    validate
    faults
    formatSpecs
    summary
    ;
}
