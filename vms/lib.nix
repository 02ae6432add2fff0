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
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    fromJSON
    fromTOML
    genList
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    mapAttrs
    match
    replaceStrings
    sort
    split
    stringLength
    toString
    ;

  # What is no set is a fault; the helpers go on with what is right.
  set = value: if isAttrs value then value else { };
  entries = value: mapAttrs (_: set) (set value);

  proxmox = set (definitions.proxmox or { });
  imported = entries (definitions.imported or { });
  managed = entries (definitions.managed or { });
  template = if isAttrs (definitions.template or null) then definitions.template else null;
  ranges = entries (definitions.vmidRanges or { });

  ascending = sort (a: b: a < b);
  # Attribute names whose value satisfies `wanted`, in alphabetical order.
  namesWhere = wanted: set: filter (name: wanted set.${name}) (attrNames set);

  # --- VMIDs ---------------------------------------------------------------------------------------------------

  vmidsOf = vms: filter isInt (map (vm: vm.vmid or null) vms);
  isReadonly = vm: (vm.readonly or false) == true;
  # VMIDs that no tool ever changes: every imported VM, and managed ones that say `readonly = true`.
  readonlyVmids = ascending (vmidsOf (attrValues imported ++ filter isReadonly (attrValues managed)));
  managedVmids = ascending (vmidsOf (attrValues managed));
  allVmids = ascending (
    vmidsOf (attrValues imported ++ attrValues managed ++ (if template == null then [ ] else [ template ]))
  );

  # Ranges that managed VMs leave to others.
  reservedRanges = [
    "containers"
    "templates"
  ];
  reserved = filter (range: within range range.start) (
    map (name: ranges.${name}) (filter (name: ranges ? ${name}) reservedRanges)
  );
  isReserved = vmid: builtins.any (range: within range vmid) reserved;

  # The lowest VMID from `start` to `end` that the definitions do not use, or null; `others`: also one of a reserved range.
  lowest =
    others: start: end:
    let
      used = listToAttrs (
        map (vmid: {
          name = toString vmid;
          value = null;
        }) allVmids
      );
      isFree = vmid: isVmid vmid && start <= vmid && vmid <= end && !(used ? ${toString vmid}) && (others || !(isReserved vmid));
      # The first one that is free is the first of all, or it comes after one that is not.
      free = filter isFree (
        [ start ] ++ map (vmid: vmid + 1) (allVmids ++ map (range: range.end) reserved)
      );
    in
    if free == [ ] then null else foldl' (a: b: if b < a then b else a) (head free) free;

  # The lowest VMID from `start` to `end`, both included, that the definitions do not use, or null. What is reserved for
  # something else is passed over, unless `start` is in it. The cluster may still use it: `proxmox-ops next-vmid START END`
  # asks both.
  nextVmid =
    start: end:
    let
      first = if start < 100 then 100 else start;
    in
    lowest (isReserved first) first end;

  # The same in a range of `vmidRanges`: for a managed VM up to 9999 and nothing that is reserved, but in a reserved range
  # any that it has.
  nextVmidIn =
    range:
    if !(ranges ? ${range}) then
      throw "no range '${range}' in vmidRanges (there are: ${concatStringsSep ", " (attrNames ranges)})"
    else if elem range reservedRanges then
      lowest true ranges.${range}.start ranges.${range}.end
    else
      lowest false ranges.${range}.start (atMost 9999 ranges.${range}.end);
  atMost = most: number: if number < most then number else most;

  # What to give a new VM: the lowest free VMID of `production`, else of the range for VMs that begins lowest, else from
  # 100 on; none that is reserved or that no managed VM may have.
  suggestedVmid =
    let
      names = filter (name: !(elem name reservedRanges)) (attrNames ranges);
      first = foldl' (a: b: if ranges.${b}.start < ranges.${a}.start then b else a) (head names) names;
    in
    if ranges ? production then
      nextVmidIn "production"
    else if names == [ ] then
      lowest false 100 9999
    else
      nextVmidIn first;

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
        namesWhere (vm: (vm.vmid or null) == vmid) imported
        ++ namesWhere (vm: (vm.vmid or null) == vmid) managed
        ++ (if template != null && (template.vmid or null) == vmid then [ (template.name or null) ] else [ ]);
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

  # What a value may be: each takes any value and says whether it is right.
  matches = most: pattern: text: isString text && stringLength text <= most && match pattern text != null;
  between = low: high: value: isInt value && low <= value && value <= high;
  listOf = right: value: isList value && all right value;
  oneOf = choices: value: isString value && elem value choices;

  label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
  isDnsName = matches 253 "${label}([.]${label})*";
  isNodeName = matches 63 label;
  isStorage = matches 100 "[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]";
  isComponent = matches 4096 "[A-Za-z0-9_][A-Za-z0-9._-]*";
  isWord = matches 4096 "[^-[:space:][:cntrl:]][^[:space:][:cntrl:]]*";
  isVmid = between 100 999999999;
  # Six bytes, of one machine and not of a group, not all zero.
  isMac = text: matches 17 "[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}" text && text != "00:00:00:00:00:00";

  # The number that digits stand for.
  numberOf = digits: fromJSON (head (match "0*(0|[1-9][0-9]*)" digits));
  power = base: exponent: foldl' (product: _: product * base) 1 (genList (i: i) exponent);
  # At least one byte and at most an exbibyte.
  isSize =
    value:
    let
      parts = if isString value then match "([0-9]{1,12})([.]([0-9]{1,12}))?([KMGT])" value else null;
      whole = numberOf (elemAt parts 0);
      digits = if elemAt parts 2 == null then "0" else elemAt parts 2;
      fraction = numberOf digits;
      unit = power 1024 { K = 1; M = 2; G = 3; T = 4; }.${elemAt parts 3};
      most = power 1024 6 / unit;
    in
    parts != null
    && (whole > 0 || fraction > (power 10 (stringLength digits) - 1) / unit)
    && (whole < most || whole == most && fraction == 0);

  # The parts of a text between separators.
  partsOf = separator: text: filter isString (split separator text);
  # An address as { width; parts; }: four parts of 8 bits or eight of 16. null if it is none.
  ipv4 =
    text:
    let
      parts = partsOf "[.]" text;
      valid = length parts == 4 && all (part: match "0|[1-9][0-9]{0,2}" part != null && fromJSON part < 256) parts;
    in
    if valid then map fromJSON parts else null;
  hexadecimal = part: (fromTOML "n = 0x${part}").n;
  ipv6 =
    text:
    let
      halves = partsOf "::" text;
      # The groups of one side; an IPv4 address may stand at the very end.
      groups =
        last: side:
        let
          parts = if side == "" then [ ] else partsOf ":" side;
          tail = elemAt parts (length parts - 1);
          four = if last && parts != [ ] && match ".*[.].*" tail != null then ipv4 tail else null;
          plain = if four == null then parts else genList (elemAt parts) (length parts - 1);
          converted =
            if four == null then
              [ ]
            else
              [
                (elemAt four 0 * 256 + elemAt four 1)
                (elemAt four 2 * 256 + elemAt four 3)
              ];
        in
        if all (part: match "[0-9A-Fa-f]{1,4}" part != null) plain then map hexadecimal plain ++ converted else null;
      left = groups (length halves == 1) (head halves);
      right = groups true (elemAt halves 1);
      zeros = 8 - length left - length right;
    in
    if length halves == 1 then
      (if left != null && length left == 8 then left else null)
    else if length halves != 2 || left == null || right == null || zeros < 1 then
      null
    else
      left ++ genList (_: 0) zeros ++ right;
  # `prom`, `prom:2222`, `192.0.2.7`, `fd00::5`, `[fd00::5]:2222`; a zone may follow an address.
  isHost =
    text:
    let
      isSix =
        address:
        let
          bare = head (split "%" address);
        in
        match "[0-9A-Fa-f:.]+" bare != null && ipv6 bare != null;
      inBrackets = match "\\[([^]]*)](:(.*))?" text;
      named = match "([^:]*)(:([^:]*))?" text;
      isName = match "([A-Za-z0-9._:%~+-]|[^ -~])+";
      isPort =
        port: port == null || match "0*[1-9][0-9]{0,4}" port != null && numberOf port < 65536;
    in
    isWord text
    && (
      if match "\\[.*" text != null then
        inBrackets != null
        && isSix (head inBrackets)
        && isName (head inBrackets) != null
        && isPort (elemAt inBrackets 2)
      else if isSix text then
        isName text != null
      else
        named != null && isName (head named) != null && isPort (elemAt named 2)
    );
  addressOf =
    text:
    let
      four = if isString text then ipv4 text else null;
      six = if isString text && match "[0-9A-Fa-f:.]+" text != null then ipv6 text else null;
    in
    if four != null then
      {
        width = 8;
        parts = four;
      }
    else if six != null then
      {
        width = 16;
        parts = six;
      }
    else
      null;
  # An address with its prefix, or null.
  networkOf =
    text:
    let
      parts = if isString text then match "([^/]*)/[+]?([0-9]{1,20})" text else null;
      address = if parts == null then null else addressOf (head parts);
      digits = head (match "0*([0-9]*)" (elemAt parts 1));
      prefix = if digits == "" || stringLength digits > 3 then 0 else numberOf digits;
    in
    if address != null && 1 <= prefix && prefix <= address.width * length address.parts then
      address // { inherit prefix; }
    else
      null;
  # The address in a text that may have a prefix.
  anyAddress =
    text:
    let
      network = networkOf text;
    in
    if network == null then addressOf text else removeAttrs network [ "prefix" ];
  # Of each part of an address: how many of its bits belong to the machine.
  hostBits =
    network:
    genList (
      i:
      let
        fixed = network.prefix - i * network.width;
      in
      if fixed <= 0 then
        network.width
      else if fixed >= network.width then
        0
      else
        network.width - fixed
    ) (length network.parts);
  parted = network: of: genList (i: of (elemAt network.parts i) (power 2 (elemAt (hostBits network) i))) (length network.parts);
  inNetwork =
    network: address:
    network.width == address.width
    && parted network (part: size: part / size) == parted (network // { inherit (address) parts; }) (part: size: part / size);
  # No machine has the first or the last address of an IPv4 network.
  isNoMachine =
    network:
    network.width == 8
    && network.prefix < 31
    && (
      all (part: part == 0) (parted network (part: size: part - part / size * size))
      || all (rest: rest == 1) (parted network (part: size: size - (part - part / size * size)))
    );
  isLinkLocal = address: address.width == 16 && head address.parts / 64 == 1018; # fe80::/10

  isText = isString;
  isTexts = listOf isString;
  oneOrMore = value: isString value || isTexts value;
  isDisk =
    disk:
    isSize disk
    ||
      isAttrs disk
      && isSize (disk.size or null)
      && (disk ? storage -> isStorage disk.storage)
      && removeAttrs disk [
        "size"
        "storage"
      ] == { };

  # Fields of a managed VM: what each may be, and how that is said.
  fields = {
    vmid = [ (between 100 9999) "a number from 100 to 9999" ];
    cores = [ (between 1 4294967295) "a number of at least 1" ];
    memory = [ (value: isInt value && value >= 512) "a number of at least 512" ];
    disk = [ isSize "a size such as 512M, 20G or 1T" ];
    storage = [ isStorage "the name of a storage" ];
    nixosConfig = [ isComponent "the name of a directory under hosts/" ];
    hostname = [ isDnsName "a DNS name" ];
    sshAlias = [ isComponent "letters, digits, '-', '_' and '.'" ];
    user = [ (matches 32 "[a-z_][a-z0-9_-]*") "the name of a user" ];
    node = [ isNodeName "the name of a node, or \"auto\"" ];
    template = [ isVmid "a VMID" ];
    clone = [ (oneOf [ "full" "linked" ]) "one of full, linked" ];
    bridge = [ (matches 15 "[A-Za-z][A-Za-z0-9_.-]*") "the name of a network interface" ];
    vlan = [ (between 1 4094) "a number from 1 to 4094" ];
    mac = [ isMac "an address such as BC:24:11:00:00:01" ];
    mtu = [ (between 576 65520) "a number from 576 to 65520" ];
    ip = [
      (text: text == "dhcp" || networkOf text != null && !(isNoMachine (networkOf text)))
      "\"dhcp\", or a machine's address with its prefix, such as 192.0.2.10/24"
    ];
    gateway = [ (text: addressOf text != null) "an address" ];
    nameservers = [ (listOf (text: addressOf text != null)) "a list of addresses" ];
    cpu = [ (matches 4096 "[A-Za-z0-9_.,=+;:-]+") "a CPU type" ];
    onBoot = [ isBool "true or false" ];
    tags = [ (listOf (matches 124 "[a-z0-9_][a-z0-9_+.-]*")) "a list of tags" ];
    disks = [ (listOf isDisk) "a list of sizes and of { size; storage; }" ];
    timezone = [ (matches 4096 "[A-Za-z0-9/_+-]+") "the name of a time zone" ];
    packages = [ (listOf (matches 4096 "[A-Za-z0-9][A-Za-z0-9+.:=~_-]*")) "a list of packages" ];
    authorizedKeys = [ (listOf (text: isString text && match ".*[a-z].* .*" text != null)) "a list of public keys" ];
    install = [ (oneOf [ "nixos-anywhere" "image" "none" ]) "one of nixos-anywhere, image, none" ];
    protection = [ isBool "true or false" ];
    readonly = [ isBool "true or false" ];
    purpose = [ isText "text" ];
    services = [ isTexts "a list of texts" ];
    notes = [ isTexts "a list of texts" ];
    secrets = [ oneOrMore "text, or a list of texts" ];
    antiAffinity = [ oneOrMore "a name or a list of names" ];
  };
  # Of the sets that only say what is there: other fields are their owner's own.
  importedFields = {
    vmid = [ isVmid "a VMID" ];
    hostname = [ isText "text" ];
    sshAlias = [ isText "text" ];
    status = [ isText "text" ];
    specs = [ isAttrs "a set" ];
    node = [ isText "text" ];
    ip = [ (text: text == "dhcp" || anyAddress text != null) "an address" ];
    purpose = [ isText "text" ];
    services = [ isTexts "a list of texts" ];
    notes = [ isTexts "a list of texts" ];
    readonly = [ isBool "true or false" ];
  };
  specsFields = {
    cores = [ (between 1 4294967295) "a number of at least 1" ];
    memory = [ (value: isInt value && value >= 1) "a number of at least 1" ];
    disk = [ isText "text" ];
    storage = [ isText "text" ];
  };
  templateFields = {
    vmid = [ isVmid "a VMID" ];
    name = [ isDnsName "a DNS name" ];
    description = [ isText "text" ];
  };
  rangeFields = {
    start = [ isVmid "a VMID" ];
    end = [ isVmid "a VMID" ];
    description = [ isText "text" ];
  };
  proxmoxFields = {
    host = [ isHost "an ssh_config alias, a DNS name or an address, with a port HOST:PORT or [IPV6]:PORT" ];
    node = [ isNodeName "the name of a node" ];
    user = [ isWord "a login name" ];
    defaultStorage = [ isStorage "the name of a storage" ];
  };

  # A fault is "PATH: TEXT", by the attribute path of what is wrong.
  fault = path: wrong: text: if wrong then [ "${path}: ${text}" ] else [ ];
  quoted = name: if match "[A-Za-z_][A-Za-z0-9_'-]*" name == null then builtins.toJSON name else name;
  join = path: name: if path == "" then quoted name else "${path}.${quoted name}";
  missing = path: names: value: concatMap (name: fault (join path name) (!(value ? ${name})) "is missing") names;
  # Fields that are there and are not what they may be.
  wrongFields =
    path: known: value:
    concatMap (
      name:
      fault (join path name) (value ? ${name} && !(head known.${name} value.${name})) "must be ${elemAt known.${name} 1}"
    ) (attrNames known);
  unknownFields =
    path: known: value:
    concatMap (name: fault (join path name) (!(known ? ${name})) "is not a known field") (attrNames value);
  # Attributes of a section that are no sets.
  noSets =
    section:
    let
      value = (set definitions).${section} or { };
    in
    fault section (!(isAttrs value)) "must be a set"
    ++ concatMap (name: fault (join section name) (!(isAttrs value.${name})) "must be a set") (attrNames (set value));

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

  within = range: vmid: isInt (range.start or null) && isInt (range.end or null) && range.start <= vmid && vmid <= range.end;
  # Name of the range that a VMID lies in, or null.
  rangeOf =
    vmid:
    let
      names = namesWhere (range: within range vmid) ranges;
    in
    if names == [ ] then null else head names;

  # Faults of a range whose bounds are right.
  wrongRange =
    name:
    let
      range = ranges.${name};
    in
    fault (join "vmidRanges" name) (
      isVmid (range.start or null) && isVmid (range.end or null) && range.end < range.start
    ) "the range ends (${toString range.end}) before it starts (${toString range.start})";

  lower =
    replaceStrings (genList (i: builtins.substring i 1 "ABCDEFGHIJKLMNOPQRSTUVWXYZ") 26)
      (genList (i: builtins.substring i 1 "abcdefghijklmnopqrstuvwxyz") 26);

  # Everything that can be taken: { path; name; vmid; address; mac; } of each VM.
  takers =
    let
      taker = path: name: vm: {
        inherit path;
        name = if isString name && name != "" then lower name else null;
        vmid = if isInt (vm.vmid or null) then vm.vmid else null;
        address = anyAddress (vm.ip or null);
        mac = if isString (vm.mac or null) then lower vm.mac else null;
      };
    in
    map (name: taker (join "imported" name) name imported.${name}) (attrNames imported)
    ++ map (name: taker (join "managed" name) name managed.${name}) (attrNames managed)
    ++ (if template == null then [ ] else [ (taker "template" (template.name or null) template) ]);
  # What the VM at `path` has and others have too: told of each of them.
  takenWith =
    path:
    let
      mine = head (filter (taker: taker.path == path) takers);
      also =
        what: at:
        let
          others = filter (taker: taker.path != path && taker.${what} == mine.${what}) takers;
        in
        fault at (mine.${what} != null && others != [ ]) "the ${what} is also that of ${concatStringsSep ", " (map (taker: taker.path) others)}";
    in
    also "vmid" "${path}.vmid"
    ++ also "name" (if path == "template" then "template.name" else path)
    ++ also "address" "${path}.ip"
    ++ also "mac" "${path}.mac";

  # Faults of one managed VM, as a list of sentences; empty when it is right.
  validate =
    name:
    let
      vm = managed.${name};
      path = join "managed" name;
      network = networkOf (vm.ip or null);
      gateway = addressOf (vm.gateway or null);
      kept = filter (range: ranges ? ${range} && isInt (vm.vmid or null) && within ranges.${range} vm.vmid) reservedRanges;
    in
    fault path (!(isDnsName name)) "the name must be a DNS name"
    ++ fault path (elem name verbs) "provision-vm has a command of this name"
    ++ fault path (isDnsName name && match "[0-9]+" name != null) "a name of digits alone is read as a VMID"
    ++ unknownFields path fields vm
    ++ missing path [
      "vmid"
      "cores"
      "memory"
      "disk"
    ] vm
    ++ wrongFields path fields vm
    ++ concatMap (range: fault "${path}.vmid" true "${toString vm.vmid} is in the range '${range}', which is for something else") kept
    ++ fault "${path}.storage" (
      !(vm ? storage) && !(proxmox ? defaultStorage) && isAttrs (definitions.proxmox or { })
    ) "is missing, and so is proxmox.defaultStorage"
    ++ fault "${path}.gateway" (gateway != null && (vm.ip or "dhcp") == "dhcp") "a gateway without a fixed address"
    ++ (
      if network == null || gateway == null then
        [ ]
      else
        fault "${path}.gateway" (removeAttrs network [ "prefix" ] == gateway) "the gateway is the VM's own address"
        ++ fault "${path}.gateway" (
          removeAttrs network [ "prefix" ] != gateway
          && !(inNetwork network gateway)
          && !(network.width == 16 && isLinkLocal gateway)
          # A host route may have its gateway anywhere.
          && network.prefix != gateway.width * length gateway.parts
        ) "the gateway is not in the network of its address"
    )
    ++ takenWith path;

  # Faults of everything that the definitions say.
  faults =
    fault "definitions" (!(isAttrs definitions)) "must be a set"
    ++ concatMap noSets [
      "imported"
      "managed"
      "vmidRanges"
    ]
    ++ unknownFields "" {
      proxmox = null;
      imported = null;
      managed = null;
      template = null;
      vmidRanges = null;
    } (set definitions)
    ++ (
      if !(isAttrs definitions) then
        [ ]
      else if definitions ? proxmox && isAttrs definitions.proxmox then
        missing "proxmox" [ "host" ] proxmox
        ++ unknownFields "proxmox" proxmoxFields proxmox
        ++ wrongFields "proxmox" proxmoxFields proxmox
      else
        fault "proxmox" true (if definitions ? proxmox then "must be a set" else "is missing")
    )
    ++ concatMap (
      name:
      let
        path = join "imported" name;
      in
      missing path [ "vmid" ] imported.${name}
      ++ wrongFields path importedFields imported.${name}
      ++ wrongFields "${path}.specs" specsFields (set (imported.${name}.specs or { }))
      ++ takenWith path
    ) (namesWhere isAttrs (set (definitions.imported or { })))
    ++ concatMap validate (namesWhere isAttrs (set (definitions.managed or { })))
    ++ fault "template" (definitions ? template && template == null) "must be a set"
    ++ (
      if template == null then
        [ ]
      else
        missing "template" [
          "vmid"
          "name"
        ] template
        ++ wrongFields "template" templateFields template
        ++ takenWith "template"
    )
    ++ concatMap (
      name:
      let
        range = ranges.${name};
        path = join "vmidRanges" name;
      in
      missing path [
        "start"
        "end"
      ] range
      ++ wrongFields path rangeFields range
      ++ wrongRange name
    ) (namesWhere isAttrs (set (definitions.vmidRanges or { })));

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
    cores = foldl' (sum: cores: sum + cores) 0 (filter isInt (map (vm: vm.cores or 0) (attrValues managed)));
    memory = foldl' (sum: memory: sum + memory) 0 (filter isInt (map (vm: vm.memory or 0) (attrValues managed)));
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
