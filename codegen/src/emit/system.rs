//! Memory that other GPUs see: accesses of system scope, waits for other ranks, and NVSHMEM's puts.
//!
//! In a node a rank writes into a peer's memory with plain stores and then releases a counter there, which the peer polls
//! with acquiring loads (PTX ISA "Memory Consistency Model", scope `.sys`). Between nodes NVSHMEM moves the bytes and then
//! the signal; nothing here relies on an order between two puts.
//!
//! Waits poll by the clock as waits for barriers do ([`super::wait`]): after [`WAIT_LIMIT_NS`] the thread stores a status
//! that names the rank it waited for, and traps.

use melior::ir::Value;

use super::asm::Effect;
use super::mem::{Global, InGlobal, Space};
use super::wait::{STATUS_MARK, STATUS_SYMBOL, WAIT_LIMIT_NS};
use super::{B1, Element, I32, I64, Kernel, Val};

/// What a thread waits for on another rank, as the status names it. Behind each stands the rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSite {
    /// How many rows come from it.
    Counts = 16,
    /// Its rows.
    Rows = 17,
    /// Messages of its ring.
    Messages = 18,
    /// Room in the ring that it reads.
    Room = 19,
    /// Not a wait: more rows came than this rank has room for; the rank is this one.
    Capacity = 20,
}

/// How NVSHMEM changes the signal when the bytes are there (`nvshmemx_signal_op`, `NVSHMEM_SIGNAL_SET` and `_ADD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Takes the value.
    Set = 9,
    /// Adds it.
    Add = 10,
}

/// The NVSHMEM functions that kernels call, as MLIR declares them.
pub(super) const NVSHMEM: [(&str, &str); 2] = [
    (
        "nvshmemx_putmem_signal_nbi_warp",
        "(!llvm.ptr, !llvm.ptr, i64, !llvm.ptr, i64, i32, i32)",
    ),
    ("nvshmemx_signal_op", "(!llvm.ptr, i64, i32, i32)"),
];

impl<'k> Global<'k> {
    /// The address as a number.
    pub fn address(self) -> Val<'k, I64> {
        let k = self.kernel();
        Val::new(
            k,
            k.op1("llvm.ptrtoint", &[self.raw], k.mlir_type(I64::MLIR), &[]),
        )
    }

    /// The same byte `delta` bytes further in the address space: the counterpart in a peer's buffer.
    pub fn shifted(self, delta: Val<'k, I64>) -> Self {
        self.kernel().global_at(self.address() + delta)
    }

    /// `ld.acquire.sys`: what the writer did before its release is visible afterwards.
    pub fn load_acquire_sys(self) -> Val<'k, I64> {
        let k = self.kernel();
        let at = self.address();
        let v = k.asm(
            "ld.acquire.sys.global.b64 $0, [$1];",
            "=l,l",
            &[at.raw],
            &[I64::MLIR],
            Effect::Memory,
        );
        Val::new(k, v[0])
    }

    /// `st.release.sys`: whoever acquires the value sees what this thread did, or knew of, before.
    pub fn store_release_sys(self, value: Val<'k, I64>) {
        self.kernel().effect(
            "st.release.sys.global.b64 [$0], $1;",
            "l,l",
            &[self.address().raw, value.raw],
        );
    }

    /// `red.release.sys.add`.
    pub fn add_release_sys(self, value: Val<'k, I64>) {
        self.kernel().effect(
            "red.release.sys.global.add.u64 [$0], $1;",
            "l,l",
            &[self.address().raw, value.raw],
        );
    }
}

impl Kernel {
    /// A pointer to an address.
    pub fn global_at<'k>(&'k self, address: Val<'k, I64>) -> Global<'k> {
        let raw = self.op1(
            "llvm.inttoptr",
            &[address.raw],
            self.mlir_type(InGlobal::PTR),
            &[],
        );
        Global::new(self, raw)
    }

