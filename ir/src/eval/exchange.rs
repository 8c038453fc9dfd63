//! The ops between ranks: what each rank of an expert group gets when all of them do the same op on operands of
//! their own.
//!
//! Who gets which row follows from the experts that all ranks chose, so that the way back needs no record of the
//! way there: it looks again.

use super::dense::{float, int, width};
use super::error::{EvalError, indices};
use super::layout::{concat, take_rows};
use super::tensor::Tensor;
use crate::exchange::{ExpertGroup, TwoHopRecord, direct_record_words};
use crate::numerics::round_bf16;
use crate::op::Op;

/// Result tensors of each rank.
type OfRanks = Vec<Vec<Tensor>>;

/// Evaluates an op between ranks; `None` for an op that each rank does by itself. `operands` has those of each rank,
/// and operands passed inference.
pub(super) fn eval(op: &Op, operands: &[Vec<&Tensor>]) -> Result<Option<OfRanks>, EvalError> {
    // Inference has seen to it that there are experts and that their number a token is small.
    let top_k = operands.first().and_then(|operands| operands.get(1));
    let Some(group) = op.expert_group(top_k.map_or(0, |experts| width(experts) as u32)) else {
        return Ok(None);
    };
    let routing = Routing::new(op.mnemonic(), group, operands)?;
    let results = match *op {
        Op::DispatchTwoHop {
            capacity, channels, ..
        } => {
            let record = TwoHopRecord::new(&group, channels).words;
            routing.dispatch_two_hop(operands, capacity as usize, record)?
        }
        Op::DispatchDirect { .. } => routing.dispatch_direct(operands)?,
        Op::CombineTwoHop { weighted, .. } => routing.combine(
            operands,
            weighted,
            Routing::two_hop_row,
            Routing::two_hop_sum,
        )?,
        Op::CombineDirect { weighted, .. } => {
            routing.combine(operands, weighted, Routing::direct_row, Routing::direct_sum)?
        }
        _ => return Ok(None),
    };
    Ok(Some(results))
}

/// A (token, slot) of a rank.
#[derive(Clone, Copy)]
struct Pair {
    rank: usize,
    flat: usize,
}

/// What a slot adds to an element of its token.
struct Term {
    /// The rank that holds the slot's expert.
    holder: usize,
    weight: f32,
    y: f32,
}

type Sum = fn(&Routing, &[Term]) -> f32;

/// Where every (token, slot) of every rank goes.
struct Routing {
    op: &'static str,
    group: ExpertGroup,
    /// The expert of each (token, slot), by rank.
    experts: Vec<Vec<usize>>,
    /// The pairs that each expert gets, in the order of its rows.
    held: Vec<Vec<Pair>>,
    /// The position of each (token, slot) among its expert's rows, by rank.
    position: Vec<Vec<usize>>,
}

impl Routing {
    fn new(
        op: &'static str,
        group: ExpertGroup,
        operands: &[Vec<&Tensor>],
    ) -> Result<Self, EvalError> {
        if operands.len() != group.ranks() as usize {
            let why = format!(
                "it goes over {} ranks, and is evaluated on {}",
                group.ranks(),
                operands.len()
            );
            return Err(EvalError::operands(op, why));
        }
        let n_experts = group.experts as usize;
        let mut routing = Self {
            op,
            group,
            experts: Vec::new(),
            held: vec![Vec::new(); n_experts],
            position: Vec::new(),
        };
        for (rank, operands) in operands.iter().enumerate() {
            let experts = indices(op, "expert", int(op, operands[1])?, n_experts)
                .map_err(|e| e.on_rank(rank))?;
            let place = |(flat, &expert): (usize, &usize)| {
                let held = &mut routing.held[expert];
                held.push(Pair { rank, flat });
                held.len() - 1
            };
            let position = experts.iter().enumerate().map(place).collect();
            routing.position.push(position);
            routing.experts.push(experts);
        }
        Ok(routing)
    }

    fn ranks(&self) -> usize {
        self.group.ranks() as usize
    }

    fn local(&self) -> usize {
        self.group.local() as usize
    }

    fn top_k(&self) -> usize {
        self.group.top_k as usize
    }

    /// Rows that an expert has room for in the masked layout.
    fn expert_rows(&self) -> usize {
        self.ranks() * self.group.tokens as usize
    }

    /// The pairs of each expert of a rank.
    fn held_by(&self, rank: usize) -> &[Vec<Pair>] {
        &self.held[rank * self.local()..][..self.local()]
    }

