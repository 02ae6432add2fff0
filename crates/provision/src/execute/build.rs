//! The build of the system, beside the other steps.

use std::sync::{MutexGuard, PoisonError};

use fleet_core::{Error, Result, definitions::Install};

use super::{Job, Known};
use crate::{
    build::{Closure, Source},
    steps::Step,
};

impl Job<'_> {
    fn closure(&self) -> MutexGuard<'_, Closure> {
        self.closure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build that has failed already stops the run before its next step.
    pub(super) fn build_so_far(&self, next: Step) -> Result<()> {
        let looked = self.closure().look(|line| self.journal.output(line));
        looked.map_err(|error| match next {
            Step::Clone => error.now("nothing was made on the node"),
            _ => self.not_built(error),
        })
    }

    /// Where the system comes from; waits for the build that was started at the beginning. None where it can be built
    /// only when the fleet knows the VM.
    pub(super) fn built(&self) -> Result<Option<Source>> {
        if !self.closure().is_built_here() {
            self.already(Step::Build);
            return self.closure().wait(|_| {}).map(Some);
        }
        self.step(Step::Build, "Building the system (begun at the start)", || {
            let (source, said) = self.wait_for_build()?;
            Ok(match self.closure().waits() {
                Some(why) => (None, format!("It is built when the VM is in the fleet: {why}")),
                None => (Some(source), said),
            })
        })
    }

    /// The same after the fleet's files have changed: what gets installed knows the VM.
    pub(super) fn built_again(&self, before: Option<Source>) -> Result<Source> {
        if let Some(before @ (Source::Script(_) | Source::Installer(_))) = before {
            return Ok(before);
        }
        self.step(Step::Build, "Building what the VM's entry in the fleet changes", || {
            self.build_again();
            self.wait_for_build()
        })
    }

    pub(super) fn build_again(&self) {
        self.closure().again();
    }

    pub(super) fn wait_for_build(&self) -> Result<(Source, String)> {
        let source = self.closure().wait(|line| self.heard(line));
        let source = source.map_err(|error| self.not_built(error))?;
        let said = match &source {
            Source::Built(paths) => format!("Built: {}", paths.system.display()),
            Source::Script(script) => format!("Built: {}", script.display()),
            Source::Installer(_) => {
                "This machine can not build for the VM's system: the VM builds it itself".to_owned()
            }
        };
        Ok((source, said))
    }

    fn not_built(&self, error: Error) -> Error {
        let log = self.journal.output_file();
        let now = match self.vm.install {
            Install::Image => "nothing was made on the node".to_owned(),
            _ if self.system.get() == Known::NotNixos => {
                format!("VM {} is there, without NixOS", self.vm.vmid)
            }
            _ => format!("VM {} is there", self.vm.vmid),
        };
        error.now(now).hint(format!("all that nix said: {}", log.display()))
    }
}
