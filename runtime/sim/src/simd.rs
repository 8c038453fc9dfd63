//! Vector code without unsafe code: one closure, compiled for several
//! instruction sets.
//!
//! In: a closure that is inlined with all that it calls. Out: its result, by
//! AVX2 where this processor has it. Both give the same bits: the closures have
//! no floating-point sums whose order the compiler may choose. A third copy for
//! AVX-512 would cost more time to compile than it saves, but for the one loop
//! of `numerics::wgmma`, which chooses itself.

/// Runs `f` with the vector instructions of this processor.
#[inline(always)]
pub fn with<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(f);
    }
    f()
}