    /// The rows of `x` and the weights of these pairs, followed by zeros up to `len`.
    fn received(
        &self,
        operands: &[Vec<&Tensor>],
        pairs: &[Pair],
        len: usize,
    ) -> Result<(Tensor, Vec<f32>), EvalError> {
        let like = operands[0][0];
        let empty = || {
            EvalError::operands(
                self.op,
                format!("rows of {} cannot be moved one by one", like.ty()),
            )
        };
        let row = |pair: &Pair| {
            take_rows(operands[pair.rank][0], &[pair.flat / self.top_k().max(1)]).ok_or_else(empty)
        };
        let mut rows = pairs.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let scale = like.as_scaled().map(|s| s.block);
        let rest = [len - pairs.len(), width(like)];
        rows.push(Tensor::zeros(like.dtype(), &rest, scale));
        let rows = concat(&rows.iter().collect::<Vec<_>>(), 0).ok_or_else(empty)?;
        let weight = |pair: &Pair| Ok(float(self.op, operands[pair.rank][2])?[pair.flat]);
        let mut weights = pairs
            .iter()
            .map(weight)
            .collect::<Result<Vec<_>, EvalError>>()?;
        weights.resize(len, 0.0);
        Ok((rows, weights))
    }

    fn dispatch_two_hop(
        &self,
        operands: &[Vec<&Tensor>],
        capacity: usize,
        record: u64,
    ) -> Result<OfRanks, EvalError> {
        let of_rank = |rank: usize| {
            let held = self.held_by(rank);
            let pairs = held.concat();
            if pairs.len() > capacity {
                let why = format!("{} rows come, and `capacity` is {capacity}", pairs.len());
                return Err(EvalError::operands(self.op, why).on_rank(rank));
            }
            let (rows, weights) = self.received(operands, &pairs, capacity)?;
            let mut offsets = vec![0i32];
            for pairs in held {
                offsets.push(offsets.last().copied().unwrap_or(0) + pairs.len() as i32);
            }
            Ok(vec![
                rows,
                Tensor::i32(&[offsets.len()], offsets)?,
                Tensor::f32(&[capacity], weights)?,
                zeros(record)?,
            ])
        };
        (0..self.ranks()).map(of_rank).collect()
    }

    fn dispatch_direct(&self, operands: &[Vec<&Tensor>]) -> Result<OfRanks, EvalError> {
        let capacity = self.expert_rows();
        let of_rank = |rank: usize| {
            let held = self.held_by(rank);
            let (mut rows, mut weights) = (Vec::new(), Vec::new());
            for pairs in held {
                if pairs.len() > capacity {
                    let why = format!("{} rows come to one expert of {capacity} rows", pairs.len());
                    return Err(EvalError::operands(self.op, why).on_rank(rank));
                }
                let (own, own_weights) = self.received(operands, pairs, capacity)?;
                rows.push(own);
                weights.extend(own_weights);
            }
            let shape = [held.len(), capacity, width(operands[rank][0])];
            let rows = concat(&rows.iter().collect::<Vec<_>>(), 0);
            let rows = rows.and_then(|rows| rows.reshaped(&shape));
            let counts = held.iter().map(|pairs| pairs.len() as i32).collect();
            Ok(vec![
                rows.ok_or_else(|| EvalError::operands(self.op, "rows do not stack"))?,
                Tensor::i32(&[held.len()], counts)?,
                Tensor::f32(&[held.len(), capacity], weights)?,
                zeros(direct_record_words(&self.group))?,
            ])
        };
        (0..self.ranks()).map(of_rank).collect()
    }

    /// The row of `y` of the holder in which `dispatch_two_hop` put a pair.
    fn two_hop_row(&self, pair: Pair) -> usize {
        let expert = self.experts[pair.rank][pair.flat];
        let first = expert / self.local() * self.local();
        let before: usize = self.held[first..expert].iter().map(Vec::len).sum();
        before + self.position[pair.rank][pair.flat]
    }

    /// The row of `y` of the holder, its first two axes as one, in which `dispatch_direct` put a pair.
    fn direct_row(&self, pair: Pair) -> usize {
        let expert = self.experts[pair.rank][pair.flat];
        let row = expert % self.local() * self.expert_rows();
        row + self.position[pair.rank][pair.flat]
    }

