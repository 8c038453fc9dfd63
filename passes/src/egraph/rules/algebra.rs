//! Rules about what products and sums compute: products that share an operand, and the order of sums.
//!
//! ```text
//! q = matmul(x, wq)                    both = matmul(x, concat(wk, wq))
//! k = matmul(x, wk)                ->  k, q = the columns of both
//! ```
//!
//! A product computes each of its columns from all of `x` and one row of `w`, in an order that does not depend on the
//! other rows, so joined weights give the same bits. They are joined once, while they are loaded (`fold.rs`): the
//! rules hold of any values, but only parameters can be joined for nothing.

use egg::Id;
use mcc_ir::attr::AttrValue;
use mcc_ir::types::{DType, ScaleBlock, Type};

use super::{Match, holds, rules};
use crate::egraph::analysis::Data;

/// Parameters that one product may join. All ways to choose so many of those that share an input are tried, and cost
/// an e-class each: without a limit 2^n of them for n parameters, with it n^4 / 24. Models have two, three at most; five
/// become two products, which a launch more is the price of.
const MOST_JOINED: usize = 4;

rules! {
    /// matmul(x, v) and matmul(x, w) are the columns of matmul(x, v ++ w). One order of the parameters is enough.
    "merge-matmul" Exact both
        "(matmul ?out ?promote ?x ?v)"
     => "(slice 1 0 ?n (matmul ?out ?promote ?x (concat 0 ?v ?w)))",
        "(matmul ?out ?promote ?x ?w)"
     => "(slice 1 ?n ?m (matmul ?out ?promote ?x (concat 0 ?v ?w)))"        if can_share_a_product;

    /// matmul(x, v) ++ matmul(x, w) = matmul(x, v ++ w), along columns.
    "concat-matmul" Exact
        "(concat 1 (matmul ?out ?promote ?x ?v) (matmul ?out ?promote ?x ?w))"
     => "(matmul ?out ?promote ?x (concat 0 ?v ?w))"                        if rows_can_be_joined;

    /// The same for each expert.
    "concat-grouped-matmul" Exact
        "(concat 1 (grouped_matmul ?out ?promote ?x ?v ?offsets) (grouped_matmul ?out ?promote ?x ?w ?offsets))"
     => "(grouped_matmul ?out ?promote ?x (concat 1 ?v ?w) ?offsets)"       if rows_can_be_joined;

    /// a + (b + c) = (a + b) + c but for the last bit. One direction, so that a chain of residual sums stays the chain
    /// that it is.
    "add-left-f32" Reassociating
        "(add ?a (add ?b ?c))"
     => "(add (add ?a ?b) ?c)"                                              if is_f32;

    /// a + (b + c) = (a + b) + c, where another sum is rounded on the way.
    "add-left-bf16" Rounding
        "(add ?a (add ?b ?c))"
     => "(add (add ?a ?b) ?c)"                                              if is_bf16;
}

fn is_f32(m: &mut Match<'_>) -> Option<()> {
    holds(m.ty("?a")?.dtype == DType::F32)
}

fn is_bf16(m: &mut Match<'_>) -> Option<()> {
    holds(m.ty("?a")?.dtype == DType::BF16)
}

/// Both weights are there when a step starts, and no scale block holds rows of both.
fn rows_can_be_joined(m: &mut Match<'_>) -> Option<()> {
    m.is_loaded("?v")?;
    m.is_loaded("?w")?;
    holds(ends_with_a_block(m.ty("?v")?)?)
}

/// `?w` is a parameter that comes behind those which `?v` joins: one that ends inside of a scale block behind those that
/// do not, and among these by name.
fn can_share_a_product(m: &mut Match<'_>) -> Option<()> {
    rows_can_be_joined(m)?;
    let (v, w) = (m.id("?v")?, m.id("?w")?);
    let last = last_joined(m, v, MOST_JOINED - 1)?;
    let key = |id| Some((!ends_with_a_block(m.graph[id].data.ty()?)?, m.param(id)?));
    holds(key(last)? < key(w)?)?;
    let ([n, _], [rows, _]) = (m.extents("?v")?, m.extents("?w")?);
    m.bind("?n", n)?;
    m.bind("?m", rows)
}

/// Whether the last row of weights is the last one of a scale block.
fn ends_with_a_block(weights: &Type) -> Option<bool> {
    let block = weights
        .scale
        .map_or(1, |ScaleBlock { rows, .. }| u64::from(rows));
    let rows = weights.shape.get(weights.rank().checked_sub(2)?)?;
    Some(rows.is_multiple_of(block))
}

/// The last of at most so many parameters that make up a class, joined row by row from the left.
fn last_joined(m: &Match<'_>, class: Id, most: usize) -> Option<Id> {
    let joined = |most: usize| {
        let [axis, before, last] = *m.node_of(class, "concat")? else {
            return None;
        };
        holds(most > 1 && m.graph[axis].data == Data::Attr(AttrValue::Int(0)))?;
        m.param(last)?;
        last_joined(m, before, most - 1)?;
        Some(last)
    };
    m.param(class).map(|_| class).or_else(|| joined(most))
}
