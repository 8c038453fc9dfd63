//! Kernels that were compiled already: equal configs are compiled once, however many builds of a process ask for them.
//!
//! In: a kernel of a program. Out: its code. Holds: a kernel's name spells out its config, so that equal names are equal
//! kernels (`mcc_ir::kernel`); threads that want the same kernel at once wait for the one that compiles it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcc_codegen::{Codegen, CodegenError, KernelCode};
use mcc_ir::program::Kernel;

/// Compiled kernels by name.
#[derive(Default)]
pub struct Kernels {
    slots: Mutex<HashMap<String, Slot>>,
}

type Slot = Arc<Mutex<Option<KernelCode>>>;

impl Kernels {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        held(&self.slots).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The code of a kernel; `codegen` is asked for where it must be compiled. Code without intermediate texts, or without
    /// what it calls of NVSHMEM, is compiled again for those who want them.
    ///
    /// # Errors
    /// As [`Codegen::compile`].
    pub(crate) fn code<'a>(
        &self,
        kernel: &Kernel,
        intermediates: bool,
        nvshmem: bool,
        codegen: impl FnOnce() -> &'a Codegen,
    ) -> Result<KernelCode, CodegenError> {
        let slot = held(&self.slots)
            .entry(kernel.name.clone())
            .or_default()
            .clone();
        let mut slot = held(&slot);
        let enough = |code: &&KernelCode| {
            let texts = code.intermediate.is_some() || !intermediates;
            let linked = code.linked.is_some() || !code.calls_nvshmem || !nvshmem;
            texts && linked
        };
        match slot.as_ref().filter(enough) {
            Some(code) => Ok(code.clone()),
            _ => Ok(slot.insert(codegen().compile(kernel)?).clone()),
        }
    }
}

/// The value behind a lock. A thread that panicked while it held one has left a whole value: slots are filled at once.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
