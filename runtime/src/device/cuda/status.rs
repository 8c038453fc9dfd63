//! What kernels that gave up waiting say of themselves.
//!
//! In: two words a kernel, in host memory that the GPU writes to. Out: a sentence for the error.
//! Holds: each kernel has words of its own, so that the sentence names the kernel; they are zero until one gives up.
//!
//! What the words mean is in [`crate::device::status`].

use core::ffi::CStr;
use std::fmt::Write as _;
use std::rc::Rc;

use cudarc::driver::sys::CUdeviceptr;

use super::context::Context;
use super::failure::Failure;
use super::handles::{Owned, Pinned};
use super::module::Function;
use crate::device::status::{Status, WORDS};

/// The module's variable: the address of its words, or 0.
pub(super) const VARIABLE: &CStr = c"mcc_status";

/// Kernels with words of their own; later ones share the last pair.
const PLACES: usize = 512;

/// The words of all kernels.
pub(super) struct StatusWords {
    memory: Owned<Pinned>,
    device: CUdeviceptr,
}

impl StatusWords {
    pub fn new(context: &Rc<Context>) -> Result<Self, Failure> {
        let memory = Owned::<Pinned>::alloc(context, PLACES * WORDS * size_of::<u64>())?;
        // SAFETY: the memory is that long, and no kernel knows of it yet.
        unsafe { memory.raw().0.cast::<u64>().write_bytes(0, PLACES * WORDS) };
        let device = memory.device_address()?;
        Ok(Self { memory, device })
    }

    /// Where the GPU finds the words of a kernel, by its number.
    pub fn address(&self, function: usize) -> CUdeviceptr {
        let place = function.min(PLACES - 1);
        self.device + (place * WORDS * size_of::<u64>()) as u64
    }

    /// What kernels said; empty, or each begins with `; `.
    pub fn text(&self, functions: &[Function]) -> String {
        let mut text = String::new();
        for place in 0..functions.len().min(PLACES) {
            let words: [u64; WORDS] = core::array::from_fn(|word| {
                let at = self
                    .memory
                    .raw()
                    .0
                    .cast::<u64>()
                    .wrapping_add(place * WORDS + word);
                // SAFETY: the place is inside of the memory, which is page-aligned. The GPU may write it at any
                // time: the read is volatile, and a torn pair is still two numbers.
                unsafe { at.read_volatile() }
            });
            if let Some(said) = Status::decode(words) {
                let shared = place == PLACES - 1 && functions.len() > PLACES;
                let kernel = if shared { "" } else { functions[place].name() };
                let _ = write!(text, "; kernel `{kernel}` gave up: {said}");
            }
        }
        text
    }
}
