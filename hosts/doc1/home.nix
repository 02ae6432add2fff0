# home-manager configuration of the fleet's user on this machine.
{
  programs.git.enable = true;
  home.stateVersion = "25.05";
}
