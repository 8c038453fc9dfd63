//! `gemm_bf16`: D = A Bᵀ of BF16 operands with FP32 accumulation, dense, batched over heads, or grouped by expert.
//!
//! Meaning: `matmul`, `batched_matmul` and `grouped_matmul`. The tensor core adds 16 products and the accumulator at a time
//! (`docs/model.md`, "Tensor-core accumulation", F = 25), in K order; the reference leaves the order open.
//!
//! ```text
//! warpgroup 0      producer: one thread keeps a ring of stages filled by TMA
//! warpgroups 1..   consumers: 64 rows each
//!
//! shared memory    stage s:  A [tile_m, 64] bf16, 128-byte swizzle | B [tile_n, 64] bf16, same
//!                  then the ring's barriers
//! ```
//! In the batched form A is `[M, H, K]`, B `[H, N, K]` and D `[M, H, N]`: the tensor maps' middle or outer
//! axis picks the head. In the grouped form B is `[E, N, K]` and rows `offsets[e]..offsets[e + 1]` of A use
//! expert e; rows of the next group in a tile are computed and not stored.

use mcc_ir::kernel::{GemmBf16, GemmForm};
use mcc_ir::program::{Expr, MapAxes, Param};
use mcc_ir::types::DType;

use super::roles::{SMEM_LIMIT, WARPGROUP, specialise};
use super::tiles::{Form, Fragment, Producer, ROW_BYTES, Stages, Store, TileShape, Walk};
use super::{Family, Launch, unsupported};
use crate::emit::Kernel;
use crate::emit::pipeline::Ring;
use crate::emit::wgmma::{Init, Major, Mma, MmaType, OperandA, OperandB, k_major_offsets};
use crate::error::CodegenError;

/// K elements of a stage: 128 bytes, the swizzle's span.
const BLOCK_K: u32 = 64;

/// Parameter positions.
struct Args;
impl Args {
    const A: usize = 0;
    const B: usize = 1;
    const D: usize = 2;
    const D_STRIDE: usize = 3;
    const ROWS: usize = 4;
    /// Batched only.
    const D_HEAD_STRIDE: usize = 5;
    /// Grouped only.
    const OFFSETS: usize = 5;
}

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a GemmBf16) -> Result<Family<'a>, CodegenError> {
    let fail = |what: String, supported| Err(unsupported(name, what, supported));
    if !matches!(c.tile.m, 64 | 128) {
        return fail(format!("tile_m = {}", c.tile.m), "64 or 128");
    }
    // 232 registers hold 128 accumulators and the rest of the loop.
    if c.tile.n == 0 || !c.tile.n.is_multiple_of(8) || c.tile.n > 256 {
        return fail(
            format!("tile_n = {}", c.tile.n),
            "a multiple of 8 up to 256",
        );
    }
    if !c.n.is_multiple_of(8) || !c.k.is_multiple_of(8) || c.n == 0 || c.k == 0 {
        return fail(format!("n = {}, k = {}", c.n, c.k), "multiples of 8");
    }
    if !matches!(c.out, DType::BF16 | DType::F32) {
        return fail(format!("out = {:?}", c.out), "BF16 or F32");
    }
    let l = stages(c);
    if c.tile.stages == 0 || l.total > SMEM_LIMIT {
        return fail(
            format!(
                "{} stages take {} bytes of shared memory",
                c.tile.stages, l.total
            ),
            "at least 1 stage, at most 232448 bytes",
        );
    }

    let (batched, grouped) = (heads(c).is_some(), c.form.groups().is_some());
    let d = if grouped { 3 } else { 2 };
    let (a_box, b_box) = form(c).boxes(BLOCK_K, c.tile.m, c.tile.n);
    let mut params = vec![
        Param::TensorMap {
            operand: 0,
            box_dims: a_box,
            swizzle: 128,
            axes: MapAxes::Rows,
        },
        Param::TensorMap {
            operand: 1,
            box_dims: b_box,
            swizzle: 128,
            axes: MapAxes::Rows,
        },
        Param::Pointer { operand: d },
        Param::Stride {
            operand: d,
            axis: 0,
        },
        Param::Extent {
            operand: 0,
            axis: 0,
        },
    ];
    if batched {
        params.push(Param::Stride {
            operand: d,
            axis: 1,
        });
    }
    if grouped {
        params.push(Param::Pointer { operand: 2 });
    }
    let launch = Launch {
        grid: [
            Walk::grid(shape(c), c.form.groups(), heads(c)),
            Expr::Const(1),
            Expr::Const(1),
        ],
        block: WARPGROUP * (1 + shape(c).consumers()),
        smem_bytes: l.total,
        params,
    };
    Ok(
        Family::new(launch, move |k| body(k, c)).with_prologue(move |k| {
            l.prepare(k, shape(c).consumers(), &[Args::A, Args::B]);
        }),
    )
}

