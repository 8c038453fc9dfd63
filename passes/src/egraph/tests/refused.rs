//! Graphs that look like the left side of a rule but break its condition: nothing may be added.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::cases::{Sizes, absorbed, build, expanded};
use super::rules::saturate_with;
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
fn a_cast_of_rows_that_do_not_stay_whole_stays() {
    refused("quantize-concat", |s| {
        let (x, y) = (s.bf16("x", [3, 100]), s.bf16("y", [3, 128]));
        let both = s.op(Op::Concat { axis: 1 }, &[x, y]);
        vec![s.op(Op::Quantize, &[both])]
    });
    refused("quantize-transpose", |s| {
        let x = s.bf16("x", [3, 4, 128]);
        [[0, 2], [2, 1]]
            .map(|[a, b]| {
                let turned = s.op(Op::Transpose { a, b }, &[x]);
                s.op(Op::Quantize, &[turned])
            })
            .into()
    });
    refused("quantize-expand", |s| {
        let x = s.bf16("x", [3, 1]);
        let x = s.op(Op::Expand { axis: 1, len: 128 }, &[x]);
        vec![s.op(Op::Quantize, &[x])]
    });
}

/// A product for each of two weights.
fn products(s: &mut Side, weights: [ValueId; 2], fp8: bool) -> [ValueId; 2] {
    let shape = ["T".into(), Dim::Const(128)];
    let x = if fp8 {
        s.input("x", Type::scaled(shape, ScaleBlock::ACTIVATION))
    } else {
        s.bf16("x", shape)
    };
    let (out, promote) = (DType::BF16, 128);
    weights.map(|w| s.op(Op::Matmul { out, promote }, &[x, w]))
}

#[test]
fn products_share_nothing_unless_their_weights_can_be_joined_once() {
    fn weights(s: &mut Side, rows: [u64; 2]) -> [ValueId; 2] {
        let ty = |n| Type::scaled([n, 128], ScaleBlock::WEIGHT);
        [s.param("v", ty(rows[0])), s.param("w", ty(rows[1]))]
    }
    // Both end inside of a scale block.
    refused("merge-matmul", |s| {
        let weights = weights(s, [192, 64]);
        products(s, weights, true).into()
    });
    refused("concat-matmul", |s| {
        let weights = weights(s, [192, 128]);
        let [a, b] = products(s, weights, true);
        vec![s.op(Op::Concat { axis: 1 }, &[a, b])]
    });
    // Values of the step.
    fn inputs(s: &mut Side) -> [ValueId; 2] {
        ["v", "w"].map(|name| s.bf16(name, [64, 128]))
    }
    refused("merge-matmul", |s| {
        let weights = inputs(s);
        products(s, weights, false).into()
    });
    refused("concat-matmul", |s| {
        let weights = inputs(s);
        let [a, b] = products(s, weights, false);
        vec![s.op(Op::Concat { axis: 1 }, &[a, b])]
    });
    // Two element types of results.
    refused("merge-matmul", |s| {
        let weights = weights(s, [128, 128]);
        let x = s.input("x", Type::scaled([4, 128], ScaleBlock::ACTIVATION));
        let product = |out| Op::Matmul { out, promote: 128 };
        vec![
            s.op(product(DType::BF16), &[x, weights[0]]),
            s.op(product(DType::F32), &[x, weights[1]]),
        ]
    });
    refused("concat-grouped-matmul", |s| {
        let x = s.bf16("x", ["T".into(), Dim::Const(64)]);
        let offsets = s.ints("offsets", [3u64], 1);
        let (out, promote) = (DType::BF16, 128);
        let halves = ["v", "w"].map(|name| {
            let w = s.bf16(name, [2, 64, 64]);
            s.op(Op::GroupedMatmul { out, promote }, &[x, w, offsets])
        });
        vec![s.op(Op::Concat { axis: 1 }, &halves)]
    });
}

/// Of three products that share an input all four ways to join some of them are found, and no more.
#[test]
fn three_products_are_joined_in_every_way_once() {
    let (imported, history) = saturate_with(
        "merge-matmul",
        &build("left", 0, |s| {
            let weights = ["a", "b", "c"].map(|name| {
                let ty = Type::new(DType::BF16, [16, 128]);
                s.param(name, ty)
            });
            let x = s.bf16("x", ["T".into(), Dim::Const(128)]);
            let (out, promote) = (DType::BF16, 128);
            weights
                .map(|w| s.op(Op::Matmul { out, promote }, &[x, w]))
                .into()
        }),
    );
    assert!(history.saturated);
    let joined = imported
        .graph
        .classes()
        .flat_map(|class| class.nodes.iter());
    let joined = joined.filter(|node| node.to_string() == "concat");
    assert_eq!(joined.count(), 4);
}

