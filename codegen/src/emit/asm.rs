//! Inline PTX: what MLIR's dialects lack or print less well, in one place.
//!
//! Every function names its section of the PTX ISA (numbering of version 8.6). Blocks with side effects are
//! marked `convergent` after translation to LLVM IR (see `lower.rs`), so that no pass moves them into or out
//! of control flow. A `memory` clobber keeps ordinary loads and stores on their side of a synchronisation.

use melior::ir::Value;

use super::{B1, Element, F32, I16, I32, I64, Kernel, Shared, Val};

/// Whether a block may be moved, merged or dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A pure function of its operands.
    Pure,
    /// Touches memory or synchronises.
    Memory,
}

/// Whose arrivals a barrier counts, which is the scope that a wait for it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Threads of the block.
    #[default]
    Block,
    /// Threads of other blocks of the cluster too.
    Cluster,
}

/// An mbarrier in this block's shared memory: an address and a constant that the instruction adds to it.
#[derive(Clone, Copy)]
pub struct Barrier<'k> {
    pub(super) base: Val<'k, I32>,
    pub(super) offset: u32,
}

impl<'k> Barrier<'k> {
    /// The barrier `offset` bytes behind `base`.
    pub fn new(base: Shared<'k>, offset: u32) -> Self {
        Self {
            base: base.address(),
            offset,
        }
    }
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

    pub(super) fn pure<'k, R: Element>(
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

    pub(super) fn effect(
        &self,
        text: &str,
        constraints: &str,
        operands: &[Value<'static, 'static>],
    ) {
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

    /// `mbarrier.arrive` of the threads whose number `lane` is 0. The predicate is in the block: a branch around it would
    /// cost more than the arrival.
    pub fn mbarrier_arrive_of_first(&self, barrier: Barrier<'_>, lane: Val<'_, I32>) {
        let text = format!(
            "{{\n.reg .pred first;\nsetp.eq.s32 first, $1, 0;\n@first mbarrier.arrive.shared::cta.b64 _, [$0+{}];\n}}",
            barrier.offset
        );
        self.effect(&text, "r,r", &[barrier.base.raw, lane.raw]);
    }

    /// `mbarrier.arrive.expect_tx`: arrives and announces `bytes` of asynchronous copies.
    pub fn mbarrier_arrive_expect_tx(&self, barrier: Barrier<'_>, bytes: u32) {
        let n = self.i32(bytes);
        let text = format!(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0+{}], $1;",
            barrier.offset
        );
        self.effect(&text, "r,r", &[barrier.base.raw, n.raw]);
    }

    /// `mbarrier.try_wait.parity`, acquire, in the scope of `who`: whether the phase of parity `parity` has completed. The
    /// hardware may suspend the thread for a while before it says no. For waits, see `wait.rs`.
    pub(crate) fn mbarrier_try_wait<'k>(
        &'k self,
        barrier: Barrier<'k>,
        parity: Val<'k, I32>,
        who: Arrivals,
    ) -> Val<'k, B1> {
        let scope = match who {
            Arrivals::Block => "",
            Arrivals::Cluster => ".acquire.cluster",
        };
        let text = format!(
            "{{\n.reg .pred done;\nmbarrier.try_wait.parity{scope}.shared::cta.b64 done, [$1+{}], $2;\nselp.b32 $0, 1, 0, done;\n}}",
            barrier.offset
        );
        let done: Val<'_, I32> = Val::new(
            self,
            self.asm(
                &text,
                "=r,r,r",
                &[barrier.base.raw, parity.raw],
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

    /// 1 where `predicate` holds in some lane of the warp, else 0, as a value that is known to be the same in all of
    /// them: ptxas keeps what follows from it in uniform registers.
    pub fn uniform<'k>(&'k self, predicate: Val<'k, B1>) -> Val<'k, I32> {
        self.ballot(predicate) & 1
    }

    /// The same value as one whose making is not known: what is added to it later is not folded into it, so that it
    /// stays in one register.
    pub fn opaque<'k>(&'k self, x: Val<'k, I32>) -> Val<'k, I32> {
        let y = self.asm(
            "mov.b32 $0, $1;",
            "=r,r",
            &[x.raw],
            &["i32"],
            Effect::Memory,
        );
        Val::new(self, y[0])
    }

    /// 0, which ptxas cannot know: `%ctaid.y` of a grid of one row.
    pub fn never(&self) -> Val<'_, I32> {
        self.pure("mov.u32 $0, %ctaid.y;", "=r", &[])
    }

    /// `%tid.x`, read here and not before: what follows from it does not live in registers from the kernel's start.
    pub fn tid_here(&self) -> Val<'_, I32> {
        let x = self.asm("mov.u32 $0, %tid.x;", "=r", &[], &["i32"], Effect::Memory);
        Val::new(self, x[0])
    }
}