fn form(c: &GemmBf16) -> Form {
    match c.form {
        GemmForm::Batched { .. } => Form::Batched,
        GemmForm::Grouped { .. } => Form::Grouped,
        _ => Form::Dense,
    }
}

fn heads(c: &GemmBf16) -> Option<u32> {
    match c.form {
        GemmForm::Batched { heads } => Some(heads),
        _ => None,
    }
}

fn shape(c: &GemmBf16) -> TileShape {
    TileShape {
        m: c.tile.m,
        n_tiles: c.n.div_ceil(c.tile.n),
    }
}

fn stages(c: &GemmBf16) -> Stages {
    Stages::new(c.tile.m, c.tile.n, c.tile.stages)
}

fn body(k: &Kernel, c: &GemmBf16) {
    let l = stages(c);
    let ring = Ring::new(k, k.smem(), l.ring);
    let walk = match c.form.groups() {
        Some(groups) => Walk::Grouped {
            offsets: k.arg_global(Args::OFFSETS),
            groups,
        },
        None => Walk::Dense {
            rows: k.arg_i32(Args::ROWS),
            batch: heads(c).unwrap_or(1),
        },
    };
    let producer = Producer {
        a: k.arg_tensor_map(Args::A),
        b: k.arg_tensor_map(Args::B),
        stages: l,
        ring,
        form: form(c),
        block_k: BLOCK_K,
        k_blocks: c.k.div_ceil(BLOCK_K),
        tile_n: c.tile.n,
    };
    specialise(
        k,
        shape(c).consumers(),
        |leader| producer.run(k, walk, shape(c), leader),
        || consume(k, c, &l, ring, walk),
    );
}

fn consume<'k>(k: &'k Kernel, c: &GemmBf16, l: &Stages, ring: Ring<'k>, walk: Walk<'k>) {
    let thread = k.tid() & (WARPGROUP - 1);
    let half = k.tid().ushr(7) - 1;
    let fragment = Fragment::new(thread);
    let position = ring.consumer();
    let d = k.arg_global(Args::D);
    let bytes = if c.out == DType::F32 { 4 } else { 2 };
    let offsets = k_major_offsets(ROW_BYTES, 0);

    walk.for_each(k, shape(c), |tile| {
        let acc = k.vars((c.tile.n / 2) as usize, k.f32(0.0));
        k.for_(0, c.k.div_ceil(BLOCK_K), 1, |_| {
            ring.wait(position);
            let (a, b) = l.descriptors(k, position, half, 0);
            let before: Vec<_> = acc.iter().map(|a| a.get()).collect();
            let after = k.wgmma(
                Mma {
                    ty: MmaType::Bf16,
                    n: c.tile.n,
                },
                &OperandA::Shared {
                    descriptor: a,
                    offsets: &offsets,
                },
                OperandB {
                    descriptor: b,
                    offsets: &offsets,
                    major: Major::K,
                },
                &Init::Accumulate(&before),
            );
            k.if_((thread & 31).eq(0), || ring.release(position));
            for (acc, v) in acc.iter().zip(after) {
                acc.set(v);
            }
            position.advance();
        });
        let base = if heads(c).is_some() {
            let head = tile.group.to_i64() * k.arg_i32(Args::D_HEAD_STRIDE).to_i64();
            d.at(head * bytes)
        } else {
            d
        };
        let store = Store {
            base,
            stride: k.arg_i32(Args::D_STRIDE),
            dtype: c.out,
            columns: c.n,
        };
        let values: Vec<_> = acc.iter().map(|a| a.get()).collect();
        store.fragment(
            k,
            &values,
            fragment,
            tile.row + half * 64,
            tile.row_end,
            tile.n_tile * c.tile.n,
        );
    });
}
