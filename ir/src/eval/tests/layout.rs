//! Ops that move data, and recipes of parameters, which are made of them.

use super::*;
use crate::numerics::{e4m3_value, rope_table, round_bf16};

#[test]
fn slice_and_concat_undo_each_other() {
    let mut rng = Rng::new(6);
    for x in [
        ok(rng.bf16(&[3, 4, 256], 1.0)),
        ok(rng.activation(&[3, 4, 256], 1.0)),
        ok(rng.weight(&[3, 256, 256], 1.0)),
    ] {
        for axis in 0..3 {
            let extent = x.shape()[axis] as u64;
            let unit = if axis == 2 || x.shape()[1] == 256 && axis == 1 {
                128
            } else {
                1
            };
            let part = |start, len| eval1(Op::Slice { axis, start, len }, &[&x]);
            let (low, high) = (part(0, unit), part(unit, extent - unit));
            assert_eq!(
                eval1(Op::Concat { axis }, &[&low, &high]),
                x,
                "axis {axis} of {}",
                x.ty()
            );
        }
    }
    let x = i32s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(
        eval1(
            Op::Slice {
                axis: 1,
                start: 1,
                len: 2
            },
            &[&x]
        ),
        i32s(&[2, 2], &[2, 3, 5, 6])
    );
    let q = ok(rng.activation(&[1, 256], 1.0));
    assert!(
        refuse(
            Op::Slice {
                axis: 1,
                start: 64,
                len: 128
            },
            &[&q]
        )
        .contains("multiple of 128")
    );
}

#[test]
fn reshape_resolves_named_dims_and_keeps_scales() {
    let mut rng = Rng::new(7);
    let q = ok(rng.activation(&[3, 512], 1.0));
    let dims = Dims::from([("T".into(), 3)]);
    let shape = vec![Dim::sym("T"), Dim::Const(4), Dim::Const(128)];
    let by_head = ok(eval_op(
        &Op::Reshape {
            shape: shape.clone(),
        },
        &[&q],
        &dims,
    ))
    .remove(0);
    assert_eq!(by_head.ty().to_string(), "e4m3[3, 4, 128]/f32[1x128]");
    assert_eq!(
        by_head.as_scaled(),
        q.as_scaled(),
        "codes and scales stay as they are"
    );
    let missing = eval_op(&Op::Reshape { shape }, &[&q], &Dims::new());
    assert_eq!(
        missing,
        Err(EvalError::Missing {
            kind: "dim",
            name: "T".into()
        })
    );
}

