//! Graphs that look like the left side of a rule but break its condition: nothing may be added.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::rules::{build, saturate_with};
use super::{EPS, Side};

fn refused(rule: &str, graph: fn(&mut Side) -> Vec<ValueId>) {
    let (_, history) = saturate_with(rule, &build("left", 0, graph));
    assert_eq!(history.steps.len(), 0, "rule `{rule}` fired");
}

#[test]
fn slice_whole_needs_the_whole_axis() {
    refused("slice-whole", |s| {
        let x = s.bf16("x", [8, 10]);
        vec![s.slice(x, 1, 0, 9), s.slice(x, 0, 2, 6)]
    });
}

#[test]
fn slice_slice_needs_one_axis() {
    refused("slice-slice", |s| {
        let x = s.bf16("x", [8, 10]);
        let rows = s.slice(x, 0, 2, 4);
        vec![s.slice(rows, 1, 2, 4)]
    });
}

#[test]
fn a_slice_across_the_seam_of_a_concatenation_stays() {
    for rule in ["slice-concat-first", "slice-concat-second"] {
        refused(rule, |s| {
            let (a, b) = (s.bf16("a", [5, 4]), s.bf16("b", [5, 4]));
            let both = s.op(Op::Concat { axis: 0 }, &[a, b]);
            vec![s.slice(both, 0, 3, 4)]
        });
    }
}

#[test]
fn a_slice_along_another_axis_than_the_concatenation_stays() {
    for rule in ["slice-concat-first", "slice-concat-second"] {
        refused(rule, |s| {
            let (a, b) = (s.bf16("a", [5, 8]), s.bf16("b", [5, 8]));
            let both = s.op(Op::Concat { axis: 0 }, &[a, b]);
            vec![s.slice(both, 1, 0, 4)]
        });
    }
}

#[test]
fn concatenated_slices_must_be_neighbours_in_order() {
    refused("concat-slices", |s| {
        let x = s.bf16("x", [8, 10]);
        let (a, b, c) = (
            s.slice(x, 1, 0, 4),
            s.slice(x, 1, 5, 5),
            s.slice(x, 1, 4, 6),
        );
        vec![
            s.op(Op::Concat { axis: 1 }, &[a, b]),
            s.op(Op::Concat { axis: 1 }, &[c, a]),
            s.op(Op::Concat { axis: 1 }, &[a, a]),
        ]
    });
}

#[test]
fn reshape_same_needs_the_same_shape() {
    refused("reshape-same", |s| {
        let x = s.bf16("x", [8, 10]);
        vec![s.reshape(x, [10u64, 8])]
    });
}

#[test]
fn a_reshape_that_cuts_groups_keeps_its_quantize() {
    refused("quantize-reshape", |s| {
        // Heads of 64 make up one group of 128 in pairs; rows of 192 straddle.
        let heads = s.bf16("heads", ["T".into(), Dim::Const(4), Dim::Const(64)]);
        let rows = s.bf16("rows", ["T".into(), Dim::Const(384)]);
        let heads = s.reshape(heads, ["T".into(), Dim::Const(256)]);
        let rows = s.reshape(rows, ["T".into(), Dim::Const(2), Dim::Const(192)]);
        vec![s.op(Op::Quantize, &[heads]), s.op(Op::Quantize, &[rows])]
    });
}

#[test]
fn a_slice_that_cuts_a_group_keeps_its_quantize() {
    refused("quantize-slice", |s| {
        let x = s.bf16("x", ["T".into(), Dim::Const(300)]);
        let cuts = [(64, 128), (0, 64), (128, 100), (257, 43)];
        cuts.map(|(start, len)| {
            let cut = s.slice(x, 1, start, len);
            s.op(Op::Quantize, &[cut])
        })
        .into()
    });
}

