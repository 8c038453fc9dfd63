//! The decoded form of a kernel, which the interpreter runs.
//!
//! In: nothing but plain data from `decode`. Registers are rows of 32 lanes:
//! a 32-bit row holds predicable values of up to 32 bits (16-bit values are
//! zero-extended), a 64-bit row the rest. An operand index with [`CONST`] set
//! names a row of the kernel's constants, so that the interpreter does not
//! tell registers and immediates apart. Predicates are one bit a lane.

mod kinds;

use std::sync::atomic::AtomicU64;

use mcc_ptx::{SpecialReg, Type};

use crate::check::{Access, Touch};
use crate::numerics::approx::Approx;
use crate::numerics::convert::Rounding;
use crate::numerics::wgmma::Element;

pub use kinds::*;

/// A row of 32-bit or of 64-bit values, by the field that holds it.
pub type R = u16;
pub const CONST: u16 = 0x8000;
/// Row 0 of either file takes what nobody reads.
pub const TRASH: R = 0;

/// A predicate register. [`P_TRUE`] always holds, [`P_TRASH`] is never read.
pub type P = u16;
pub const P_TRUE: P = 0;
pub const P_TRASH: P = 1;
/// Scratch of instructions that decode to two.
pub const P_TEMP: P = 2;
/// The condition code's carry (PTX ISA "Extended-Precision Arithmetic").
pub const P_CARRY: P = 3;
pub const P_FIRST: P = 4;

pub type Row32 = [u32; 32];
pub type Row64 = [u64; 32];
pub const FULL: u32 = u32::MAX;

/// A predicate as an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PSrc {
    pub p: P,
    pub negated: bool,
}

impl PSrc {
    pub const TRUE: PSrc = PSrc {
        p: P_TRUE,
        negated: false,
    };
}

/// A row of either width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    R32(R),
    R64(R),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addr {
    pub base: Row,
    pub offset: i64,
}

/// A state space as the interpreter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ld {
    pub space: Space,
    /// Bytes of one element.
    pub size: u8,
    pub signed: bool,
    pub addr: Addr,
    pub dst: Vec<Row>,
    /// Polls may spin on strong loads.
    pub order: Order,
}

