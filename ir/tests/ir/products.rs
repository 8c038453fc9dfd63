//! Inference of matrix products: which operands, scale groups and promotion intervals go together.

use mcc_ir::kernel::NO_PROMOTION;
use mcc_ir::{DType, Op};

use super::infer::{gives, infer, refuses};

const FP8: Op = Op::Matmul {
    out: DType::BF16,
    promote: 128,
};

#[test]
fn matmul_wants_both_or_neither_block_scaled() {
    gives(
        FP8,
        &["e4m3[T, 200]/f32[1x128]", "e4m3[96, 200]/f32[128x128]"],
        "bf16[T, 96]",
    );
    gives(
        Op::Matmul {
            out: DType::F32,
            promote: 32,
        },
        &["bf16[T, 64]", "bf16[C, 64]"],
        "f32[T, C]",
    );
    refuses(
        FP8,
        &["e4m3[T, 256]/f32[1x128]", "bf16[96, 256]"],
        "`matmul`, operand `w`: expected e4m3[N, K]/f32[128x128] to match `x`, got bf16[96, 256]",
    );
    refuses(
        FP8,
        &["e4m3[T, 256]/f32[128x128]", "e4m3[96, 256]/f32[128x128]"],
        "`matmul`, operand `x`: expected bf16[M, K] or e4m3[M, K]/f32[1x128], got e4m3[T, 256]/f32[128x128]",
    );
    refuses(
        FP8,
        &["bf16[T, 256]", "bf16[96, 128]"],
        "`matmul`, operand `w`: expected K = 256 on axis 1, got bf16[96, 128]",
    );
    refuses(
        Op::Matmul {
            out: DType::I32,
            promote: 128,
        },
        &["bf16[T, 256]", "bf16[96, 256]"],
        "`matmul`, attribute `out`: expected bf16 or f32, got i32",
    );
    refuses(
        Op::Matmul {
            out: DType::F32,
            promote: 96,
        },
        &["bf16[T, 256]", "bf16[96, 256]"],
        "`matmul`, attribute `promote`: expected 32, 64, 128, 256, 512 or none, got 96",
    );
    refuses(
        Op::GroupedMatmul {
            out: DType::F32,
            promote: 128,
        },
        &["bf16[T, 256]", "bf16[4, 96, 256]", "i32[4]"],
        "`grouped_matmul`, operand `offsets`: expected E + 1 = 5 on axis 0, got i32[4]",
    );
}

#[test]
fn long_promotion_intervals_want_scale_groups_of_their_length() {
    let product = |promote, x: &str, w: &str| {
        let out = DType::BF16;
        infer(Op::Matmul { out, promote }, &[x, w])
    };
    let (x, w) = ("e4m3[T, 640]/f32[1x256]", "e4m3[96, 640]/f32[128x256]");
    assert_eq!(product(256, x, w).as_deref(), Ok("bf16[T, 96]"));
    let whole = ("e4m3[T, 640]/f32[1x640]", "e4m3[96, 640]/f32[128x640]");
    assert_eq!(
        product(NO_PROMOTION, whole.0, whole.1).as_deref(),
        Ok("bf16[T, 96]")
    );
    // K = 256: one scale is both every 256 and all of it.
    let both = ("e4m3[T, 256]/f32[1x256]", "e4m3[96, 256]/f32[128x256]");
    for promote in [256, NO_PROMOTION] {
        assert_eq!(
            product(promote, both.0, both.1).as_deref(),
            Ok("bf16[T, 96]")
        );
    }
    let source = "(other groups come from `quantize` and `quantize_wide`)";
    for (promote, x, w, fitting, group, got) in [
        (128, x, w, "256", 256, "128"),
        (512, x, w, "256", 256, "512"),
        (NO_PROMOTION, x, w, "256", 256, "none"),
        (64, both.0, both.1, "256, none", 256, "64"),
        (
            256,
            "e4m3[T, 640]/f32[1x128]",
            "e4m3[96, 640]/f32[128x128]",
            "32, 64, 128",
            128,
            "256",
        ),
    ] {
        assert_eq!(
            product(promote, x, w).expect_err("refused"),
            format!(
                "`matmul`, attribute `promote`: expected {fitting} to go with the {group}-long scale groups of `x` \
                 {source}, got {got}"
            )
        );
    }
    assert_eq!(
        product(256, x, "e4m3[96, 640]/f32[128x128]").expect_err("weights in other groups"),
        "`matmul`, operand `w`: expected e4m3[N, K]/f32[128x256] to match `x`, got e4m3[96, 640]/f32[128x128]"
    );
    // An open K has no scale for all of it, and 100 is no group at all.
    assert_eq!(
        product(128, "e4m3[T, 640]/f32[1x100]", w).expect_err("odd groups"),
        "`matmul`, operand `x`: expected scale groups of 128, 256 or 512 along K, or of all of a constant K, got \
         e4m3[T, 640]/f32[1x100]"
    );
}

#[test]
fn quantize_wide_names_its_groups() {
    let wide = |group| Op::QuantizeWide { group };
    gives(wide(256), &["bf16[T, 640]"], "e4m3[T, 640]/f32[1x256]");
    gives(
        wide(NO_PROMOTION),
        &["bf16[T, 640]"],
        "e4m3[T, 640]/f32[1x640]",
    );
    refuses(
        wide(128),
        &["bf16[T, 640]"],
        "`quantize_wide`, attribute `group`: expected 256, 512 or none (`quantize` has groups of 128), got 128",
    );
    refuses(
        wide(NO_PROMOTION),
        &["bf16[4, T]"],
        "`quantize_wide`, operand `x`: expected a constant last axis, since one scale is to cover all of it, got \
         bf16[4, T]",
    );
}

