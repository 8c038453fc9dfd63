//! Rotary position embedding (`docs/model.md`, "RoPE and YaRN"): `rope`, and `mla_cache_write`, which norms the
//! latent, rotates the shared key and writes both into the cache row of their position.
//!
//! Interleaved pairs: `(a, b) → (a cos - b sin, a sin + b cos)` in FP32, each operation rounded as in the
//! reference (no contraction), one rounding to BF16 at the end.

use mcc_ir::kernel::{MlaCacheWrite, Rope};

use super::row::{CHUNK, RowShape, bf16_at, block_sum, load8, pack8, rows_launch};
use super::{Family, Params, unsupported};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, Global, I32, Kernel, Val};
use crate::error::CodegenError;

/// Rotates a chunk of four pairs; `table` points at the (cos, sin) of its first pair.
fn rotate<'k>(x: [Val<'k, F32>; 8], table: Global<'k>) -> [Val<'k, F32>; 8] {
    let low: [Val<'k, F32>; 4] = table.load_vec_nc();
    let high: [Val<'k, F32>; 4] = table.offset(16).load_vec_nc();
    let pair = |i: usize| {
        if i < 2 {
            [low[2 * i], low[2 * i + 1]]
        } else {
            [high[2 * i - 4], high[2 * i - 3]]
        }
    };
    let mut out = x;
    for i in 0..4 {
        let [cos, sin] = pair(i);
        let (a, b) = (x[2 * i], x[2 * i + 1]);
        out[2 * i] = a * cos - b * sin;
        out[2 * i + 1] = a * sin + b * cos;
    }
    out
}

/// `rope`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn rope<'a>(name: &str, c: &'a Rope) -> Result<Family<'a>, CodegenError> {
    let whole_chunks = [c.width, c.start, c.dim]
        .iter()
        .all(|v| v.is_multiple_of(CHUNK));
    if !whole_chunks || c.start + c.dim > c.width || c.heads == 0 || c.dim == 0 {
        return Err(unsupported(
            name,
            format!(
                "width {}, rotated channels {}..{}",
                c.width,
                c.start,
                c.start + c.dim
            ),
            "multiples of 8, the rotated channels inside of the width",
        ));
    }
    let mut p = Params::default();
    let x = p.matrix();
    let positions = p.pointer();
    let table = p.pointer();
    let out = p.matrix();
    let x_head = p.stride(0, 1);
    let out_head = p.stride(3, 1);
    let per_head = c.width / CHUNK;
    let chunks = c.heads * per_head;
    let threads = chunks.next_multiple_of(32).min(256);
    let body = move |k: &Kernel| {
        let token = k.block_x();
        let position = k.arg_global(positions).index(token, 4).load::<I32>();
        let angles = k.arg_global(table).index(position, c.dim * 4);
        k.for_(k.tid(), chunks, threads, |i| {
            let head = i.udiv(per_head);
            let channel = (i - head * per_head) * CHUNK;
            let at = |m: super::MatrixArg, head_stride: usize| {
                let column = head * k.arg_i32(head_stride) + channel;
                bf16_at(k.arg_global(m.pointer), token, k.arg_i32(m.stride), column)
            };
            let words: [Val<'_, I32>; 4] = at(x, x_head).load_vec();
            let words = words.map(|w| k.var(w));
            let rotated =
                channel.ge(c.start.cast_signed()) & channel.lt((c.start + c.dim).cast_signed());
            k.if_(rotated, || {
                let pairs = words.map(|w| w.get().unpack_bf16x2());
                let x8 = std::array::from_fn(|j| pairs[j / 2][j % 2]);
                let y = rotate(x8, angles.index(channel - c.start, 4));
                for (w, v) in words.iter().zip(pack8(k, &y)) {
                    w.set(v);
                }
            });
            at(out, out_head).store_vec(words.map(|w| w.get()));
        });
    };
    Ok(Family::new(
        rows_launch(threads, 0, SmemMap::default(), p.list),
        body,
    ))
}

/// `mla_cache_write`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn mla_cache_write<'a>(name: &str, c: &'a MlaCacheWrite) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.latent)?;
    if !c.rope.is_multiple_of(CHUNK) || c.rope == 0 {
        return Err(unsupported(
            name,
            format!("{} rotated channels", c.rope),
            "a multiple of 8",
        ));
    }
    let mut p = Params::default();
    let kv = p.matrix();
    let weight = p.pointer();
    let positions = p.pointer();
    let table = p.pointer();
    let cache = p.matrix();
    let mut smem = SmemMap::default();
    let scratch = smem.reserve(4 * shape.threads / 32, 4);
    let launch = shape.launch(0, smem, p.list);
    let args = CacheArgs {
        kv,
        weight,
        positions,
        table,
        cache,
        scratch,
    };
    Ok(Family::new(launch, move |k| write_cache(k, c, shape, args)))
}

/// Parameters of [`write_cache`].
#[derive(Clone, Copy)]
struct CacheArgs {
    kv: super::MatrixArg,
    weight: usize,
    positions: usize,
    table: usize,
    cache: super::MatrixArg,
    /// Offset of the block reduction's scratch.
    scratch: u32,
}

fn write_cache<'k>(k: &'k Kernel, c: &MlaCacheWrite, shape: RowShape, a: CacheArgs) {
    let token = k.block_x();
    let position = k.arg_global(a.positions).index(token, 4).load::<I32>();
    let source = |chunk: Val<'k, I32>| {
        bf16_at(
            k.arg_global(a.kv.pointer),
            token,
            k.arg_i32(a.kv.stride),
            chunk * CHUNK,
        )
    };
    let target = |chunk: Val<'k, I32>| {
        bf16_at(
            k.arg_global(a.cache.pointer),
            position,
            k.arg_i32(a.cache.stride),
            chunk * CHUNK,
        )
    };
    // The rotated key lies behind the latent.
    k.for_(k.tid(), c.rope / CHUNK, shape.threads, |i| {
        let chunk = i + c.latent / CHUNK;
        let angles = k
            .arg_global(a.table)
            .index(position, c.rope * 4)
            .index(i, 4 * CHUNK);
        target(chunk).store_vec(pack8(k, &rotate(load8(source(chunk)), angles)));
    });
    let mut squares = k.f32(0.0);
    let mut values = Vec::new();
    for i in 0..shape.chunks() {
        let v = [k.f32(0.0); 8].map(|z| k.var(z));
        shape.inside(k, i, shape.chunk(k, i), || {
            for (v, x) in v.iter().zip(load8(source(shape.chunk(k, i)))) {
                v.set(x);
            }
        });
        let v = v.map(|v| v.get());
        for x in v {
            squares = x.fma(x, squares);
        }
        values.push(v);
    }
    let total = block_sum(k, shape.threads, k.smem().offset(a.scratch), squares);
    let inverse = k.f32(1.0) / (total / c.latent as f32 + c.eps).sqrt();
    for (i, v) in values.iter().enumerate() {
        let chunk = shape.chunk(k, i as u32);
        shape.inside(k, i as u32, chunk, || {
            let w = load8(k.arg_global(a.weight).index(chunk, 16));
            target(chunk).store_vec(pack8(k, &std::array::from_fn(|j| v[j] * inverse * w[j])));
        });
    }
}