    /// Polls until `done`, which looks at memory that rank `peer` changes.
    pub fn wait_for_peer<'k>(
        &'k self,
        site: PeerSite,
        peer: Val<'k, I32>,
        done: impl Fn() -> Val<'k, B1>,
    ) {
        let late = !done();
        self.if_(late, || {
            let start = self.global_timer();
            self.while_(
                || !done(),
                || {
                    let waited = self.global_timer() - start;
                    self.if_(waited.gt(WAIT_LIMIT_NS).unlikely(), || {
                        self.report_peer(site, peer, waited);
                    });
                },
            );
        });
    }

    /// Stores a status about rank `peer` and traps: word 0 has the mark, the site, and in its low half the rank above the
    /// block's linear index; word 1 as for barriers.
    pub fn report_peer<'k>(&'k self, site: PeerSite, peer: Val<'k, I32>, waited: Val<'k, I64>) {
        self.uses_status.set(true);
        let high = STATUS_MARK << 16 | site as u32;
        let text = format!(
            "{{\n.reg .pred some;\n.reg .b32 x, y;\n.reg .b64 to, word0, word1, thread;\n\
             ld.global.b64 to, [{STATUS_SYMBOL}];\nsetp.ne.b64 some, to, 0;\n\
             mov.u32 x, %ctaid.x;\nshl.b32 y, $1, 16;\nor.b32 x, x, y;\n\
             mov.b32 y, {high};\nmov.b64 word0, {{x, y}};\n\
             mov.u32 x, %tid.x;\ncvt.u64.u32 thread, x;\nshl.b64 word1, $0, 16;\nor.b64 word1, word1, thread;\n\
             @some st.global.v2.b64 [to], {{word0, word1}};\nmembar.sys;\ntrap;\n}}"
        );
        self.effect(&text, "l,r", &[waited.raw, peer.raw]);
    }

    /// `nvshmemx_putmem_signal_nbi_warp`: `bytes` bytes from `from` to where `to` is on `pe`, then the signal. All lanes of
    /// the warp, with equal operands; returns before anything has arrived, and `from` stays as it is until the signal has
    /// been seen to arrive.
    pub fn put_signal<'k>(
        &'k self,
        (to, from, bytes): (Global<'k>, Global<'k>, Val<'k, I64>),
        (signal, value, how): (Global<'k>, Val<'k, I64>, Signal),
        pe: Val<'k, I32>,
    ) {
        let how = self.i32(how as i64);
        let operands = [
            self.generic(to),
            self.generic(from),
            bytes.raw,
            self.generic(signal),
            value.raw,
            how.raw,
            pe.raw,
        ];
        self.call(0, &operands);
    }

    /// `nvshmemx_signal_op`: changes the word where `signal` is on `pe`. One thread.
    pub fn remote_signal<'k>(
        &'k self,
        signal: Global<'k>,
        value: Val<'k, I64>,
        how: Signal,
        pe: Val<'k, I32>,
    ) {
        let how = self.i32(how as i64);
        let operands = [self.generic(signal), value.raw, how.raw, pe.raw];
        self.call(1, &operands);
    }

    fn generic(&self, pointer: Global<'_>) -> Value<'static, 'static> {
        self.op1(
            "llvm.addrspacecast",
            &[pointer.raw],
            self.mlir_type("!llvm.ptr"),
            &[],
        )
    }

    /// Calls a function of [`NVSHMEM`].
    fn call(&self, function: usize, operands: &[Value<'static, 'static>]) {
        let mut used = self.uses_nvshmem.get();
        used[function] = true;
        self.uses_nvshmem.set(used);
        let sizes = format!("array<i32: {}, 0>", operands.len());
        self.op(
            "llvm.call",
            operands,
            &[],
            &[
                ("callee", self.attr(&format!("@{}", NVSHMEM[function].0))),
                ("operandSegmentSizes", self.attr(&sizes)),
                ("op_bundle_sizes", self.attr("array<i32>")),
            ],
        );
    }
}
