//! Vector code without unsafe code: one closure, compiled for several
//! instruction sets.
//!
//! In: a closure that is inlined with all that it calls. Out: its result, by
//! the best of AVX-512, AVX2 and the plain code that this processor runs. All
//! give the same bits: the closures have no floating-point sums whose order
//! the compiler may choose.

use pulp::{Arch, WithSimd};

/// Runs `f` with the vector instructions of this processor.
#[inline(always)]
pub fn with<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(Plain(f))
}

struct Plain<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Plain<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> R {
        (self.0)()
    }
}
