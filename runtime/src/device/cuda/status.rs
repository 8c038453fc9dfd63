//! What kernels that gave up waiting say of themselves.
//!
//! In: two words a kernel, in host memory that the GPU writes to. Out: a sentence for the error.
//! Holds: each kernel has words of its own, so that the sentence names the kernel; they are zero until one gives up.
//!
//! A kernel that waits for an mbarrier longer than its limit stores, through the module's variable `mcc_status`,
//!
//! ```text
//! word 0   0x4D43 | site (16 bits) | linear block index (32 bits)
//! word 1   nanoseconds waited (48 bits) | linear thread index (16 bits)
//! ```
//!
//! and traps.

use core::ffi::CStr;
use std::fmt::Write as _;
use std::rc::Rc;

use cudarc::driver::sys::CUdeviceptr;

use super::context::Context;
use super::failure::Failure;
use super::handles::{Owned, Pinned};
use super::module::Function;

/// The module's variable: the address of its words, or 0.
pub(super) const VARIABLE: &CStr = c"mcc_status";

/// Kernels with words of their own; later ones share the last pair.
const PLACES: usize = 512;

/// Words of a kernel.
const WORDS: usize = 2;

/// First 16 bits of word 0.
const MAGIC: u64 = 0x4D43;

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
            if let Some(said) = decode(words) {
                let shared = place == PLACES - 1 && functions.len() > PLACES;
                let kernel = if shared { "" } else { functions[place].name() };
                let _ = write!(text, "; kernel `{kernel}` gave up: {said}");
            }
        }
        text
    }
}

/// A sentence, when the words were written.
fn decode([first, second]: [u64; WORDS]) -> Option<String> {
    if first >> 48 != MAGIC {
        return None;
    }
    let site = match (first >> 32) & 0xFFFF {
        1 => "a full barrier (data that should arrive)".to_owned(),
        2 => "an empty barrier (a stage that should be freed)".to_owned(),
        3 => "another barrier".to_owned(),
        other => format!("site {other}"),
    };
    let block = first & 0xFFFF_FFFF;
    let thread = second & 0xFFFF;
    let seconds = (second >> 16) as f64 * 1e-9;
    Some(format!(
        "block {block}, thread {thread} waited {seconds:.1} s at {site}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_a_sentence() {
        assert_eq!(decode([0, 0]), None);
        let words = [0x4D43_0001_0000_0007, (10_000_000_000 << 16) | 128];
        assert_eq!(
            decode(words).as_deref(),
            Some("block 7, thread 128 waited 10.0 s at a full barrier (data that should arrive)")
        );
        let words = [0x4D43_0009_0000_0000, 0];
        assert_eq!(
            decode(words).as_deref(),
            Some("block 0, thread 0 waited 0.0 s at site 9")
        );
    }
}