#[test]
fn a_masked_product_has_a_count_for_each_expert() {
    let masked = Op::MaskedMatmul {
        out: DType::F32,
        promote: 128,
    };
    let (x, w) = (
        "e4m3[4, 96, 256]/f32[1x128]",
        "e4m3[4, 64, 256]/f32[128x128]",
    );
    gives(masked.clone(), &[x, w, "i32[4]"], "f32[4, 96, 64]");
    refuses(
        masked.clone(),
        &[x, w, "i32[5]"],
        "`masked_matmul`, operand `counts`: expected E = 4 on axis 0, got i32[5]",
    );
    refuses(
        masked.clone(),
        &[x, "e4m3[5, 64, 256]/f32[128x128]", "i32[4]"],
        "`masked_matmul`, operand `w`: expected E = 4 on axis 0, got e4m3[5, 64, 256]/f32[128x128]",
    );
    refuses(
        masked,
        &["bf16[T, 96, 256]", "bf16[T, 64, 256]", "i32[T]"],
        "`masked_matmul`, operand `x`: expected a constant extent E on axis 0, got bf16[T, 96, 256]",
    );
}

#[test]
fn a_weight_gradient_sums_over_whole_blocks_of_an_open_k() {
    let grad = |promote| Op::WeightGrad { promote };
    let (x, y) = ("e4m3[64, 128*T]/f32[1x128]", "e4m3[32, 128*T]/f32[1x128]");
    let acc = "f32[4, 64, 32]";
    gives(grad(128), &[x, y, "i32[5]", acc], acc);
    let (bf16_x, bf16_y) = ("bf16[64, T]", "bf16[32, T]");
    gives(grad(128), &[bf16_x, bf16_y, "i32[5]", acc], acc);
    let constant = ["e4m3[64, 300]/f32[1x128]", "e4m3[32, 300]/f32[1x128]"];
    gives(grad(32), &[constant[0], constant[1], "i32[5]", acc], acc);
    refuses(
        grad(128),
        &[
            "e4m3[64, T]/f32[1x128]",
            "e4m3[32, T]/f32[1x128]",
            "i32[5]",
            acc,
        ],
        "`weight_grad`, operand `x`: expected a constant K on axis 1, or a multiple of 128 of a named dim, got \
         e4m3[64, T]/f32[1x128]",
    );
    refuses(
        grad(128),
        &[x, "e4m3[32, 128*T]/f32[128x128]", "i32[5]", acc],
        "`weight_grad`, operand `y`: expected e4m3[N, K]/f32[1x128] to match `x`, got e4m3[32, 128*T]/f32[128x128]",
    );
    refuses(
        grad(128),
        &[x, "e4m3[32, 256*T]/f32[1x128]", "i32[5]", acc],
        "`weight_grad`, operand `y`: expected K = 128*T on axis 1, got e4m3[32, 256*T]/f32[1x128]",
    );
    refuses(
        grad(256),
        &[x, y, "i32[5]", acc],
        "`weight_grad`, attribute `promote`: expected 32, 64 or 128, since every 128 of K have scales of their \
         own, got 256",
    );
    refuses(
        grad(128),
        &[x, y, "i32[4]", acc],
        "`weight_grad`, operand `offsets`: expected E + 1 = 5 on axis 0, got i32[4]",
    );
    refuses(
        grad(128),
        &[x, y, "i32[5]", "f32[4, 32, 64]"],
        "`weight_grad`, operand `acc`: expected M = 64 on axis 1, got f32[4, 32, 64]",
    );
}

#[test]
fn fused_products_check_what_their_epilogue_reads() {
    let (x, w) = ("e4m3[T, 256]/f32[1x128]", "e4m3[512, 256]/f32[128x128]");
    let add = |out| Op::MatmulAdd { out, promote: 128 };
    gives(add(DType::F32), &[x, w, "f32[T, 512]"], "f32[T, 512]");
    refuses(
        add(DType::F32),
        &[x, w, "bf16[T, 512]"],
        "`matmul_add`, operand `r`: expected f32[T, 512], the type of the product, got bf16[T, 512]",
    );
    let gated = Op::MatmulSwigluQuantize { promote: 128 };
    gives(gated.clone(), &[x, w], "e4m3[T, 256]/f32[1x128]");
    refuses(
        gated,
        &["bf16[T, 256]", "bf16[33, 256]"],
        "`matmul_swiglu_quantize`, operand `w`: expected an even N on axis 0: rows of the gate, then of up, got \
         bf16[33, 256]",
    );
    let weighted = Op::GroupedMatmulSwigluScaleQuantize { promote: 128 };
    let experts = "e4m3[4, 512, 256]/f32[128x128]";
    let rows = "e4m3[2*T, 256]/f32[1x128]";
    gives(
        weighted.clone(),
        &[rows, experts, "i32[5]", "f32[2*T]"],
        "e4m3[2*T, 256]/f32[1x128]",
    );
    refuses(
        weighted,
        &[rows, experts, "i32[5]", "f32[T]"],
        "`grouped_matmul_swiglu_scale_quantize`, operand `s`: expected f32[2*T], one for each row, got f32[T]",
    );
    refuses(
        Op::ScaleRows,
        &["bf16[T, 2, 64]", "f32[T]"],
        "`scale_rows`, operand `s`: expected f32[T, 2], one for each row, got f32[T]",
    );
    refuses(
        Op::ScaleRows,
        &["bf16[64]", "f32[64]"],
        "`scale_rows`, operand `x`: expected rows: at least two axes, got bf16[64]",
    );
}