    /// `bf16` per rank, per node, and at the end.
    fn two_hop_sum(&self, slots: &[Term]) -> f32 {
        let mut total = 0f32;
        for node in 0..self.group.nodes as usize {
            let gpus = self.group.gpus as usize;
            let mut node_sum = None;
            for rank in node * gpus..(node + 1) * gpus {
                let own = slots.iter().filter(|term| term.holder == rank);
                let own = own.fold(None, |acc: Option<f32>, term| {
                    Some(term.weight.mul_add(term.y, acc.unwrap_or(0.0)))
                });
                if let Some(own) = own {
                    node_sum = Some(node_sum.unwrap_or(0.0) + round_bf16(own));
                }
            }
            if let Some(node_sum) = node_sum {
                total += round_bf16(node_sum);
            }
        }
        total
    }

    /// As `combine` on one rank.
    fn direct_sum(&self, slots: &[Term]) -> f32 {
        slots
            .iter()
            .fold(0f32, |acc, term| term.weight.mul_add(term.y, acc))
    }

    /// Both ways back: `row` finds a pair's row at its holder, `sum` adds up an element of a token
    /// over its slots, all but the last rounding.
    fn combine(
        &self,
        operands: &[Vec<&Tensor>],
        weighted: bool,
        row: fn(&Self, Pair) -> usize,
        sum: Sum,
    ) -> Result<OfRanks, EvalError> {
        let y = operands
            .iter()
            .map(|operands| float(self.op, operands[0]))
            .collect::<Result<Vec<_>, _>>()?;
        let d = width(operands[0][0]);
        let of_rank = |rank: usize| {
            let weights = float(self.op, operands[rank][2])?;
            let tokens = operands[rank][1].shape()[0];
            let mut out = Vec::with_capacity(tokens * d);
            for t in 0..tokens {
                let slots: Vec<(usize, f32, &[f32])> = (t * self.top_k()..(t + 1) * self.top_k())
                    .map(|flat| {
                        let holder = self.experts[rank][flat] / self.local();
                        let row = row(self, Pair { rank, flat });
                        let weight = if weighted { weights[flat] } else { 1.0 };
                        (holder, weight, &y[holder][row * d..(row + 1) * d])
                    })
                    .collect();
                for c in 0..d {
                    let term = |&(holder, weight, y): &(usize, f32, &[f32])| Term {
                        holder,
                        weight,
                        y: y[c],
                    };
                    let terms: Vec<Term> = slots.iter().map(term).collect();
                    out.push(sum(self, &terms));
                }
            }
            Ok(vec![Tensor::bf16(&[tokens, d], out)?])
        };
        (0..self.ranks()).map(of_rank).collect()
    }
}

fn zeros(words: u64) -> Result<Tensor, EvalError> {
    let words = words as usize;
    Ok(Tensor::i32(&[words], vec![0; words])?)
}

/// `replica`: the physical number of the copy that this rank takes for each (token, slot).
pub(super) fn replica(
    rank: usize,
    experts: &Tensor,
    table: &Tensor,
    copies: &Tensor,
) -> Result<Tensor, EvalError> {
    let op = "replica";
    let (logical, columns) = (table.shape()[0], table.shape()[1]);
    let (table, copies) = (int(op, table)?, int(op, copies)?);
    let top_k = width(experts).max(1);
    let chosen = indices(op, "expert", int(op, experts)?, logical)?;
    let copy = |(flat, expert): (usize, usize)| {
        let n = usize::try_from(copies[expert]).ok();
        let n = n.filter(|n| (1..=columns).contains(n)).ok_or_else(|| {
            let why = format!(
                "expert {expert} has {} copies of 1 to {columns}",
                copies[expert]
            );
            EvalError::operands(op, why)
        })?;
        Ok(table[expert * columns + (rank + flat / top_k * REPLICA_STRIDE) % n])
    };
    let out = chosen.into_iter().enumerate().map(copy);
    Ok(Tensor::i32(
        experts.shape(),
        out.collect::<Result<_, EvalError>>()?,
    )?)
}

/// Copies of neighbouring tokens are this far apart; a prime, so that all copies are met.
const REPLICA_STRIDE: usize = 23333;

/// `count_experts`
pub(super) fn count_experts(load: &Tensor, experts: &Tensor) -> Result<Tensor, EvalError> {
    let op = "count_experts";
    let mut load_now = int(op, load)?.to_vec();
    for expert in indices(op, "expert", int(op, experts)?, load_now.len())? {
        load_now[expert] = load_now[expert].wrapping_add(1);
    }
    Ok(Tensor::i32(load.shape(), load_now)?)
}
