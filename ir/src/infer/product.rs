//! Inference rules of matrix products and of the ops fused around them.

use super::{GROUP, Inferred, Signature, quantized, row_weights};
use crate::types::DType::{self, BF16, E4M3};
use crate::types::{Dim, ScaleBlock, Type};

pub(crate) fn matmul(s: &Signature<'_>, out: DType, promote: u32) -> Inferred {
    s.matmul_out(out)?;
    s.matmul_operands(2, 2, promote)?;
    let (x, w) = (&s.ty(0).shape, &s.ty(1).shape);
    Ok(vec![Type::new(out, [&x[0], &w[0]])])
}

pub(crate) fn batched_matmul(s: &Signature<'_>, out: DType) -> Inferred {
    s.matmul_out(out)?;
    let [m, h, k] = s.dims(0)?;
    let [_, n, _] = s.dims(1)?;
    s.same(1, 0, "H", h)?;
    s.same(1, 2, "K", k)?;
    Ok(vec![Type::new(out, [m, h, n])])
}

pub(crate) fn grouped_matmul(s: &Signature<'_>, out: DType, promote: u32) -> Inferred {
    s.matmul_out(out)?;
    s.matmul_operands(2, 3, promote)?;
    let (x, w) = (&s.ty(0).shape, &s.ty(1).shape);
    let experts = s.constant(1, 0, "E")?;
    let [_] = s.dims(2)?;
    s.same(2, 0, "E + 1", &Dim::Const(experts.saturating_add(1)))?;
    Ok(vec![Type::new(out, [&x[0], &w[1]])])
}

pub(crate) fn masked_matmul(s: &Signature<'_>, out: DType, promote: u32) -> Inferred {
    s.matmul_out(out)?;
    s.matmul_operands(3, 3, promote)?;
    let (x, w) = (&s.ty(0).shape, &s.ty(1).shape);
    s.constant(0, 0, "E")?;
    s.same(1, 0, "E", &x[0])?;
    let [_] = s.dims(2)?;
    s.same(2, 0, "E", &x[0])?;
    Ok(vec![Type::new(out, [&x[0], &x[1], &w[1]])])
}

pub(crate) fn weight_grad(s: &Signature<'_>, promote: u32) -> Inferred {
    if !matches!(promote, 32 | 64 | 128) {
        return Err(s.attr(
            "promote",
            "32, 64 or 128, since every 128 of K have scales of their own",
            promote,
        ));
    }
    let (x, y) = (s.ty(0), s.ty(1));
    let scaled = match (x.dtype, x.scale) {
        (BF16, None) => false,
        (E4M3, Some(ScaleBlock::ACTIVATION)) => true,
        _ => return Err(s.operand(0, s.form(0))),
    };
    let [m, k] = x.shape.as_slice() else {
        return Err(s.operand(0, s.form(0)));
    };
    if scaled && k.as_const().is_none() && !k.is_multiple_of(GROUP) {
        return Err(s.operand(
            0,
            format!("a constant K on axis 1, or a multiple of {GROUP} of a named dim"),
        ));
    }
    let n = match y.shape.as_slice() {
        [n, _] if (y.dtype, y.scale) == (x.dtype, x.scale) => n,
        _ => {
            let form = s.form(1).split(" or ").nth(usize::from(scaled));
            return Err(s.operand(1, format!("{} to match `x`", form.unwrap_or_default())));
        }
    };
    s.same(1, 1, "K", k)?;
    let [_, _, _] = s.dims(3)?;
    let experts = s.constant(3, 0, "E")?;
    let [_] = s.dims(2)?;
    s.same(2, 0, "E + 1", &Dim::Const(experts.saturating_add(1)))?;
    s.same(3, 1, "M", m)?;
    s.same(3, 2, "N", n)?;
    Ok(vec![s.ty(3).clone()])
}

pub(crate) fn matmul_add(s: &Signature<'_>, out: DType, promote: u32) -> Inferred {
    let sum = matmul(s, out, promote)?;
    match sum.first() {
        Some(product) if s.ty(2) != product => {
            Err(s.operand(2, format!("{product}, the type of the product")))
        }
        _ => Ok(sum),
    }
}

/// SwiGLU of a product `[M, N]` whose weights are operand 1, in groups of 128.
fn swiglu_of_product(s: &Signature<'_>, product: &[Type]) -> Inferred {
    let columns = s.ty(1).rank() - 2;
    let n = s.constant(1, columns, "N")?;
    if !n.is_multiple_of(2) {
        return Err(s.operand(
            1,
            format!("an even N on axis {columns}: rows of the gate, then of up"),
        ));
    }
    let halves = product.iter().map(|ty| {
        let mut shape = ty.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Const(n / 2);
        }
        quantized(&ty.with_shape(shape))
    });
    Ok(halves.collect())
}

pub(crate) fn matmul_swiglu_quantize(s: &Signature<'_>, promote: u32) -> Inferred {
    swiglu_of_product(s, &matmul(s, BF16, promote)?)
}

pub(crate) fn matmul_swiglu_scale_quantize(s: &Signature<'_>, promote: u32) -> Inferred {
    let types = matmul_swiglu_quantize(s, promote)?;
    row_weights(s, 2, &s.ty(0).shape[..1])?;
    Ok(types)
}

pub(crate) fn grouped_matmul_swiglu_quantize(s: &Signature<'_>, promote: u32) -> Inferred {
    swiglu_of_product(s, &grouped_matmul(s, BF16, promote)?)
}

pub(crate) fn grouped_matmul_swiglu_scale_quantize(s: &Signature<'_>, promote: u32) -> Inferred {
    let types = grouped_matmul_swiglu_quantize(s, promote)?;
    row_weights(s, 3, &s.ty(0).shape[..1])?;
    Ok(types)
}

pub(crate) fn masked_matmul_swiglu_quantize(s: &Signature<'_>, promote: u32) -> Inferred {
    swiglu_of_product(s, &masked_matmul(s, BF16, promote)?)
}

pub(crate) fn masked_matmul_swiglu_scale_quantize(s: &Signature<'_>, promote: u32) -> Inferred {
    let types = masked_matmul_swiglu_quantize(s, promote)?;
    row_weights(s, 3, &s.ty(0).shape[..2])?;
    Ok(types)
}