#[test]
fn sums_are_reordered_by_the_rule_of_their_element_type() {
    fn sums(s: &mut Side, dtype: DType) -> Vec<ValueId> {
        let [a, b, c] = ["a", "b", "c"].map(|name| s.input(name, Type::new(dtype, [8])));
        let sum = s.op(Op::Add, &[b, c]);
        vec![s.op(Op::Add, &[a, sum])]
    }
    refused("add-left-f32", |s| sums(s, DType::BF16));
    refused("add-left-bf16", |s| sums(s, DType::F32));
}

#[test]
fn latents_are_read_as_they_are_only_where_keys_and_values_are_all_that_they_make() {
    const SIZES: Sizes = Sizes {
        heads: 2,
        channels: [8, 8, 4, 32],
        context: 12,
    };
    // FP8 weights: the latents are rounded before the product.
    refused("absorb-bf16", |s| expanded(s, SIZES, true));
    refused("absorb-fp8", |s| expanded(s, SIZES, false));
    refused("expand-latents", |s| absorbed(s, SIZES, true));
    // Rows that are neither keys nor values, and weights of the step.
    fn attention(s: &mut Side, rows: u64, param: bool) -> Vec<ValueId> {
        let [q, q_rope] = [("q", 8), ("q_rope", 4)].map(|(name, n)| s.bf16(name, [3, 2, n]));
        let (c, k_rope) = (s.bf16("c", [12, 32]), s.bf16("k_rope", [12, 4]));
        let ty = Type::new(DType::BF16, [2 * rows, 32]);
        let w = if param {
            s.param("w", ty)
        } else {
            s.input("w", ty)
        };
        let (out, promote) = (DType::BF16, 128);
        let kv = s.op(Op::Matmul { out, promote }, &[c, w]);
        let kv = s.reshape(kv, [12, 2, rows]);
        let (k, v) = (s.slice(kv, 2, 0, 8), s.slice(kv, 2, 8, 8));
        let positions = s.ints("positions", [3u64], 12);
        let scale = mcc_ir::F32::new(0.1);
        let operands = [q, q_rope, k, k_rope, v, positions];
        vec![s.op(Op::Attention { scale }, &operands)]
    }
    refused("absorb-bf16", |s| attention(s, 20, true));
    refused("absorb-bf16", |s| attention(s, 16, false));
}

#[test]
fn a_shared_expert_of_another_width_stays_by_itself() {
    fn layer(s: &mut Side, inner: u64) -> Vec<ValueId> {
        let (out, promote) = (DType::BF16, 128);
        let (dense, grouped) = (
            Op::Matmul { out, promote },
            Op::GroupedMatmul { out, promote },
        );
        let x = s.bf16("x", ["T".into(), Dim::Const(64)]);
        let experts = s.ints("experts", ["T".into(), Dim::Const(2)], 3);
        let shape = ["T".into(), Dim::Const(2)];
        let weights = s.input("weights", Type::new(DType::F32, shape));
        let matrix = |shape: &[u64]| Type::scaled(shape.to_vec(), ScaleBlock::WEIGHT);
        let (sg, sd) = (
            s.param("sg", matrix(&[2 * inner, 64])),
            s.param("sd", matrix(&[64, inner])),
        );
        let (g, d) = (
            s.stack("g", matrix(&[3, 32, 64])),
            s.stack("d", matrix(&[3, 64, 16])),
        );
        let shared = s.op(Op::Quantize, &[x]);
        let shared = s.op(dense.clone(), &[shared, sg]);
        let shared = s.op(Op::Swiglu, &[shared]);
        let shared = s.op(Op::Quantize, &[shared]);
        let shared = s.op(dense, &[shared, sd]);
        let rows = s.ops(Op::Dispatch { n_experts: 3 }, &[x, experts]);
        let y = s.op(Op::Quantize, &[rows[0]]);
        let y = s.op(grouped.clone(), &[y, g, rows[1]]);
        let y = s.op(Op::Swiglu, &[y]);
        let y = s.op(Op::Quantize, &[y]);
        let y = s.op(grouped, &[y, d, rows[1]]);
        let routed = s.op(Op::Combine, &[y, rows[2], weights]);
        vec![s.op(Op::Add, &[shared, routed])]
    }
    let (_, history) = saturate_with("shared-as-routed", &build("left", 0, |s| layer(s, 16)));
    assert_eq!(history.steps.len(), 1);
    refused("shared-as-routed", |s| layer(s, 32));
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
    let module = super::module([&side]);
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
