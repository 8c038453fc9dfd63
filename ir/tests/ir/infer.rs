//! Inference: what each rule refuses, and the words in which it does.

use mcc_ir::{Dim, F32, Op, Type};

fn types(texts: &[&str]) -> Vec<Type> {
    texts
        .iter()
        .map(|t| t.parse().unwrap_or_else(|e| panic!("{t}: {e}")))
        .collect()
}

pub fn infer(op: Op, operands: &[&str]) -> Result<String, String> {
    match op.infer(&types(operands)) {
        Ok(results) => Ok(results
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")),
        Err(e) => Err(e.to_string()),
    }
}

#[track_caller]
pub fn gives(op: Op, operands: &[&str], results: &str) {
    assert_eq!(infer(op, operands).as_deref(), Ok(results));
}

#[track_caller]
pub fn refuses(op: Op, operands: &[&str], error: &str) {
    assert_eq!(infer(op, operands).expect_err("refused"), error);
}

#[test]
fn named_dims_are_compared_as_written() {
    let write = |t: &str| infer(Op::CacheWrite, &["bf16[C, 64]", "bf16[T, 64]", t]);
    assert_eq!(write("i32[T]").as_deref(), Ok("bf16[C, 64]"));
    assert_eq!(
        write("i32[C]").expect_err("C is not T"),
        "`cache_write`, operand `positions`: expected T on axis 0, got i32[C]"
    );
    refuses(
        Op::Combine,
        &["bf16[2*T, 64]", "i32[T, 4]", "f32[T, 4]"],
        "`combine`, operand `y`: expected k*T = 4*T on axis 0, got bf16[2*T, 64]",
    );
}

#[test]
fn products_with_named_dims_stay_named() {
    let experts = "i32[4*T, 2]";
    gives(
        Op::Dispatch { n_experts: 8 },
        &["bf16[4*T, 64]", experts],
        "bf16[8*T, 64], i32[9], i32[4*T, 2]",
    );
    let huge = format!("bf16[{}*T, 64]", u64::MAX / 512);
    let rows = format!("i32[{}*T, 2]", u64::MAX / 512);
    assert!(infer(Op::Dispatch { n_experts: 8 }, &[&huge, &rows]).is_ok());
}

#[test]
fn slices_cut_between_scale_blocks() {
    let slice = |axis, start, len| Op::Slice { axis, start, len };
    let x = "e4m3[4, 300, 300]/f32[128x128]";
    gives(slice(0, 1, 2), &[x], "e4m3[2, 300, 300]/f32[128x128]");
    gives(slice(1, 128, 172), &[x], "e4m3[4, 172, 300]/f32[128x128]");
    gives(slice(2, 0, 256), &[x], "e4m3[4, 300, 256]/f32[128x128]");
    refuses(
        slice(2, 64, 64),
        &[x],
        "`slice`, attribute `start`: expected a multiple of 128, the scale block of e4m3[4, 300, 300]/f32[128x128], got 64",
    );
    refuses(
        slice(1, 0, 64),
        &[x],
        "`slice`, attribute `len`: expected a multiple of 128, the scale block of e4m3[4, 300, 300]/f32[128x128], got 64",
    );
    gives(
        slice(0, 3, 5),
        &["e4m3[9, 300]/f32[1x128]"],
        "e4m3[5, 300]/f32[1x128]",
    );
    gives(slice(1, 64, 64), &["bf16[T, 128]"], "bf16[T, 64]");
    refuses(
        slice(1, 64, 65),
        &["bf16[T, 128]"],
        "`slice`, attribute `len`: expected 1 to 64 from index 64 on, got 65",
    );
    refuses(
        slice(1, u64::MAX, 1),
        &["bf16[T, 128]"],
        "`slice`, attribute `len`: expected 1 to 0 from index 18446744073709551615 on, got 1",
    );
    refuses(
        slice(0, 0, 1),
        &["bf16[T, 128]"],
        "`slice`, operand `x`: expected a constant extent to slice on axis 0, got bf16[T, 128]",
    );
    refuses(
        slice(2, 0, 1),
        &["bf16[T, 128]"],
        "`slice`, attribute `axis`: expected below 2, the number of axes of bf16[T, 128], got 2",
    );
}

#[test]
fn concat_adds_extents_and_keeps_scale_blocks_whole() {
    let concat = |axis| Op::Concat { axis };
    gives(
        concat(0),
        &["bf16[T, 64]", "bf16[3*T, 64]"],
        "bf16[4*T, 64]",
    );
    gives(
        concat(1),
        &["bf16[T, 64]", "bf16[T, 1]", "bf16[T, 2]"],
        "bf16[T, 67]",
    );
    gives(
        concat(1),
        &["e4m3[T, 128]/f32[1x128]", "e4m3[T, 5]/f32[1x128]"],
        "e4m3[T, 133]/f32[1x128]",
    );
    gives(
        concat(0),
        &["e4m3[T, 5]/f32[1x128]", "e4m3[T, 5]/f32[1x128]"],
        "e4m3[2*T, 5]/f32[1x128]",
    );
    refuses(
        concat(1),
        &["e4m3[T, 5]/f32[1x128]", "e4m3[T, 128]/f32[1x128]"],
        "`concat`, operand `xs[0]`: expected a multiple of 128 on axis 1, the scale block, since more follows, got e4m3[T, 5]/f32[1x128]",
    );
    refuses(
        concat(0),
        &["bf16[T, 64]", "bf16[C, 64]"],
        "`concat`, operand `xs[1]`: expected an extent on axis 0 that T can be added to, got bf16[C, 64]",
    );
    refuses(
        concat(0),
        &["bf16[T, 64]", "bf16[T, 65]"],
        "`concat`, operand `xs[1]`: expected bf16[T, 64] up to the extent of axis 0, got bf16[T, 65]",
    );
    refuses(
        concat(0),
        &[],
        "`concat`: expected at least 1 operand(s), ending in one or more xs, got 0",
    );
}

#[test]
fn reshape_keeps_elements_and_scale_blocks() {
    let reshape = |shape: &str| Op::Reshape {
        shape: format!("i32{shape}").parse::<Type>().unwrap().shape,
    };
    gives(reshape("[T, 2, 64]"), &["bf16[T, 128]"], "bf16[T, 2, 64]");
    gives(reshape("[2*T, 64]"), &["bf16[T, 128]"], "bf16[2*T, 64]");
    gives(
        reshape("[T, 2, 128]"),
        &["e4m3[T, 256]/f32[1x128]"],
        "e4m3[T, 2, 128]/f32[1x128]",
    );
    gives(
        reshape("[4*T, 100]"),
        &["e4m3[T, 4, 100]/f32[1x128]"],
        "e4m3[4*T, 100]/f32[1x128]",
    );
    gives(
        reshape("[512, 300]"),
        &["e4m3[4, 128, 300]/f32[128x128]"],
        "e4m3[512, 300]/f32[128x128]",
    );
    for (shape, x) in [
        ("[T, 4, 64]", "e4m3[T, 256]/f32[1x128]"),
        ("[2*T, 100]", "e4m3[T, 200]/f32[1x128]"),
        ("[400, 300]", "e4m3[4, 100, 300]/f32[128x128]"),
        ("[4, 256, 128]", "e4m3[4, 128, 256]/f32[128x128]"),
    ] {
        let error = infer(reshape(shape), &[x]).expect_err(shape);
        assert!(error.contains("keeps the ") && error.contains(x), "{error}");
    }
    refuses(
        reshape("[T, 127]"),
        &["bf16[T, 128]"],
        "`reshape`, attribute `shape`: expected as many elements as bf16[T, 128], got bf16[T, 127]",
    );
    assert!(infer(reshape("[C, 128]"), &["bf16[T, 128]"]).is_err());
    assert!(infer(Op::Reshape { shape: vec![] }, &["bf16[1]"]).is_err());
    assert!(
        infer(
            Op::Reshape {
                shape: vec![Dim::Const(u64::MAX), 2.into()]
            },
            &["bf16[1]"]
        )
        .is_err()
    );
}

#[test]
fn rope_stays_inside_the_last_axis() {
    let rope = |start| Op::Rope { start };
    let rest = ["i32[T]", "f32[1024, 32, 2]"];
    gives(
        rope(128),
        &["bf16[T, 4, 192]", rest[0], rest[1]],
        "bf16[T, 4, 192]",
    );
    refuses(
        rope(129),
        &["bf16[T, 192]", rest[0], rest[1]],
        "`rope`, operand `table`: expected at most 63 rotated channels from 129 on, got f32[1024, 32, 2]",
    );
    assert!(infer(rope(u64::MAX), &["bf16[T, 192]", rest[0], rest[1]]).is_err());
    // The fused form rotates all channels behind the latent.
    let write = |w: &str| {
        infer(
            Op::MlaCacheWrite {
                eps: F32::new(1e-6),
            },
            &[
                "bf16[C, 192]",
                "bf16[T, 192]",
                w,
                "i32[T]",
                "f32[1024, 32, 2]",
            ],
        )
    };
    assert!(write("bf16[128]").is_ok());
    assert_eq!(
        write("bf16[64]").expect_err("too few rotated"),
        "`mla_cache_write`, operand `table`: expected dr/2 = 64 on axis 1, got f32[1024, 32, 2]"
    );
    assert!(write("bf16[192]").is_err() && write("bf16[127]").is_err());
}

#[test]
fn attention_takes_all_heads_or_one() {
    let attention = |k: &str, v: &str| {
        infer(
            Op::Attention {
                scale: F32::new(0.1),
            },
            &[
                "bf16[T, 4, 64]",
                "bf16[T, 4, 32]",
                k,
                "bf16[C, 32]",
                v,
                "i32[T]",
            ],
        )
    };
    assert_eq!(
        attention("bf16[C, 4, 64]", "bf16[C, 4, 48]").as_deref(),
        Ok("bf16[T, 4, 48]")
    );
    assert_eq!(
        attention("bf16[C, 1, 64]", "bf16[C, 1, 48]").as_deref(),
        Ok("bf16[T, 4, 48]")
    );
    assert_eq!(
        attention("bf16[C, 2, 64]", "bf16[C, 2, 48]").expect_err("two heads"),
        "`attention`, operand `k`: expected 4 heads, or one, on axis 1, got bf16[C, 2, 64]"
    );
    assert!(attention("bf16[C, 1, 64]", "bf16[C, 4, 48]").is_err());
    assert!(attention("bf16[C, 1, 64]", "bf16[T, 1, 48]").is_err());
}

#[test]
fn routing_fits_its_groups() {
    let route = |top_k, n_group, topk_group, scaling| {
        let op = Op::Route {
            top_k,
            n_group,
            topk_group,
            scaling: F32::new(scaling),
            normalize: true,
        };
        infer(op, &["f32[T, 16]", "f32[16]"])
            .map_err(|e| e.split('`').nth(3).unwrap_or_default().to_owned())
    };
    assert_eq!(route(4, 4, 2, 2.5).as_deref(), Ok("i32[T, 4], f32[T, 4]"));
    for (top_k, n_group, topk_group, scaling, attr) in [
        (9, 4, 2, 1.0, "top_k"),
        (0, 4, 2, 1.0, "top_k"),
        (4, 3, 2, 1.0, "n_group"),
        (4, 0, 2, 1.0, "n_group"),
        (4, 16, 2, 1.0, "n_group"),
        (4, 4, 5, 1.0, "topk_group"),
        (4, 4, 0, 1.0, "topk_group"),
        (4, 4, 2, f32::NAN, "scaling"),
    ] {
        assert_eq!(
            route(top_k, n_group, topk_group, scaling).expect_err(attr),
            attr
        );
    }
}

#[test]
fn norms_and_activations_check_widths() {
    let eps = F32::new(1e-6);
    gives(
        Op::RmsNorm { eps },
        &["bf16[T, 4, 64]", "bf16[64]"],
        "bf16[T, 4, 64]",
    );
    assert!(infer(Op::RmsNorm { eps }, &["bf16[T, 64]", "bf16[32]"]).is_err());
    assert!(
        infer(
            Op::RmsNorm {
                eps: F32::new(-1.0)
            },
            &["bf16[T, 64]", "bf16[64]"]
        )
        .is_err()
    );
    assert!(
        infer(
            Op::RmsNorm {
                eps: F32::new(f32::INFINITY)
            },
            &["bf16[T, 64]", "bf16[64]"]
        )
        .is_err()
    );
    assert!(infer(Op::Swiglu, &["bf16[T, 65]"]).is_err());
    assert!(infer(Op::Swiglu, &["bf16[T, 2*K]"]).is_err());
    gives(
        Op::Quantize,
        &["bf16[T, 3, 200]"],
        "e4m3[T, 3, 200]/f32[1x128]",
    );
    assert!(infer(Op::Quantize, &["f32[T, 200]"]).is_err());
    assert!(infer(Op::Dequantize, &["bf16[T, 200]"]).is_err());
    assert!(
        infer(
            Op::AddRmsNorm { eps },
            &["f32[T, 64]", "f32[T, 64]", "bf16[64]"]
        )
        .is_err()
    );
}

#[test]
fn a_malformed_operand_is_named() {
    let bad = Type {
        scale: None,
        ..types(&["e4m3[T, 64]/f32[1x128]"])[0].clone()
    };
    let error = Op::Dequantize.infer(&[bad]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`dequantize`, operand `x`: expected a well-formed type (an e4m3 type needs block scales, e.g. `/f32[1x128]`), got e4m3[T, 64]"
    );
}