#[test]
fn swiglu_stays_behind_products_that_no_kernel_fuses_with_it() {
    /// BF16 operands; a gate of 64, which is no scale group.
    fn products<const GROUPED: bool>(s: &mut Side) -> Vec<ValueId> {
        let (out, promote) = (DType::BF16, 128);
        let matrix = |n: u64| -> Vec<u64> {
            if GROUPED {
                vec![2, n, 200]
            } else {
                vec![n, 200]
            }
        };
        let x = s.bf16("x", ["T".into(), Dim::Const(200)]);
        let wide = s.bf16("wide", matrix(256));
        let shape = ["T".into(), Dim::Const(200)];
        let codes = s.input("codes", Type::scaled(shape, ScaleBlock::ACTIVATION));
        let narrow = s.input("narrow", Type::scaled(matrix(128), ScaleBlock::WEIGHT));
        let odd = s.input("odd", Type::scaled(matrix(384), ScaleBlock::WEIGHT));
        let offsets = s.ints("offsets", [3u64], 1);
        [(x, wide), (codes, narrow), (codes, odd)]
            .map(|(x, w)| {
                if GROUPED {
                    s.op(Op::GroupedMatmul { out, promote }, &[x, w, offsets])
                } else {
                    s.op(Op::Matmul { out, promote }, &[x, w])
                }
            })
            .into()
    }
    fn plain<const GROUPED: bool>(s: &mut Side) -> Vec<ValueId> {
        let products = products::<GROUPED>(s).into_iter();
        products.map(|y| s.op(Op::SwigluQuantize, &[y])).collect()
    }
    fn weighted<const GROUPED: bool>(s: &mut Side) -> Vec<ValueId> {
        let weights = s.input("weights", Type::new(DType::F32, ["T"]));
        let products = products::<GROUPED>(s).into_iter();
        let gated = products.map(|y| {
            let y = s.op(Op::Swiglu, &[y]);
            let y = s.op(Op::ScaleRows, &[y, weights]);
            s.op(Op::Quantize, &[y])
        });
        gated.collect()
    }
    refused("fuse-matmul-swiglu", plain::<false>);
    refused("fuse-grouped-matmul-swiglu", plain::<true>);
    refused("fuse-matmul-swiglu-scale", weighted::<false>);
    refused("fuse-grouped-matmul-swiglu-scale", weighted::<true>);
}

#[test]
fn the_cache_row_must_be_the_whole_of_one_value_rotated_at_the_written_positions() {
    /// The expansion of `mla_cache_write` with something else in one place.
    fn expansion(
        s: &mut Side,
        other_positions: bool,
        other_high: bool,
        spare: u64,
        start: u64,
        norm_high: bool,
    ) {
        let (dc, dr) = (64, 8);
        let cache = s.bf16("cache", [12, dc + dr]);
        let kv = s.bf16("kv", ["T".into(), Dim::Const(dc + dr + spare)]);
        let more = s.bf16("more", ["T".into(), Dim::Const(dc + dr + spare)]);
        let w = s.bf16("w", [if norm_high { dr } else { dc }]);
        let positions = s.ints("positions", ["T"], 12);
        let elsewhere = s.ints("elsewhere", ["T"], 12);
        let table = s.input("table", Type::new(DType::F32, [12, dr / 2, 2]));
        let low = s.slice(kv, 1, 0, dc);
        let high = s.slice(if other_high { more } else { kv }, 1, dc, dr);
        let norm = s.op(
            Op::RmsNorm { eps: EPS },
            &[if norm_high { high } else { low }, w],
        );
        let parts = if norm_high { [low, norm] } else { [norm, high] };
        let row = s.op(Op::Concat { axis: 1 }, &parts);
        let row = s.op(
            Op::Rope { start },
            &[
                row,
                if other_positions {
                    elsewhere
                } else {
                    positions
                },
                table,
            ],
        );
        let out = s.op(Op::CacheWrite, &[cache, row, positions]);
        s.graph.output("cache", out);
    }
    let steps = |build: fn(&mut Side)| {
        let mut side = Side::new("left", 0);
        build(&mut side);
        saturate_with("fuse-mla-cache-write", &side).1.steps.len()
    };
    assert_eq!(steps(|s| expansion(s, false, false, 0, 64, false)), 1);
    assert_eq!(
        steps(|s| expansion(s, true, false, 0, 64, false)),
        0,
        "other positions"
    );
    assert_eq!(
        steps(|s| expansion(s, false, true, 0, 64, false)),
        0,
        "halves of two values"
    );
    assert_eq!(
        steps(|s| expansion(s, false, false, 8, 64, false)),
        0,
        "channels left over"
    );
    assert_eq!(
        steps(|s| expansion(s, false, false, 0, 32, false)),
        0,
        "rotated channels that were normed"
    );
    assert_eq!(
        steps(|s| expansion(s, false, false, 0, 64, true)),
        0,
        "the other half normed"
    );
}

#[test]
fn rules_of_other_classes_and_rules_left_out_are_not_used() {
    use crate::egraph::{Options, optimize};
    use crate::target::Target;

    let side = build("left", 0, |s| {
        let x = s.bf16("x", ["T".into(), Dim::Const(512)]);
        let y = s.op(Op::Swiglu, &[x]);
        vec![s.op(Op::Quantize, &[y])]
    });
    let module = super::module([side.graph]);
    let target = Target::load("h100").unwrap();
    let ops = |options: Options| {
        optimize(&module, &target, &options).unwrap().1.entries[0]
            .after
            .ops
    };
    assert_eq!(ops(Options::default()), 1);
    assert_eq!(
        ops(Options {
            without: vec!["fuse-swiglu-quantize".into()],
            ..Options::default()
        }),
        2
    );
    assert_eq!(
        ops(Options {
            classes: Vec::new(),
            ..Options::default()
        }),
        2
    );
}
