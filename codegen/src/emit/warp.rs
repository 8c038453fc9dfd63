//! Exchanges and reductions over the 32 lanes of a warp (all lanes active).
//!
//! Butterfly order: partner at distance 16, 8, 4, 2, 1. Sums of floats therefore have one defined order.

use super::{Element, F32, I32, Kernel, Val};

impl Kernel {
    fn shfl<'k, T: Element>(&'k self, kind: &str, x: Val<'k, T>, lane: Val<'k, I32>) -> Val<'k, T> {
        let (mask, clamp) = (self.i32(-1i64), self.i32(31));
        Val::new(
            self,
            self.op1(
                "nvvm.shfl.sync",
                &[mask.raw, x.raw, lane.raw, clamp.raw],
                self.mlir_type(T::MLIR),
                &[("kind", self.attr(&format!("#nvvm<shfl_kind {kind}>")))],
            ),
        )
    }

    /// `bar.warp.sync` of the full warp: lanes that went different ways meet again (PTX ISA 9.7.13.2).
    pub fn sync_warp(&self) {
        let mask = self.i32(-1i64);
        self.op("nvvm.bar.warp.sync", &[mask.raw], &[], &[]);
    }

    /// The value of the lane whose number differs by the bits of `mask` (`shfl.sync.bfly`).
    pub fn shfl_xor<'k, T: Element>(&'k self, x: Val<'k, T>, mask: u32) -> Val<'k, T> {
        self.shfl("bfly", x, self.i32(mask))
    }

    /// The value of lane `lane` (`shfl.sync.idx`).
    pub fn shfl_idx<'k, T: Element>(&'k self, x: Val<'k, T>, lane: Val<'k, I32>) -> Val<'k, T> {
        self.shfl("idx", x, lane)
    }

    /// The value `delta` lanes below, or the lane's own where there is none (`shfl.sync.up`).
    pub fn shfl_up<'k, T: Element>(&'k self, x: Val<'k, T>, delta: u32) -> Val<'k, T> {
        let (mask, clamp) = (self.i32(-1i64), self.i32(0));
        let d = self.i32(delta);
        Val::new(
            self,
            self.op1(
                "nvvm.shfl.sync",
                &[mask.raw, x.raw, d.raw, clamp.raw],
                self.mlir_type(T::MLIR),
                &[("kind", self.attr("#nvvm<shfl_kind up>"))],
            ),
        )
    }

    /// Combines the values of groups of `lanes` lanes (a power of two); every lane gets the result.
    pub fn reduce<'k, T: Element>(
        &'k self,
        mut x: Val<'k, T>,
        lanes: u32,
        combine: impl Fn(Val<'k, T>, Val<'k, T>) -> Val<'k, T>,
    ) -> Val<'k, T> {
        let mut distance = lanes / 2;
        while distance > 0 {
            x = combine(x, self.shfl_xor(x, distance));
            distance /= 2;
        }
        x
    }

    /// Sum over the warp.
    pub fn warp_sum<'k>(&'k self, x: Val<'k, F32>) -> Val<'k, F32> {
        self.reduce(x, 32, |a, b| a + b)
    }
}
