//! Nix files: read without Nix where the embedded evaluator can, by `nix eval` where it can not, and edited
//! without damage.

/// How Nix files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum NixMode {
    /// Embedded, and the nix program for what that does not cover.
    #[default]
    Auto,
    /// The embedded evaluator only.
    Embedded,
    /// The nix program only.
    Nix,
}
