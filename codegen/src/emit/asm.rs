//! Inline PTX: what MLIR's dialects lack or print less well, in one place.
//!
//! Every function names its section of the PTX ISA (numbering of version 8.6). Blocks with side effects are
//! marked `convergent` after translation to LLVM IR (see `lower.rs`), so that no pass moves them into or out
//! of control flow. A `memory` clobber keeps ordinary loads and stores on their side of a synchronisation.

use melior::ir::Value;

use super::{B1, Element, F32, I16, I32, I64, Kernel, Shared, TensorMapArg, Val};

/// Whether a block may be moved, merged or dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A pure function of its operands.
    Pure,
    /// Touches memory or synchronises.
    Memory,
}

impl Kernel {
    /// Emits a block of PTX; operands are `$0…` in the order results, then operands.
    pub(crate) fn asm(
        &self,
        text: &str,
        constraints: &str,
        operands: &[Value<'static, 'static>],
        results: &[&str],
        effect: Effect,
    ) -> Vec<Value<'static, 'static>> {
        let constraints = if effect == Effect::Memory {
            let comma = if constraints.is_empty() { "" } else { "," };
            format!("{constraints}{comma}~{{memory}}")
        } else {
            constraints.to_owned()
        };
        let mut attrs = vec![
            ("asm_string", self.string_attr(text)),
            ("constraints", self.string_attr(&constraints)),
            ("asm_dialect", self.attr("0 : i64")),
        ];
        if effect == Effect::Memory {
            attrs.push(("has_side_effects", self.attr("unit")));
        }
        match results {
            [] => {
                self.op("llvm.inline_asm", operands, &[], &attrs);
                Vec::new()
            }
            [one] => vec![self.op1("llvm.inline_asm", operands, self.mlir_type(one), &attrs)],
            many => {
                let s = self.mlir_type(&format!("!llvm.struct<({})>", many.join(", ")));
                let tuple = self.op1("llvm.inline_asm", operands, s, &attrs);
                many.iter()
                    .enumerate()
                    .map(|(i, t)| {
                        let position = self.attr(&format!("array<i64: {i}>"));
                        self.op1(
                            "llvm.extractvalue",
                            &[tuple],
                            self.mlir_type(t),
                            &[("position", position)],
                        )
                    })
                    .collect()
            }
        }
    }

