//! `gemm_fp8`: D = A Bᵀ of E4M3 operands with 1x128 and 128x128 scales, dense or grouped by expert.
//!
//! Meaning: `docs/model.md`, "Promoted accumulation", bit for bit: every `promote` elements of K the tensor
//! core starts from zero; its partial sum `p` is promoted by `acc = fma(fl(sa * sb), p, acc)` in FP32, in K
//! order.
//!
//! ```text
//! warpgroup 0      producer: one thread keeps a ring of stages filled by TMA
//! warpgroups 1..   consumers: 64 rows each; wgmma, wait, promote, release; while one promotes, the other's
//!                  wgmma has the tensor core
//!
//! shared memory    stage s:  A [tile_m, 128] e4m3, 128-byte swizzle | B [tile_n, 128] e4m3, same
//!                  then the ring's barriers
//! ```
//! K tails and row tails arrive as zeros (TMA fills what lies outside of the tensor); rows of the next group
//! in a tile are computed and not stored.

use mcc_ir::kernel::GemmFp8;
use mcc_ir::program::{Expr, MapAxes, Param};
use mcc_ir::types::DType;

use super::roles::{SMEM_LIMIT, WARPGROUP, specialise};
use super::tiles::{Form, Fragment, Producer, Stages, Store, TileShape, Walk};
use super::{Family, Launch, unsupported};
use crate::emit::pipeline::Ring;
use crate::emit::wgmma::{Init, Major, Mma, MmaType, OperandA, OperandB, k_major_offsets};
use crate::emit::{F32, Kernel};
use crate::error::CodegenError;

/// K elements of a stage, which are also the bytes of a row of it, and of a scale group.
const BLOCK_K: u32 = 128;

/// Parameter positions.
struct Args;
impl Args {
    const A: usize = 0;
    const B: usize = 1;
    const A_SCALES: usize = 2;
    const A_SCALES_STRIDE: usize = 3;
    const B_SCALES: usize = 4;
    const D: usize = 5;
    const D_STRIDE: usize = 6;
    const ROWS: usize = 7;
    const OFFSETS: usize = 8;
}

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a GemmFp8) -> Result<Family<'a>, CodegenError> {
    let fail = |what: String, supported| Err(unsupported(name, what, supported));
    if !matches!(c.tile.m, 64 | 128) {
        return fail(format!("tile_m = {}", c.tile.m), "64 or 128");
    }
    if !matches!(c.tile.n, 8 | 16 | 32 | 64 | 128) {
        return fail(
            format!("tile_n = {}", c.tile.n),
            "8, 16, 32, 64 or 128: one column block of B's scales a tile",
        );
    }
    if !c.n.is_multiple_of(8) || !c.k.is_multiple_of(16) || c.n == 0 || c.k == 0 {
        return fail(
            format!("n = {}, k = {}", c.n, c.k),
            "n a multiple of 8, k a multiple of 16",
        );
    }
    if !matches!(c.promote, 32 | 64 | 128) {
        return fail(format!("promote = {}", c.promote), "32, 64 or 128");
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

    let grouped = c.form.groups().is_some();
    let d = if grouped { 5 } else { 4 };
    let (a_box, b_box) = form(c).boxes(BLOCK_K, c.tile.m, c.tile.n);
    let mut params = vec![
        Param::TensorMap {
            operand: 0,
            box_dims: a_box,
            swizzle: 128,
            axes: MapAxes::Rows,
        },
        Param::TensorMap {
            operand: 2,
            box_dims: b_box,
            swizzle: 128,
            axes: MapAxes::Rows,
        },
        Param::Pointer { operand: 1 },
        Param::Stride {
            operand: 1,
            axis: 1,
        },
        Param::Pointer { operand: 3 },
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
    if grouped {
        params.push(Param::Pointer { operand: 4 });
    }
    let launch = Launch {
        grid: [
            Walk::grid(shape(c), c.form.groups(), None),
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

fn form(c: &GemmFp8) -> Form {
    if c.form.groups().is_some() {
        Form::Grouped
    } else {
        Form::Dense
    }
}

fn shape(c: &GemmFp8) -> TileShape {
    TileShape {
        m: c.tile.m,
        n_tiles: c.n.div_ceil(c.tile.n),
    }
}

fn stages(c: &GemmFp8) -> Stages {
    Stages::new(c.tile.m, c.tile.n, c.tile.stages)
}

fn body(k: &Kernel, c: &GemmFp8) {
    let l = stages(c);
    let ring = Ring::new(k, k.smem(), l.ring);
    let walk = match c.form.groups() {
        Some(groups) => Walk::Grouped {
            offsets: k.arg_global(Args::OFFSETS),
            groups,
        },
        None => Walk::Dense {
            rows: k.arg_i32(Args::ROWS),
            batch: 1,
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

fn consume<'k>(k: &'k Kernel, c: &GemmFp8, l: &Stages, ring: Ring<'k>, walk: Walk<'k>) {
    let thread = k.tid() & (WARPGROUP - 1);
    let half = k.tid().ushr(7) - 1;
    let fragment = Fragment::new(thread);
    let rows = k.arg_i32(Args::ROWS);
    let a_scales = k.arg_global(Args::A_SCALES);
    let a_stride = k.arg_i32(Args::A_SCALES_STRIDE);
    let b_scales = k.arg_global(Args::B_SCALES);
    let k_blocks = c.k.div_ceil(BLOCK_K);
    let position = ring.consumer();
    let store = Store {
        base: k.arg_global(Args::D),
        stride: k.arg_i32(Args::D_STRIDE),
        dtype: c.out,
        columns: c.n,
    };

    walk.for_each(k, shape(c), |tile| {
        let row0 = tile.row + half * 64;
        let n0 = tile.n_tile * c.tile.n;
        let acc = k.vars((c.tile.n / 2) as usize, k.f32(0.0));
        // Rows behind the tensor's end read the last row's scales; their products are zero and not stored.
        let [r0, r1] = [0, 8].map(|d| (row0 + fragment.row + d).min(rows - 1));
        let b_row = (tile.group * c.n.div_ceil(128) + n0.ushr(7)) * k_blocks;

        k.for_(0, k_blocks, 1, |block| {
            // Scales first: their latency hides behind the wait for the stage. A's are no `load_nc`: an earlier
            // launch may still write them while this one starts. B's are weights.
            let line = block.to_i64() * a_stride.to_i64();
            let [sa0, sa1] = [r0, r1].map(|r| a_scales.at((line + r.to_i64()) * 4).load::<F32>());
            let sb = b_scales.index(b_row + block, 4).load_nc::<F32>();
            let (s0, s1) = (sa0 * sb, sa1 * sb);

            ring.wait(position);
            for part in 0..BLOCK_K / c.promote {
                let offsets = k_major_offsets(c.promote, 0);
                let (a, b) = l.descriptors(k, position, half, part * c.promote);
                let p = k.wgmma(
                    Mma {
                        ty: MmaType::E4m3,
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
                    &Init::Zero,
                );
                if part == BLOCK_K / c.promote - 1 {
                    // The stage has been read; the promotion works on registers.
                    k.if_((thread & 31).eq(0), || ring.release(position));
                }
                for (i, (acc, p)) in acc.iter().zip(p).enumerate() {
                    let s = if i % 4 < 2 { s0 } else { s1 };
                    acc.update(|a| s.fma(p, a));
                }
            }
            position.advance();
        });

        let values: Vec<_> = acc.iter().map(|a| a.get()).collect();
        store.fragment(k, &values, fragment, row0, tile.row_end, n0);
    });
}
