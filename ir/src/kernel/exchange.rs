//! What the families that meet other ranks share: their ranges of the `Exchange` buffer, and operands.

use super::{KernelConfig, OperandDecl, read, write};
use crate::exchange::{DirectCombine, DirectDispatch, ExpertGroup, TwoHopCombine, TwoHopDispatch};
use crate::types::DType;

/// The range of the `Exchange` buffer that a kernel works in; launches with equal ranges share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeRange {
    /// Of both halves of a direct dispatch.
    DirectDispatch(DirectDispatch),
    /// Of both halves of a direct combine.
    DirectCombine(DirectCombine),
    /// Of a two-hop dispatch.
    TwoHopDispatch(TwoHopDispatch),
    /// Of a two-hop combine.
    TwoHopCombine(TwoHopCombine),
}

impl ExchangeRange {
    /// Bytes, a multiple of 128.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::DirectDispatch(x) => x.layout().bytes,
            Self::DirectCombine(x) => x.layout().bytes,
            Self::TwoHopDispatch(x) => x.layout().bytes,
            Self::TwoHopCombine(x) => x.layout().bytes,
        }
    }

    /// Who takes part.
    #[must_use]
    pub const fn group(&self) -> &ExpertGroup {
        match self {
            Self::DirectDispatch(x) => &x.group,
            Self::DirectCombine(x) => &x.group,
            Self::TwoHopDispatch(x) => &x.group,
            Self::TwoHopCombine(x) => &x.group,
        }
    }
}

impl KernelConfig {
    /// Where it meets its peers on other ranks; `None` for kernels that stay on theirs.
    #[must_use]
    pub fn exchange(&self) -> Option<ExchangeRange> {
        match self {
            Self::DirectDispatchSend(x) | Self::DirectDispatchReceive(x) => {
                Some(ExchangeRange::DirectDispatch(*x))
            }
            Self::DirectCombineSend(x) | Self::DirectCombineReceive(x) => {
                Some(ExchangeRange::DirectCombine(*x))
            }
            Self::TwoHopDispatch(x) => Some(ExchangeRange::TwoHopDispatch(*x)),
            Self::TwoHopCombine(x) => Some(ExchangeRange::TwoHopCombine(*x)),
            _ => None,
        }
    }
}

/// What every kernel that meets other ranks takes: its range of the `Exchange` buffer, and the `World` buffer.
pub(super) const EXCHANGE: [OperandDecl; 2] = [
    write("exchange", DType::I32, 1),
    read("world", DType::I32, 1),
];

/// A rank's tokens and where each of their slots goes: what `route` gave, and `moe_plan` of all experts.
pub(super) const ROUTING: [OperandDecl; 4] = [
    read("experts", DType::I32, 2),
    read("weights", DType::F32, 2),
    read("offsets_all", DType::I32, 1),
    read("slots", DType::I32, 2),
];

/// Rows that travel: codes and scales, or BF16.
pub(super) fn payload(quant: bool, written: bool, rank: usize) -> Vec<OperandDecl> {
    let decl = |name, dtype| OperandDecl {
        name,
        dtype,
        rank,
        written,
    };
    match (quant, written) {
        (true, false) => vec![decl("codes", DType::E4M3), decl("scales", DType::F32)],
        (false, false) => vec![decl("x", DType::BF16)],
        (true, true) => vec![
            decl("rows_codes", DType::E4M3),
            decl("rows_scales", DType::F32),
        ],
        (false, true) => vec![decl("rows", DType::BF16)],
    }
}