    fn pure<'k, R: Element>(
        &'k self,
        text: &str,
        constraints: &str,
        operands: &[Value<'static, 'static>],
    ) -> Val<'k, R> {
        Val::new(
            self,
            self.asm(text, constraints, operands, &[R::MLIR], Effect::Pure)[0],
        )
    }

    fn effect(&self, text: &str, constraints: &str, operands: &[Value<'static, 'static>]) {
        self.asm(text, constraints, operands, &[], Effect::Memory);
    }

    // ── Conversions and approximations (PTX ISA 9.7.9.21 cvt, 9.7.3) ──────────────────────────────────

    /// `cvt.rn.bf16x2.f32`: two FP32 to packed BF16, `low` in the low half; round to nearest even.
    pub fn pack_bf16x2<'k>(&'k self, low: Val<'k, F32>, high: Val<'k, F32>) -> Val<'k, I32> {
        self.pure(
            "cvt.rn.bf16x2.f32 $0, $1, $2;",
            "=r,f,f",
            &[high.raw, low.raw],
        )
    }

    /// `cvt.rn.satfinite.e4m3x2.f32`: two FP32 to packed E4M3, `low` in the low byte; saturates at ±448.
    pub fn pack_e4m3x2<'k>(&'k self, low: Val<'k, F32>, high: Val<'k, F32>) -> Val<'k, I16> {
        self.pure(
            "cvt.rn.satfinite.e4m3x2.f32 $0, $1, $2;",
            "=h,f,f",
            &[high.raw, low.raw],
        )
    }

    /// Four FP32 to four packed E4M3 codes, first in the lowest byte.
    pub fn pack_e4m3x4<'k>(&'k self, x: [Val<'k, F32>; 4]) -> Val<'k, I32> {
        let low = self.pack_e4m3x2(x[0], x[1]).to_i32();
        let high = self.pack_e4m3x2(x[2], x[3]).to_i32();
        low | (high << 16)
    }

    /// `ex2.approx.ftz.f32`: 2^x, 2 ulp (PTX ISA 9.7.3.21).
    pub fn ex2<'k>(&'k self, x: Val<'k, F32>) -> Val<'k, F32> {
        self.pure("ex2.approx.ftz.f32 $0, $1;", "=f,f", &[x.raw])
    }

    /// e^x as 2^(x log2 e).
    pub fn exp<'k>(&'k self, x: Val<'k, F32>) -> Val<'k, F32> {
        self.ex2(x * std::f32::consts::LOG2_E)
    }

    // ── mbarrier (PTX ISA 9.7.13.15) ──────────────────────────────────────────────────────────────────

    /// `mbarrier.init`: `count` arrivals complete a phase. One thread, before any use.
    pub fn mbarrier_init(&self, barrier: Shared<'_>, count: u32) {
        let (a, n) = (barrier.address(), self.i32(count));
        self.effect(
            "mbarrier.init.shared::cta.b64 [$0], $1;",
            "r,r",
            &[a.raw, n.raw],
        );
    }

    /// Makes initialised barriers visible to the asynchronous proxy and the cluster (PTX ISA 9.7.13.4).
    pub fn fence_mbarrier_init(&self) {
        self.effect("fence.mbarrier_init.release.cluster;", "", &[]);
    }

    /// `mbarrier.arrive`.
    pub fn mbarrier_arrive(&self, barrier: Shared<'_>) {
        let a = barrier.address();
        self.effect("mbarrier.arrive.shared::cta.b64 _, [$0];", "r", &[a.raw]);
    }

    /// `mbarrier.arrive.expect_tx`: arrives and announces `bytes` of asynchronous copies.
    pub fn mbarrier_arrive_expect_tx(&self, barrier: Shared<'_>, bytes: u32) {
        let (a, n) = (barrier.address(), self.i32(bytes));
        self.effect(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;",
            "r,r",
            &[a.raw, n.raw],
        );
    }

    /// `mbarrier.try_wait.parity`, acquire: whether the phase of parity `parity` has completed. The hardware may
    /// suspend the thread for a while before it says no. For waits, see `wait.rs`.
    pub(crate) fn mbarrier_try_wait<'k>(
        &'k self,
        barrier: Val<'k, I32>,
        parity: Val<'k, I32>,
    ) -> Val<'k, B1> {
        let done: Val<'_, I32> = Val::new(
            self,
            self.asm(
                "{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [$1], $2;\nselp.b32 $0, 1, 0, done;\n}",
                "=r,r,r",
                &[barrier.raw, parity.raw],
                &["i32"],
                Effect::Memory,
            )[0],
        );
        done.ne(0)
    }

    // ── Launches that overlap (PTX ISA "griddepcontrol") ─────────────────────────────────────────────

    /// `griddepcontrol.wait`: until the launch before this one has ended and what it wrote is visible. Without
    /// effect when the launch was not started early.
    pub(crate) fn wait_for_earlier_launches(&self) {
        self.effect("griddepcontrol.wait;", "", &[]);
    }

    /// `griddepcontrol.launch_dependents`: the next launch may start its blocks when all blocks of this one
    /// have said so.
    pub(crate) fn let_next_launch_start(&self) {
        self.effect("griddepcontrol.launch_dependents;", "", &[]);
    }

    // ── Giving up ────────────────────────────────────────────────────────────────────────────────────

    /// `%globaltimer`: nanoseconds (PTX ISA "Special Registers"). Not pure: it changes.
    pub(crate) fn global_timer(&self) -> Val<'_, I64> {
        let now = self.asm(
            "mov.u64 $0, %globaltimer;",
            "=l",
            &[],
            &[I64::MLIR],
            Effect::Memory,
        );
        Val::new(self, now[0])
    }

    /// Stores a status where the global `symbol` says, unless that is nowhere, and traps. Word 0 of the status
    /// is `high` above the linear index of the block, word 1 `waited` above that of the thread. All in one block:
    /// what it computes shall not be hoisted out of the path that nobody takes. One store for both words, so that
    /// threads that give up together do not mix theirs; the host sees it before the launch fails.
    pub(crate) fn report_and_trap(&self, symbol: &str, high: u32, waited: Val<'_, I64>) {
        let text = format!(
            "{{\n.reg .pred some;\n.reg .b32 x, y, n;\n.reg .b64 to, word0, word1, thread;\n\
             ld.global.b64 to, [{symbol}];\nsetp.ne.b64 some, to, 0;\n\
             mov.u32 x, %ctaid.x;\nmov.u32 y, %ctaid.y;\nmov.u32 n, %nctaid.x;\nmad.lo.u32 x, y, n, x;\n\
             mov.b32 y, {high};\nmov.b64 word0, {{x, y}};\n\
             mov.u32 x, %tid.x;\ncvt.u64.u32 thread, x;\nshl.b64 word1, $0, 16;\nor.b64 word1, word1, thread;\n\
             @some st.global.v2.b64 [to], {{word0, word1}};\nmembar.sys;\ntrap;\n}}"
        );
        self.effect(&text, "l", &[waited.raw]);
    }

    // ── Tensor memory accelerator (PTX ISA 9.7.9.27) ─────────────────────────────────────────────────

    /// `prefetch.tensormap`.
    pub fn prefetch_tensor_map(&self, map: TensorMapArg<'_>) {
        self.effect("prefetch.tensormap [$0];", "l", &[map.raw]);
    }

    /// `cp.async.bulk.tensor` from global to shared memory; completes on `barrier` with the box's bytes.
    /// `coords` are element indices, innermost axis first.
    pub fn tma_load(
        &self,
        dst: Shared<'_>,
        map: TensorMapArg<'_>,
        coords: &[Val<'_, I32>],
        barrier: Shared<'_>,
    ) {
        let rank = coords.len();
        let list: Vec<String> = (0..rank).map(|i| format!("${}", i + 3)).collect();
        let text = format!(
            "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [$0], [$1, {{{}}}], [$2];",
            list.join(", ")
        );
        let constraints = format!("r,l,r{}", ",r".repeat(rank));
        let mut operands = vec![dst.address().raw, map.raw, barrier.address().raw];
        operands.extend(coords.iter().map(|c| c.raw));
        self.effect(&text, &constraints, &operands);
    }

    // ── Warps and warpgroups ─────────────────────────────────────────────────────────────────────────

    /// `elect.sync`: true in one thread of the (converged) warp (PTX ISA 9.7.13.14).
    pub fn elect_one(&self) -> Val<'_, B1> {
        let e: Val<'_, I32> = Val::new(
            self,
            self.asm(
                "{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\nselp.b32 $0, 1, 0, one;\n}",
                "=r",
                &[],
                &["i32"],
                Effect::Memory,
            )[0],
        );
        e.ne(0)
    }

    /// `setmaxnreg.inc`: the warpgroup takes registers (PTX ISA 9.7.19.5). All its warps, converged.
    pub fn setmaxnreg_inc(&self, registers: u32) {
        self.effect(
            &format!("setmaxnreg.inc.sync.aligned.u32 {registers};"),
            "",
            &[],
        );
    }

    /// `setmaxnreg.dec`: the warpgroup gives registers back.
    pub fn setmaxnreg_dec(&self, registers: u32) {
        self.effect(
            &format!("setmaxnreg.dec.sync.aligned.u32 {registers};"),
            "",
            &[],
        );
    }

    /// `vote.sync.ballot.b32` over the full warp.
    pub fn ballot<'k>(&'k self, predicate: Val<'k, B1>) -> Val<'k, I32> {
        let p = predicate.to_i32();
        Val::new(
            self,
            self.asm(
                "{\n.reg .pred p;\nsetp.ne.b32 p, $1, 0;\nvote.sync.ballot.b32 $0, p, 0xffffffff;\n}",
                "=r,r",
                &[p.raw],
                &["i32"],
                Effect::Memory,
            )[0],
        )
    }

    /// `popc.b32`.
    pub fn popc<'k>(&'k self, x: Val<'k, I32>) -> Val<'k, I32> {
        Val::new(
            self,
            self.op1("llvm.intr.ctpop", &[x.raw], self.mlir_type("i32"), &[]),
        )
    }

    /// Zero-extends a shared address to 64 bits.
    pub(crate) fn widen<'k>(&'k self, x: Val<'k, I32>) -> Val<'k, I64> {
        x.to_u64()
    }
}
