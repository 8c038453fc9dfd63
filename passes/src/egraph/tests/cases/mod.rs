//! For every rule a graph that it matches, and the graph that it says is equal, with random shapes. A file for each
//! file of rules.

mod algebra;
mod attention;
mod epilogue;
mod fusion;
mod moe;
mod quantize;
mod shapes;

use mcc_ir::graph::ValueId;

pub(super) use attention::{Sizes, absorbed, expanded};

use super::{EPS, Side};

/// Builds one side and gives its outputs.
pub(super) type Build = fn(&mut Side) -> Vec<ValueId>;

/// A rule with a graph that it matches, and the graph that it says is equal.
pub(super) struct Case {
    pub(super) rule: &'static str,
    pub(super) left: Build,
    pub(super) right: Build,
}

/// Every case.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    let files = [
        shapes::CASES,
        algebra::CASES,
        quantize::CASES,
        moe::CASES,
        attention::CASES,
        fusion::CASES,
        epilogue::CASES,
    ];
    files.into_iter().flatten()
}

pub(super) fn build(name: &str, seed: u64, build: Build) -> Side {
    let mut side = Side::new(name, seed);
    let outputs = build(&mut side);
    side.finish(&outputs)
}
