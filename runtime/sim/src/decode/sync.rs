//! Warp-wide instructions, barriers, fences, mbarriers and `wgmma`.

use mcc_ptx::{Inst, Mod, Op as PtxOp, Operand, Space as PtxSpace, Type};

use super::memory::{list, space_of};
use super::operands::Frame;
use super::{Decoded, Decoder, invalid, unsupported};
use crate::isa::{
    A32, ArriveKind, BarRed, FenceKind, MatrixA, MbarArrive, MbarWait, Op, Order, P_TRASH, PSrc, R,
    Row, Scope, ShflMode, Space, TRASH, VoteMode, Wgmma,
};
use crate::numerics::wgmma::Element;

impl<'a> Decoder<'a> {
    /// False when the instruction is none of these.
    pub(super) fn sync(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<bool> {
        use PtxOp::*;
        let o = &inst.operands;
        let op = match inst.op {
            Shfl => {
                let mode = if inst.has(Mod::Up) {
                    ShflMode::Up
                } else if inst.has(Mod::Down) {
                    ShflMode::Down
                } else if inst.has(Mod::Bfly) {
                    ShflMode::Bfly
                } else {
                    ShflMode::Idx
                };
                let (d, p) = match &o[0] {
                    Operand::Pair(d, p) => (self.d32(frame, d)?, self.dp(frame, p)?),
                    d => (self.d32(frame, d)?, P_TRASH),
                };
                let a = self.s32(frame, &o[1], Type::B32)?;
                let lane = self.s32(frame, &o[2], Type::U32)?;
                let clamp = self.s32(frame, &o[3], Type::U32)?;
                let members = self.s32(frame, &o[4], Type::U32)?;
                Op::Shfl {
                    mode,
                    d,
                    p,
                    a,
                    lane,
                    clamp,
                    members,
                }
            }
            Vote => {
                let ballot = inst.has(Mod::Ballot);
                let mode = match () {
                    () if ballot => VoteMode::Ballot,
                    () if inst.has(Mod::All) => VoteMode::All,
                    () if inst.has(Mod::Any) => VoteMode::Any,
                    () => VoteMode::Uni,
                };
                let a = self.sp(frame, &o[1])?;
                let members = self.s32(frame, &o[2], Type::U32)?;
                let (d, d32) = if ballot {
                    (P_TRASH, self.d32(frame, &o[0])?)
                } else {
                    (self.dp(frame, &o[0])?, TRASH)
                };
                Op::Vote {
                    mode,
                    d,
                    d32,
                    a,
                    members,
                }
            }
            Match => {
                let (d, p) = match &o[0] {
                    Operand::Pair(d, p) => (self.d32(frame, d)?, self.dp(frame, p)?),
                    d => (self.d32(frame, d)?, P_TRASH),
                };
                let ty = inst.ty(0).unwrap_or(Type::B32);
                let a = self.source(frame, &o[1], ty)?;
                Op::Match {
                    all: inst.has(Mod::All),
                    d,
                    p,
                    a,
                    members: self.s32(frame, &o[2], Type::U32)?,
                }
            }
            Redux => {
                let s = inst.ty(0).is_some_and(Type::is_signed);
                let f = match () {
                    () if inst.has(Mod::Add) => A32::Add,
                    () if inst.has(Mod::And) => A32::And,
                    () if inst.has(Mod::Or) => A32::Or,
                    () if inst.has(Mod::Xor) => A32::Xor,
                    () if inst.has(Mod::Min) => {
                        if s {
                            A32::MinS
                        } else {
                            A32::MinU
                        }
                    }
                    () => {
                        if s {
                            A32::MaxS
                        } else {
                            A32::MaxU
                        }
                    }
                };
                let (d, a) = (self.d32(frame, &o[0])?, self.s32(frame, &o[1], Type::B32)?);
                Op::Redux {
                    f,
                    d,
                    a,
                    members: self.s32(frame, &o[2], Type::U32)?,
                }
            }
            Activemask => Op::Activemask {
                d: self.d32(frame, &o[0])?,
            },
            Elect => {
                let Operand::Pair(d, p) = &o[0] else {
                    return invalid("elect gives two results");
                };
                let (d, p) = (self.d32(frame, d)?, self.dp(frame, p)?);
                Op::Elect {
                    d,
                    p,
                    members: self.s32(frame, &o[1], Type::U32)?,
                }
            }
            BarWarpSync => Op::WarpSync {
                members: self.s32(frame, &o[0], Type::U32)?,
            },
            Bar | Barrier => self.bar(frame, inst)?,
            BarrierClusterArrive => Op::ClusterArrive {
                release: !inst.has(Mod::Relaxed),
            },
            BarrierClusterWait => Op::ClusterWait,
            Membar | MembarProxy | Fence | FenceMbarrierInit | FenceProxy => Op::Fence(fence(inst)),
            // Kernels of one stream run one after the other here: there is nothing to wait for, but what comes
            // before the wait is checked (`LaunchConfig::programmatic`).
            Griddepcontrol if inst.has(Mod::Wait) => Op::GridWait,
            Griddepcontrol | Pmevent => Op::Nop,
            Nanosleep => Op::Pause,
            Setmaxnreg => {
                let n = self.imm(inst, 0)?;
                if n % 8 != 0 || !(24..=256).contains(&n) {
                    return invalid(format!(
                        "{n} registers: a multiple of 8 from 24 to 256 is needed"
                    ));
                }
                Op::Setmaxnreg {
                    inc: inst.has(Mod::Inc),
                    count: n as u32,
                }
            }
            MbarrierInit | MbarrierInval | MbarrierExpectTx | MbarrierCompleteTx
            | MbarrierArrive | MbarrierArriveDrop | MbarrierTestWait | MbarrierTryWait
            | MbarrierPendingCount => self.mbarrier(frame, inst)?,
            CpAsyncMbarrierArrive => {
                let (space, addr) = self.mem(frame, inst, 0, space_of(inst.space(0)))?;
                Op::CpAsyncArrive {
                    noinc: inst.has(Mod::Noinc),
                    space,
                    addr,
                }
            }
            CpAsyncCommitGroup => Op::CpAsyncCommit,
            CpAsyncWaitGroup => Op::CpAsyncWait {
                pending: self.imm(inst, 0)? as u32,
                all: false,
            },
            CpAsyncWaitAll => Op::CpAsyncWait {
                pending: 0,
                all: true,
            },
            CpAsyncBulkCommitGroup => Op::BulkCommit,
            CpAsyncBulkWaitGroup => Op::BulkWait {
                pending: self.imm(inst, 0)? as u32,
                read: inst.has(Mod::Read),
            },
            WgmmaFence => Op::WgmmaFence,
            WgmmaCommitGroup => Op::WgmmaCommit,
            WgmmaWaitGroup => Op::WgmmaWait {
                pending: self.imm(inst, 0)? as u32,
            },
            WgmmaMmaAsync => self.wgmma(frame, inst)?,
            Ldmatrix => {
                let d = self.rows32(frame, &o[0])?;
                let (_, addr) = self.mem(frame, inst, 1, Space::Shared)?;
                Op::Ldmatrix {
                    trans: inst.has(Mod::Trans),
                    d,
                    addr,
                }
            }
            Stmatrix => {
                let a = self.rows32(frame, &o[1])?;
                let (_, addr) = self.mem(frame, inst, 0, Space::Shared)?;
                Op::Stmatrix {
                    trans: inst.has(Mod::Trans),
                    a,
                    addr,
                }
            }
            Movmatrix => {
                let (d, a) = (self.d32(frame, &o[0])?, self.s32(frame, &o[1], Type::B32)?);
                Op::Movmatrix { d, a }
            }
            Mma => self.mma(frame, inst)?,
            _ => return Ok(false),
        };
        self.push(op);
        Ok(true)
    }

    fn rows32(&mut self, frame: &Frame<'a>, o: &Operand) -> Decoded<Vec<R>> {
        list(o)
            .iter()
            .map(|o| self.s32(frame, o, Type::B32))
            .collect()
    }

    fn bar(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let o = &inst.operands;
        let red = match () {
            () if !inst.has(Mod::Red) => None,
            () if inst.has(Mod::Popc) => Some(BarRed::Popc),
            () if inst.has(Mod::And) => Some(BarRed::And),
            () => Some(BarRed::Or),
        };
        let (mut a, mut d, mut d32) = (PSrc::TRUE, P_TRASH, TRASH);
        let mut rest = &o[..];
        if let Some(kind) = red {
            if kind == BarRed::Popc {
                d32 = self.d32(frame, &o[0])?;
            } else {
                d = self.dp(frame, &o[0])?;
            }
            a = self.sp(frame, &o[o.len() - 1])?;
            rest = &o[1..o.len() - 1];
        }
        let id = self.s32(frame, &rest[0], Type::U32)?;
        let count = match rest.get(1) {
            Some(c) => Some(self.s32(frame, c, Type::U32)?),
            None => None,
        };
        let aligned = inst.op == PtxOp::Bar || inst.has(Mod::Aligned);
        Ok(Op::Bar {
            id,
            count,
            arrive: inst.has(Mod::Arrive),
            aligned,
            red,
            a,
            d,
            d32,
        })
    }

    fn mbarrier(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        use PtxOp::*;
        let o = &inst.operands;
        let space = space_of(inst.space(0));
        Ok(match inst.op {
            MbarrierInit => {
                let (space, addr) = self.mem(frame, inst, 0, space)?;
                Op::MbarInit {
                    space,
                    addr,
                    count: self.s32(frame, &o[1], Type::U32)?,
                }
            }
            MbarrierInval => {
                let (space, addr) = self.mem(frame, inst, 0, space)?;
                Op::MbarInval { space, addr }
            }
            MbarrierExpectTx | MbarrierCompleteTx => {
                let (space, addr) = self.mem(frame, inst, 0, space)?;
                let kind = if inst.op == MbarrierExpectTx {
                    ArriveKind::OnlyExpect
                } else {
                    ArriveKind::OnlyComplete
                };
                let operand = self.s32(frame, &o[1], Type::U32)?;
                Op::MbarArrive(Box::new(MbarArrive {
                    kind,
                    space,
                    addr,
                    operand,
                    state: None,
                    release: false,
                    scope: None,
                }))
            }
            MbarrierArrive | MbarrierArriveDrop => {
                let (space, addr) = self.mem(frame, inst, 1, space)?;
                let kind = match (inst.op == MbarrierArrive, inst.has(Mod::ExpectTx)) {
                    (true, true) => ArriveKind::ExpectTx,
                    (true, false) => ArriveKind::Plain,
                    (false, true) => ArriveKind::DropExpectTx,
                    (false, false) => ArriveKind::Drop,
                };
                let operand = match o.get(2) {
                    Some(x) => self.s32(frame, x, Type::U32)?,
                    None => self.c32(1),
                };
                let state = match &o[0] {
                    Operand::Sink => None,
                    d => Some(self.d64(frame, d)?),
                };
                Op::MbarArrive(Box::new(MbarArrive {
                    kind,
                    space,
                    addr,
                    operand,
                    state,
                    release: !inst.has(Mod::Relaxed),
                    scope: scope(inst),
                }))
            }
            MbarrierPendingCount => Op::MbarPending {
                d: self.d32(frame, &o[0])?,
                a: self.s64(frame, &o[1], Type::B64)?,
            },
            _ => {
                let (space, addr) = self.mem(frame, inst, 1, space)?;
                let phase = if inst.has(Mod::Parity) {
                    Row::R32(self.s32(frame, &o[2], Type::U32)?)
                } else {
                    Row::R64(self.s64(frame, &o[2], Type::B64)?)
                };
                let d = self.dp(frame, &o[0])?;
                let suspend = inst.op == MbarrierTryWait;
                Op::MbarWait(Box::new(MbarWait {
                    suspend,
                    space,
                    addr,
                    phase,
                    d,
                    acquire: !inst.has(Mod::Relaxed),
                }))
            }
        })
    }

    fn wgmma(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let o = &inst.operands;
        let (Some(shape), Some(dt), Some(at), Some(bt)) =
            (inst.shape(), inst.ty(0), inst.ty(1), inst.ty(2))
        else {
            return invalid("it names no shape or types");
        };
        let element = |t: Type| {
            Some(match t {
                Type::E4m3 => Element::E4m3,
                Type::E5m2 => Element::E5m2,
                Type::F16 => Element::F16,
                Type::Bf16 => Element::Bf16,
                Type::Tf32 => Element::Tf32,
                _ => return None,
            })
        };
        let (Some(a_type), Some(b_type)) = (element(at), element(bt)) else {
            return unsupported("wgmma on integers");
        };
        // PTX ISA 9.7.15.5: FP16 accumulators go with FP16 and FP8 operands.
        let half_acc = match (dt, a_type) {
            (Type::F32, _) => false,
            (Type::F16, Element::F16 | Element::E4m3 | Element::E5m2) => true,
            _ => return invalid(format!("no wgmma gives {dt:?} from {at:?}")),
        };
        let mut d = Vec::new();
        for x in list(&o[0]) {
            d.push(self.d32(frame, x)?);
        }
        let packed = if half_acc { 4 } else { 2 };
        if d.len() != usize::from(shape.n) / packed {
            return invalid(format!("{} accumulators for N = {}", d.len(), shape.n));
        }
        let a = match &o[1] {
            v @ Operand::Vector(parts) => {
                if parts.len() != 4 {
                    return invalid(format!("{} registers of A instead of 4", parts.len()));
                }
                MatrixA::Registers(self.rows32(frame, v)?)
            }
            desc => MatrixA::Descriptor(self.s64(frame, desc, Type::B64)?),
        };
        let b = self.s64(frame, &o[2], Type::B64)?;
        let scale_d = self.sp(frame, &o[3])?;
        let sign = |n: usize| match self.imm(inst, n)? {
            1 => Ok(false),
            -1 => Ok(true),
            v => invalid(format!("a scale of {v} instead of 1 or -1")),
        };
        let (negate_a, negate_b) = (sign(4)?, sign(5)?);
        let trans = |n: usize| match o.get(n) {
            None => Ok(false),
            Some(_) => match self.imm(inst, n)? {
                0 => Ok(false),
                1 => Ok(true),
                v => invalid(format!("a transposition of {v} instead of 0 or 1")),
            },
        };
        // With A in registers only B has a transposition.
        let (trans_a, trans_b) = match a {
            MatrixA::Descriptor(_) => (trans(6)?, trans(7)?),
            MatrixA::Registers(_) => (false, trans(6)?),
        };
        Ok(Op::Wgmma(Box::new(Wgmma {
            n: shape.n,
            a_type,
            b_type,
            half_acc,
            d,
            a,
            b,
            scale_d,
            negate_a,
            negate_b,
            trans_a,
            trans_b,
        })))
    }
}

fn fence(inst: &Inst) -> FenceKind {
    match inst.op {
        PtxOp::FenceMbarrierInit => FenceKind::MbarrierInit,
        PtxOp::MembarProxy | PtxOp::FenceProxy if inst.has(Mod::Alias) => FenceKind::ProxyAlias,
        PtxOp::FenceProxy if inst.has(Mod::TensormapGeneric) => FenceKind::ProxyTensormap,
        PtxOp::MembarProxy | PtxOp::FenceProxy => {
            let space = inst.space(0);
            let global = space == Some(PtxSpace::Global);
            FenceKind::ProxyAsync {
                shared: !global,
                global: global || space.is_none(),
            }
        }
        _ => FenceKind::Thread(scope(inst).unwrap_or(Scope::Gpu)),
    }
}

/// The scope that an instruction names.
pub(super) fn scope(inst: &Inst) -> Option<Scope> {
    Some(match inst.scope()? {
        mcc_ptx::Scope::Cta => Scope::Cta,
        mcc_ptx::Scope::Cluster => Scope::Cluster,
        mcc_ptx::Scope::Gpu => Scope::Gpu,
        mcc_ptx::Scope::Sys => Scope::Sys,
    })
}

/// The semantics of a memory operation (PTX ISA, memory consistency model);
/// `plain` is the scope of one that names none.
pub(super) fn order(inst: &Inst, plain: Option<Scope>) -> Order {
    let volatile = inst.has(Mod::Volatile) || inst.has(Mod::Mmio);
    let both = inst.has(Mod::AcqRel);
    let acquire = both || inst.has(Mod::Acquire);
    let release = both || inst.has(Mod::Release);
    let strong = acquire || release || inst.has(Mod::Relaxed);
    let scope = match scope(inst) {
        Some(s) => Some(s),
        None if volatile => Some(Scope::Sys),
        None if strong => Some(Scope::Gpu),
        None => plain,
    };
    Order {
        acquire,
        release,
        scope,
    }
}
