//! Inference rules of the ops between ranks, and of the choice of copies.

use super::{Inferred, Signature};
use crate::exchange::{EXPERT_BITS, ExpertGroup, TwoHopRecord, direct_record_words};
use crate::op::TypeError;
use crate::types::DType::{BF16, F32, I32};
use crate::types::{Dim, Type};

/// The attributes that say over which ranks an op goes, before they are checked.
#[derive(Clone, Copy)]
pub(crate) struct GroupAttrs {
    pub n_experts: u32,
    pub nodes: u32,
    pub gpus: u32,
    pub tokens: u32,
}

impl GroupAttrs {
    /// The group, when the attributes fit each other and the k of operand `experts`. Numbers are small enough to count
    /// all rows in 31 bits.
    fn check(self, s: &Signature<'_>, experts: usize) -> Result<ExpertGroup, TypeError> {
        for (name, n) in [
            ("nodes", self.nodes),
            ("gpus", self.gpus),
            ("tokens", self.tokens),
        ] {
            if n == 0 {
                return Err(s.attr(name, "at least 1", n));
            }
        }
        let most = 1 << EXPERT_BITS;
        if self.n_experts > most {
            return Err(s.attr("n_experts", format!("at most {most}"), self.n_experts));
        }
        let ranks = u64::from(self.nodes) * u64::from(self.gpus);
        if !u64::from(self.n_experts).is_multiple_of(ranks) {
            let expected =
                format!("a multiple of the {ranks} ranks, since each holds equally many");
            return Err(s.attr("n_experts", expected, self.n_experts));
        }
        let k = s.constant(experts, 1, "k")?;
        let top_k = match u32::try_from(k) {
            Ok(top_k) if top_k <= self.n_experts => top_k,
            _ => {
                let expected = format!("at least {k}, the experts a token");
                return Err(s.attr("n_experts", expected, self.n_experts));
            }
        };
        let rows = ranks * u64::from(self.tokens);
        if rows
            .checked_mul(k)
            .is_none_or(|pairs| pairs > i32::MAX as u64)
        {
            let expected =
                format!("so few that {ranks} ranks and {k} slots are counted in 31 bits");
            return Err(s.attr("tokens", expected, self.tokens));
        }
        Ok(ExpertGroup {
            experts: self.n_experts,
            top_k,
            nodes: self.nodes,
            gpus: self.gpus,
            tokens: self.tokens,
        })
    }

    /// `experts` and `weights` are operands 1 and 2, over the tokens `t` where they are given.
    fn routing(self, s: &Signature<'_>, t: Option<&Dim>) -> Result<ExpertGroup, TypeError> {
        let [tokens, k] = s.dims(1)?;
        if let Some(t) = t {
            s.same(1, 0, "T", t)?;
        }
        if tokens
            .as_const()
            .is_some_and(|t| t > u64::from(self.tokens))
        {
            let expected = format!("at least {tokens}, the tokens of `experts`");
            return Err(s.attr("tokens", expected, self.tokens));
        }
        let [_, _] = s.dims(2)?;
        s.same(2, 0, "T", tokens)?;
        s.same(2, 1, "k", k)?;
        self.check(s, 1)
    }
}

/// Room for rows and blocks that move them.
fn sizes(s: &Signature<'_>, capacity: u32, channels: u32) -> Result<(), TypeError> {
    for (name, n) in [("capacity", capacity), ("channels", channels)] {
        if n == 0 || n > i32::MAX as u32 {
            return Err(s.attr(name, "1 to 2147483647", n));
        }
    }
    Ok(())
}

pub(crate) fn dispatch_two_hop(
    s: &Signature<'_>,
    attrs: GroupAttrs,
    capacity: u32,
    channels: u32,
) -> Inferred {
    let [t, d] = s.movable_rows(0)?;
    let group = attrs.routing(s, Some(t))?;
    sizes(s, capacity, channels)?;
    let rows = Dim::Const(capacity.into());
    let offsets = u64::from(group.local()) + 1;
    Ok(vec![
        s.ty(0).with_shape(vec![rows.clone(), d.clone()]),
        Type::new(I32, [offsets]),
        Type::new(F32, [rows]),
        Type::new(I32, [TwoHopRecord::new(&group, channels).words]),
    ])
}

pub(crate) fn combine_two_hop(
    s: &Signature<'_>,
    attrs: GroupAttrs,
    capacity: u32,
    channels: u32,
) -> Inferred {
    let [_, d] = s.dims(0)?;
    let group = attrs.routing(s, None)?;
    sizes(s, capacity, channels)?;
    s.same(0, 0, "S", &Dim::Const(capacity.into()))?;
    record(s, TwoHopRecord::new(&group, channels).words)?;
    let [t, _] = s.dims(1)?;
    Ok(vec![Type::new(BF16, [t, d])])
}

pub(crate) fn dispatch_direct(s: &Signature<'_>, attrs: GroupAttrs) -> Inferred {
    let [t, d] = s.movable_rows(0)?;
    let group = attrs.routing(s, Some(t))?;
    let [experts, rows] = masked(&group);
    Ok(vec![
        s.ty(0)
            .with_shape(vec![experts.clone(), rows.clone(), d.clone()]),
        Type::new(I32, [&experts]),
        Type::new(F32, [experts, rows]),
        Type::new(I32, [direct_record_words(&group)]),
    ])
}

pub(crate) fn combine_direct(s: &Signature<'_>, attrs: GroupAttrs) -> Inferred {
    let [_, _, d] = s.dims(0)?;
    let group = attrs.routing(s, None)?;
    let [experts, rows] = masked(&group);
    s.same(0, 0, "L", &experts)?;
    s.same(0, 1, "S", &rows)?;
    record(s, direct_record_words(&group))?;
    let [t, _] = s.dims(1)?;
    Ok(vec![Type::new(BF16, [t, d])])
}

/// Experts of a rank, and rows that each has room for.
fn masked(group: &ExpertGroup) -> [Dim; 2] {
    let rows = u64::from(group.ranks()) * u64::from(group.tokens);
    [Dim::Const(group.local().into()), Dim::Const(rows)]
}

/// Operand 3 is what the dispatch of these attributes left.
fn record(s: &Signature<'_>, words: u64) -> Result<(), TypeError> {
    let [_] = s.dims(3)?;
    s.same(3, 0, "W", &Dim::Const(words))
}

pub(crate) fn replica(s: &Signature<'_>) -> Inferred {
    let [_, _] = s.dims(0)?;
    let [experts, _] = s.dims(1)?;
    s.constant(1, 0, "E")?;
    s.constant(1, 1, "X")?;
    let [_] = s.dims(2)?;
    s.same(2, 0, "E", experts)?;
    Ok(vec![s.ty(0).clone()])
}

pub(crate) fn count_experts(s: &Signature<'_>) -> Inferred {
    let [_] = s.dims(0)?;
    s.constant(0, 0, "E")?;
    let [_, _] = s.dims(1)?;
    Ok(vec![s.ty(0).clone()])
}
