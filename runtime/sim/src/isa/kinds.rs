//! The closed vocabularies of decoded instructions: which operation, which
//! comparison, which kind of barrier.

use mcc_ptx::Type;

use crate::numerics::convert::Rounding;
use crate::numerics::wgmma::Element;

/// Operations with a 32-bit result from up to three 32-bit operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum A32 {
    Mov,
    Add,
    Sub,
    MulLo,
    MulHiS,
    MulHiU,
    MadLo,
    MadHiS,
    MadHiU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    /// `.relu`: then at least 0.
    MinRelu,
    MaxRelu,
    AddSat,
    SubSat,
    Sad,
    SadU,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Neg,
    AbsS,
    Shl,
    ShrS,
    ShrU,
    Popc,
    Clz,
    Brev,
    BfindU,
    BfindS,
    BfindShiftU,
    BfindShiftS,
    BfeU,
    BfeS,
    Bmsk,
    Prmt,
    ShfLClamp,
    ShfLWrap,
    ShfRClamp,
    ShfRWrap,
    Slct,
    Dp4aUU,
    Dp4aSS,
    /// `mul16.hi` on operands already extended to 32 bits.
    MulHi16,
    /// `{lo, hi}` of 16-bit halves, and its inverse.
    Pack16,
    Low16,
    High16,
    FAdd,
    FSub,
    FMul,
    FFma,
    FDiv,
    FSqrt,
    FRcp,
    FMin,
    FMax,
    FMinNan,
    FMaxNan,
    FNeg,
    FAbs,
    Copysign,
}

/// Operations on 64-bit rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum A64 {
    Mov,
    Add,
    Sub,
    MulLo,
    MulHiS,
    MulHiU,
    MadLo,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Neg,
    AbsS,
    Brev,
    DAdd,
    DSub,
    DMul,
    DFma,
    DDiv,
    DSqrt,
    DRcp,
    DMin,
    DMax,
    DNeg,
    DAbs,
    DCopysign,
    DRsqrt,
    DRcpGross,
    DRsqrtGross,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    Left,
    RightS,
    RightU,
}

/// 64-bit operand, 32-bit result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count64 {
    Popc,
    Clz,
    BfindU,
    BfindS,
    BfindShiftU,
    BfindShiftS,
    Low,
    High,
}

/// Operations with an explicit rounding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RndOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
    /// `div.approx.f32`.
    DivApprox,
}

/// Half-precision operations, on one or two halves of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    MinNan,
    MaxNan,
    Neg,
    Abs,
    Ex2,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmpType {
    U32,
    S32,
    S16,
    F32,
    F16,
    Bf16,
    U64,
    S64,
    F64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// A conversion; `decode` has checked that the modifiers go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cvt {
    pub to: Type,
    pub from: Type,
    pub rounding: Option<Rounding>,
    /// `.rni` and its like: the result stays a float but becomes integral.
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub satfinite: bool,
    pub relu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarRed {
    Popc,
    And,
    Or,
}

/// Threads that a memory operation or a fence can synchronise with, from
/// narrow to wide (PTX ISA, memory consistency model, "Scope").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// How a memory operation orders others. The interpreter executes memory
/// operations in program order, so it does not need this; the checkers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub acquire: bool,
    pub release: bool,
    /// `None` for weak operations.
    pub scope: Option<Scope>,
}

impl Order {
    pub const WEAK: Order = Order {
        acquire: false,
        release: false,
        scope: None,
    };

    pub fn strong(self) -> bool {
        self.scope.is_some()
    }
}

/// Memory ordering and proxy effects, for the checkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceKind {
    /// `fence.acq_rel`, `fence.sc`, `membar`.
    Thread(Scope),
    /// `fence.proxy.async` for one or both of the spaces.
    ProxyAsync {
        shared: bool,
        global: bool,
    },
    ProxyAlias,
    ProxyTensormap,
    MbarrierInit,
}

/// The arithmetic of an `mma.sync`. `half` stands for FP16 accumulators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmaKind {
    Float {
        element: Element,
        half: bool,
    },
    Fp8 {
        a_e5m2: bool,
        b_e5m2: bool,
        half: bool,
    },
    Integer {
        a_signed: bool,
        b_signed: bool,
        saturate: bool,
    },
    Double,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

/// Fields of a tensor map that a kernel can write (PTX ISA "tensormap.replace").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapField {
    GlobalAddress,
    /// One less than the number of dimensions.
    Rank,
    BoxDim,
    GlobalDim,
    /// In bytes.
    GlobalStride,
    ElementStride,
    ElemType,
    Interleave,
    SwizzleMode,
    FillMode,
}

/// Functions of NVSHMEM that kernels call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NvshmemCall {
    /// `nvshmemx_putmem_nbi_warp`.
    Put,
    /// `nvshmemx_putmem_signal_nbi_warp`.
    PutSignal,
    /// `nvshmemx_signal_op`.
    Signal,
    Fence,
    Quiet,
}