#[test]
fn gather_and_cache_write_move_whole_rows() {
    let table = bf16(&[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let rows = eval1(Op::Gather, &[&table, &i32s(&[4], &[2, 0, 2, 1])]);
    assert_eq!(
        rows,
        bf16(&[4, 2], &[20.0, 21.0, 0.0, 1.0, 20.0, 21.0, 10.0, 11.0])
    );
    assert_eq!(
        refuse(Op::Gather, &[&table, &i32s(&[1], &[-1])]),
        "`gather`: index -1 is outside of 0..3"
    );
    let x = bf16(&[2, 2], &[5.0, 6.0, 7.0, 8.0]);
    let cache = eval1(Op::CacheWrite, &[&table, &x, &i32s(&[2], &[2, 0])]);
    assert_eq!(cache, bf16(&[3, 2], &[7.0, 8.0, 10.0, 11.0, 5.0, 6.0]));
    assert!(refuse(Op::CacheWrite, &[&table, &x, &i32s(&[2], &[3, 0])]).contains("position 3"));
}

#[test]
fn axes_change_places_and_repeat() {
    // x[i, j, k] = 100 i + 10 j + k.
    let values: Vec<f32> = (0..2)
        .flat_map(|i| (0..3).flat_map(move |j| (0..2).map(move |k| (100 * i + 10 * j + k) as f32)))
        .collect();
    let x = f32s(&[2, 3, 2], &values);
    let turned = eval1(Op::Transpose { a: 2, b: 0 }, &[&x]);
    let expected = [
        0.0, 100.0, 10.0, 110.0, 20.0, 120.0, 1.0, 101.0, 11.0, 111.0, 21.0, 121.0,
    ];
    assert_eq!(turned, f32s(&[2, 3, 2], &expected));
    let outer = eval1(Op::Transpose { a: 0, b: 1 }, &[&x]);
    assert_eq!(outer.shape(), [3, 2, 2]);
    assert_eq!(
        outer.as_float().map(|v| v[4..8].to_vec()),
        Some(vec![10.0, 11.0, 110.0, 111.0])
    );
    assert_eq!(eval1(Op::Transpose { a: 1, b: 1 }, &[&x]), x);

    // Codes and scales move together: rows of quantised heads.
    let mut rng = Rng::new(3);
    let heads = ok(rng.bf16(&[2, 3, 200], 1.0));
    let quantised_first = eval1(
        Op::Transpose { a: 0, b: 1 },
        &[&eval1(Op::Quantize, &[&heads])],
    );
    let quantised_last = eval1(
        Op::Quantize,
        &[&eval1(Op::Transpose { a: 0, b: 1 }, &[&heads])],
    );
    assert_eq!(quantised_first, quantised_last);
    assert!(
        refuse(
            Op::Transpose { a: 1, b: 2 },
            &[&eval1(Op::Quantize, &[&heads])]
        )
        .contains("scale blocks")
    );

    let one = f32s(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let three = eval1(Op::Expand { axis: 1, len: 3 }, &[&one]);
    let expected = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0];
    assert_eq!(three, f32s(&[2, 3, 2], &expected));
    assert!(refuse(Op::Expand { axis: 0, len: 3 }, &[&one]).contains("extent 1"));
    assert!(refuse(Op::Expand { axis: 1, len: 0 }, &[&one]).contains("at least 1"));
}

#[test]
fn recipes_build_parameters_from_checkpoint_tensors() {
    use crate::module::ParamSource as Source;
    let mut rng = Rng::new(13);
    let (a, b) = (
        ok(rng.weight(&[256, 128], 1.0)),
        ok(rng.weight(&[192, 128], 1.0)),
    );
    let lookup = |name: &str| match name {
        "a" => Some(a.clone()),
        "b" => Some(b.clone()),
        _ => None,
    };
    let tensor = |name: &str| Source::Tensor(name.to_owned());
    let build = |source: &Source| ok(materialize(source, &lookup));

    let joined = build(&Source::Concat(vec![tensor("a"), tensor("b")]));
    assert_eq!(joined.ty().to_string(), "e4m3[448, 128]/f32[128x128]");
    assert_eq!(joined.rows(256, 192), Some(b.clone()));
    let stacked = build(&Source::Stack(vec![tensor("a"), tensor("a")]));
    assert_eq!(stacked.ty().to_string(), "e4m3[2, 256, 128]/f32[128x128]");
    let plain = build(&Source::Dequant(Box::new(tensor("a"))));
    assert_eq!(plain, eval1(Op::Dequantize, &[&a]));

    let heads = Source::HeadRows {
        src: Box::new(Source::Dequant(Box::new(tensor("b")))),
        heads: 4,
        start: 16,
        len: 32,
    };
    let rows = build(&heads);
    assert_eq!(rows.shape(), [4, 32, 128]);
    let value = |h: usize, r: usize, k: usize| {
        let s = b.as_scaled().expect("scaled");
        let row = h * 48 + 16 + r;
        round_bf16(e4m3_value(s.codes[row * 128 + k]) * s.scales[row / 128])
    };
    assert_eq!(
        rows.as_float().map(|v| v[(3 * 32 + 5) * 128 + 7]),
        Some(value(3, 5, 7))
    );
    let turned = build(&Source::Transpose(Box::new(heads)));
    assert_eq!(turned.shape(), [4, 128, 32]);
    assert_eq!(
        turned.as_float().map(|v| v[(3 * 128 + 7) * 32 + 5]),
        Some(value(3, 5, 7))
    );

    let table = build(&Source::RopeTable {
        dim: 4,
        theta: 100.0,
        positions: 3,
        yarn: None,
    });
    assert_eq!(table, f32s(&[3, 2, 2], &rope_table(4, 100.0, 3, None)));

    assert_eq!(
        materialize(&tensor("c"), &lookup),
        Err(MaterializeError::Missing("c".to_owned()))
    );
    let uneven = materialize(&Source::Concat(vec![tensor("b"), tensor("a")]), &lookup);
    let message = uneven.expect_err("192 rows end inside a block").to_string();
    assert!(
        message.starts_with("concat of e4m3[192, 128]/f32[128x128], e4m3[256, 128]"),
        "{message}"
    );
}
