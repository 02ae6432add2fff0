{
  description = "One command from an entry in vms/definitions.nix to a NixOS VM on Proxmox that is part of the fleet";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    disko = {
      url = "github:nix-community/disko";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    home-manager = {
      url = "github:nix-community/home-manager";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      disko,
      home-manager,
    }:
    let
      inherit (nixpkgs) lib;
      forAllSystems = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      pkgsFor = system: nixpkgs.legacyPackages.${system};

      # Each tool and the crate it is in.
      crates = {
        proxmox-ops = "proxmox-ops";
        cloudinit-gen = "cloudinit-gen";
        provision-vm = "provision";
        post-provision-vm = "post-provision";
      };

      workspace = builtins.fromTOML (builtins.readFile ./Cargo.toml);
      # Only what the build reads: an edit of a host or of the docs rebuilds nothing.
      source = lib.fileset.toSource {
        root = ./.;
        fileset = lib.fileset.unions [
          ./Cargo.toml
          ./Cargo.lock
          ./clippy.toml
          ./crates
        ];
      };

      buildTools =
        pkgs:
        {
          pname,
          packages,
          mainProgram ? pname,
        }:
        pkgs.rustPlatform.buildRustPackage {
          inherit pname;
          inherit (workspace.workspace.package) version;
          src = source;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = lib.concatMap (crate: [
            "--package"
            crate
          ]) packages;
          # The tests need the whole repository, git, ssh and the simulator: `just ci` runs them.
          doCheck = false;
          nativeBuildInputs = [
            pkgs.installShellFiles
            pkgs.pkg-config
          ];
          buildInputs = [ pkgs.openssl ];
          # Both are made by the tools themselves, which have to run for it.
          postInstall = lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
            for tool in ${lib.concatStringsSep " " (lib.attrNames crates)}; do
              $out/bin/$tool --quiet man --output-dir man
              for shell in bash fish zsh; do
                $out/bin/$tool completions $shell > $tool.$shell
              done
              installShellCompletion --cmd $tool \
                --bash $tool.bash --fish $tool.fish --zsh $tool.zsh
            done
            installManPage man/*.1
          '';
          meta = {
            inherit mainProgram;
            license = with lib.licenses; [
              mit
              asl20
            ];
            platforms = lib.platforms.unix;
          };
        };
    in
    {
      packages = forAllSystems (
        system:
        let
          pkgs = pkgsFor system;
          # The tools find each other beside the running program: one build holds them all, and each package is
          # that build with another main program.
          fleet-tools = buildTools pkgs {
            pname = "fleet-tools";
            packages = lib.attrValues crates;
            mainProgram = "provision-vm";
          };
          tool = name: _: fleet-tools.overrideAttrs (old: { meta = old.meta // { mainProgram = name; }; });
        in
        lib.mapAttrs tool crates
        // {
          inherit fleet-tools;
          default = fleet-tools;
        }
      );

      apps = forAllSystems (
        system:
        lib.mapAttrs (name: _: {
          type = "app";
          program = "${self.packages.${system}.fleet-tools}/bin/${name}";
          meta.description = "${name} of the fleet tools";
        }) crates
        // {
          default = self.apps.${system}.provision-vm;
        }
      );

      devShells = forAllSystems (
        system:
        let
          pkgs = pkgsFor system;
        in
        {
          default = pkgs.mkShell {
            # The four tools themselves, and what they and people use beside them.
            packages = [
              self.packages.${system}.fleet-tools
              pkgs.age
              pkgs.just
              pkgs.nixos-anywhere
              pkgs.openssh
              pkgs.sops
              pkgs.ssh-to-age
              # To work on the tools.
              pkgs.cargo
              pkgs.clippy
              pkgs.openssl
              pkgs.pkg-config
              pkgs.rustc
              pkgs.rustfmt
              pkgs.shellcheck
            ];
          };
        }
      );

      checks = forAllSystems (
        system:
        let
          pkgs = pkgsFor system;
          vms = import ./vms/lib.nix { inherit lib; };
        in
        {
          inherit (self.packages.${system}) fleet-tools;

          # The definitions, by the helpers that people use from Nix.
          definitions =
            if vms.faults == [ ] then
              pkgs.runCommand "definitions" { } "touch $out"
            else
              throw "vms/definitions.nix:\n  ${lib.concatStringsSep "\n  " vms.faults}";

          # The whole repository, as the tools themselves read it.
          fleet = pkgs.runCommand "fleet" { } ''
            ${self.packages.${system}.fleet-tools}/bin/provision-vm --repo ${self} --nix embedded check
            touch $out
          '';

          # What a new VM reads first.
          cloud-init = pkgs.runCommand "cloud-init" { } ''
            ${self.packages.${system}.fleet-tools}/bin/cloudinit-gen --repo ${self} --nix embedded \
              user-data test-automation > $out
          '';
        }
      );

      # Every managed VM: its configuration under hosts/, by the name that its definition gives it.
      nixosConfigurations = lib.mapAttrs' (
        name: vm:
        let
          config = vm.nixosConfig or name;
          host = ./hosts + "/${config}";
        in
        lib.nameValuePair config (
          lib.nixosSystem {
            modules = [
              disko.nixosModules.disko
              home-manager.nixosModules.home-manager
              (host + "/configuration.nix")
            ]
            ++ lib.optional (builtins.pathExists (host + "/home.nix")) {
              home-manager.useGlobalPkgs = true;
              home-manager.users.${vm.user or "fleet"} = import (host + "/home.nix");
            };
          }
        )
      ) (import ./vms/definitions.nix).managed;

      formatter = forAllSystems (system: (pkgsFor system).nixfmt-tree);
    };
}
