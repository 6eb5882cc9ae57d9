//! One trace: what `run` and `attach` share.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{
    args::{Stacks, Tracing},
    failure::{Failure, Kind},
    outputs::Outputs,
    terminal::{Progress, Terminal},
};
use crate::{
    probe::{self, Requirements},
    session::{Ended, Libraries, Machine, Request, Scope, Session, SessionError},
    sinks::{Accounts, Background},
};

/// A trace that is over.
pub(super) struct Traced {
    pub ended: Ended,
    pub outputs: Outputs,
    pub accounts: Accounts<Progress>,
}

/// A trace that can begin: the host can trace, and its results will find a place.
pub(super) struct Trace<'a> {
    options: &'a Tracing,
    outputs: Outputs,
    accounts: Accounts<Progress>,
    stacks: Stacks,
    sends_lists: bool,
}

impl<'a> Trace<'a> {
    /// Opens the results, after [`Requirements::require`] has said that tracing works here.
    ///
    /// # Errors
    /// When a result can't be written.
    pub(super) fn prepare(options: &'a Tracing) -> Result<Self, Failure> {
        let (outputs, accounts) = Outputs::open(options)?;
        let terminal = Terminal::new(options.quiet);
        let mut stacks = options.stacks;
        if stacks != Stacks::None
            && let Err(why) = Requirements::of_stacks()
        {
            terminal.warn(&why.to_string());
            stacks = Stacks::None;
        }
        let lists = Requirements::of_lists();
        if let Err(why) = &lists {
            terminal.warn(&why.to_string());
        }
        Ok(Self {
            options,
            outputs,
            accounts,
            stacks,
            sends_lists: lists.is_ok(),
        })
    }

    /// Loads the kernel side.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn load_kernel(&self) -> Result<probe::Kernel, SessionError> {
        let size = self.options.ring_size;
        Ok(probe::Kernel::load(
            size,
            self.stacks.into(),
            self.sends_lists,
        )?)
    }

    /// Traces `scope` until it is over or somebody asks to stop. `load` returns the kernel side; `begun` is
    /// called once the first probes are on. The probes are off when this returns.
    ///
    /// # Errors
    /// When the trace can't begin, or what was recorded can't be relied on: there are no results then.
    pub(super) async fn follow(
        self,
        scope: Scope,
        load: impl FnOnce(&Self) -> Result<probe::Kernel, SessionError>,
        requests: &mut UnboundedReceiver<Request>,
        sender: UnboundedSender<Request>,
        begun: impl FnOnce(),
    ) -> Result<Traced, Failure> {
        let host = |error: anyhow::Error| Failure::new(Kind::Host, error);
        let captures_stacks = self.stacks != Stacks::None;
        let duration = self.options.duration;
        // Deriving takes as long as the kernel side takes to load, and so is begun before.
        let libraries = Libraries::derive_ahead(&scope.pids(), &Machine);
        let kernel = load(&self)?;
        let stop = sender.clone();
        // What is printed may fail in ways that nobody foresaw: then there is nothing left to trace for.
        let on_panic = move || drop(stop.send(Request::Stop));
        let mut accounts =
            Background::spawn(self.accounts, on_panic).map_err(|error| host(error.into()))?;
        let ended = {
            let (kernel, processes) = recorded(kernel);
            let mut session = Session::new(
                scope,
                kernel,
                processes,
                libraries,
                captures_stacks,
                &mut accounts,
            );
            match session.begin() {
                Ok(()) => {
                    begun();
                    if let Some(duration) = duration {
                        tokio::spawn(async move {
                            tokio::time::sleep(duration).await;
                            // The trace may be over.
                            sender.send(Request::Stop).ok();
                        });
                    }
                    session.run(requests).await
                }
                Err(error) => {
                    drop(begun);
                    Err(error)
                }
            }
        };
        let accounts = accounts.join().map_err(|_| {
            host(anyhow::anyhow!(
                "the trace's results are lost: see the panic above"
            ))
        })?;
        Ok(Traced {
            ended: ended?,
            outputs: self.outputs,
            accounts,
        })
    }
}

/// What a session is given, where it isn't recorded.
#[cfg(not(feature = "tape"))]
fn recorded(kernel: probe::Kernel) -> (probe::Kernel, Machine) {
    (kernel, Machine)
}

/// What a session is given, recorded on a tape.
#[cfg(feature = "tape")]
fn recorded(
    kernel: probe::Kernel,
) -> (
    crate::tape::TapedKernel<probe::Kernel>,
    crate::tape::TapedProcesses<Machine>,
) {
    let kernel = crate::tape::TapedKernel::new(kernel);
    (kernel, crate::tape::TapedProcesses(Machine))
}