impl Ld {
    /// What it does to memory, for the checkers.
    pub fn access(&self) -> Access {
        Access {
            space: self.space,
            len: u64::from(self.size) * self.dst.len() as u64,
            reads: true,
            writes: false,
            order: self.order,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct St {
    pub space: Space,
    pub size: u8,
    pub addr: Addr,
    pub src: Vec<Row>,
    pub order: Order,
}

impl St {
    /// What it does to memory, for the checkers.
    pub fn access(&self) -> Access {
        Access {
            space: self.space,
            len: u64::from(self.size) * self.src.len() as u64,
            reads: false,
            writes: true,
            order: self.order,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Atom {
    pub op: AtomOp,
    pub ty: Type,
    pub space: Space,
    pub addr: Addr,
    /// `None` for `red`. One row per vector element.
    pub dst: Option<Vec<Row>>,
    pub b: Vec<Row>,
    /// The new value of `cas`.
    pub c: Option<Row>,
    pub order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArriveKind {
    /// `mbarrier.arrive` with its count.
    Plain,
    Drop,
    /// `expect_tx` before an arrival of one.
    ExpectTx,
    DropExpectTx,
    /// `mbarrier.expect_tx`, without arriving.
    OnlyExpect,
    /// `mbarrier.complete_tx`.
    OnlyComplete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbarArrive {
    pub kind: ArriveKind,
    pub space: Space,
    pub addr: Addr,
    /// Arrival count, or bytes.
    pub operand: R,
    /// Row that takes the state.
    pub state: Option<R>,
    pub release: bool,
    /// As written; the default is the CTA.
    pub scope: Option<Scope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbarWait {
    /// `try_wait` may suspend; `test_wait` may not.
    pub suspend: bool,
    pub space: Space,
    pub addr: Addr,
    /// With `.parity` a 32-bit row, else the state's 64-bit row.
    pub phase: Row,
    pub d: P,
    pub acquire: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MatrixA {
    Registers(Vec<R>),
    Descriptor(R),
}

/// `wgmma.mma_async` (PTX ISA 9.7.15.5).
#[derive(Debug, Clone, PartialEq)]
pub struct Wgmma {
    pub n: u16,
    pub a_type: Element,
    pub b_type: Element,
    /// The accumulator is FP16, two to a register.
    pub half_acc: bool,
    pub d: Vec<R>,
    pub a: MatrixA,
    pub b: R,
    pub scale_d: PSrc,
    pub negate_a: bool,
    pub negate_b: bool,
    pub trans_a: bool,
    pub trans_b: bool,
}

/// Integer arithmetic with the carry in or out, or both. Rows are of 64 bits
/// when `wide`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carry {
    pub f: CarryOp,
    pub wide: bool,
    pub signed: bool,
    pub takes: bool,
    pub gives: bool,
    pub d: R,
    pub a: R,
    pub b: R,
    pub c: R,
}

/// `tensormap.replace`: one field of a tensor map in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapReplace {
    pub field: MapField,
    /// The dimension, where the field has one for each.
    pub index: u8,
    pub space: Space,
    pub addr: Addr,
    pub value: Row,
}

/// A call of one of NVSHMEM's device functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvshmem {
    pub call: NvshmemCall,
    /// Where its arguments lie in the thread's local memory.
    pub args: Vec<u32>,
}

/// `mma.sync` (PTX ISA 9.7.14.5.14). M is 16 or 8, N is 8; registers are in
/// the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mma {
    pub k: u8,
    pub kind: MmaKind,
    pub d: Vec<R>,
    pub a: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
}

impl Mma {
    /// Groups of eight rows of A: each register of B meets so many of A.
    pub fn row_blocks(&self) -> usize {
        self.a.len() / self.b.len()
    }
}

/// What a bulk copy moves.
#[derive(Debug, Clone, PartialEq)]
pub enum BulkKind {
    /// Tensor tile from global to shared memory.
    LoadTensor { map: Addr, coords: Vec<R> },
    /// Bytes from global or shared::cta to shared memory.
    Load {
        src: Addr,
        src_space: Space,
        bytes: R,
    },
    /// Tensor tile from shared to global memory, with an optional reduction.
    StoreTensor {
        map: Addr,
        coords: Vec<R>,
        reduce: Option<AtomOp>,
    },
    /// Bytes from shared to global memory.
    Store {
        dst: Addr,
        bytes: R,
        reduce: Option<(AtomOp, Type)>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bulk {
    pub kind: BulkKind,
    /// The shared-memory side.
    pub shared: Addr,
    /// Completion mechanism of loads.
    pub mbar: Option<Addr>,
    /// 16-bit mask of CTAs in the cluster.
    pub multicast: Option<R>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpAsync {
    pub dst: Addr,
    pub src: Addr,
    pub bytes: u8,
    /// Source bytes, the rest is zero; or nothing at all when a predicate says.
    pub src_bytes: Option<R>,
    pub ignore: Option<PSrc>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Nop,
    Alu32 {
        f: A32,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// 16-bit integers: operands extended by their sign, result cut to 16 bits.
    Alu16 {
        f: A32,
        signed: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// `f32` with `.ftz` or `.sat`.
    AluF {
        f: A32,
        ftz: bool,
        sat: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Rnd {
        f: RndOp,
        mode: Rounding,
        ftz: bool,
        sat: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// `f64` in a direction other than to nearest.
    Rnd64 {
        f: RndOp,
        mode: Rounding,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Approx {
        f: Approx,
        ftz: bool,
        d: R,
        a: R,
    },
    Half {
        f: HalfOp,
        bf16: bool,
        pair: bool,
        ftz: bool,
        sat: bool,
        relu: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Lop3 {
        lut: u8,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Bfi {
        d: R,
        a: R,
        b: R,
        pos: R,
        len: R,
    },
    Alu64 {
        f: A64,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Shift64 {
        f: Shift,
        d: R,
        a: R,
        b: R,
    },
    MulWide {
        signed: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Count64 {
        f: Count64,
        d: R,
        a: R,
    },
    Carry(Box<Carry>),
    Bfe64 {
        signed: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Bfi64 {
        d: R,
        a: R,
        b: R,
        pos: R,
        len: R,
    },
    Pack64 {
        d: R,
        lo: R,
        hi: R,
    },
    Testp {
        finite: u8,
        d: P,
        a: Row,
    },
    Setp {
        ty: CmpType,
        cmp: Cmp,
        ftz: bool,
        join: Option<(BoolOp, PSrc)>,
        d: P,
        q: P,
        a: R,
        b: R,
    },
    Sel32 {
        d: R,
        a: R,
        b: R,
        p: PSrc,
    },
    Sel64 {
        d: R,
        a: R,
        b: R,
        p: PSrc,
    },
    Predicate {
        f: BoolOp,
        d: P,
        a: PSrc,
        b: PSrc,
    },
    Special32 {
        d: R,
        s: SpecialReg,
    },
    Special64 {
        d: R,
        s: SpecialReg,
    },
    Cvt {
        cvt: Cvt,
        d: Row,
        a: Row,
    },
    /// Two `f32` to a packed pair; `hi` first as in the text.
    CvtPair {
        cvt: Cvt,
        d: R,
        hi: R,
        lo: R,
    },
    /// Packed pair to packed pair: FP8 to FP16 and back.
    CvtPacked {
        cvt: Cvt,
        d: R,
        a: R,
    },
    Ld(Box<Ld>),
    St(Box<St>),
    Atom(Box<Atom>),
    /// Adds or removes a window's base; `to` removes it.
    Cvta {
        space: Space,
        to: bool,
        d: Row,
        a: Row,
    },
    Isspacep {
        space: Space,
        d: P,
        a: Row,
    },
    Mapa {
        generic: bool,
        d: Row,
        a: Row,
        rank: R,
    },
    Getctarank {
        generic: bool,
        d: R,
        a: Row,
    },
    /// A possibly divergent branch; `join` is where its lanes meet again.
    Bra {
        target: u32,
        join: u32,
    },
    BrxIdx {
        index: R,
        targets: Vec<u32>,
        join: u32,
    },
    Exit,
    Trap,
    /// Yields to other warps.
    Pause,
    Shfl {
        mode: ShflMode,
        d: R,
        p: P,
        a: R,
        lane: R,
        clamp: R,
        members: R,
    },
    Vote {
        mode: VoteMode,
        d: P,
        d32: R,
        a: PSrc,
        members: R,
    },
    Match {
        all: bool,
        d: R,
        p: P,
        a: Row,
        members: R,
    },
    Redux {
        f: A32,
        d: R,
        a: R,
        members: R,
    },
    Activemask {
        d: R,
    },
    Elect {
        d: R,
        p: P,
        members: R,
    },
    WarpSync {
        members: R,
    },
    Bar {
        id: R,
        count: Option<R>,
        arrive: bool,
        aligned: bool,
        red: Option<BarRed>,
        a: PSrc,
        d: P,
        d32: R,
    },
    ClusterArrive {
        release: bool,
    },
    ClusterWait,
    /// `griddepcontrol.wait`.
    GridWait,
    Fence(FenceKind),
    MbarInit {
        space: Space,
        addr: Addr,
        count: R,
    },
    MbarInval {
        space: Space,
        addr: Addr,
    },
    MbarArrive(Box<MbarArrive>),
    MbarWait(Box<MbarWait>),
    MbarPending {
        d: R,
        a: R,
    },
    CpAsync(Box<CpAsync>),
    CpAsyncCommit,
    CpAsyncWait {
        pending: u32,
        all: bool,
    },
    CpAsyncArrive {
        noinc: bool,
        space: Space,
        addr: Addr,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        pending: u32,
        /// Only until the sources have been read.
        read: bool,
    },
    TensormapCheck {
        addr: Addr,
        space: Space,
    },
    MapReplace(Box<MapReplace>),
    /// `tensormap.cp_fenceproxy`, from shared to global memory.
    MapCopy {
        to: Addr,
        from: Addr,
    },
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    Setmaxnreg {
        inc: bool,
        count: u32,
    },
    Ldmatrix {
        trans: bool,
        d: Vec<R>,
        addr: Addr,
    },
    Stmatrix {
        trans: bool,
        a: Vec<R>,
        addr: Addr,
    },
    Movmatrix {
        d: R,
        a: R,
    },
    Mma(Box<Mma>),
    Nvshmem(Box<Nvshmem>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Inst {
    pub guard: PSrc,
    pub op: Op,
}

/// A formal parameter's place in the parameter bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamSlot {
    pub offset: u32,
    pub size: u32,
}

#[derive(Debug, Default)]
pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    /// PTX line of every instruction.
    pub lines: Vec<u32>,
    /// For every instruction, what it does to registers of `wgmma`: 0 is
    /// nothing, else one more than the index in `touches`. Empty in kernels
    /// without `wgmma`.
    pub touch: Vec<u32>,
    pub touches: Vec<Touch>,
    pub rows32: usize,
    pub rows64: usize,
    pub preds: usize,
    /// It calls functions of NVSHMEM.
    pub puts: bool,
    /// Some path may read a register that nothing has written.
    pub reads_unwritten: bool,
    pub consts32: Vec<Row32>,
    pub consts64: Vec<Row64>,
    pub params: Vec<ParamSlot>,
    pub param_bytes: u32,
    /// Bytes of static shared memory, counted from [`crate::memory::SHARED_START`].
    pub static_smem: u32,
    pub local_bytes: u32,
    pub max_threads: Option<u64>,
    /// `.maxnreg` and `.minnctapersm`.
    pub max_registers: Option<u32>,
    pub min_blocks: Option<u32>,
    pub req_ntid: Option<[u32; 3]>,
    pub req_cluster: Option<[u32; 3]>,
    /// Warp instructions of one cluster at the last launch: tells whether a
    /// launch is worth waking other host threads.
    pub cost: AtomicU64,
}
